"""A picture of runs side by side: a panel a figure, a bar of one standard error at each run."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from contract.figures import Figure
from terminal.figures import COLOURS, GREY, few_ticks, lettering, make_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ComparedRun", "plot_runs"]


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """A run in the picture.

    Attributes:
        name: of the run.
        epsilon: the most that a site has spent in it; None if it was not private.
        figures: by name, errors as `<name>_error`.
    """

    name: str
    epsilon: float | None
    figures: Mapping[str, float]


def plot_runs(
    runs: Sequence[ComparedRun], figures: Sequence[Figure], *, kind: Literal["png", "svg"] = "png"
) -> bytes:
    """The figures by ε, where all runs are private and their ε differ; otherwise by run.

    Raises:
        InputError: matplotlib is not installed.
    """
    spent = [one.epsilon for one in runs if one.epsilon is not None]
    by_epsilon = len(spent) == len(runs) > 1 and max(spent) > 1.01 * min(spent) > 0
    title = "Runs by ε" if by_epsilon else "Runs side by side"
    panel, axes_of = make_figure(
        title, width=11, height=4.2 if by_epsilon else 2.2 + 0.4 * len(runs), panels=len(figures)
    )
    for axes, figure in zip(axes_of, figures, strict=True):
        points = [_point(one, figure) for one in runs]
        if by_epsilon:
            _along_epsilon(axes, [one.epsilon or 0.0 for one in runs], points)
        else:
            _by_run(axes, [one.name for one in runs], points)
        axes.set_title(figure.axis.replace(" (", "\n("), fontsize=10)
    if not by_epsilon:
        for axes in axes_of[1:]:
            axes.set_yticklabels([])
    buffer = io.BytesIO()
    panel.savefig(buffer, format=kind)
    return buffer.getvalue()


def _point(one: ComparedRun, figure: Figure) -> tuple[float, float]:
    return one.figures.get(figure.name, math.nan), one.figures.get(f"{figure.name}_error", 0.0)


def _along_epsilon(axes: Axes, at: Sequence[float], points: Sequence[tuple[float, float]]) -> None:
    known = [(x, y, error) for x, (y, error) in sorted(zip(at, points, strict=True)) if math.isfinite(y)]
    if known:
        places, values, errors = zip(*known, strict=True)
        axes.errorbar(places, values, yerr=errors, color=COLOURS[0], marker="o", capsize=3, linewidth=1.6)
    else:
        _say_hidden(axes, 0.5)
    axes.set_xlabel("ε in the run")


def _by_run(axes: Axes, names: Sequence[str], points: Sequence[tuple[float, float]]) -> None:
    rows = range(len(names))[::-1]
    for row, (value, error) in zip(rows, points, strict=True):
        if math.isfinite(value):
            axes.errorbar([value], [row], xerr=[error], color=COLOURS[0], marker="o", capsize=3, linewidth=2)
        else:
            _say_hidden(axes, (row + 0.6) / (len(names) + 0.2))
    axes.set_yticks(list(rows), [lettering(name, limit=40) for name in names])
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.margins(x=0.25)
    few_ticks(axes)


def _say_hidden(axes: Axes, height: float) -> None:
    axes.text(0.5, height, "not measurable", transform=axes.transAxes, ha="center", va="center", color=GREY)
