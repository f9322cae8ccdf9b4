"""What `tidegate compare` shows, of a server that runs here or of another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from contract.epsilon import epsilon_words
from contract.errors import InputError
from contract.federation_api import RunDetail
from contract.figures import Figure
from terminal.output import figures_of_run, measured, print_json
from terminal.parts import Part, Sentence, Table, print_parts

__all__ = ["difference", "require_plot_name", "results_table", "show_results"]

_KEYS = {"metrics", "privacy", "private", "rounds_counted"}


def show_results(runs: Sequence[RunDetail], *, json: bool, plot: Path | None = None) -> None:
    """The results of trainings side by side, as each was measured on the held-out rows of all its sites.

    Args:
        runs: in the order in which they are shown; the others are held against the first.
        json: print the runs as JSON.
        plot: a picture of the figures with their errors is written there: by ε, where the runs' ε differ.

    Raises:
        InputError: the plot cannot be drawn or written.
    """
    if plot is not None:
        require_plot_name(plot)
        _draw(runs, plot)
    if json:
        print_json([one.model_dump(mode="json") for one in runs])
        return
    print_parts(results_table(runs))


def results_table(runs: Sequence[RunDetail]) -> list[Part]:
    """Those results as a table, how they differ from the first, and what a difference says."""
    figures = _all_figures(runs)
    words = (
        "± is one standard error. Each run's figures hold its own noise, and perhaps other sites and "
        "windows: a difference within two errors says nothing. On the same rows errors are smaller than "
        "these. Before a challenger is promoted, sites compare it with the champion row by row."
    )
    table = Table(
        headings=("run", "status", "version", "rounds", "sites", *(one.word for one in figures), "ε in run"),
        rows=tuple((one.run.name, one.run.status, *_figures(one, figures)) for one in runs),
        unbroken=("status", "version", "rounds"),
    )
    paid = "ε in run is the most that a row of any site has paid, in training or in evaluations."
    return [table, Sentence(paid), *_differences(runs, figures), Sentence(words)]


def difference(
    first: Mapping[str, float], other: Mapping[str, float], figure: Figure
) -> tuple[float, float] | None:
    """How much better the other's figure is, with its standard error as if no row were in both.

    None where either is not measurable.
    """
    values = first.get(figure.name), other.get(figure.name)
    if any(value is None or not math.isfinite(value) for value in values):
        return None
    errors = [one.get(f"{figure.name}_error", 0.0) for one in (first, other)]
    gain = other[figure.name] - first[figure.name]
    return (gain if figure.higher else -gain), math.hypot(*errors)


def require_plot_name(file: Path) -> None:
    """Refuse a picture of another kind, before any work is done for it.

    Raises:
        InputError: it is neither a .png nor a .svg, or its folder is missing.
    """
    if file.suffix.lower() not in (".png", ".svg"):
        raise InputError("a plot is a .png or an .svg", where=str(file), remedy="Name the file so")
    if not file.parent.is_dir():
        raise InputError(
            "its folder is missing", where=str(file), remedy="Name a file in a folder that exists"
        )


def _all_figures(runs: Sequence[RunDetail]) -> tuple[Figure, ...]:
    ended = [one.result for one in runs if one.result] or [{}]
    return tuple(dict.fromkeys(shown for result in ended for shown in figures_of_run(result)))


def _overall(one: RunDetail) -> dict[str, float] | None:
    result = one.result
    if result is None or not result.keys() >= _KEYS:
        return None
    found: dict[str, float] = result["metrics"]["overall"]
    return found


def _differences(runs: Sequence[RunDetail], figures: Sequence[Figure]) -> list[Part]:
    first = _overall(runs[0]) if runs else None
    rows: list[tuple[object, ...]] = []
    for one in runs[1:]:
        overall = _overall(one)
        if first is None or overall is None:
            continue
        rows.append(
            (one.run.name, *(_difference_words(difference(first, overall, figure)) for figure in figures))
        )
    if not rows:
        return []
    headings = ("run", *(f"{figure.word} better by" for figure in figures))
    return [Table(headings=headings, rows=tuple(rows), title=f"against {runs[0].run.name}")]


def _difference_words(found: tuple[float, float] | None) -> str:
    if found is None:
        return "too noisy"
    gain, error = found
    told = "" if abs(gain) > 2 * error else ", not told apart"
    return f"{gain:+.3f} ± {error:.3f}{told}"


def _figures(one: RunDetail, figures: Sequence[Figure]) -> tuple[object, ...]:
    run, result, overall = one.run, one.result, _overall(one)
    known = (run.model_version or "none", f"{run.rounds} of {run.of}" if run.of else "none")
    if result is None or overall is None:
        return (*known, *("no result",) * (2 + len(figures)))
    return (
        *known,
        len(result["privacy"]),
        *(measured(overall, shown.name) for shown in figures),
        _most_spent(result),
    )


def _most_spent(result: dict[str, Any]) -> object:
    """The most that any site has spent in the run."""
    if not result["private"]:
        return Text("not private", "red")
    spent = [one["epsilon_in_run"] for one in result["privacy"].values()]
    return epsilon_words(None if None in spent else max(spent, default=0.0))


def _draw(runs: Sequence[RunDetail], file: Path) -> None:
    from terminal.new_files import write_plot
    from terminal.run_plot import ComparedRun, plot_runs

    found = []
    for one in runs:
        overall = _overall(one)
        if overall is None or one.result is None:
            continue
        spent = [site["epsilon_in_run"] for site in one.result["privacy"].values()]
        private = one.result["private"] and None not in spent
        found.append(
            ComparedRun(
                name=one.run.name, epsilon=max(spent, default=0.0) if private else None, figures=overall
            )
        )
    write_plot(file, lambda kind: plot_runs(found, _all_figures(runs), kind=kind))
