"""A picture of a site's ledger: ε by data block over time, and where each block stands.

The style is that of `terminal.figures`: colours of Okabe and Ito (2008), lines named at their
end. Solid is what was spent, hatched what open plans may still spend, red what has no
guarantee.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from clients.ledger.plan import Cap
from clients.ledger.replay import BlockTotal, Moment
from contract.epsilon import delta_words, epsilon_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_ledger"]

RED = "#C00000"
_DAY = 86_400
_HATCHED: dict[str, Any] = {
    "facecolor": "white",
    "edgecolor": "#0072B2",
    "hatch": "////",
    "linewidth": 0.8,
}
_NAMED = 5
"""So many blocks have a colour and a name in the upper panel; the others are grey."""
_BARS = 24
"""So many blocks have a bar in the lower panel."""


def plot_ledger(
    moments: Sequence[Moment], *, site: str, cap: Cap, kind: Literal["png", "svg"] = "png"
) -> bytes:
    """The picture of a ledger's history, oldest moment first.

    Raises:
        InputError: matplotlib is not installed.
    """
    from terminal.figures import make_figure

    last = moments[-1].totals if moments else ()
    ranked = sorted(last, key=lambda total: (total.promised.epsilon, total.spent.epsilon), reverse=True)
    bars = ranked[:_BARS]
    heights = (3.6, 1.1 + 0.32 * max(2, len(bars)))
    title = f"{site}: privacy spent by data block (δ = {cap.delta:g})"
    figure, (over_time, today) = make_figure(
        title, width=10, height=0.6 + sum(heights), panels=2, vertical=True, heights=heights
    )
    _draw_history(over_time, moments, ranked, cap)
    _draw_today(today, bars, cap, others=len(ranked) - len(bars))
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind)
    return buffer.getvalue()


def _draw_history(axes: Axes, moments: Sequence[Moment], ranked: Sequence[BlockTotal], cap: Cap) -> None:
    from terminal.figures import COLOURS, GREY, lettering, name_ends

    days = [datetime.fromisoformat(moment.at).timestamp() / _DAY for moment in moments]
    ends = [((0.0, cap.epsilon), f"cap {cap.epsilon:g}", "#000000")]
    groups = _alike(ranked)
    hatched = next((group[0] for group in groups if group[0].private), None)
    for rank, group in reversed(list(enumerate(groups))):
        spent, named = group[0].spent.epsilon, rank < _NAMED
        colour = (COLOURS[rank] if named else "#BBBBBB") if math.isfinite(spent) else RED
        for total in reversed(group):
            curve = _curve(total.block, days, moments)
            _draw_block(axes, curve, colour=colour, end=days[-1], named=named, hatched=total is hatched)
        if named:
            name = lettering(group[0].block, limit=30)
            name += f" and {len(group) - 1} alike" if len(group) > 1 else ""
            name += "" if math.isfinite(spent) else ": not private"
            ends.append(((days[-1], min(spent, 1.08 * cap.epsilon)), name, colour))
    axes.axhline(cap.epsilon, color="#000000", linewidth=1.4, linestyle=(0, (4, 3)))
    finite = (total.promised.epsilon for moment in moments for total in moment.totals if total.private)
    axes.set_ylim(0, 1.15 * max([cap.epsilon, *finite]))
    axes.set_ylabel(f"ε, cumulative, at δ = {delta_words(cap.delta)}")
    _label_times(axes)
    notes = []
    if hatched is not None:
        notes.append(f"hatched: what is promised of {lettering(hatched.block, limit=40)}")
    notes += ["grey: blocks that spent less"] if len(groups) > _NAMED else []
    axes.set_title("; ".join(notes), fontsize=9, color=GREY, loc="left")
    name_ends(axes, ends)


def _alike(ranked: Sequence[BlockTotal]) -> list[list[BlockTotal]]:
    """Blocks that stand at the same figures, together: their lines would hide each other."""
    groups: dict[tuple[float, float], list[BlockTotal]] = {}
    for total in ranked:
        groups.setdefault((total.promised.epsilon, total.spent.epsilon), []).append(total)
    return list(groups.values())


def _curve(block: str, days: Sequence[float], moments: Sequence[Moment]) -> list[tuple[float, float, float]]:
    """(Day, ε spent, ε promised) of a block, oldest first."""
    return [
        (day, total.spent.epsilon, total.promised.epsilon)
        for day, moment in zip(days, moments, strict=True)
        for total in moment.totals
        if total.block == block
    ]


def _draw_block(
    axes: Axes,
    curve: Sequence[tuple[float, float, float]],
    *,
    colour: str,
    end: float,
    named: bool,
    hatched: bool,
) -> None:
    """A step line of what was spent, a hatched band up to what is promised, a red cross where privacy ends.

    Args:
        axes: to draw on.
        curve: (day, ε spent, ε promised), oldest first.
        colour: of the block.
        end: the last day of the ledger, to which a line goes on.
        named: whether it is one of the blocks that the reader is to look at.
        hatched: whether to draw what is promised: bands of several blocks would lie over each other.
    """
    bounded = [point for point in curve if math.isfinite(point[1])]
    stop = end if len(bounded) == len(curve) else curve[len(bounded)][0]
    if bounded:
        last = (stop, *bounded[-1][1:])
        days, spent, promised = zip(*bounded, last, strict=True)
        axes.step(days, spent, where="post", color=colour, linewidth=2.2 if named else 1.0)
        if hatched:
            tops = [top if math.isfinite(top) else low for low, top in zip(spent, promised, strict=True)]
            band: dict[str, Any] = {"facecolor": "none", "edgecolor": colour, "alpha": 0.45, "linewidth": 0}
            axes.fill_between(days, spent, tops, step="post", hatch="////", **band)
    if len(bounded) < len(curve):
        axes.axvline(stop, color=RED, linewidth=1.2, zorder=1)
        top = axes.get_xaxis_transform()
        axes.plot(stop, 1.0, marker="X", color=RED, markersize=10, transform=top, clip_on=False)


def _label_times(axes: Axes) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=3, maxticks=8)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.set_xlabel("Time (UTC)")


def _draw_today(axes: Axes, totals: Sequence[BlockTotal], cap: Cap, *, others: int) -> None:
    from terminal.figures import COLOURS, lettering

    for row, total in enumerate(reversed(totals)):
        if not total.private:
            axes.barh(row, cap.epsilon, height=0.6, color=RED)
            style: dict[str, Any] = {"color": "white", "fontweight": "bold", "fontsize": 9}
            axes.text(0.02 * cap.epsilon, row, "NOT PRIVATE (ε = ∞)", va="center", **style)
            continue
        spent, promised = total.spent.epsilon, total.promised.epsilon
        axes.barh(row, spent, height=0.6, color=COLOURS[0])
        axes.barh(row, promised - spent, left=spent, height=0.6, **_HATCHED)
        words = epsilon_words(spent) + (
            f", at most {epsilon_words(promised)} promised" if promised > spent else ""
        )
        axes.text(promised, row, f"  {words}", va="center", fontsize=9)
    axes.axvline(cap.epsilon, color="#000000", linewidth=1.4, linestyle=(0, (4, 3)))
    axes.set_yticks(range(len(totals)), [lettering(total.block, limit=40) for total in reversed(totals)])
    axes.set_ylim(-0.6, max(1, len(totals)) - 0.4)
    axes.set_xlim(
        0, 1.25 * max([cap.epsilon, *(total.promised.epsilon for total in totals if total.private)])
    )
    axes.set_xlabel(
        f"ε now, at δ = {delta_words(cap.delta)}"
        + (f" (and {others} blocks that spent less)" if others else "")
    )
    axes.grid(visible=False, axis="y")
    _explain(axes, cap)


def _explain(axes: Axes, cap: Cap) -> None:
    from matplotlib.patches import Patch

    from terminal.figures import COLOURS

    handles = [Patch(color=COLOURS[0]), Patch(**_HATCHED), Patch(color=RED), axes.lines[-1]]
    names = ["counted so far", "promised", "not private", f"cap ε = {cap.epsilon:g}"]
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "ncols": 4, "frameon": False}
    axes.legend(handles, names, fontsize=9, **place)
