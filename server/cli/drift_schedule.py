"""The scheduler's process: when a window has closed, submit its check and wait for it.

APScheduler is the clock, a claim in the state database decides who acts, and the act is a run of the
ServerApp like any other. A window is ready once it has closed and the one before it has a verdict, for the
policy reads the windows in order; one that failed holds up no other.

Each scheduler acts on a window once. What it finds failed when it starts it tries again; what it finds in
progress, because another scheduler was stopped meanwhile, it waits for. Told to stop, it leaves the check in
progress to the server, where it goes on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial

from contract.errors import RoundError
from contract.experiment import Experiment
from contract.outside import shown
from monitoring.schedule import Schedule, SlotOutcome, run_schedule
from server.cli.window_runs import Waiting, WindowRuns, outcome_words
from server.federation import project_root, running_control
from server.jobs.job import Job
from server.line.flower import ControlClient
from server.settings import ServerSettings
from server.state.owner import is_dead, this_process
from server.state.records import ClaimRecord, RunRecord
from server.state.storage import open_state

__all__ = ["run_drift_schedule"]

_LONGEST_TICK = 60.0
_LONGEST = 2000
_PAUSE = 0.15
_LOST = timedelta(minutes=10)
"""After which a check that was claimed on another machine, and has no run, counts as lost."""


class _LeftError(Exception):
    """The scheduler was told to stop while it waited for a check."""


def run_drift_schedule(
    experiment: Experiment,
    *,
    windows: tuple[str, ...],
    every: float,
    first_close: float,
    settings: ServerSettings,
    stop: threading.Event,
) -> tuple[str, ...]:
    """Act on each window once, until all are done or `stop` is set.

    Args:
        experiment: what is watched.
        windows: their names, in order.
        every: seconds from one window's close to the next one's.
        first_close: seconds from now until the first one closes.
        settings: where state and SuperLink are.
        stop: ends the schedule; a check in progress goes on at the server.

    Returns:
        The windows that were not checked though they were to be; none if it was stopped.
    """
    began = time.time() + first_close
    closes = {window: began + index * every for index, window in enumerate(windows)}
    control = running_control(settings)
    with open_state(settings.state_url) as state:
        runs = WindowRuns(state=state, experiment=experiment)
        checks = _Checks(runs=runs, control=control, stop=stop)

        def ready(window: str) -> bool:
            place = windows.index(window)
            return time.time() >= closes[window] and (place == 0 or checks.lets_on(windows[place - 1]))

        run_schedule(
            schedule=Schedule(
                job=f"drift/{experiment.name}", interval=min(every / 4, _LONGEST_TICK), slots=windows
            ),
            claims=checks,
            act=checks.act,
            ready=ready,
            report=checks.report,
            stop=stop,
        )
        if stop.is_set():
            return ()
        return tuple(window for window in windows if not runs.is_over(window))


@dataclass(kw_only=True)
class _Checks:
    """The checks of one scheduler: who makes each, and what came of it.

    Attributes:
        runs: of the windows.
        control: of the SuperLink.
        stop: set when the scheduler is to end.
    """

    runs: WindowRuns
    control: ControlClient
    stop: threading.Event
    _began: datetime = field(default_factory=lambda: datetime.now(UTC))
    _followed: dict[str, str] = field(default_factory=dict)
    _names: dict[str, str] = field(default_factory=dict)
    _failed: set[str] = field(default_factory=set)
    _passed: set[str] = field(default_factory=set)

    def claim(self, job: str, slot: str) -> bool:
        """Whether this scheduler is to act: for the first time, again, or by waiting for what goes on."""
        state = self.runs.state
        if state.claim(job, slot, this_process()):
            self._names[slot] = self.runs.name(slot)
            return True
        state.end_dead_runs()
        run = self.runs.last(slot)
        _say(slot, self.runs.words(slot))
        if run is not None and run.status == "running":
            self._followed[slot] = run.name
            return True
        if not self.runs.is_over(slot) and self._claim_again(job, slot, run):
            self._names[slot] = self.runs.name(slot)
            same = run is not None and run.name == self._names[slot]
            why = (
                "what a site has answered is not charged again" if same else "as a new question, charged anew"
            )
            _say(slot, f"tried again: {why}")
            return True
        self._passed.add(slot)
        return False

    def _claim_again(self, job: str, slot: str, run: RunRecord | None) -> bool:
        """Take a slot whose last claim led to nothing, and was made before this scheduler began."""
        again = f"{slot} again "  # no window's name has a space
        claims = [
            item for item in self.runs.state.claims(job) if item.slot == slot or item.slot.startswith(again)
        ]
        last = claims[-1]
        if last.claimed_at >= self._began or (run is None and not self._is_lost(last)):
            return False
        return self.runs.state.claim(job, f"{again}{len(claims) + 1}", this_process())

    def _is_lost(self, claim: ClaimRecord) -> bool:
        return is_dead(claim.owner) or self._began - claim.claimed_at > _LOST

    def act(self, window: str) -> SlotOutcome:
        """Check the window, or wait for its check.

        Raises:
            RoundError: it failed.
        """
        state, name = self.runs.state, self._followed.get(window) or self._names[window]
        strategy = self.runs.experiment.strategy
        waiting = Waiting(state=state, run=name, strategy=strategy, say=partial(_say, window))

        def watch() -> None:
            if self.stop.is_set():
                raise _LeftError
            waiting.look()

        try:
            said = "" if window in self._followed else self._submit(window, name, watch)
            while (run := state.run(name)) is not None and run.status == "running" and not said:
                watch()
                time.sleep(_PAUSE)
        except _LeftError:
            return SlotOutcome(
                slot=window,
                done=False,
                left=True,
                detail=f"its check goes on at the server, as run {name}; the same command waits for it "
                "again, and `tidegate server status` shows it",
            )
        if said or run is None or not run.result or run.status not in ("succeeded", "partial"):
            raise RoundError((run.error if run is not None else "") or said or "its check left no result")
        return SlotOutcome(slot=window, detail=outcome_words(run))

    def _submit(self, window: str, name: str, watch: Callable[[], None]) -> str:
        """Have the server check the window, and wait; why it did not, or an empty text."""
        job = Job(
            kind="cycle",
            run=name,
            experiment=self.runs.experiment,
            window=window,
            trigger=self.runs.trigger(window),
        )
        number = self.control.submit(project_root(), job.to_run_config())
        ended = self.control.wait(number, pause=_PAUSE, watch=watch)
        return "" if ended.completed else f"the check ended as {ended.sub_status}: {ended.details}"

    def report(self, outcome: SlotOutcome) -> None:
        """Tell the operator."""
        if outcome.done:
            _say(outcome.slot, f"done: {outcome.detail}")
        elif outcome.left:
            _say(outcome.slot, outcome.detail)
        else:
            if outcome.slot in self._names or outcome.slot in self._followed:
                self._failed.add(outcome.slot)
            _say(outcome.slot, f"failed: {outcome.detail}")

    def lets_on(self, window: str) -> bool:
        """Whether the next window may be checked: this one has a verdict, or had its try."""
        judged = any(item.window == window for item in self.runs.state.verdicts(self.runs.experiment.name))
        if judged or window in self._failed:
            return True
        run = self.runs.last(window)
        return window in self._passed and run is not None and run.status != "running"


def _say(window: str, words: str) -> None:
    print(shown(f"window {window}: {words}", limit=_LONGEST), flush=True)
