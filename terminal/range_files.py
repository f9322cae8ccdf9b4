"""What `tidegate ranges` reads, shows and writes, whoever is asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomlkit

from contract.epsilon import epsilon_words
from contract.errors import ExperimentError
from contract.experiment import Experiment, NumericFeature
from contract.experiment_file import Unranged, parse_experiment, parse_unranged
from contract.outside import shown
from contract.words import counted
from terminal.experiment_files import read_text
from terminal.new_files import write_new
from terminal.output import print_json, print_table, say

__all__ = [
    "MARGIN",
    "give_ranges",
    "read_unranged",
    "show_ranges",
    "with_ranges",
]

MARGIN = 1.25
"""By how much a proposed ε does better than just enough: some rows miss a value, some are not seen."""


def read_unranged(path: Path) -> Unranged:
    """Read an experiment file of which some numeric features state no range.

    Raises:
        ExperimentError: it is missing, unreadable or wrong, or states every range.
    """
    unranged = parse_unranged(read_text(path), where=str(path))
    if not unranged.features:
        raise ExperimentError(
            "every numeric feature states its range, so there is nothing to ask",
            where=str(path),
            remedy="Leave low and high out where no public range is known, or train with `tidegate run`",
        )
    return unranged


def _told_ranges(result: Mapping[str, Any], experiment: Experiment) -> dict[str, tuple[float, float]]:
    """The ranges of an answer that may stand in the experiment, by feature.

    A feature that is transformed by log1p has none where its range begins at -1 or below.
    """
    logarithmic = {
        feature.name
        for feature in experiment.task.features
        if isinstance(feature, NumericFeature) and feature.transform == "log1p"
    }
    return {
        item["feature"]: (item["low"], item["high"])
        for item in result["features"]
        if item["low"] is not None and not (item["feature"] in logarithmic and item["low"] <= -1)
    }


def with_ranges(text: str, ranges: Mapping[str, tuple[float, float]], *, where: str) -> str:
    """The experiment file with the ranges put in, and everything else as it was, comments too.

    Raises:
        ExperimentError: the text is no experiment file, or a feature is left without a range.
    """
    parse_unranged(text, where=where)  # refuses in our own words what is wrong
    document: Any = tomlkit.parse(text)
    for feature in document["task"]["features"]:
        if feature["name"] in ranges:
            feature["low"], feature["high"] = ranges[feature["name"]]
    changed = tomlkit.dumps(document)
    parse_experiment(changed, where=where)
    return changed


def give_ranges(
    result: Mapping[str, Any], unranged: Unranged, *, file: Path, write: Path | None, json: bool
) -> bool:
    """Show the answer to a question for ranges, and write them into a copy of its file.

    Args:
        result: of the run that asked.
        unranged: what was asked for.
        file: that it was read from.
        write: the copy, where one is wanted.
        json: whether to print one object in the place of a table.

    Returns:
        Whether each feature has a range now; without that, nothing is written.

    Raises:
        InputError: the copy cannot be written.
    """
    told = _told_ranges(result, unranged.experiment)
    if json:
        print_json(result)
    else:
        show_ranges(result, told)
    if len(told) < len(unranged.features):
        return False
    if write is not None:
        write_new(write, with_ranges(read_text(file), told, where=str(file)))
        if not json:
            say(f"wrote {write}")
    return True


def show_ranges(result: Mapping[str, Any], told: Mapping[str, tuple[float, float]]) -> None:
    """The answer to a question for ranges.

    Args:
        result: of the run that asked.
        told: the ranges that may stand in the experiment, by feature.
    """
    share = f"{result['share']:.1%}"
    rows = [
        (
            item["feature"],
            _end(item["low"], item["low_between"]),
            _end(item["high"], item["high_between"]),
            f"{item['missing_share']:.1%} ± {2 * item['missing_error']:.1%}",
            item["reason"]
            or ("" if item["feature"] in told else "a range for log1p must begin above -1: ask without it"),
        )
        for item in result["features"]
    ]
    title = (
        f"{result['experiment']}: {share} of the rows at most below, and above; "
        f"{counted(len(result['sites']), 'site')}"
    )
    print_table(("feature", "low", "high", "missing", "why there is no range"), rows, title=title)
    if not result["private"]:
        say("NOT PRIVATE: these counts give no guarantee.", "bold red")
    else:
        charged = ", ".join(
            f"{site} {epsilon_words(spent['epsilon_in_total'])}"
            for site, spent in sorted(result["sites"].items())
        )
        say(
            f"ε = {result['epsilon']:g} at δ = {result['delta']:g} for each site, charged once however often "
            f"this is asked; ε in total, at most, on any data block: {charged}"
        )
    for site, reason in sorted(result["failures"].items()):
        say(f"{site} did not take part: {reason}", "yellow")
    for feature, (low, high) in told.items():
        print(f"\n# {shown(feature)}\nlow = {low!r}\nhigh = {high!r}")
    if len(told) < len(result["features"]):
        worst = max(item["least_share"] or 1.0 for item in result["features"])
        print(
            "\nNo range is told where the noise leaves it no meaning. What helps: "
            f"a larger --epsilon (about {MARGIN * worst / result['share']:.1f} times this), more sites, "
            "a larger --share, or a range from public knowledge."
        )


def _end(edge: float | None, between: list[float | None] | None) -> str:
    """An edge with its error bar."""
    if edge is None or between is None:
        return "–"
    low, high = between
    if low == high:
        return f"{edge:g}"
    return f"{edge:g} ({'-∞' if low is None else f'{low:g}'} to {'∞' if high is None else f'{high:g}'})"
