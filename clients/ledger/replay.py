"""A ledger's entries played again away from its file: what they say was spent, by block, then and now.

The entries alone decide what was spent (`clients.ledger.spending`), so whoever holds a copy of them gets the
site's own figures from the site's own code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from clients.ledger.chain import Ledger
from clients.ledger.entries import Entry
from clients.ledger.plan import Cap
from clients.ledger.spending import Spending
from contract.errors import InputError, LedgerError
from contract.releases import Spent

__all__ = ["BlockTotal", "Moment", "block_totals", "history", "totals_of"]


@dataclass(frozen=True, kw_only=True)
class BlockTotal:
    """What one data block has paid in the ledger's whole life.

    Attributes:
        block: its name, `window/side`.
        spent: counted so far, by what ran.
        promised: once every open plan will have run to its end; never less than `spent`.
    """

    block: str
    spent: Spent
    promised: Spent

    @property
    def private(self) -> bool:
        """Whether what ran, and what may still run, leaves the block a guarantee."""
        return math.isfinite(self.promised.epsilon)

    def left(self, cap: float) -> float:
        """The cap less what is promised; 0 without a guarantee.

        A difference for the reader: what a further plan may cost follows from
        composition, by which ε does not add up.
        """
        return max(0.0, cap - self.promised.epsilon)

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which has no infinity: ε is null where there is no guarantee.

        `guaranteed` follows from what ran: what is promised beyond the cap will be refused.
        """
        return {
            "block": self.block,
            "unit": self.promised.unit,
            "delta": self.promised.delta,
            "private": self.private,
            "guaranteed": _finite(self.spent.guaranteed) if self.private else None,
            "spent": _statement(self.spent),
            "promised": _statement(self.promised),
        }


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What the blocks had paid once the entry of that time was in."""

    at: str
    totals: tuple[BlockTotal, ...]


def block_totals(ledger: Ledger) -> tuple[BlockTotal, ...]:
    """What each block has spent and promised at the cap's δ, by the block's name."""
    return _paired(ledger.spent_by_block(), ledger.spent_by_block(promised=True))


def totals_of(entries: Sequence[Entry], *, cap: Cap) -> tuple[BlockTotal, ...]:
    """What these entries add up to under that cap.

    Raises:
        LedgerError: they are not such as a ledger writes.
    """
    spending = Spending(cap)
    with _told():
        for entry in entries:
            spending.apply(entry)
        return _totals(spending)


def history(entries: Sequence[Entry], *, cap: Cap, moments: int = 40) -> tuple[Moment, ...]:
    """The totals after every entry, or after `moments` of them, evenly, where there are more.

    One privacy loss distribution takes .1 s, hence the limit. The last entry is always among them.
    """
    stops = {math.ceil(len(entries) * step / moments) for step in range(1, moments + 1)}
    spending, found = Spending(cap), []
    with _told():
        for count, entry in enumerate(entries, start=1):
            spending.apply(entry)
            if count in stops:
                found.append(Moment(at=entry.body["at"], totals=_totals(spending)))
    return tuple(found)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (ArithmeticError, AttributeError, InputError, KeyError, TypeError, ValueError) as exc:
        raise LedgerError(
            f"the entries are not such as a ledger writes ({type(exc).__name__}: {exc})"
        ) from exc


def _totals(spending: Spending) -> tuple[BlockTotal, ...]:
    spent, promised = (
        spending.by_block(run=None, delta=spending.cap.delta, promised=whole) for whole in (False, True)
    )
    return _paired(spent, promised)


def _paired(spent: dict[str, Spent], promised: dict[str, Spent]) -> tuple[BlockTotal, ...]:
    return tuple(
        BlockTotal(block=block, spent=spent[block], promised=promised[block]) for block in sorted(promised)
    )


def _statement(spent: Spent) -> dict[str, Any]:
    return {"epsilon": _finite(spent.epsilon), "method": spent.method}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
