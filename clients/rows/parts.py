"""What every kind of source has: the rows of one file or table, and names of columns to look for."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clients.rows.unfit_lines import UnfitLines
from contract.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Part", "dates_for_numbers", "instead", "require_columns"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """The rows of one file or table.

    Attributes:
        name: of the file or table.
        frame: its rows, by the card's names.
        left_out: how many lines did not fit the header.
        unfit: the same lines by cause.
    """

    name: str
    frame: pd.DataFrame
    left_out: int = 0
    unfit: tuple[UnfitLines, ...] = ()


def require_columns(present: Sequence[str], wanted: dict[str, str], *, where: str) -> None:
    """Every column of the card is there, once.

    Args:
        present: the source's columns.
        wanted: the source's name of each column of the card.
        where: names the site and the file.

    Raises:
        DataError: with the column, and what is near it.
    """
    for column in wanted.values():
        if column not in present:
            raise DataError(
                f"column '{column}' of the card is missing{instead(column, present)}",
                where=where,
                remedy="Deliver it, say its name under data.columns in site.toml, or take it off the card",
            )
        if present.count(column) > 1:
            raise DataError(
                f"column '{column}' is there {present.count(column)} times",
                where=where,
                remedy="Deliver it once: nobody can say which one is meant",
            )


def dates_for_numbers(column: str, *, where: str) -> DataError:
    """The refusal of a numeric column that holds dates."""
    return DataError(
        f"column '{column}' holds dates, and the card says numbers",
        where=where,
        remedy="Deliver numbers, such as days, or declare it categorical on the card",
    )


def instead(column: str, present: Sequence[str]) -> str:
    """What is there in the place of a column that is not, in words to put behind its name."""
    if len(present) == 1:
        return f" (there is one column only, '{present[0][:80]}': is data.separator right?)"
    nearest = difflib.get_close_matches(column, present, n=1, cutoff=0.5)
    return f" (nearest: '{nearest[0]}')" if nearest else f" (it has: {', '.join(present[:20])})"
