"""The style of every plot: its colours, and names at the lines' ends.

matplotlib (.5 s) is imported when a figure is made; figures are made without pyplot, which
keeps a global list of them. The colours are those of Okabe and Ito (2008), told apart
by readers with any common colour blindness; lines differ in their marker too, and are
named at their end and not in a legend.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from contract.errors import InputError
from contract.outside import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "GREY", "MARKERS", "few_ticks", "lettering", "make_figure", "name_ends"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#666666"
_FORMULA = re.compile(r"(?<!\\)\$")


def lettering(text: str, *, limit: int = 60) -> str:
    """Text from outside as matplotlib may write it: one short line, and no `$` begins a formula."""
    line = shown(text)
    line = line if len(line) <= limit else line[: limit - 1] + "…"
    return _FORMULA.sub(r"\\$", line)


def make_figure(
    title: str,
    *,
    width: float,
    height: float,
    panels: int,
    vertical: bool = False,
    heights: Sequence[float] | None = None,
    share_y: bool = False,
) -> tuple[Figure, list[Axes]]:
    """An empty figure in the house's style, of panels beside or, if `vertical`, above each other.

    Panels above each other share their x axis, unless `heights` makes them different things.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise InputError(
            "a plot needs matplotlib, which is not installed", remedy="Run pip install 'tidegate[notebook]'"
        ) from exc

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(lettering(title, limit=100), x=0.02, ha="left", fontweight="bold", fontsize=13)
    rows, columns = (panels, 1) if vertical else (1, panels)
    made = figure.subplots(
        rows,
        columns,
        squeeze=False,
        sharex=vertical and heights is None,
        sharey=share_y,
        height_ratios=heights,
    )
    axes = [item for row in made for item in row]
    for item in axes:
        item.spines[["top", "right"]].set_visible(False)
        item.grid(visible=True, color="#E5E5E5", linewidth=0.8)
        item.set_axisbelow(True)
    return figure, axes


def few_ticks(axes: Axes) -> None:
    """Write at most four numbers below a narrow panel: more run into those of the panel beside it."""
    axes.locator_params(axis="x", nbins=3)


def name_ends(axes: Axes, ends: Sequence[tuple[tuple[float, float], str, str]]) -> None:
    """Write each line's name beside its end, right of the axes, moved up where two would overlap."""
    low, high = axes.get_ylim()
    spec = axes.get_subplotspec()
    rows = spec.get_gridspec().nrows if spec is not None else 1
    inches = 0.75 * axes.get_figure(root=True).get_figheight() / rows  # type: ignore[union-attr]
    apart = (high - low) * (14 / 72) / inches
    height = -math.inf
    for (_, y), name, colour in sorted(ends, key=lambda end: end[0][1]):
        height = max(y, height + apart)
        place: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "ha": "left", "va": "center"}
        axes.text(1.015, height, lettering(name), color=colour, fontweight="bold", fontsize=10, **place)
    axes.set_ylim(low, high)
