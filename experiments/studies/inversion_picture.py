"""The picture of gradient inversion: what lay at the site, and what the server made of each update."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from contract.errors import InputError
from experiments.studies.gradient_inversion import Attempt, decoded, recovered
from experiments.studies.inversion_attack import is_flag, public_prior

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

__all__ = ["draw"]

_RIGHT, _WRONG = "#D55E00", "#F2F2F2"
"""Of a patient's features: what the server found, and what it did not."""
_WIDTH, _LINE, _HEADINGS = 13.0, 0.9, 0.6


def draw(attempts: Sequence[Attempt]) -> bytes:
    """A typical repeat of every setting as a PNG: images as such, a setting's first patient as a table.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise InputError(
            "a picture needs matplotlib, which is not installed", remedy="Run pip install 'tidegate[server]'"
        ) from exc
    groups = _typical_repeats(attempts)
    images = [group for group in groups if group[0].setting.is_image]
    tables = [group for group in groups if not group[0].setting.is_image]
    heights = [_LINE * (2 + len(images[0])) + _HEADINGS] if images else []
    heights += [0.33 * (4 + len(group)) + _HEADINGS for group in tables]
    figure = Figure(figsize=(_WIDTH, 0.5 + sum(heights)), dpi=120, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    title = "What the server reconstructs from one released update (of each setting a typical repeat)"
    figure.suptitle(title, x=0.02, ha="left", fontweight="bold", fontsize=13)
    parts = list(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
    if images:
        _draw_images(parts.pop(0), images)
    for part, group in zip(parts, tables, strict=True):
        _draw_patient(part.subplots(), group)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _typical_repeats(attempts: Sequence[Attempt]) -> list[list[Attempt]]:
    """By setting, all attempts of one repeat: that of median error on the first kind of update."""
    groups = []
    for name in dict.fromkeys(attempt.setting.name for attempt in attempts):
        of_setting = [attempt for attempt in attempts if attempt.setting.name == name]
        first = [attempt for attempt in of_setting if attempt.release == of_setting[0].release]
        typical = sorted(first, key=lambda attempt: attempt.squared_error)[len(first) // 2].repeat
        groups.append([attempt for attempt in of_setting if attempt.repeat == typical])
    return groups


def _draw_images(part: SubFigure, groups: Sequence[Sequence[Attempt]]) -> None:
    """A column an image, a line a kind of update; the site's own images above."""
    lines = ["at the site", "ranges alone", *(attempt.release.name for attempt in groups[0])]
    sizes = [len(group[0].rows) for group in groups]
    widths = [width for size in sizes for width in (*[1.0] * size, 0.2)][:-1]  # a gap after each group
    cells = part.subplots(len(lines), len(widths), squeeze=False, width_ratios=widths)
    place = 0
    for group in groups:
        cells[0, place].set_title(group[0].setting.name.replace(", ", "\n"), loc="left", fontsize=11)
        for row, truth in enumerate(group[0].rows):
            middle = public_prior(group[0].setting.experiment.task)[0]
            shown = [truth, middle, *(attempt.found[row] for attempt in group)]
            for axes, pixels in zip(cells[:, place + row], shown, strict=True):
                axes.imshow(pixels.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
                axes.set(xticks=[], yticks=[])
        place += len(group[0].rows) + 1
    for axes in cells[:, np.array(widths) < 1].flat:
        axes.axis("off")
    for axes, name in zip(cells[:, 0], lines, strict=True):
        axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=11)


def _draw_patient(axes: Axes, group: Sequence[Attempt]) -> None:
    """A column a feature, a line a kind of update; what was found is coloured."""
    from matplotlib.transforms import Bbox

    setting = group[0].setting
    task = setting.experiment.task
    truth = group[0].rows[0]
    middle = public_prior(task)[0]
    shown = [truth, middle, *(attempt.found[0] for attempt in group)]
    lines = [_words(decoded(task, inputs)) for inputs in shown]
    found = [recovered(task, truth, inputs) for inputs in shown]
    for place, feature in enumerate(task.features):
        if feature.kind == "categorical" or is_flag(feature):  # without an update, any is as good
            lines[1][place], found[1][place] = "any", False
    colours = [[_RIGHT if right else _WRONG for right in line] for line in found]
    colours[0] = ["white"] * len(task.features)
    table = axes.table(
        cellText=lines,
        cellColours=colours,
        rowLabels=["at the site", "ranges alone", *(attempt.release.name for attempt in group)],
        colLabels=[feature.name.replace("_", "\n") for feature in task.features],
        cellLoc="center",
        bbox=Bbox.from_bounds(0.06, 0.0, 0.94, 1.0),
    )
    table.auto_set_font_size(False)
    table.set_fontsize(10.5)
    for (line, column), cell in table.get_celld().items():
        cell.set_linewidth(0.4)
        if line == 0:
            cell.set_height(2 * cell.get_height())
        elif line > 1 and column >= 0 and found[line - 1][column]:
            cell.get_text().set(color="white", fontweight="bold")
    first = ", the first" if len(group[0].rows) > 1 else ""
    style: dict[str, Any] = {"loc": "left", "fontsize": 11}
    note = "orange: within 5 % of the public range or the right category, be it by chance"
    axes.set_title(f"{setting.name}{first} ({note})", **style)
    axes.axis("off")


def _words(values: Sequence[float | str]) -> list[str]:
    return [value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0") for value in values]
