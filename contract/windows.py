"""Calendar windows: a day, an ISO week, a month or a quarter, each with one name.

A window's name chooses rows and names their data block, so a period has exactly one: `2026-W05` is a week's,
`2026-w5` is none. Names of one kind sort as their periods do.
"""

from __future__ import annotations

import datetime
import re
from contextlib import suppress
from typing import Literal

from contract.errors import InputError

__all__ = ["Every", "example_of", "first_day", "is_window", "next_window", "window_of"]

Every = Literal["day", "week", "month", "quarter"]
"""How long a calendar window is."""

_FORMS = {
    "day": re.compile(r"(\d{4})-(\d\d)-(\d\d)", re.ASCII),
    "week": re.compile(r"(\d{4})-W(\d\d)", re.ASCII),
    "month": re.compile(r"(\d{4})-(\d\d)", re.ASCII),
    "quarter": re.compile(r"(\d{4})-Q([1-4])", re.ASCII),
}


def window_of(day: datetime.date, every: Every) -> str:
    """The name of the window that a day is in.

    >>> day = datetime.date(2026, 1, 1)
    >>> [window_of(day, every) for every in ("day", "week", "month", "quarter")]
    ['2026-01-01', '2026-W01', '2026-01', '2026-Q1']
    >>> window_of(datetime.date(2027, 1, 1), "week")
    '2026-W53'
    """
    if every == "day":
        return f"{day.year:04}-{day.month:02}-{day.day:02}"
    if every == "week":
        year, week, _ = day.isocalendar()
        return f"{year:04}-W{week:02}"
    if every == "month":
        return f"{day.year:04}-{day.month:02}"
    return f"{day.year:04}-Q{(day.month + 2) // 3}"


def example_of(every: Every) -> str:
    """A window of this kind, to show how one is named.

    >>> example_of("week")
    '2026-W06'
    """
    return window_of(datetime.date(2026, 2, 3), every)


def first_day(window: str, every: Every) -> datetime.date:
    """The day on which a window begins.

    Raises:
        InputError: it is no window of this kind.

    >>> first_day("2026-W01", "week"), first_day("2026-Q2", "quarter")
    (datetime.date(2025, 12, 29), datetime.date(2026, 4, 1))
    """
    found = _FORMS[every].fullmatch(window)
    if found is not None:
        year, *rest = map(int, found.groups())
        with suppress(ValueError):  # a week 54, a month 13, the year 0
            if every == "week":
                return datetime.date.fromisocalendar(year, rest[0], 1)
            if every == "quarter":
                return datetime.date(year, 3 * rest[0] - 2, 1)
            return datetime.date(year, rest[0], rest[1] if every == "day" else 1)
    raise InputError(f"'{window}' is no {every}: one is named like {example_of(every)}")


def is_window(window: str, every: Every) -> bool:
    """Whether it names a window of this kind.

    >>> is_window("2026-W53", "week"), is_window("2025-W53", "week"), is_window("2026-2", "month")
    (True, False, False)
    """
    try:
        first_day(window, every)
    except InputError:
        return False
    return True


def next_window(window: str, every: Every) -> str:
    """The window after it.

    Raises:
        InputError: it is no window of this kind, or the last that the calendar has.

    >>> next_window("2026-W53", "week"), next_window("2026-12", "month"), next_window("2026-Q4", "quarter")
    ('2027-W01', '2027-01', '2027-Q1')
    """
    days = {"day": 1, "week": 7, "month": 32, "quarter": 93}[every]
    try:
        return window_of(first_day(window, every) + datetime.timedelta(days=days), every)
    except OverflowError as exc:
        raise InputError(f"there is no {every} after '{window}'") from exc
