"""Calendar windows: a day, an ISO week, a month or a quarter, each with one name.

A window's name chooses rows and names their data block, so a period has exactly one: `2026-W05` is a week's,
`2026-w5` is none. Names of one kind sort as their periods do.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal, get_args

from contract.errors import InputError

__all__ = [
    "Every",
    "condensed",
    "example_of",
    "expanded",
    "first_day",
    "is_window",
    "latest_after",
    "next_window",
    "places",
    "season_of",
    "window_of",
]

_MOST_EXPANDED = 1000

Every = Literal["day", "week", "month", "quarter"]
"""How long a calendar window is."""

_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
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


def season_of(window: str) -> str:
    """The part of the year that a calendar window lies in: a quarter's is the quarter, any other's the month.

    A week is of the month that its Thursday is in, as it is of the year of its Thursday (ISO 8601).

    Raises:
        InputError: it is no calendar window.

    >>> [season_of(window) for window in ("2026-01-31", "2026-W05", "2026-W06", "2026-02", "2026-Q1")]
    ['January', 'January', 'February', 'February', 'Q1']
    """
    every = next((every for every in get_args(Every) if is_window(window, every)), None)
    if every is None:
        raise InputError(f"'{window}' is no day, week, month or quarter, so it has no season")
    if every == "quarter":
        return window[-2:]
    day = first_day(window, every)
    if every == "week":
        day += datetime.timedelta(days=3)
    return _MONTHS[day.month - 1]


def expanded(names: Sequence[str]) -> tuple[str, ...]:
    """Windows as a person names them: each by itself, or `A..B` for all from one calendar window to another.

    Raises:
        InputError: B comes before A, or more than a thousand windows are meant.

    >>> expanded(["2026-W52..2027-W02", "2027-W09"])
    ('2026-W52', '2026-W53', '2027-W01', '2027-W02', '2027-W09')
    >>> expanded(["base", "a..b"])
    ('base', 'a..b')
    """
    found: list[str] = []
    for name in names:
        first, _, last = name.partition("..")
        kind = next((every for every in get_args(Every) if is_window(first, every)), None)
        if kind is None or not is_window(last, kind):
            found.append(name)  # a label may have two full stops in it
            continue
        end = len(found) + _MOST_EXPANDED
        found.append(first)
        while found[-1] != last:
            if first_day(found[-1], kind) > first_day(last, kind) or len(found) >= end:
                raise InputError(
                    f"'{name}' is no span of windows",
                    where="--window",
                    remedy=f"Name the earlier one first, and at most {_MOST_EXPANDED:,} in all",
                )
            found.append(next_window(found[-1], kind))
    return tuple(found)


def condensed(windows: Sequence[str]) -> tuple[str, ...]:
    """What `expanded` makes these windows of, with `A..B` for three or more that follow each other.

    >>> condensed(["2026-W52", "2026-W53", "2027-W01", "2027-W09", "base"])
    ('2026-W52..2027-W01', '2027-W09', 'base')
    """
    spans: list[list[str]] = []
    for window in windows:
        kind = next((every for every in get_args(Every) if spans and is_window(spans[-1][-1], every)), None)
        if kind is not None and window == next_window(spans[-1][-1], kind):
            spans[-1].append(window)
        else:
            spans.append([window])
    return tuple(name for span in spans for name in ([f"{span[0]}..{span[-1]}"] if len(span) > 2 else span))


def places(windows: Sequence[str]) -> dict[str, int]:
    """The place of each window in time, counted in windows.

    Where all are calendar windows of one kind, that is the calendar's: one that is missing leaves its place
    free. Of windows with other names nothing is known but their order.

    >>> places(["2026-W52", "2026-W53", "2027-W03"])["2027-W03"] - places(["2026-W53"])["2026-W53"]
    3
    >>> places(["w1", "2026-W05"])
    {'w1': 0, '2026-W05': 1}
    """
    for every in get_args(Every):
        with suppress(InputError):
            return {window: _place(first_day(window, every), every) for window in windows}
    return {window: place for place, window in enumerate(windows)}


def latest_after(window: str, others: Sequence[str]) -> str:
    """The latest of the others that comes after this window; empty where none does, or no calendar says so.

    >>> latest_after("2026-W05", ["2026-W04", "2026-W20", "2026-W09"]), latest_after("2026-W05", ["2026-W05"])
    ('2026-W20', '')
    >>> latest_after("w1", ["w2"])
    ''
    """
    every = next((one for one in get_args(Every) if is_window(window, one)), None)
    later = [one for one in others if every is not None and is_window(one, every) and one > window]
    return max(later, default="")


def _place(day: datetime.date, every: Every) -> int:
    if every == "day":
        return day.toordinal()
    if every == "week":
        return day.toordinal() // 7
    return (12 * day.year + day.month) // (3 if every == "quarter" else 1)
