"""Kept schedules: each window that has closed is checked, whatever dies meanwhile.

    1. look at the schedules that are kept, are not paused, have something to do, and a champion to watch
    2. enter the windows that have closed since the last look
    3. take a window that a person asks for over the API, or the oldest that is due, under a lease
    4. have the server check it (`server.cycle`), or follow the check that goes on already
    5. enter what came of it: done; to be tried again, later each time; or, after the last try, not judged

A window that failed holds up no later one. A check that is made again asks under the name of the run that
failed: what a site has answered it answers from its ledger and is not charged again.

Any number of schedulers may work on one state database: a lease has one owner (`server.state.schedules`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from contract.errors import RoundError, TakenOverError, TidegateError
from contract.experiment import Experiment
from contract.mandate import read_mandate
from contract.words import counted
from monitoring.schedule import run_clock
from server.beside import working_beside
from server.federation import project_root, running_control
from server.jobs.champion import has_champion
from server.jobs.job import Job
from server.line.flower import ControlClient
from server.settings import ServerSettings
from server.state.owner import this_process
from server.state.people import People
from server.state.records import ScheduleRecord, WindowCheck, WindowState
from server.state.schedules import Schedules
from server.state.storage import State, open_state
from server.window_runs import Waiting, WindowRuns, outcome_words

__all__ = [
    "RETRIES",
    "WindowChecks",
    "run_schedules",
    "schedules_beside",
    "signer_is_out",
    "waits_for",
]

RETRIES = (timedelta(minutes=1), timedelta(minutes=10), timedelta(hours=1), timedelta(hours=6))
"""How long after each failed try of a window the next one is."""
_LEASE = timedelta(seconds=60)
_RENEWED_EVERY = 15.0
_LOOK = 1.0
"""Seconds between two looks for closed windows."""
_PAUSE = 0.15
_LONGEST_DETAIL = 2000

Say = Callable[[str], None]


class _LeftError(Exception):
    """The scheduler was told to stop while a check went on."""


def run_schedules(settings: ServerSettings, *, say: Say, stop: threading.Event) -> None:
    """Work on all schedules of a server until `stop` is set; a check in progress goes on at the server.

    Args:
        settings: where state and SuperLink are.
        say: is told what becomes of each window, a line each.
        stop: ends it.
    """
    with open_state(settings.state_url) as state:
        checks = WindowChecks(state=state, control=lambda: running_control(settings), stop=stop, say=say)
        schedules = checks.schedules
        later: dict[ScheduleRecord, datetime] = {}

        said: set[str] = set()

        def goes_on(one: ScheduleRecord) -> bool:
            gone = signer_is_out(one, state)
            if gone and gone not in said:
                said.add(gone)
                say(f"schedule: {gone}")
            return not gone

        def look() -> Sequence[str]:
            due = [one for one in schedules.all() if not one.paused and is_due(one) and goes_on(one)]
            active = [one for one in due if has_champion(one.experiment, state)]
            for one in active:
                _enter_closed(one, schedules, later)
            asked = [one.experiment for one in schedules.asked(datetime.now(UTC))]
            return list(dict.fromkeys([*asked, *(one.experiment for one in active)]))

        def is_due(one: ScheduleRecord) -> bool:
            now = datetime.now(UTC)
            return _may_have_closed(one, later, now) or schedules.has_due(one.experiment, now)

        def work(experiment: str) -> None:
            while not stop.is_set():
                if _check_asked(experiment, checks):
                    continue
                kept = [one for one in schedules.all() if one.experiment == experiment and not one.paused]
                if not kept or not goes_on(kept[0]) or checks.check(kept[0].plan) is None:
                    return

        run_clock(look, work, interval=_LOOK, stop=stop, report=lambda words: say(f"schedule: {words}"))


def schedules_beside(settings: ServerSettings, *, say: Say) -> AbstractContextManager[Callable[[], None]]:
    """Work on all schedules in a thread while the block lasts; see `working_beside`."""
    return working_beside("schedules", lambda stop: run_schedules(settings, say=say, stop=stop))


def _check_asked(experiment: str, checks: WindowChecks) -> bool:
    """Check the first window of the experiment that a person asks for; false where nobody does."""
    for one in checks.schedules.asked(datetime.now(UTC)):
        if one.experiment == experiment:
            return checks.check(Experiment.model_validate_json(one.plan), one.window) is not None
    return False


def signer_is_out(schedule: ScheduleRecord, state: State) -> str:
    """Why nothing is done in the name of who signed a schedule, in a sentence; empty where it may be.

    Nothing is, once their token was revoked or is over; nor with another key than they sign with since.
    """
    if not schedule.mandate:
        return ""
    signed = read_mandate(schedule.mandate)
    name = signed.mandate.scientist
    person = People(state.database).named(name)
    if person is None:  # of before there were people
        return ""
    anew = f"have it signed anew: `tidegate schedule sign` of '{schedule.experiment}'"
    if not person.may_enter(datetime.now(UTC)):
        gone = "was revoked" if person.revoked else "is over"
        return f"the token of '{name}', who signed '{schedule.experiment}', {gone}: {anew}"
    if person.signing_key != signed.key:
        return f"'{name}' has not said again that '{schedule.experiment}' is signed with their key: {anew}"
    return ""


def waits_for(schedule: ScheduleRecord, state: State, now: datetime) -> str:
    """What a schedule does now, or waits for, in a sentence.

    Args:
        schedule: as it is kept.
        state: of the server.
        now: the moment.
    """
    if why := _rests(schedule, state):
        return why
    checks = Schedules(state.database).checks(schedule.experiment)
    for check in checks:
        if check.state == "checking":
            return f"checks {check.window}, as run {check.run}" if check.run else f"checks {check.window}"
    due = [check for check in checks if check.state == "waiting" and check.due <= now]
    if due:
        return f"{due[0].window} is due: `tidegate server up` checks it"
    later = schedule.calendar.next(now)
    if later is None:
        return "its calendar has ended"
    return f"waits for {later[0]}, which is due at {later[1]:%Y-%m-%d %H:%M} UTC"


def _rests(schedule: ScheduleRecord, state: State) -> str:
    """Why none of its windows is checked, whatever closes; empty where they are."""
    if schedule.paused:
        return f"paused: `tidegate schedule resume {schedule.experiment}` goes on"
    if gone := signer_is_out(schedule, state):
        return gone
    if not has_champion(schedule.experiment, state):
        proposed = [one.subject for one in state.decisions(schedule.experiment) if one.kind == "propose"]
        if proposed:
            return f"waits for a reviewer's word on {proposed[-1]}: `tidegate models approve`"
        return "waits for a first version: train one with `tidegate run`"
    return ""


def _enter_closed(
    schedule: ScheduleRecord, schedules: Schedules, later: dict[ScheduleRecord, datetime]
) -> None:
    """Enter the windows that have closed, unless none has since the last look: `later` says when one will."""
    now = datetime.now(UTC)
    if not _may_have_closed(schedule, later, now):
        return
    schedules.enter(schedule.experiment, schedule.calendar.due(now))
    following = schedule.calendar.next(now)
    later[schedule] = datetime.max.replace(tzinfo=UTC) if following is None else following[1]


def _may_have_closed(schedule: ScheduleRecord, later: dict[ScheduleRecord, datetime], now: datetime) -> bool:
    return schedule not in later or later[schedule] <= now


@dataclass(kw_only=True)
class WindowChecks:
    """Checks windows, one at a time for an experiment.

    Attributes:
        state: the server's.
        control: opens a client of the SuperLink.
        stop: set when a check in progress is to be left to the server.
        say: is told what becomes of each window.
        retries: how long after each failed try the next one is.
    """

    state: State
    control: Callable[[], ControlClient]
    stop: threading.Event
    say: Say
    retries: Sequence[timedelta] = RETRIES

    @property
    def schedules(self) -> Schedules:
        """Who checks which window."""
        return Schedules(self.state.database)

    def check(self, experiment: Experiment, window: str | None = None) -> WindowCheck | None:
        """Check the oldest window that is due, or this one; what came of it, None where nothing is to do.

        Args:
            experiment: what is watched.
            window: one that a person asks for, due or not.
        """
        taken = self.schedules.take(
            experiment.name, owner=this_process(), now=datetime.now(UTC), lease=_LEASE, window=window
        )
        if taken is None:
            return None
        attempt = _Attempt(checks=self, experiment=experiment, taken=taken)
        try:
            self._settle(taken, "done", attempt.make())
        except _LeftError:
            self.schedules.give_back(taken)
            self.tell(taken, f"its check goes on at the server, as run {attempt.run}")
        except TakenOverError as exc:
            self.tell(taken, str(exc))
        except TidegateError as exc:
            self._fail(taken, str(exc))
        return next(one for one in self.schedules.checks(experiment.name) if one.window == taken.window)

    def _fail(self, taken: WindowCheck, why: str) -> None:
        """Have a window of a schedule tried again; the last try is the schedule's, and nobody else's.

        Else whoever asks again and again while a site is away would end what the schedule waits for.
        """
        tried = taken.attempts - 1
        scheduled = any(one.experiment == taken.experiment for one in self.schedules.all())
        if scheduled and taken.asked_by:
            tried = min(tried, len(self.retries) - 1)
        if not scheduled or tried >= len(self.retries):
            words = f"not judged, after {counted(taken.attempts, 'attempt')}: {why}"
            self._settle(taken, "not judged", words)
            return
        due = datetime.now(UTC) + self.retries[tried]
        self._settle(taken, "waiting", f"failed, tried again at {due:%Y-%m-%d %H:%M} UTC: {why}", due=due)

    def _settle(
        self, taken: WindowCheck, state: WindowState, detail: str, *, due: datetime | None = None
    ) -> None:
        if self.schedules.settle(taken, state, detail[:_LONGEST_DETAIL], due=due):
            self.tell(taken, detail if state != "done" else f"done: {detail}")

    def tell(self, taken: WindowCheck, words: str) -> None:
        """Say it of that window."""
        self.say(f"{taken.experiment}, window {taken.window}: {words}")


@dataclass(kw_only=True)
class _Attempt:
    """One try to have a window checked, under a lease."""

    checks: WindowChecks
    experiment: Experiment
    taken: WindowCheck
    run: str = ""
    _renewed: float = 0.0
    _said: list[str] = field(default_factory=list)

    def make(self) -> str:
        """Have the window checked, or follow its check; what it found, in words.

        Raises:
            RoundError: it failed.
            TakenOverError: another took the window over, because this process was away for too long.
        """
        state, window = self.checks.state, self.taken.window
        kept = [one for one in self.checks.schedules.all() if one.experiment == self.experiment.name]
        holds = bool(kept) and not signer_is_out(kept[0], state)
        mandate = kept[0].mandate if holds else ""
        runs = WindowRuns(state=state, experiment=self.experiment, mandate=kept[0].signed if holds else None)
        state.end_dead_runs()
        last = runs.last(window)
        if last is not None and runs.is_over(window):
            self.run = last.name
            return outcome_words(last)
        follows = last is not None and last.status == "running"
        self.run = last.name if last is not None and follows else runs.name(window)
        if follows:
            self._say(f"it is being checked, as run {self.run}")
        elif last is not None:
            same, other = "what a site has answered is not charged again", "a new question, charged anew"
            self._say(f"tried again: {same if last.name == self.run else other}")
        if not self.checks.schedules.name_run(self.taken, self.run):
            raise self._taken_over()
        self._renewed = time.monotonic()
        waiting = Waiting(state=state, run=self.run, strategy=self.experiment.strategy, say=self._say)

        def watch() -> None:
            self._go_on()
            waiting.look()

        covered = runs.is_signed(window, self.run)
        if mandate and not covered:
            self._say("its mandate does not cover this check: sites that name scientists will refuse it")
        said = "" if follows else self._submit(runs.trigger(window), mandate if covered else "", watch)
        while (run := state.run(self.run)) is not None and run.status == "running" and not said:
            watch()
            time.sleep(_PAUSE)
            state.end_dead_runs()
        if said or run is None or not run.result or run.status not in ("succeeded", "partial"):
            raise RoundError((run.error if run is not None else "") or said or "its check left no result")
        return outcome_words(run)

    def _submit(self, trigger: str, mandate: str, watch: Callable[[], None]) -> str:
        """Have the server check the window, and wait; why it did not, or an empty text."""
        job = Job(
            kind="cycle",
            run=self.run,
            experiment=self.experiment,
            window=self.taken.window,
            trigger=trigger,
            mandate=mandate,
        )
        with closing(self.checks.control()) as control:
            number = control.submit(project_root(), job.to_run_config())
            ended = control.wait(number, pause=_PAUSE, watch=watch)
        return "" if ended.completed else f"the check ended as {ended.sub_status}: {ended.details}"

    def _go_on(self) -> None:
        """Renew the lease in time.

        Raises:
            _LeftError: the scheduler was told to stop.
            TakenOverError: the lease is another's by now.
        """
        if self.checks.stop.is_set():
            raise _LeftError
        if time.monotonic() - self._renewed < _RENEWED_EVERY:
            return
        if not self.checks.schedules.renew(self.taken, until=datetime.now(UTC) + _LEASE):
            raise self._taken_over()
        self._renewed = time.monotonic()

    def _taken_over(self) -> TakenOverError:
        return TakenOverError("another scheduler has taken it over", remedy="See `tidegate schedule list`")

    def _say(self, words: str) -> None:
        self.checks.tell(self.taken, words)
        self._said.append(words)
        self.checks.schedules.say(self.taken, self._said)
