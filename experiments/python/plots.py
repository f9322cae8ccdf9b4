"""The plots of runs, made of what a server or this machine has stored of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from contract.federation_api import RunDetail
from terminal.output import figures_of_run

if TYPE_CHECKING:
    from contract.regression import Measured

__all__ = ["has_curve", "plot_learning", "plot_results", "plot_sites"]

_ALL = "all sites"


def has_curve(run: RunDetail) -> bool:
    """Whether the run was evaluated twice or more: one point is no curve."""
    return len(_evaluated(run)) > 1


def plot_learning(run: RunDetail) -> bytes:
    """What a run is followed by, by rounds done: a line a site, and a thick one for all, as PNG.

    The bars are one standard error; the last point is the result.

    Raises:
        InputError: matplotlib is not installed.
    """
    from server.registry.plots import Point, learning_curve

    steps = _evaluated(run)
    followed = figures_of_run({"figures": next(iter(steps[0][1].values()))})[0].name
    curves: dict[str, list[Point]] = {}
    for done, by_site in steps:
        for name, figures in by_site.items():
            if (value := figures.get(followed)) is not None:
                error = (figures.get("errors") or {}).get(followed, figures.get(f"{followed}_error"))
                curves.setdefault(str(name), []).append((done, float(value), float(error or 0.0)))
    return learning_curve(curves, title=run.run.name, metric=followed)


def _evaluated(run: RunDetail) -> list[tuple[int, Mapping[str, Mapping[str, Any]]]]:
    """Of each evaluation how many rounds were done, and the figures by site, those of all sites last.

    A round evaluates the model that it begins with.
    """
    found = [(one.number - 1, one.metrics) for one in run.rounds]
    if run.result is not None:
        found.append((run.run.rounds, run.result["metrics"]))
    return [
        (done, {**metrics["sites"], _ALL: metrics["overall"]})
        for done, metrics in found
        if metrics["overall"]
    ]


def plot_sites(run: RunDetail) -> bytes:
    """The figures of each site and of all, with one standard error each way, as PNG.

    Raises:
        InputError: matplotlib is not installed.
    """
    from server.registry.plots import site_metrics

    result = run.result or {}
    by_site = {**dict(sorted(result["metrics"]["sites"].items())), _ALL: result["metrics"]["overall"] or {}}
    measured = {str(site): _measured(metrics, result) for site, metrics in by_site.items()}
    return site_metrics(measured, title=f"{run.run.name}: held-out rows")


def plot_results(runs: Sequence[RunDetail]) -> bytes:
    """The figures of all sites of each run, with one standard error each way, as PNG.

    Raises:
        InputError: matplotlib is not installed.
    """
    from server.registry.plots import site_metrics

    measured = {
        one.run.name: _measured(one.result["metrics"]["overall"], one.result) for one in runs if one.result
    }
    return site_metrics(measured, title="Runs side by side, on the held-out rows of all their sites")


def _measured(stored: Mapping[str, Any], result: Mapping[str, Any]) -> Measured:
    """Figures as they were before they were stored: what is missing was no number."""
    from contract.regression import RegressionErrors, RegressionMetrics
    from contract.releases import MetricErrors, Metrics

    def of(kind: Any, ending: str = "") -> dict[str, float]:
        names = [one.name for one in dataclasses.fields(kind) if one.name != "errors"]
        return {name: float(stored.get(name + ending, math.nan)) for name in names}

    if figures_of_run(result)[0].name in Metrics.__dataclass_fields__:
        return Metrics(**of(Metrics), errors=MetricErrors(**of(MetricErrors, "_error")))
    return RegressionMetrics(
        **of(RegressionMetrics), errors=RegressionErrors(**of(RegressionErrors, "_error"))
    )
