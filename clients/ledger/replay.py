"""A ledger's entries played again away from its file: what they say was spent, by block, then and now.

The entries alone decide what was spent, so whoever holds a copy of them gets the
site's own figures from the site's own code: they are put into an empty ledger in
a temporary folder. The replies are not among them, and are not needed for a sum.
"""

from __future__ import annotations

import json
import math
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients.ledger.chain import Cap, Entry, Ledger
from contract.errors import LedgerError
from contract.releases import Spent

__all__ = ["BlockTotal", "Moment", "block_totals", "history", "totals_of"]

_INSERT = """INSERT INTO entries (sequence, kind, plan, request, body, hash)
    VALUES (:sequence, :kind, :plan, :request, :body, :hash)"""


@dataclass(frozen=True, kw_only=True)
class BlockTotal:
    """What one data block has paid in the ledger's whole life.

    Attributes:
        block: its name, `window/side`.
        spent: by what ran.
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
        """For JSON, which has no infinity: ε is null where there is no guarantee."""
        return {
            "block": self.block,
            "unit": self.promised.unit,
            "delta": self.promised.delta,
            "private": self.private,
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
    spent, promised = ledger.spent_by_block(), ledger.spent_by_block(promised=True)
    return tuple(
        BlockTotal(block=block, spent=spent[block], promised=promised[block]) for block in sorted(promised)
    )


def totals_of(entries: Sequence[Entry], *, site: str, cap: Cap) -> tuple[BlockTotal, ...]:
    """What these entries add up to under that cap.

    Raises:
        LedgerError: they are not such as a ledger writes.
    """
    with _replay(site, cap) as ledger:
        _feed(ledger, entries)
        return block_totals(ledger)


def history(entries: Sequence[Entry], *, site: str, cap: Cap, moments: int = 40) -> tuple[Moment, ...]:
    """The totals after every entry, or after `moments` of them, evenly, where there are more.

    One privacy loss distribution takes .1 s, hence the limit. The last entry is always among them.
    """
    stops = sorted({math.ceil(len(entries) * step / moments) for step in range(1, moments + 1)} - {0})
    found, fed = [], 0
    with _replay(site, cap) as ledger:
        for stop in stops:
            _feed(ledger, entries[fed:stop])
            found.append(Moment(at=entries[stop - 1].body["at"], totals=block_totals(ledger)))
            fed = stop
    return tuple(found)


@contextmanager
def _replay(site: str, cap: Cap) -> Iterator[Ledger]:
    """An empty ledger in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="tidegate-") as folder:
        ledger = Ledger(Path(folder) / "ledger.db", site=site, cap=cap, clock=lambda: "")
        try:
            yield ledger
        except LedgerError as exc:  # its place is the temporary one, of which nobody knows
            raise LedgerError(f"the entries are not such as a ledger writes ({exc.what})") from exc
        except (ArithmeticError, KeyError, TypeError, ValueError, sqlite3.Error) as exc:
            raise LedgerError(
                f"the entries are not such as a ledger writes ({type(exc).__name__}: {exc})"
            ) from exc
        finally:
            ledger.close()


def _feed(ledger: Ledger, entries: Sequence[Entry]) -> None:
    """Write the entries as another process would: the ledger reads what it has not seen."""
    rows = [{**vars(entry), "body": json.dumps(dict(entry.body), sort_keys=True)} for entry in entries]
    with closing(sqlite3.connect(ledger.path)) as connection, connection:
        connection.executemany(_INSERT, rows)


def _statement(spent: Spent) -> dict[str, Any]:
    epsilon = spent.epsilon if math.isfinite(spent.epsilon) else None
    return {"epsilon": epsilon, "method": spent.method}
