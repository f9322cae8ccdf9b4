"""What a value of a row is: one rule for every source, and none that an experiment could change.

A *text* (a category, an id, a time, a side of the hold-out) has one form, `contract.names.canonical`:
`1.0` of a CSV file is the code `1` of a Parquet file, and person `1001.0` is person `1001`. A category
that the card declares is that category, letter by letter, even if it looks like a missing value (`NA`,
Namibia) or like a number with decimals. A *number* is a finite one, or it is missing.

Each value is read by itself. None makes reading fail: what cannot be read counts as missing, and the
administrator is told how often (`tidegate site check`).
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from contract.names import canonical

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["numbers", "texts"]

_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,4})?", re.ASCII)


def texts(
    column: pd.Series[Any], *, missing: Iterable[str], declared: Iterable[str] = ()
) -> npt.NDArray[np.object_]:
    """The column's texts; None where a value is missing.

    Args:
        column: as the source holds it.
        missing: the texts that stand for a missing value.
        declared: the card's categories.
    """
    absent, known = frozenset(missing), frozenset(declared)

    def read(value: object) -> str | None:
        text = _text(value)
        if text is None or text in known:
            return text
        text = text.strip()
        if text in known:
            return text
        if text in absent or not text:
            return None
        return canonical(text)

    return _mapped(column, read)


def numbers(
    column: pd.Series[Any], *, missing: Iterable[str], decimal: str = "."
) -> tuple[npt.NDArray[np.float64], int]:
    """The column's numbers, NaN where there is none; and how many values were neither that nor missing."""
    if column.dtype.kind in "fiub":  # a table of numbers: nothing to parse
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        absent = frozenset(missing)
        known: dict[str, float] = {}
        values = np.empty(len(column), dtype=np.float64)
        for place, value in enumerate(column.tolist()):
            if not isinstance(value, str):
                values[place] = _number(value)
                continue
            if value not in known:
                known[value] = _parsed(value.strip(), absent, decimal)
            values[place] = known[value]
    unreadable = np.isinf(values)
    return np.where(unreadable, np.nan, values) + 0.0, int(unreadable.sum())


def _parsed(text: str, absent: frozenset[str], decimal: str) -> float:
    """NaN where it is missing, infinite where it is no number."""
    if not text or text in absent:
        return math.nan
    if decimal != ".":
        text = text.replace(".", "?").replace(decimal, ".")
    return float(text) if _NUMBER.fullmatch(text) else math.inf


def _mapped(column: pd.Series[Any], read: Callable[[object], str | None]) -> npt.NDArray[np.object_]:
    known: dict[tuple[type, object], str | None] = {}
    found = np.empty(len(column), dtype=object)
    for place, value in enumerate(column.tolist()):
        try:
            key = (type(value), value)
            if key not in known:
                known[key] = read(value)
            found[place] = known[key]
        except TypeError:  # a value that cannot be a key
            found[place] = read(value)
    return found


def _text(value: object) -> str | None:  # noqa: PLR0911 - a line a type
    """Without the frills of its type; None where it is missing."""
    if isinstance(value, str):
        return value
    if value is None or _is_missing(value):
        return None
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, datetime.datetime):
        return value.date().isoformat() if value.time() == datetime.time() else value.isoformat()
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _number(value: object) -> float:
    """NaN where it is missing, infinite where it is no number."""
    if value is None or _is_missing(value):
        return math.nan
    if isinstance(value, bool | int | float | Decimal | np.number | np.bool_):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    return math.inf


def _is_missing(value: object) -> bool:
    """NaN, NaT, NA: what is not equal to itself, or says nothing about it."""
    try:
        return bool(value != value)  # noqa: PLR0124
    except (TypeError, ValueError):
        return True
