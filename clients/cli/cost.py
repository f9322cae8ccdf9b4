"""`tidegate site cost`: what an experiment would cost a site, before its administrator approves it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clients.cli.ledger import Json, SiteFile
from terminal.window_option import WindowNames

if TYPE_CHECKING:
    from rich.text import Text

    from clients.ledger.chain import Cap, Plan
    from clients.ledger.cost import BlockCost, LaterCost, Room
    from clients.site import Site
    from contract.experiment import Experiment

__all__ = ["cost"]

_OPEN = (
    "of the run's plan: not known yet. The file leaves settings of training to a recipe, which chooses them "
    "for the run's sites; the cost is the same. Approve what `tidegate site requests` shows"
)
_SETTINGS = {
    "train": "privacy.epsilon",
    "evaluate": "privacy.evaluation_epsilon",
    "clipped": "privacy.clipped_epsilon",
}
"""The key that fixes what each purpose costs."""


def cost(
    file: SiteFile,
    experiment_file: Annotated[Path, typer.Argument(help="The experiment file to be approved.")],
    window: WindowNames = None,
    json: Json = False,
) -> None:
    """What one run of an experiment would cost here, by data block, and whether it would be accepted.

    Exit code 1 where it would be refused.
    """
    from clients.ledger.cost import block_costs, later_costs
    from clients.ledger.plans import run_plans
    from clients.site import open_site
    from contract.json_values import finite
    from contract.recipe import needs_recipe
    from terminal.experiment_files import read_experiment
    from terminal.output import print_json

    site, experiment = open_site(file), read_experiment(experiment_file)
    site.ledger.verify()
    site.card.require(experiment, windows=tuple(window or ()), today=site.card.today)
    plans = run_plans("(a new run)", experiment, tuple(window or ()), site.split)
    costs = block_costs(site.ledger, plans)
    fits = all(item.fits for item in costs)
    room = {} if fits or not experiment.privacy.private else _room(site, experiment, plans)
    refusal, waits = _policy_refusal(site, experiment, plans, tuple(window or ()))
    later: tuple[LaterCost, ...] = ()
    if experiment.privacy.private:
        later = later_costs(site.ledger, plans, experiment, tuple(window or ()), site.split)
    if json:
        print_json(
            {
                "site": site.config.name,
                "experiment": experiment.name,
                "digest": None if needs_recipe(experiment) else experiment.digest,
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
                "lasting_sides": site.split.lasting,
                "also_covers": [finite(vars(item)) for item in later],
                "policy": refusal,
                "approval": waits,
                "accepted": fits and not refusal and not waits,
            }
        )
    else:
        _show(site, experiment, costs, room, refusal, later, waits=waits)
    if refusal or not fits:
        raise typer.Exit(1)


def _room(site: Site, experiment: Experiment, plans: Sequence[Plan]) -> dict[str, Room]:
    """The largest ε of each plan that does not fit, beside those that are entered with it.

    Counts of clipped gradients come first: they are a part of the ε of training, which takes what is left.
    """
    from dataclasses import replace

    from clients.ledger.cost import block_costs, room_for

    room: dict[str, Room] = {}
    entered: list[Plan] = []
    for plan in sorted(plans, key=lambda plan: plan.purpose != "clipped"):
        fitting = plan
        if not all(item.fits for item in block_costs(site.ledger, [*entered, plan])):
            found = room_for(site.ledger, plan, beside=entered, delta=experiment.privacy.delta)
            room[plan.purpose] = found
            if not math.isfinite(found.noise_multiplier):
                continue
            fitting = replace(plan, noise_multiplier=found.noise_multiplier)
        entered.append(fitting)
    return room


def _policy_refusal(
    site: Site, experiment: Experiment, plans: Sequence[Plan], windows: tuple[str, ...]
) -> tuple[str, str]:
    """Why the site's policy would refuse it, and for what approval it would wait, whatever it costs;
    empty where neither is so."""
    from clients.ledger.plans import ALL_ROWS
    from contract.errors import ApprovalError, BudgetError, PolicyError

    if site.config.policy.require_private and not experiment.privacy.private:
        return "this site takes part in differentially private runs only", ""
    try:
        site.gate.check(experiment, plans, windows=windows or (ALL_ROWS,))
    except PolicyError as exc:
        return exc.what, ""
    except ApprovalError as exc:
        return "", exc.what
    except BudgetError:
        pass  # which is said block by block
    return "", ""


def _show(
    site: Site,
    experiment: Experiment,
    costs: Sequence[BlockCost],
    room: Mapping[str, Room],
    refusal: str,
    later: Sequence[LaterCost],
    *,
    waits: str,
) -> None:
    from contract.epsilon import delta_words, epsilon_words
    from contract.recipe import needs_recipe
    from terminal.output import print_table, say

    cap, delta = site.ledger.cap, experiment.privacy.delta
    capped = f"cap ε = {cap.epsilon:g} at δ = {delta_words(cap.delta)}"
    print_table(
        ("data block", "promised now", "with this experiment", "the cap"),
        ((item.block, epsilon_words(item.now), *_verdict(item.then, fits=item.fits)) for item in costs),
        title=f"{experiment.name} at site {site.config.name}: {capped}",
    )
    if later:
        say("Approval covers these too, each time that they are asked; the cap is asked again each time.")
        print_table(
            ("beside the run", "data block", "ε before", "ε then", "the cap"),
            (
                (
                    item.what,
                    item.block,
                    epsilon_words(item.before),
                    *_verdict(item.then, fits=item.fits),
                )
                for item in later
            ),
        )
    if experiment.privacy.private and delta != cap.delta:
        say(
            f"The experiment states its ε at δ = {delta_words(delta)}, this page at the cap's "
            f"δ = {delta_words(cap.delta)}: the same noise has a larger ε at a smaller δ."
        )
    if not site.split.lasting:
        say(
            "A training row may become a held-out row when one of its values changes, so that training and "
            "evaluation are charged to both blocks. To pay for each alone, name a column of lasting ids as "
            "card.holdout.record."
        )
    if not experiment.privacy.private:
        say("NOT PRIVATE: this experiment would leave no guarantee.", "bold red")
    for sentence in _sentences(room, experiment, cap):
        say(sentence)
    say(f"digest {_OPEN if needs_recipe(experiment) else experiment.digest}")
    passed = [item.block for item in costs if not item.fits]
    why = [f"the policy does not allow it ({refusal})"] if refusal else []
    why += [f"the cap would be passed on {', '.join(passed)}"] if passed else []
    if why:
        say(f"REFUSED: a run would be refused, for {' and '.join(why)}.", "bold red")
    elif waits:
        say(f"A run would wait: {waits}. The cap allows it.", "yellow")
    else:
        say("A run would be accepted: the cap and the policy allow it.", "green")


def _verdict(epsilon: float, *, fits: bool) -> tuple[Text, Text]:
    from contract.epsilon import epsilon_words
    from terminal.output import cell

    style = "" if fits else "red"
    return cell(epsilon_words(epsilon), style), cell("allows it" if fits else "REFUSES it", style)


def _sentences(room: Mapping[str, Room], experiment: Experiment, cap: Cap) -> list[str]:
    from contract.clipped import clipped_epsilon

    privacy = experiment.privacy
    stated = {
        "train": privacy.epsilon,
        "evaluate": privacy.evaluation_epsilon,
        "clipped": clipped_epsilon(privacy),
    }
    return [
        f"{_SETTINGS[purpose]} = {stated[purpose]:g} is too much; "
        f"{'ask for ' if item.capped else ''}at most {item.epsilon:g}"
        f"{', the cap' if item.capped else ' fits'} (noise multiplier {item.noise_multiplier:.4g})."
        if item.epsilon > 0
        else f"Nothing is left for {_SETTINGS[purpose]} under a cap of {cap.epsilon:g}."
        for purpose, item in room.items()
    ]
