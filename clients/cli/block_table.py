"""A ledger on the terminal: ε by data block, with a bar against the cap that is guaranteed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import ROUND_CEILING, Decimal

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from clients.ledger.plan import Cap
from clients.ledger.replay import BlockTotal
from contract.outside import shown
from contract.releases import PLAIN_METHOD
from terminal.output import cell

__all__ = ["bar", "block_table", "epsilon", "worst"]

_WIDTH = 14  # of the bar: the table fits into 80 columns


def block_table(totals: Sequence[BlockTotal], cap: Cap, *, title: str) -> Group:
    """A row a block, in red where no guarantee is left or the cap is passed; the theorems below it."""
    methods = sorted({item.method for total in totals for item in (total.spent, total.promised)})
    methods = [method for method in methods if method != PLAIN_METHOD]
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
    for total in totals:
        table.add_row(
            cell(total.block),
            epsilon(total.spent.epsilon),
            epsilon(total.promised.epsilon),
            f"{total.left(cap.epsilon):.2f}",
            bar(total, cap),
            f"{total.promised.delta:g}",
            total.promised.unit if total.private else "–",
            _method(total, methods),
            style="red" if not total.private or not cap.holds(total.promised.epsilon) else "",
        )
    notes = [f"{number} {shown(method)}" for number, method in enumerate(methods, start=1)]
    notes.append(
        f"guaranteed: the cap, ε = {cap.epsilon:g} at δ = {cap.delta:g}, of every block that is private, "
        "whatever is asked; counted so far: what ran"
    )
    return Group(table, Text("\n".join(notes), style="dim"))


def bar(total: BlockTotal, cap: Cap) -> Text:
    """Spent, promised beyond it and left, as shares of the cap; told apart without colour too."""
    if not total.private:
        return Text("NOT PRIVATE".center(_WIDTH, "█"), style="bold red")
    spent, promised = _cells(total.spent.epsilon, cap), _cells(total.promised.epsilon, cap)
    return Text.assemble(
        ("█" * spent, "cyan"), ("▒" * (promised - spent), "yellow"), ("·" * (_WIDTH - promised), "dim")
    )


def epsilon(value: float) -> str:
    """Rounded up, but for the arithmetic's own last digits: a bound must not read smaller than it is."""
    if not math.isfinite(value):
        return "∞"
    return str(Decimal(str(round(value, 9))).quantize(Decimal("0.01"), ROUND_CEILING))


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
