"""When windows close, and the clock that looks for those that have.

APScheduler is the clock and nothing else. Two of its schedulers on one job store fire twice, by default it
drops a job that is a second late, and it deletes a job that it cannot unpickle; so its jobs are kept in
memory, no firing is ever too late, and who acts on a window is decided by a lease in the state database. What
has happened is there too: a clock that was away finds all that has closed meanwhile.

Fact: APScheduler 3.11 reads the weekdays of a crontab line from Monday = 0, and cron from Sunday = 0.
"""

from __future__ import annotations

import logging
import re
import threading
import zoneinfo
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING

from contract.errors import InputError, TidegateError
from contract.windows import Every, first_day, next_window, window_of

if TYPE_CHECKING:
    from apscheduler.triggers.cron import CronTrigger

__all__ = ["Calendar", "run_clock"]

_POLL = 1.0
"""Seconds after which a defect comes out at the latest; a stop is heard at once."""
_SIDE_BY_SIDE = 16
"""Names on which a clock works at a time; the others wait."""
_MOST_WINDOWS = 10_000
"""Between the first of a calendar and now: more are a slip of the pen."""
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True, kw_only=True)
class Calendar:
    """Which windows there are, and when each is due.

    Attributes:
        every: how long a window is.
        first: the first one.
        lag: days after a window's end until its rows are delivered.
        zone: the time zone (IANA) in which the days begin.
        cron: when a closed window may be acted on, as a line of crontab(5) says; empty for at once.
        pace: to rehearse on rows of the past: seconds from `start` until the first window is due, and from
            each to the next. None is due before it has closed.
        start: from when the pace counts.
    """

    every: Every
    first: str
    lag: int = 0
    zone: str = "UTC"
    cron: str = ""
    pace: float | None = None
    start: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __post_init__(self) -> None:
        """Refuse what is no calendar.

        Raises:
            InputError: with what is wrong.
        """
        first_day(self.first, self.every)
        if not 0 <= self.lag <= 366:
            raise InputError(f"a lag of {self.lag} days", where="--lag", remedy="Give 0 to 366 days")
        if self.pace is not None and not 0.1 <= self.pace <= 86_400:
            raise InputError(
                f"a pace of {self.pace:g} s", where="--rehearse", remedy="Give 0.1 to 86400 seconds a window"
            )
        if self.pace is not None and self.cron:
            raise InputError(
                "a rehearsal does not wait for a cron line",
                where="--rehearse",
                remedy="Leave one of them out",
            )
        try:
            zoneinfo.ZoneInfo(self.zone)
        except (OSError, ValueError, zoneinfo.ZoneInfoNotFoundError) as exc:
            raise InputError(
                f"there is no time zone '{self.zone}'", where="--zone", remedy="Give one like Europe/Berlin"
            ) from exc
        if self.cron:
            _trigger(self.cron, self.zone)
        if self.pace is None and self.window_at(self.start) > self.first:
            days = (self.start.date() - first_day(self.first, self.every)).days
            shortest = {"day": 1, "week": 7, "month": 28, "quarter": 90}[self.every]
            if days // shortest > _MOST_WINDOWS:
                raise InputError(
                    f"'{self.first}' is more than {_MOST_WINDOWS:,} windows ago",
                    where="--first",
                    remedy="Begin with a later window",
                )

    def window_at(self, moment: datetime) -> str:
        """The window that a moment lies in.

        >>> Calendar(every="week", first="2026-W01").window_at(datetime(2026, 2, 3, tzinfo=UTC))
        '2026-W06'
        """
        return window_of(moment.astimezone(zoneinfo.ZoneInfo(self.zone)).date(), self.every)

    def due(self, now: datetime) -> tuple[tuple[str, datetime], ...]:
        """The windows that may be acted on by now, and since when, oldest first.

        >>> calendar = Calendar(every="week", first="2026-W01", lag=2)
        >>> calendar.due(datetime(2026, 1, 15, tzinfo=UTC))
        (('2026-W01', datetime.datetime(2026, 1, 7, 0, 0, tzinfo=datetime.timezone.utc)), \
('2026-W02', datetime.datetime(2026, 1, 14, 0, 0, tzinfo=datetime.timezone.utc)))
        """
        found = []
        for window, moment in self._windows():
            if moment > now:
                break
            found.append((window, moment))
        return tuple(found)

    def next(self, now: datetime) -> tuple[str, datetime] | None:
        """The window that is due next, and when; None where the calendar ends before."""
        return next(((window, moment) for window, moment in self._windows() if moment > now), None)

    def _windows(self) -> Iterator[tuple[str, datetime]]:
        """Each window and when it is due, in order."""
        window, place = self.first, 1
        trigger = _trigger(self.cron, self.zone) if self.cron else None
        zone = zoneinfo.ZoneInfo(self.zone)
        try:
            while True:
                after = next_window(window, self.every)
                complete = first_day(after, self.every) + timedelta(days=self.lag)
                moment = datetime.combine(complete, time(), tzinfo=zone)
                if self.pace is not None:
                    moment = max(moment, self.start + timedelta(seconds=self.pace * place))
                if trigger is not None:
                    fires = trigger.get_next_fire_time(None, moment)
                    if fires is None:
                        return
                    moment = fires
                yield window, moment.astimezone(UTC)
                window, place = after, place + 1
        except (InputError, OverflowError):  # the calendar ends with the year 9999
            return


def _trigger(line: str, zone: str) -> CronTrigger:
    """What APScheduler makes of a crontab line.

    Raises:
        InputError: it is none.
    """
    from apscheduler.triggers.cron import CronTrigger

    remedy = "Give five fields, such as '0 2 * * mon' for Monday at 2:00: minute, hour, day, month, weekday"
    fields = line.split()
    if len(fields) != 5:
        raise InputError(
            f"the cron line '{line[:100]}' has {len(fields)} fields", where="--cron", remedy=remedy
        )
    if fields[2] != "*" and fields[4] != "*":
        raise InputError(
            f"the cron line '{line[:100]}' names days and weekdays, of which cron takes either",
            where="--cron",
            remedy="Leave one of them '*'",
        )
    fields[4] = re.sub(r"(?<![/\d])[0-7](?!\d)", lambda digit: _WEEKDAYS[int(digit[0])], fields[4])
    try:
        return CronTrigger.from_crontab(" ".join(fields), timezone=zone)
    except ValueError as exc:
        raise InputError(
            f"the cron line '{line[:100]}' cannot be read: {exc}", where="--cron", remedy=remedy
        ) from exc


def run_clock(
    look: Callable[[], Collection[str]],
    work: Callable[[str], None],
    *,
    interval: float,
    stop: threading.Event,
    report: Callable[[str], None],
) -> None:
    """Look for names to work on, and work on each, until `stop` is set.

    Args:
        look: gives the names, every `interval` seconds.
        work: is called with each, in a thread of its own; for one name once at a time.
        interval: in seconds.
        stop: set to end after the work in progress, which looks at it too.
        report: is told in words when a `TidegateError` comes out of either; the clock goes on. Any other
            error is a defect, ends the clock and comes out of here.
    """
    from apscheduler.executors.pool import ThreadPoolExecutor
    from apscheduler.schedulers.background import BackgroundScheduler

    busy, lock, defects = set[str](), threading.Lock(), list[Exception]()
    ending = threading.Event()
    clock = BackgroundScheduler(
        timezone=UTC, logger=_clock_log(), executors={"default": ThreadPoolExecutor(_SIDE_BY_SIDE + 1)}
    )

    def guarded(act: Callable[[], None]) -> None:
        try:
            act()
        except TidegateError as exc:
            report(str(exc))
        except Exception as exc:  # APScheduler would only log it and go on
            defects.append(exc)

    def work_on(name: str) -> None:
        try:
            guarded(lambda: work(name))
        finally:
            with lock:
                busy.discard(name)

    def start_work() -> None:
        for name in look():
            with lock:
                if name in busy or stop.is_set() or ending.is_set():
                    continue
                busy.add(name)
                clock.add_job(work_on, args=[name], misfire_grace_time=None)

    clock.add_job(
        guarded,
        "interval",
        args=[start_work],
        seconds=interval,
        next_run_time=datetime.now(UTC),
        max_instances=1,
        coalesce=True,
        misfire_grace_time=None,
    )
    clock.start()
    try:
        while not stop.wait(_POLL) and not defects:
            pass
    finally:
        # APScheduler's shutdown holds its own lock while it waits for work, and `add_job` takes that
        with lock:
            ending.set()
        clock.shutdown(wait=True)
    if defects:
        raise defects[0]


def _clock_log() -> logging.Logger:
    """The clock's errors alone: it warns of every tick that the work outlasts, which is as it should be."""
    log = logging.getLogger("tidegate.schedule.clock")
    log.setLevel(logging.ERROR)
    return log
