"""When windows close, and a clock that works on each name once at a time and drops nothing."""

from __future__ import annotations

import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from apscheduler.schedulers.background import BackgroundScheduler

from contract.errors import InputError, StorageError
from contract.windows import Every
from monitoring.schedule import Calendar, run_clock

LONG = 300.0
"""Seconds that a test waits for what must come at once."""


def due(now: str, **values: Any) -> list[tuple[str, str]]:
    calendar = Calendar(**{"every": "week", "first": "2026-W01", **values})
    return [
        (window, f"{moment:%m-%d %H:%M}")
        for window, moment in calendar.due(datetime.fromisoformat(f"{now}+00:00"))
    ]


def test_a_window_is_due_when_its_days_and_the_lag_are_over_in_its_zone() -> None:
    assert due("2026-01-04T23:59") == []
    assert due("2026-01-05T00:00") == [("2026-W01", "01-05 00:00")]
    assert due("2026-01-06T23:59", lag=2) == []
    assert due("2026-01-07T00:00", lag=2) == [("2026-W01", "01-07 00:00")]
    assert due("2026-01-05T00:00", zone="Europe/Berlin") == [("2026-W01", "01-04 23:00")]
    assert due("2026-01-05T00:00", zone="America/New_York") == []


@pytest.mark.parametrize(
    ("every", "first", "second", "moments"),
    [
        ("day", "2026-02-28", "2026-03-01", ["03-01 00:00", "03-02 00:00"]),
        ("month", "2026-01", "2026-02", ["02-01 00:00", "03-01 00:00"]),
        ("quarter", "2025-Q4", "2026-Q1", ["01-01 00:00", "04-01 00:00"]),
    ],
)
def test_every_kind_of_window_goes_on_where_the_last_ended(
    every: Every, first: str, second: str, moments: list[str]
) -> None:
    found = due("2026-06-30T00:00", every=every, first=first)[:2]
    assert found == list(zip((first, second), moments, strict=True))


def test_days_begin_at_midnight_of_the_zone_also_when_its_clocks_change() -> None:
    found = due("2026-11-30T00:00", every="month", first="2026-02", zone="Europe/Berlin")
    assert dict(found)["2026-03"] == "03-31 22:00"
    assert dict(found)["2026-10"] == "10-31 23:00"


def test_a_cron_line_says_when_a_closed_window_may_be_checked_and_sunday_is_its_day_0() -> None:
    assert due("2026-01-31T00:00", cron="30 2 * * *")[:2] == [
        ("2026-W01", "01-05 02:30"),
        ("2026-W02", "01-12 02:30"),
    ]
    assert due("2026-01-31T00:00", cron="0 2 * * 0")[0] == ("2026-W01", "01-11 02:00")
    assert due("2026-01-31T00:00", cron="0 2 * * sun")[0] == ("2026-W01", "01-11 02:00")
    assert due("2026-01-31T00:00", cron="0 2 * * 1-5")[0] == ("2026-W01", "01-05 02:00")


def test_a_rehearsal_takes_its_time_from_the_start() -> None:
    start = datetime(2026, 11, 29, 12, tzinfo=UTC)
    calendar = Calendar(every="week", first="2020-W01", pace=2.0, start=start)
    assert calendar.due(start + timedelta(seconds=1.9)) == ()
    windows = [window for window, _ in calendar.due(start + timedelta(seconds=6))]
    assert windows == ["2020-W01", "2020-W02", "2020-W03"]
    assert calendar.next(start + timedelta(seconds=6)) == ("2020-W04", start + timedelta(seconds=8))


def test_the_next_window_is_the_first_that_is_not_due() -> None:
    calendar, now = Calendar(every="week", first="2026-W01", lag=1), datetime(2026, 1, 19, 12, tzinfo=UTC)
    windows = [window for window, _ in calendar.due(now)]
    following = calendar.next(now)
    assert following is not None
    assert [*windows, following[0]] == ["2026-W01", "2026-W02", "2026-W03"]
    assert Calendar(every="day", first="9999-12-31").next(now) is None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"first": "2026-01"}, "is no week: one is named like 2026-W06"),
        ({"lag": -1}, "a lag of -1 days"),
        ({"lag": 400}, "a lag of 400 days"),
        ({"zone": "Nowhere/City"}, "there is no time zone"),
        ({"zone": "../etc"}, "there is no time zone"),
        ({"cron": "0 2 * *"}, "has 4 fields"),
        ({"cron": "0 25 * * *"}, "cannot be read"),
        ({"cron": "0 2 1 * mon"}, "names days and weekdays"),
        ({"cron": "0 2 * * 8"}, "cannot be read"),
        ({"pace": 0.0}, "a pace of 0 s"),
        ({"pace": float("nan")}, "a pace of nan s"),
        ({"pace": 2.0, "cron": "0 2 * * *"}, "does not wait for a cron line"),
        ({"every": "day", "first": "1926-01-01"}, "more than 10,000 windows ago"),
    ],
)
def test_what_is_no_calendar_is_refused_with_the_reason(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Calendar(**{"every": "week", "first": "2026-W01", **values})


def test_the_clock_works_on_names_beside_each_other_and_on_each_once_at_a_time() -> None:
    stop, both, lock = threading.Event(), threading.Barrier(2, timeout=LONG), threading.Lock()
    working, most, done = Counter[str](), Counter[str](), Counter[str]()

    def work(name: str) -> None:
        with lock:
            working[name] += 1
            most[name] = max(most[name], working[name])
        if not done[name]:
            both.wait()  # which one alone would never pass
        with lock:
            working[name] -= 1
            done[name] += 1
            if min(done["a"], done["b"]) >= 5:
                stop.set()

    run_clock(lambda: ("a", "b"), work, interval=0.01, stop=stop, report=print)
    assert most == {"a": 1, "b": 1}


def test_a_database_that_is_away_is_told_and_the_clock_goes_on() -> None:
    stop, told, looks = threading.Event(), list[str](), list[int]()

    def look() -> list[str]:
        looks.append(1)
        if len(looks) < 3:
            raise StorageError("the state database is away", remedy="Start it")
        return ["a"]

    def work(_: str) -> None:
        if len(told) < 3:
            raise StorageError("and now too")
        stop.set()

    run_clock(look, work, interval=0.01, stop=stop, report=told.append)
    assert told == ["the state database is away. Start it."] * 2 + ["and now too."]


@pytest.mark.parametrize("where", ["look", "work"])
def test_a_defect_ends_the_clock_and_is_not_swallowed(where: str) -> None:
    def look() -> list[str]:
        if where == "look":
            raise ZeroDivisionError("of look")
        return ["a"]

    def work(_: str) -> None:
        raise ZeroDivisionError("of work")

    with pytest.raises(ZeroDivisionError, match=f"of {where}"):
        run_clock(look, work, interval=0.01, stop=threading.Event(), report=print)


def test_work_that_is_found_while_the_clock_ends_does_not_hold_it_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """APScheduler waits for its threads under the lock that one of them needs to add a job."""
    ends, looked = threading.Event(), list[str]()

    def look() -> list[str]:
        looked.append("once more")
        if len(looked) > 1:
            assert ends.wait(300), "the clock does not end"
            time.sleep(0.3)  # until shutdown has the lock
        return ["a" if len(looked) == 1 else "b"]

    def work(name: str) -> None:
        while len(looked) < 2:  # the next look has begun, and waits
            time.sleep(0.01)
        raise ZeroDivisionError(f"of {name}")

    shutdown = BackgroundScheduler.shutdown

    def told(clock: BackgroundScheduler, wait: bool = True) -> None:
        ends.set()
        shutdown(clock, wait)

    monkeypatch.setattr(BackgroundScheduler, "shutdown", told)
    with pytest.raises(ZeroDivisionError, match="of a"):
        run_clock(look, work, interval=0.01, stop=threading.Event(), report=print)


def test_stop_lets_the_work_in_progress_end_and_leaves_no_thread(caplog: pytest.LogCaptureFixture) -> None:
    stop, ended = threading.Event(), threading.Event()

    def work(_: str) -> None:
        stop.set()
        assert not ended.wait(0.2)
        ended.set()

    run_clock(lambda: ["a"], work, interval=0.01, stop=stop, report=print)
    assert ended.is_set()
    assert not [thread for thread in threading.enumerate() if "APScheduler" in thread.name]
    assert not caplog.records


def test_windows_come_in_their_order_without_a_gap() -> None:
    moments = [moment for _, moment in Calendar(every="day", first="2026-01-01").due(datetime.now(UTC))]
    assert all(later - earlier == timedelta(days=1) for earlier, later in pairwise(moments))
