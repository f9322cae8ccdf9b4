"""What a training ended with, as its table and what is to be said of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from terminal.output import figures_of_run, metrics_headings, metrics_rows
from terminal.parts import Part, Sentence, Table, print_parts

__all__ = ["diagnosis_parts", "metrics_parts", "say_diagnosis", "show_metrics"]

_SHOWN = 12
"""Reasons that are printed; `--json` has all."""


def show_metrics(result: Mapping[str, Any], *, title: str | None = None) -> None:
    """The table of sites, and why any figure is missing."""
    print_parts(metrics_parts(result, title=title or ""))


def say_diagnosis(result: Mapping[str, Any]) -> None:
    """Whether the model learnt, and what to change."""
    print_parts(diagnosis_parts(result))


def metrics_parts(result: Mapping[str, Any], *, title: str = "") -> list[Part]:
    """The table of sites, and why any figure is missing."""
    table = Table(headings=metrics_headings(result), rows=tuple(metrics_rows(result)), title=title)
    paid = (
        "ε in run is the most that a row of the site has paid: a training row for training, a held-out row "
        "for evaluations, and for both where a row may change its side."
    )
    return [table, *([Sentence(paid)] if result["private"] else []), *map(Sentence, _not_measurable(result))]


def diagnosis_parts(result: Mapping[str, Any]) -> list[Part]:
    """Whether the model learnt, and what to change: the verdict first."""
    found = result.get("diagnosis") or {}
    bad = not found.get("good", True)
    return [
        Sentence(str(sentence), "bold yellow" if bad and place == 0 else "")
        for place, sentence in enumerate(found.get("sentences") or ())
    ]


def _not_measurable(result: Mapping[str, Any]) -> list[str]:
    """Why figures are missing, a sentence a reason; nothing of a result that was stored before there were."""
    known = result.get("not_measurable") or {}
    sites = {**(known.get("sites") or {}), "all sites": known.get("overall") or {}}
    words = {one.name: one.word for one in figures_of_run(result)}
    found: dict[tuple[str, str], list[str]] = {}
    for site, reasons in sites.items():
        by_reason: dict[str, list[str]] = {}
        for name, reason in reasons.items():
            by_reason.setdefault(reason, []).append(words.get(name, name))
        for reason, hidden in by_reason.items():
            found.setdefault((", ".join(hidden), reason), []).append(site)
    told = [
        f"Not measurable: {names} of {', '.join(where)}, because {reason}."
        for (names, reason), where in list(found.items())[:_SHOWN]
    ]
    if len(found) > _SHOWN:
        told.append(f"{len(found) - _SHOWN} more reasons: --json has them.")
    missing = sorted((result.get("missing") or {}).items())
    return [*told, *(f"{site} has not evaluated the result: {reason}." for site, reason in missing)]
