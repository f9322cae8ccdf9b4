"""`tidegate bench NAME`: ours and the alternative side by side, in one run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from experiments.benchmarks.measurement import Measurement
    from terminal.output import Steps

__all__ = ["bench"]


def bench(
    name: Annotated[
        str,
        typer.Argument(
            help="What to measure: privacy, models, rounds, installation, utility, plan or inference."
        ),
    ],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure, and say whether each goal is met or missed. Exit code 0 whether they are or not."""
    from rich.text import Text

    from contract.errors import InputError
    from experiments.benchmarks.measurement import to_json
    from server.settings import apply_quiet_environment
    from terminal.output import Steps, cell, figure, print_json, print_table, quiet_flower, say

    apply_quiet_environment()
    quiet_flower()
    benches: dict[str, Callable[[Steps], list[Measurement]]] = {
        "privacy": _privacy,
        "models": _models,
        "rounds": _rounds,
        "installation": _installation,
        "utility": _utility,
        "plan": _plan,
        "inference": _inference,
    }
    if name not in benches:
        raise InputError(
            f"there is no benchmark '{name}'", where="NAME", remedy=f"Name one of: {', '.join(benches)}"
        )
    steps = Steps(f"bench {name}", 100)
    try:
        measurements = benches[name](steps)
    finally:
        steps.close()
    if json:
        print_json(to_json(measurements))
        return
    print_table(
        ("what", "ours", "theirs", "goal", "unit", "result"),
        (
            (
                Text.assemble(item.name, "\n", (item.note, "dim")) if item.note else item.name,
                figure(item.ours),
                figure(item.theirs),
                _goal(item),
                item.unit,
                "met" if item.holds else cell("missed", "red"),
            )
            for item in measurements
        ),
    )
    say(f"{sum(item.holds for item in measurements)} of {len(measurements)} goals are met")


def _goal(item: Measurement) -> str:
    """In words; of a part that was not measured there is none."""
    return f"{'≥' if item.at_least else '≤'} {item.goal:g}" if math.isfinite(item.goal) else "–"


def _privacy(steps: Steps) -> list[Measurement]:
    from experiments.benchmarks import accounting, attack, clipping, heart

    found = clipping.measure()
    steps.show(30, "(private steps measured)")
    found += heart.measure()
    steps.show(60, "(heart disease measured)")
    found += attack.measure(lambda done, of: steps.show(60 + 10 * done // of, "(audit)"))
    return found + accounting.measure(lambda done, of: steps.show(70 + 30 * done // of, "(accounting)"))


def _models(steps: Steps) -> list[Measurement]:
    from experiments.benchmarks import models

    return models.measure(steps.show)


def _rounds(steps: Steps) -> list[Measurement]:
    from experiments.benchmarks import rounds

    return rounds.measure(steps.show)


def _installation(_steps: Steps) -> list[Measurement]:
    from experiments.benchmarks import installation

    return installation.measure()


def _utility(steps: Steps) -> list[Measurement]:
    from experiments.benchmarks import utility

    return utility.measure(steps.show)


def _plan(steps: Steps) -> list[Measurement]:
    from experiments.benchmarks import planning

    return planning.measure(steps.show)


def _inference(steps: Steps) -> list[Measurement]:
    from experiments.benchmarks import inference

    return inference.measure(steps.show)
