"""A picture of ε against what a model learns on rows with a planted effect."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Literal

from experiments.planning.planted import PlantedResult

__all__ = ["plot_curve"]


def plot_curve(
    curve: Sequence[PlantedResult], *, name: str, stated: float, kind: Literal["png", "svg"] = "png"
) -> bytes:
    """AUC by ε with its spread between planted effects, the line without privacy, and the stated ε marked.

    Args:
        curve: by ascending ε.
        name: of the experiment.
        stated: its ε.
        kind: of the picture.

    Raises:
        InputError: matplotlib is not installed.
    """
    from terminal.figures import COLOURS, GREY, MARKERS, make_figure, name_ends

    title = f"{name}: what noise leaves of a planted effect"
    figure, (axes,) = make_figure(title, width=8, height=4.5, panels=1)
    at = [one.epsilon for one in curve]
    axes.errorbar(
        at,
        [one.auc for one in curve],
        yerr=[one.spread for one in curve],
        color=COLOURS[0],
        marker=MARKERS[0],
        capsize=3,
        linewidth=2,
    )
    plain = [one.without_privacy for one in curve]
    axes.plot(at, plain, color=COLOURS[1], marker=MARKERS[1], linestyle="--", linewidth=1.4)
    axes.axvline(stated, color=GREY, linewidth=1, linestyle=":")
    axes.set_xscale("log")
    axes.set_xticks(at, [f"{one:g}" for one in at])
    axes.minorticks_off()
    axes.set_ylim(0.45, 1.0)
    axes.axhline(0.5, color=GREY, linewidth=1)
    axes.set_xlabel(f"privacy.epsilon (the file states {stated:g})")
    axes.set_ylabel("AUC (.5 is chance; bars: between effects)")
    ends = [
        ((at[-1], curve[-1].auc), "private", COLOURS[0]),
        ((at[-1], plain[-1]), "without privacy", COLOURS[1]),
    ]
    name_ends(axes, ends)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind)
    return buffer.getvalue()
