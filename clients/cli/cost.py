"""`tidegate site cost`: what an experiment would cost a site, before its administrator approves it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clients.cli.ledger import Json, SiteFile

if TYPE_CHECKING:
    from clients.ledger.chain import Cap, Plan
    from clients.ledger.cost import BlockCost, Room
    from clients.site import Site
    from contract.experiment import Experiment

__all__ = ["cost"]

_SETTINGS = {"train": "privacy.epsilon", "evaluate": "privacy.evaluation_epsilon"}
"""The key that fixes what each purpose costs."""


def cost(
    file: SiteFile,
    experiment_file: Annotated[Path, typer.Argument(help="The experiment file to be approved.")],
    window: Annotated[
        list[str] | None, typer.Option(help="Train on this window's rows; repeat for more.")
    ] = None,
    json: Json = False,
) -> None:
    """What one run of an experiment would cost here, by data block, and whether the cap allows it."""
    from clients.ledger.cost import block_costs
    from clients.ledger.plans import run_plans
    from clients.site import open_site
    from contract.json_values import finite
    from terminal.experiment_files import read_experiment
    from terminal.output import print_json

    site, experiment = open_site(file), read_experiment(experiment_file)
    site.ledger.verify()
    site.card.require(experiment, windows=tuple(window or ()))
    plans = run_plans("(a new run)", experiment, tuple(window or ()), site.split)
    costs = block_costs(site.ledger, plans)
    fits = all(item.fits for item in costs)
    room = {} if fits or not experiment.privacy.private else _room(site, experiment, plans)
    refusal = _policy_refusal(site, experiment)
    if json:
        print_json(
            {
                "site": site.config.name,
                "experiment": experiment.name,
                "digest": experiment.digest,
                "private": experiment.privacy.private,
                "cap": vars(site.ledger.cap),
                "blocks": [finite(vars(item)) for item in costs],
                "fits": fits,
                "would_fit": {
                    _SETTINGS[purpose]: {
                        "epsilon": item.epsilon,
                        "noise_multiplier": finite(item.noise_multiplier),
                    }
                    for purpose, item in room.items()
                },
                "policy": refusal,
            }
        )
        return
    _show(site, experiment, costs, room, refusal)


def _room(site: Site, experiment: Experiment, plans: Sequence[Plan]) -> dict[str, Room]:
    """The largest ε of each plan that does not fit, in the order in which the gate enters them."""
    from dataclasses import replace

    from clients.ledger.cost import block_costs, room_for

    room: dict[str, Room] = {}
    entered: list[Plan] = []
    for plan in plans:
        fitting = plan
        if not all(item.fits for item in block_costs(site.ledger, [*entered, plan])):
            found = room_for(site.ledger, plan, beside=entered, delta=experiment.privacy.delta)
            room[plan.purpose] = found
            if not math.isfinite(found.noise_multiplier):
                continue
            fitting = replace(plan, noise_multiplier=found.noise_multiplier)
        entered.append(fitting)
    return room


def _policy_refusal(site: Site, experiment: Experiment) -> str:
    """Why the site's policy would refuse it, whatever it costs; empty where it would not."""
    from contract.errors import PolicyError

    if site.config.policy.require_private and not experiment.privacy.private:
        return "this site takes part in differentially private runs only"
    try:
        site.gate.check(experiment, ())
    except PolicyError as exc:
        return exc.what
    return ""


def _show(
    site: Site,
    experiment: Experiment,
    costs: Sequence[BlockCost],
    room: Mapping[str, Room],
    refusal: str,
) -> None:
    from rich.table import Table

    from clients.cli.block_table import epsilon
    from terminal.output import cell, console, say

    cap = site.ledger.cap
    table = Table(
        title=f"{experiment.name} at site {site.config.name}: cap ε = {cap.epsilon:g} at δ = {cap.delta:g}",
        title_justify="left",
        header_style="bold",
    )
    table.add_column("data block", overflow="fold")
    for heading in ("promised now", "with this experiment"):
        table.add_column(heading, justify="right")
    table.add_column("the cap")
    for item in costs:
        cells = (
            item.block,
            epsilon(item.now),
            epsilon(item.then),
            "allows it" if item.fits else "REFUSES it",
        )
        table.add_row(*(cell(value) for value in cells), style="" if item.fits else "red")
    console.print(table)
    if not experiment.privacy.private:
        say("NOT PRIVATE: this experiment would leave no guarantee.", "bold red")
    for sentence in _sentences(room, experiment, cap):
        say(sentence)
    if refusal:
        say(f"The policy would refuse it: {refusal}.", "yellow")
    say(f"digest {experiment.digest}")


def _sentences(room: Mapping[str, Room], experiment: Experiment, cap: Cap) -> list[str]:
    stated = {"train": experiment.privacy.epsilon, "evaluate": experiment.privacy.evaluation_epsilon}
    return [
        f"{_SETTINGS[purpose]} = {stated[purpose]:g} is too much; at most {item.epsilon:g} fits "
        f"(noise multiplier {item.noise_multiplier:.4g})."
        if item.epsilon > 0
        else f"Nothing is left for {_SETTINGS[purpose]} under a cap of {cap.epsilon:g}."
        for purpose, item in room.items()
    ]
