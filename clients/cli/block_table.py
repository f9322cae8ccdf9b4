"""A ledger on the terminal: ε by data block, with a bar against the cap that is guaranteed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from clients.ledger.plan import Cap
from clients.ledger.replay import BlockTotal
from clients.ledger.spending import RESTORED
from contract.epsilon import delta_words, epsilon_words, left_words
from contract.outside import shown
from contract.releases import PLAIN_METHOD
from terminal.output import cell, table_of

__all__ = ["bar", "block_table", "worst"]

_WIDTH = 14  # of the bar: the table fits into 80 columns
_NARROW = 76
"""Columns of a terminal with fewer of which the bar is left out, so that no figure is cut."""


def block_table(totals: Sequence[BlockTotal], cap: Cap, *, title: str) -> Group:
    """A row a block, in red where no guarantee is left or the cap is passed; the theorems below it."""
    from terminal.output import console

    methods = sorted({item.method for total in totals for item in (total.spent, total.promised)})
    methods = [method for method in methods if method != PLAIN_METHOD]
    notes = [f"{number} {shown(method)}" for number, method in enumerate(methods, start=1)]
    notes += _notes(totals, cap)
    table = Table(
        title=cell(title, "bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("data block", overflow="fold")
    for heading in ("counted\nso far", "promised", "left"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("of the cap", "δ", "unit", "method"):
        table.add_column(heading, no_wrap=True)
    if console.is_terminal and console.width < _NARROW:
        headings = ("data block", "counted", "promised", "left", "δ", "method")
        rows = [_figures(total, cap, methods) for total in totals]
        narrow = table_of(headings, rows, title=title, unbroken=headings[1:])
        return Group(narrow, Text("\n".join(notes), style="dim"))
    for total in totals:
        table.add_row(
            cell(total.block),
            epsilon_words(total.spent.epsilon),
            epsilon_words(total.promised.epsilon),
            left_words(cap.epsilon, total.promised.epsilon),
            bar(total, cap),
            delta_words(total.promised.delta),
            total.promised.unit if total.private else "–",
            _method(total, methods),
            style="red" if not total.private or not cap.holds(total.promised.epsilon) else "",
        )
    return Group(table, Text("\n".join(notes), style="dim"))


def _figures(total: BlockTotal, cap: Cap, methods: Sequence[str]) -> list[Text]:
    """A block's row without its bar, which says nothing that the figures do not."""
    style = "red" if not total.private or not cap.holds(total.promised.epsilon) else ""
    cells = (
        total.block,
        epsilon_words(total.spent.epsilon),
        epsilon_words(total.promised.epsilon),
        left_words(cap.epsilon, total.promised.epsilon),
        delta_words(total.promised.delta),
        _method(total, methods),
    )
    return [cell(value, style) for value in cells]


def _notes(totals: Sequence[BlockTotal], cap: Cap) -> list[str]:
    """What the columns mean, and what they cannot say."""
    stated = f"ε = {cap.epsilon:g} at δ = {delta_words(cap.delta)}"
    notes = [
        f"guaranteed: the cap, {stated}, of every block that is private, whatever is asked; counted so far: "
        "what ran; promised: that, and what open plans may spend beside it",
        f"ε is stated at the cap's δ = {delta_words(cap.delta)}; a run states the same noise at its own δ, "
        "and a smaller δ gives a larger ε",
    ]
    above = [total.block for total in totals if total.private and not math.isfinite(total.spent.guaranteed)]
    if above:
        notes.append(
            f"but not of {', '.join(map(shown, above))}: more was spent there than today's cap. Guaranteed "
            "is the larger cap that was in force when it was spent, which the ledger does not keep"
        )
    if any(RESTORED in (total.spent.method, total.promised.method) for total in totals):
        notes.append(
            "restored: nobody knows whether the lost entries protected persons or records, hence the unit "
            "record; if the cap was larger when they were made, that cap counts"
        )
    return notes


def bar(total: BlockTotal, cap: Cap) -> Text:
    """Spent, promised beyond it and left, as shares of the cap; told apart without colour too."""
    if not total.private:
        return Text("NOT PRIVATE".center(_WIDTH, "█"), style="bold red")
    spent, promised = _cells(total.spent.epsilon, cap), _cells(total.promised.epsilon, cap)
    return Text.assemble(
        ("█" * spent, "cyan"), ("▒" * (promised - spent), "yellow"), ("·" * (_WIDTH - promised), "dim")
    )


def worst(totals: Sequence[BlockTotal]) -> BlockTotal | None:
    """The block of which least is left; None in a ledger that nothing has touched."""
    return max(totals, key=lambda total: (total.promised.epsilon, total.spent.epsilon), default=None)


def _cells(value: float, cap: Cap) -> int:
    """At least one where anything was spent."""
    return min(_WIDTH, math.ceil(round(_WIDTH * value / cap.epsilon, 9)))


def _method(total: BlockTotal, methods: Sequence[str]) -> str:
    """Numbers of the theorems: of what was spent, then of what is promised if that is another."""
    names = [total.spent.method, total.promised.method] if total.spent.epsilon else [total.promised.method]
    numbers = dict.fromkeys(str(methods.index(name) + 1) if name in methods else "–" for name in names)
    return " → ".join(numbers)
