"""The clock of the drift checks: each slot is acted on once, over all schedulers.

APScheduler is the clock and nothing else. Two of its schedulers on one job store
fire twice, by default it drops a job that is a second late, and it deletes a job
that it cannot unpickle; so jobs are kept in memory, no firing is ever too late,
and who acts is decided by a claim in the database (`Claims`), which only one
caller can win. What has happened is in that database, not in the scheduler: a
scheduler that was away goes on with the oldest slot that nobody has claimed.

A slot is claimed once, so that a kill in the middle of an act loses the slot rather
than doing it twice. Whoever keeps the claims may give a slot out again, when it is
known to have failed and can be repeated.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

from contract.errors import InputError, TidegateError

__all__ = ["Claims", "Schedule", "SlotOutcome", "run_schedule"]

_POLL = 0.05
"""Seconds between two looks at the stop event."""


class Claims(Protocol):
    """Who acts on a slot: a unique entry in a database that all schedulers share."""

    def claim(self, job: str, slot: str) -> bool:
        """Take the slot; True for one caller only, over all processes. Each scheduler asks once."""


@dataclass(frozen=True, kw_only=True)
class SlotOutcome:
    """What came of a slot.

    Attributes:
        done: False if it failed; `detail` then says why.
        left: True if the act goes on without this scheduler, which was told to stop.
        detail: one sentence for the operator.
    """

    slot: str
    done: bool = True
    left: bool = False
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """When to look, and which slots there are.

    Attributes:
        job: names the claims; schedulers with the same job share its slots.
        interval: seconds between two firings; each acts on one slot at most.
        slots: labels in their order, such as the names of windows. The schedule
            ends when all are claimed.
        start: where there are no labels, slots are intervals of wall-clock time
            from here on, each named by its beginning (UTC), and there is no end.
    """

    job: str
    interval: float
    slots: tuple[str, ...] = ()
    start: datetime | None = None

    def __post_init__(self) -> None:
        if not self.interval > 0:
            raise InputError(f"interval = {self.interval} must be above 0 seconds", where=self.job)
        if bool(self.slots) == (self.start is not None):
            raise InputError("a schedule has either slots or a start", where=self.job)
        if self.start is not None and self.start.tzinfo is None:
            raise InputError("the start of a schedule needs a time zone", where=self.job)

    def due(self, now: datetime) -> tuple[str, ...]:
        """The slots that have begun, oldest first."""
        if self.start is None:
            return self.slots
        begun = int((now - self.start).total_seconds() // self.interval) + 1
        starts = (self.start + timedelta(seconds=self.interval * number) for number in range(begun))
        return tuple(f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" for moment in starts)


Act = Callable[[str], SlotOutcome]
Ready = Callable[[str], bool]
Report = Callable[[SlotOutcome], None]


def run_schedule(
    *,
    schedule: Schedule,
    claims: Claims,
    act: Act,
    ready: Ready,
    report: Report,
    stop: threading.Event,
) -> tuple[SlotOutcome, ...]:
    """Act on slots until all are claimed, or until `stop` is set.

    Args:
        claims: shared by all schedulers of this job.
        act: does the slot's work. A TidegateError that it raises is reported and
            the schedule goes on with the next slot; any other error ends it.
        ready: whether the slot can be acted on, say because its rows have arrived.
            It is asked before claiming: a slot that is not ready stays free, and
            so do those after it. Where a slot needs the outcome of the one before,
            say no until that is stored, for another scheduler may be acting on it.
        report: told every outcome, in the clock's thread.
        stop: set to end after the act in progress; an act that takes long looks at it too.

    Returns:
        The outcomes of the slots on which this scheduler acted.
    """
    from apscheduler.schedulers.background import BackgroundScheduler

    run = _Run(schedule=schedule, claims=claims, act=act, ready=ready, report=report, stop=stop)
    clock = BackgroundScheduler(timezone=UTC, logger=_clock_log())
    clock.add_job(
        run.fire,
        "interval",
        seconds=schedule.interval,
        next_run_time=datetime.now(UTC),
        max_instances=1,
        coalesce=False,
        misfire_grace_time=None,
    )
    clock.start()
    try:
        while not stop.wait(_POLL) and not run.over.is_set():
            pass
    finally:
        run.over.set()
        clock.shutdown(wait=True)
    if run.defects:
        raise run.defects[0]
    return tuple(run.outcomes)


def _clock_log() -> logging.Logger:
    """The clock's errors alone: it warns of every tick that an act outlasts, which is as it should be."""
    log = logging.getLogger("tidegate.schedule.clock")
    log.setLevel(logging.ERROR)
    return log


@dataclass(kw_only=True)
class _Run:
    """What a scheduler remembers between firings; used by one firing at a time."""

    schedule: Schedule
    claims: Claims
    act: Act
    ready: Ready
    report: Report
    stop: threading.Event
    over: threading.Event = field(default_factory=threading.Event)
    claimed: set[str] = field(default_factory=set)
    outcomes: list[SlotOutcome] = field(default_factory=list)
    defects: list[Exception] = field(default_factory=list)

    def fire(self) -> None:
        """Act on the next free slot, if there is one and it is ready."""
        if self.stop.is_set() or self.over.is_set():
            return
        try:
            slot = self._next_claimed()
            if slot is not None:
                self._act_on(slot)
        except Exception as exc:
            # APScheduler would only log it and go on.
            self.defects.append(exc)
            self.over.set()
        if self.schedule.start is None and self.claimed.issuperset(self.schedule.slots):
            self.over.set()

    def _next_claimed(self) -> str | None:
        for slot in self.schedule.due(datetime.now(UTC)):
            if slot in self.claimed:
                continue
            try:
                if not self.ready(slot):
                    return None
                mine = self.claims.claim(self.schedule.job, slot)
            except TidegateError as exc:
                self.report(SlotOutcome(slot=slot, done=False, detail=f"not claimed, tried again: {exc}"))
                return None
            self.claimed.add(slot)
            if mine:
                return slot
        return None

    def _act_on(self, slot: str) -> None:
        try:
            outcome = self.act(slot)
        except TidegateError as exc:
            outcome = SlotOutcome(slot=slot, done=False, detail=str(exc))
        self.outcomes.append(outcome)
        self.report(outcome)
