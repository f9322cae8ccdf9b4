"""What `tidegate compare` shows, of a server that runs here or of another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.text import Text

from contract.epsilon import epsilon_words
from contract.federation_api import RunDetail
from contract.figures import Figure
from terminal.output import figure, figures_of_run, print_json, print_table, say

__all__ = ["show_results"]

_KEYS = {"metrics", "privacy", "private", "rounds_counted"}


def show_results(runs: Sequence[RunDetail], *, json: bool) -> None:
    """The results of trainings side by side, as each was measured on the held-out rows of all its sites."""
    if json:
        print_json([one.model_dump(mode="json") for one in runs])
        return
    ended = [one.result for one in runs if one.result] or [{}]
    figures = tuple(dict.fromkeys(shown for result in ended for shown in figures_of_run(result)))
    print_table(
        ("run", "status", "version", "rounds", "sites", *(shown.word for shown in figures), "ε in run"),
        [(one.run.name, one.run.status, *_figures(one, figures)) for one in runs],
        unbroken=("status", "version", "rounds"),
    )
    say(
        "Each run's figures hold its own noise, and perhaps other sites and windows: a small difference says "
        "nothing. Before a challenger is promoted, sites compare it with the champion row by row."
    )


def _figures(one: RunDetail, figures: Sequence[Figure]) -> tuple[object, ...]:
    run, result = one.run, one.result
    known = (run.model_version or "–", f"{run.rounds} of {run.of}" if run.of else "–")
    if result is None or not result.keys() >= _KEYS:
        return (*known, *("–",) * (2 + len(figures)))
    overall = result["metrics"]["overall"]
    return (
        *known,
        len(result["privacy"]),
        *(figure(overall.get(shown.name)) for shown in figures),
        _most_spent(result),
    )


def _most_spent(result: dict[str, Any]) -> object:
    """The most that any site has spent in the run."""
    if not result["private"]:
        return Text("not private", "red")
    spent = [one["epsilon_in_run"] for one in result["privacy"].values()]
    return epsilon_words(None if None in spent else max(spent, default=0.0))
