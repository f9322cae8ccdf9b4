"""What a value of a row is: one rule for every source, and none that an experiment could change.

A *text* (a category, an id, a time, a side of the hold-out) has one form, `contract.names.canonical`:
`1.0` of a CSV file is the code `1` of a Parquet file, and person `1001.0` is person `1001`. A whole number
of 2**53 or more that came as a float is missing: it may have been another one, and so another person.
A category that the card declares is that category, letter by letter, even if it looks like a missing
value (`NA`, Namibia) or like a number with decimals. A *number* is a finite one, or it is missing.

Training and prediction read values here, so that both read them alike.
Each value is read by itself: what others there are beside it changes nothing about it. None makes
reading fail: what cannot be read counts as missing, and the administrator is told how often
(`tidegate site check`).
"""

from __future__ import annotations

import datetime
import math
import re
import zoneinfo
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from contract.names import EXACT, canonical, is_inexact

__all__ = ["FORM", "Column", "dates", "numbers", "texts"]

FORM = 2
"""Raise it with every change of what is read from a value: it deals records anew (`Site.split`)."""

_LONGEST = 100
"""Digits of a whole decimal number that is written out."""

_ISO = re.compile(
    r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:Z|[+-]\d\d(?::?\d\d)?)?)?", re.ASCII
)

_TRUTH = {"True": 1.0, "true": 1.0, "TRUE": 1.0, "False": 0.0, "false": 0.0, "FALSE": 0.0}
"""A table of booleans has them as numbers; in a CSV file they are words."""


class Column(Protocol):
    """A column as its source holds it: of a data frame, or an array."""

    @property
    def dtype(self) -> Any: ...  # noqa: D102 - as numpy and pandas have it

    def tolist(self) -> Any: ...  # noqa: D102

    def __len__(self) -> int: ...

    def __array__(self) -> npt.NDArray[Any]: ...


def texts(
    column: Column, *, missing: Iterable[str], declared: Iterable[str] = (), decimal: str = "."
) -> npt.NDArray[np.object_]:
    """The column's texts; None where a value is missing.

    Args:
        column: as the source holds it.
        missing: the texts that stand for a missing value.
        declared: the card's categories.
        decimal: the decimal sign.
    """
    categories, stand_ins = tuple(declared), tuple(missing)
    known = frozenset(categories)
    absent = frozenset((*stand_ins, *(canonical(text, decimal=decimal) for text in stand_ins)))
    forms = {canonical(category, decimal=decimal): category for category in reversed(categories)}

    def read(value: object) -> str | None:
        text = _text(value)
        if text is None or text in known:
            return text
        text = text.strip()
        if text in known:
            return text
        if is_inexact(text, decimal=decimal):
            return None
        form = canonical(text, decimal=decimal)
        if form in known:
            return form
        if not form or text in absent or form in absent:
            return None
        return forms.get(form, form)

    return _mapped(column, read)


def numbers(
    column: Column, *, missing: Iterable[str], decimal: str = "."
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """The column's numbers, NaN where there is none; and which values were neither that nor missing.

    Args:
        column: as the source holds it.
        missing: the texts that stand for a missing value; `-9` stands for -9.0 too.
        decimal: the decimal sign.
    """
    absent = frozenset(missing)
    if column.dtype.kind == "f":  # a table of numbers: nothing to parse
        values = np.asarray(column, dtype=np.float64)
    else:
        read = (
            _parsed(value, absent, decimal) if type(value) is str else _number(value, absent, decimal)
            for value in column.tolist()
        )
        values = np.fromiter(read, dtype=np.float64, count=len(column))
    stand_ins = [_parsed(text, frozenset(), decimal) for text in absent]
    values = np.where(np.isin(values, [one for one in stand_ins if math.isfinite(one)]), np.nan, values)
    unreadable = np.isinf(values)
    return np.where(unreadable, np.nan, values) + 0.0, unreadable


def dates(
    column: Column, *, missing: Iterable[str], zone: str, form: str | None = None
) -> tuple[npt.NDArray[np.object_], int]:
    """The column's days in a time zone, None where there is none; and how many values were no dates.

    A time without a zone of its own is of that zone.

    Args:
        column: as the source holds it.
        missing: the texts that stand for a missing value.
        zone: the IANA name.
        form: of texts, as of `strptime`; ISO 8601 without.
    """
    absent, there = frozenset(missing), zoneinfo.ZoneInfo(zone)
    known: dict[str, datetime.date | None] = {}
    found, unreadable = np.empty(len(column), dtype=object), 0
    for place, value in enumerate(column.tolist()):
        if isinstance(value, datetime.date) and not _is_missing(value):
            found[place] = _day(value, there)
        else:
            text = (_text(value) or "").strip()
            if text not in known:
                known[text] = None if text in absent else _day_of_text(text, there, form)
            found[place] = known[text]
            unreadable += found[place] is None and text not in absent and bool(text)
    return found, unreadable


def _day_of_text(text: str, zone: datetime.tzinfo, form: str | None) -> datetime.date | None:
    try:
        if form is not None:
            return _day(datetime.datetime.strptime(text, form), zone)
        return _day(datetime.datetime.fromisoformat(text), zone) if _ISO.fullmatch(text) else None
    except ValueError:
        return None


def _day(value: datetime.date, zone: datetime.tzinfo) -> datetime.date | None:
    try:
        if isinstance(value, datetime.datetime):
            return (value if value.tzinfo is None else value.astimezone(zone)).date()
        return datetime.date(value.year, value.month, value.day)
    except Exception:  # beyond the years that there are, or what a driver's own type does
        return None


def _parsed(text: str, absent: frozenset[str], decimal: str) -> float:
    """NaN where it is missing, infinite where it is no number."""
    text = text.strip()
    if not text or text in absent:
        return math.nan
    if decimal != ".":
        text = text.replace(".", "?").replace(decimal, ".")
    if not text.isascii() or "_" in text:  # Python reads 1_000, and digits of any script
        return math.inf
    try:
        number = float(text)
    except ValueError:
        return _TRUTH.get(text, math.inf)
    return number if math.isfinite(number) else math.inf


def _mapped(column: Column, read: Callable[[object], str | None]) -> npt.NDArray[np.object_]:
    """Each value read, equal texts once. Other equal values may read otherwise, as 1.50 and 1.5 do."""
    values, found = column.tolist(), np.empty(len(column), dtype=object)
    texts = {value for value in values if type(value) is str}
    known = {text: read(text) for text in texts}
    found[:] = [known[value] if type(value) is str else read(value) for value in values]
    return found


def _text(value: object) -> str | None:
    """Without the frills of its type; None where it is missing, or of a type that fails to say what it is."""
    try:
        return _plain(value)
    except Exception:  # of a driver's own type: one row that fails tells of that row
        return None


def _plain(value: object) -> str | None:  # noqa: PLR0911 - a line a type
    if isinstance(value, str):
        return str(value)
    if value is None or _is_missing(value):
        return None
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, datetime.datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value)) if abs(float(value)) < _exact(value) else None
    if isinstance(value, Decimal) and _is_whole(value):
        return str(int(value))  # exact, whatever its length
    try:
        return str(value)
    except ValueError:  # a whole number of thousands of digits
        return f"{value:x}" if isinstance(value, int) else None


def _is_whole(value: Decimal) -> bool:
    return value.is_finite() and value.adjusted() < _LONGEST and value == value.to_integral_value()


def _exact(value: float | np.floating[Any]) -> int:
    """From where on a float of that type has one value for several whole numbers."""
    kind = type(value)
    return 1 << (int(np.finfo(kind).nmant) + 1) if issubclass(kind, np.floating) else EXACT


def _number(value: object, absent: frozenset[str], decimal: str) -> float:
    """NaN where it is missing, infinite where it is no number."""
    if value is None or _is_missing(value):
        return math.nan
    if isinstance(value, str | bytes):
        text = value if isinstance(value, str) else value.decode("utf-8", "backslashreplace")
        return _parsed(text, absent, decimal)
    if isinstance(value, bool | int | float | Decimal | np.floating | np.integer | np.bool_):
        try:
            return float(value)
        except Exception:  # too large a whole number, or what a driver's own type does
            return math.inf
    return math.inf


def _is_missing(value: object) -> bool:
    """NaN, NaT, NA: what is not equal to itself, or says nothing about it."""
    try:
        return bool(value != value)  # noqa: PLR0124
    except Exception:
        return True
