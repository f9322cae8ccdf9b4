"""The plots that go with a model version, as PNG bytes.

Their style is that of `terminal.figures`.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from contract.figures import OF_CLASSES, OF_NUMBERS, figures_of
from contract.regression import Measured
from contract.releases import CalibrationBin
from terminal.figures import COLOURS, GREY, MARKERS, few_ticks, lettering, make_figure, name_ends

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Curve",
    "Marker",
    "Point",
    "WeekFigures",
    "calibration",
    "learning_curve",
    "privacy_spent",
    "site_metrics",
    "story",
]

_AXES = {figure.name: figure.axis for figure in (*OF_CLASSES, *OF_NUMBERS)}
Curve = Sequence[tuple[float, float]]
"""Points (x, y); one whose y is not finite is left out."""
Point = tuple[float, float, float]
"""x, y and the standard error of y; one whose y is not finite is left out."""


@dataclass(frozen=True, kw_only=True)
class Marker:
    """A vertical line of the story at a week, with its name."""

    week: float
    name: str


@dataclass(frozen=True, kw_only=True)
class WeekFigures:
    """Log loss, Brier score and AUC of one model in one week."""

    week: int
    log_loss: float
    brier: float
    auc: float


def learning_curve(rounds: Mapping[str, Sequence[Point]], *, title: str, metric: str = "log_loss") -> bytes:
    """A figure by rounds done: one line a site, and a thick one for `all sites`; a bar is one standard error.

    Args:
        rounds: points (rounds done, value, its error) by the line's name.
        title: of the plot, such as the run's name.
        metric: a field of `Metrics` or `RegressionMetrics`.
    """
    figure, (axes,) = make_figure(title, width=8, height=4.5, panels=1)
    known = {name: [one for one in points if math.isfinite(one[1])] for name, points in rounds.items()}
    if not any(known.values()):
        words = "not measurable: noise hides it in every evaluation"
        axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", color=GREY)
    _lines(axes, {name: [(x, y) for x, y, _ in points] for name, points in known.items()}, thick="all sites")
    for index, (name, points) in enumerate(known.items()):
        colour, thick = _style(index, name, "all sites")
        for x, y, error in points:
            if 0 < error < math.inf:
                axes.plot([x, x], [y - error, y + error], color=colour, linewidth=thick / 2, alpha=0.6)
    axes.set_xlabel("Rounds done; the last point is the result")
    axes.set_ylabel(_AXES[metric])
    _whole_numbers(axes)
    return _png(figure)


def site_metrics(metrics_by_site: Mapping[str, Measured], *, title: str) -> bytes:
    """A panel a figure: a dot a site, with its value and a line of one standard error each way."""
    names = list(metrics_by_site)[::-1]
    figures = figures_of(name for metrics in metrics_by_site.values() for name in vars(metrics))
    figure, panels = make_figure(
        title, width=11, height=1.8 + 0.45 * len(names), panels=len(figures), share_y=True
    )
    for axes, shown in zip(panels, figures, strict=True):
        name = shown.name
        errors = [metrics_by_site[site].errors for site in names]
        _dots(
            axes,
            names,
            [float(getattr(metrics_by_site[site], name)) for site in names],
            [math.nan if error is None else float(getattr(error, name)) for error in errors],
        )
        axes.set_title(shown.axis.replace(" (", "\n("), fontsize=10)
    return _png(figure)


def calibration(bins: Sequence[CalibrationBin], *, title: str, binary: bool) -> bytes:
    """What came true over what was predicted, a dot for each bin with one standard error each way."""
    figure, (axes,) = make_figure(title, width=5.5, height=5, panels=1)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--")
    if not bins:
        words = "not measurable: noise hides how many rows were scored alike"
        axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", color=GREY, wrap=True)
    for one in bins:
        ends = [max(-0.05, one.share - one.error), min(1.05, one.share + one.error)]
        axes.plot([one.predicted, one.predicted], ends, color=COLOURS[0], linewidth=1.5, alpha=0.6)
    axes.plot(
        [one.predicted for one in bins],
        [one.share for one in bins],
        color=COLOURS[0],
        marker="o",
        linewidth=1,
    )
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.05, 1.05)
    axes.set_xlabel("Predicted" if binary else "Confidence in the predicted class")
    axes.set_ylabel("Share that came true" if binary else "Share that was right")
    return _png(figure)


def privacy_spent(
    spent_by_site: Mapping[str, tuple[float, float]],
    *,
    title: str,
    delta: float,
    caps: Mapping[str, float] | None = None,
) -> bytes:
    """ε by site: a light bar for the total, a dark one for this run, a line at the cap.

    Args:
        spent_by_site: (ε in this run, ε in total). Epsilons do not add up under
            composition, so the two bars lie over each other, both from zero.
        title: of the plot.
        delta: at which ε holds.
        caps: ε that the site allows for its lifetime, where it is known.
    """
    names = list(spent_by_site)[::-1]
    figure, (axes,) = make_figure(title, width=8, height=1.9 + 0.5 * len(names), panels=1)
    for row, site in enumerate(names):
        _spent(axes, row, *spent_by_site[site], cap=(caps or {}).get(site))
    finite = [value for pair in spent_by_site.values() for value in pair if math.isfinite(value)]
    axes.set_xlim(0, 1.9 * max([*finite, *(caps or {}).values()], default=1.0))
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_yticks(range(len(names)), [lettering(name, limit=40) for name in names])
    axes.set_xlabel(f"ε at δ = {delta:g}: dark this run, light in total, line the site's cap")
    axes.grid(visible=False, axis="y")
    return _png(figure)


def story(weeks: Mapping[str, Sequence[WeekFigures]], *, title: str, markers: Sequence[Marker] = ()) -> bytes:
    """Three panels by week: log loss, Brier score and AUC of each model.

    A recoding breaks calibration before it breaks ranking, so log loss and Brier come first.

    Args:
        weeks: figures by the line's name, such as `champion`, `frozen`, `retrained`.
        title: of the plot.
        markers: when drift began, an alarm was raised, a model was retrained.
    """
    figure, panels = make_figure(title, width=9, height=9, panels=3, vertical=True)
    for axes, name in zip(panels, ("log_loss", "brier", "auc"), strict=True):
        curves = {
            line: [(item.week, float(getattr(item, name))) for item in items] for line, items in weeks.items()
        }
        _lines(axes, curves)
        axes.set_ylabel(_AXES[name].replace(" (", "\n("))
        for marker in markers:
            axes.axvline(marker.week, color=GREY, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
    _name_markers(panels[0], markers)
    panels[-1].set_xlabel("Week")
    _whole_numbers(panels[-1])
    return _png(figure)


def _lines(axes: Axes, curves: Mapping[str, Curve], *, thick: str = "") -> None:
    ends = []
    for index, (name, curve) in enumerate(curves.items()):
        points = [(x, y) for x, y in curve if math.isfinite(y)]
        if not points:
            continue
        colour, width = _style(index, name, thick)
        marker = MARKERS[index % len(MARKERS)]
        axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=4.5, linewidth=width)
        ends.append((points[-1], lettering(name, limit=32), colour))
    name_ends(axes, ends)


def _style(index: int, name: str, thick: str) -> tuple[str, float]:
    """A line's colour and width."""
    return ("#000000", 2.6) if name == thick else (COLOURS[index % (len(COLOURS) - 1)], 1.6)


def _whole_numbers(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _dots(axes: Axes, names: Sequence[str], values: Sequence[float], errors: Sequence[float]) -> None:
    for row, (value, error) in enumerate(zip(values, errors, strict=True)):
        if not math.isfinite(value):
            axes.text(
                0.5, row, "not measurable", transform=axes.get_yaxis_transform(), ha="center", color=GREY
            )
            continue
        if math.isfinite(error):
            axes.plot([value - error, value + error], [row, row], color=COLOURS[0], linewidth=2)
        axes.plot(value, row, marker="o", markersize=9, color=COLOURS[0])
        axes.annotate(f"{value:.3f}", (value, row), (0, 8), textcoords="offset points", ha="center")
    axes.set_yticks(range(len(names)), [lettering(name, limit=40) for name in names])
    axes.set_ylim(-0.6, len(names) - 0.3)
    axes.margins(x=0.25)
    few_ticks(axes)


def _spent(axes: Axes, row: int, in_run: float, in_total: float, *, cap: float | None) -> None:
    if not (math.isfinite(in_run) and math.isfinite(in_total)):
        axes.text(0.02, row, "not private (ε = ∞)", transform=axes.get_yaxis_transform(), va="center",
                  color=COLOURS[1], fontweight="bold")  # fmt: skip
        return
    axes.barh(row, in_total, height=0.5, color=COLOURS[4])
    axes.barh(row, min(in_run, in_total), height=0.5, color=COLOURS[0])
    words = f" {in_total:.2f} in total, {in_run:.2f} in this run"
    end = in_total
    if cap is not None:
        axes.plot([cap, cap], [row - 0.36, row + 0.36], color=COLOURS[1], linewidth=2.5)
        words, end = f" {words.strip()}, cap {cap:g}", max(end, cap)
    axes.text(end, row, f" {words}", va="center", fontsize=9)


def _name_markers(axes: Axes, markers: Sequence[Marker]) -> None:
    """Names above the top panel, on as many lines as keep them apart."""
    for row, marker in enumerate(sorted(markers, key=lambda item: item.week)):
        place: Any = axes.get_xaxis_transform()
        above = (3, 4 + 13 * (len(markers) - 1 - row))
        axes.annotate(lettering(marker.name), (marker.week, 1.0), above, xycoords=place,
                      textcoords="offset points", color=GREY, fontsize=9.5)  # fmt: skip
        top = 12 + 13 * (len(markers) - 1 - row)
        stem = {"arrowstyle": "-", "color": GREY, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (marker.week, 1.0), (0, top), xycoords=place, textcoords="offset points",
                      arrowprops=stem)  # fmt: skip


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
