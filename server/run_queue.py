"""Works on the queue of runs that people submit: so many go on at once, the others in turn.

    1. what an earlier server had begun is submitted again, under its name: it goes on from its checkpoint
    2. what has ended leaves its place to the next in the queue (`server.state.submissions`)
    3. what somebody wants stopped is stopped, and all of whom the operator has revoked
    4. of whoever has several places, one is given to a person who has waited for a minute and has none

The API wakes it for what people ask; else it looks while runs go on, and now and then when none does.

A run is submitted at least once: where it is not known whether the SuperLink has it, it is submitted again.
Under the same name it is the same run: the later process takes it over, and sites repeat what they answered.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from contract.errors import AddressError, RoundError, StorageError, TidegateError, UnansweredError
from contract.experiment import Experiment
from server.beside import working_beside
from server.federation import project_root, running_control, running_federation
from server.jobs.job import Job, read_question
from server.line.flower import ControlClient, build_bundle
from server.settings import ServerSettings
from server.state.records import RunStatus
from server.state.storage import State, open_state
from server.state.submissions import SubmissionRecord, Submissions

__all__ = ["RunQueue", "queue_beside"]

_LOOK, _IDLE_LOOK = 0.5, 5.0
"""Seconds between two looks, while runs go on or wait, and when there are none."""
_UNFINISHED: tuple[RunStatus, ...] = ("running", "stopped")
_MOST_REFUSALS = 60
"""Looks at a run that the SuperLink may refuse, or not answer, one after the other, before the run gives up
its place."""

_WAIT = timedelta(minutes=1)
"""After which a person who has no run that goes on is given a place of somebody who has two or more."""

Say = Callable[[str], None]


@dataclass(kw_only=True)
class RunQueue:
    """The queue of one server.

    Attributes:
        state: where it is kept.
        control: of the SuperLink.
        federation: the SuperLink's name.
        at_once: how many runs go on at a time.
        say: is told what becomes of each run.
        wait: after which a person who has none is given a place of somebody who has several.
    """

    state: State
    control: ControlClient
    federation: str
    at_once: int
    say: Say
    wait: timedelta = _WAIT
    _refusals: dict[str, int] = field(default_factory=dict)
    _turns: dict[str, int] = field(default_factory=dict)
    """Of each run, the last turn that a process had before it was submitted."""

    @property
    def submissions(self) -> Submissions:
        """What is in the queue, and what was taken from it."""
        return Submissions(self.state.database)

    def adopt(self) -> None:
        """Submit again what an earlier server had begun and not ended."""
        self.submissions.end_revoked()
        for one in self.submissions.active(self.federation):
            self._take_up(one)

    def _take_up(self, one: SubmissionRecord) -> None:
        record = self.state.run(one.run)
        if one.stopped_by:
            self._end_at_superlink(one)
            self.submissions.settle(one, f"stopped by {one.stopped_by}")
        elif record is None or record.status in _UNFINISHED or one.is_resumed(record):
            self._end_at_superlink(one)
            self._submit(one, "goes on")
        else:
            self.submissions.settle(one)

    def look(self) -> bool:
        """See what has ended or is to be stopped, and submit what is next; whether any goes on or waits."""
        for one in self.submissions.end_revoked():
            self.say(f"run '{one.run}' of {one.person} is stopped by {one.stopped_by}")
        active = self.submissions.active(self.federation)
        for one in active:
            self._follow(one)
        if not active and not self.submissions.places(self.federation):
            return False
        while (taken := self.submissions.take(self.federation, at_once=self.at_once)) is not None:
            if not self._submit(taken, "begins"):
                break
        before = datetime.now(UTC) - self.wait
        if (
            gives := self.submissions.give_way(self.federation, at_once=self.at_once, before=before)
        ) is not None:
            self.say(f"run '{gives.run}' of {gives.person}, who has others, gives its place: somebody waits")
        return True

    def _follow(self, one: SubmissionRecord) -> None:
        if one.superlink_run is None:
            self._submit(one, "begins")
            return
        number = int(one.superlink_run)
        try:
            stands = self.control.state(number)
            self._refusals.pop(one.run, None)
            ends = one.stopped_by or one.state == "yielding" or self._has_died(one)
            if ends and not stands.finished:
                self.control.stop(number)
                return
        except RoundError as exc:
            if self._is_refused_again(one):
                self.submissions.settle(one, str(exc))
            return
        if not stands.finished:
            return
        if one.state == "yielding" and not one.stopped_by and not stands.completed:
            self._requeue(one)
            return
        if stands.lost:
            self._take_up(one)
            return
        words = f"stopped by {one.stopped_by}" if one.stopped_by else ""
        if not stands.completed and not words:
            words = f"it ended as {stands.sub_status}{stands.details and f': {stands.details}'}"
        self.submissions.settle(one, words)
        self.say(f"run '{one.run}' of {one.person} has ended{f': {words}' if words else ''}")

    def _has_died(self, one: SubmissionRecord) -> bool:
        """Whether its process is gone, of which the SuperLink would hear after a minute."""
        turn = self._turns.get(one.run)
        return turn is not None and self.state.died(one.run, after=turn)

    def _is_refused_again(self, one: SubmissionRecord) -> bool:
        """Count a refusal of a run; whether it is to give up its place."""
        refused = self._refusals[one.run] = self._refusals.get(one.run, 0) + 1
        return refused >= _MOST_REFUSALS

    def _requeue(self, one: SubmissionRecord) -> None:
        """Queue a run again that has given its place once its process has ended, unless it was done then."""
        self.state.end_dead_runs(also=one.run)
        record = self.state.run(one.run)
        if record is not None and record.status in ("succeeded", "partial"):
            self.submissions.settle(one)
        elif record is None or record.ended is not None:
            self.submissions.requeue(one)

    def _submit(self, one: SubmissionRecord, verb: str) -> bool:
        """Submit it, or put it back where the SuperLink is away; whether that is not away."""
        job = Job(
            kind="train" if one.question is None else "ranges",
            run=one.run,
            experiment=Experiment.model_validate_json(one.experiment_json),
            windows=one.windows,
            trigger=one.person,
            question=None if one.question is None else read_question(one.question),
            mandate=one.mandate,
        )
        self._turns[one.run] = self.state.last_turn(one.run)
        try:
            number = self.control.submit(project_root(), job.to_run_config())
        except AddressError as exc:
            self.submissions.give_back(one)
            self.say(f"run '{one.run}' waits: {exc}")
            return False
        except RoundError as exc:
            if isinstance(exc, UnansweredError) and not self._is_refused_again(one):
                return False  # it may have begun, and would go on where nobody could stop it
            self.submissions.settle(one, str(exc))
            self.say(f"run '{one.run}' of {one.person} did not begin: {exc}")
            return True
        self._refusals.pop(one.run, None)
        self.submissions.note_submitted(one, number)
        self.say(f"run '{one.run}' of {one.person} {verb}")
        return True

    def _end_at_superlink(self, one: SubmissionRecord) -> None:
        """So that Flower does not start its process too; whoever is later takes the run over in any case."""
        if one.superlink_run is None:
            return
        try:
            if not self.control.state(int(one.superlink_run)).finished:
                self.control.stop(int(one.superlink_run))
        except (AddressError, RoundError) as exc:
            self.say(f"run '{one.run}': its earlier process was not ended: {exc}")


def queue_beside(
    settings: ServerSettings, *, at_once: int, say: Say, asked: threading.Event
) -> AbstractContextManager[Callable[[], None]]:
    """Work on the queue in a thread while the block lasts; see `working_beside`.

    Args:
        settings: where state and SuperLink are.
        at_once: how many runs go on at a time.
        say: is told what becomes of each run.
        asked: is set when somebody has submitted a run, or wants one stopped.
    """

    def work(stop: threading.Event) -> None:
        with open_state(settings.state_url) as state, closing(running_control(settings)) as control:
            _work(
                RunQueue(
                    state=state,
                    control=control,
                    federation=running_federation(settings),
                    at_once=at_once,
                    say=lambda words: say(f"queue: {words}"),
                ),
                stop,
                asked,
            )

    return working_beside("queue", work, wake=asked)


def _work(queue: RunQueue, stop: threading.Event, asked: threading.Event) -> None:
    said, has_adopted = "", False
    while not stop.is_set():
        asked.clear()  # before the look: what is asked for meanwhile has the next one come at once
        pause = _LOOK
        try:
            if not has_adopted:
                with suppress(RoundError):  # whoever submits a run is told
                    build_bundle(project_root())  # a third of a second for which the first one need not wait
                queue.adopt()
                has_adopted = True
            pause = _LOOK if queue.look() else _IDLE_LOOK
            said = ""
        except (StorageError, AddressError) as exc:  # a full disk, say: the next look does it
            said = _say_once(queue.say, said, exc)
        if not stop.is_set():
            asked.wait(pause)


def _say_once(say: Say, before: str, error: TidegateError) -> str:
    if str(error) != before:
        say(str(error))
    return str(error)
