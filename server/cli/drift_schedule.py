"""The scheduler's process: when a window has closed, submit its cycle and wait for it.

APScheduler is the clock, a claim in the state database decides who acts, and the
act is a run of the ServerApp like any other. A window is ready once it has closed
and the one before it has a verdict, for the policy reads the windows in order.
"""

from __future__ import annotations

import os
import threading
import time

from contract.errors import RoundError
from contract.experiment import Experiment
from contract.outside import shown
from monitoring.schedule import Schedule, SlotOutcome, run_schedule
from server.federation import project_root, running_control
from server.jobs.job import Job
from server.settings import ServerSettings
from server.state.storage import State, name_run, open_state

__all__ = ["run_drift_schedule"]

_LONGEST_TICK = 60.0
_LONGEST = 2000


class _StateClaims:
    """Claims in the state database, in this process's name."""

    def __init__(self, state: State) -> None:
        self._state = state

    def claim(self, job: str, slot: str) -> bool:
        """Take the slot; True for one caller only."""
        return self._state.claim(job, slot, f"process {os.getpid()}")


def run_drift_schedule(
    experiment: Experiment,
    *,
    windows: tuple[str, ...],
    every: float,
    first_close: float,
    settings: ServerSettings,
    stop: threading.Event,
) -> None:
    """Act on each window once, until all are done or `stop` is set.

    Args:
        experiment: what is watched.
        windows: their names, in order.
        every: seconds from one window's close to the next one's.
        first_close: seconds from now until the first one closes.
        settings: where state and SuperLink are.
        stop: ends the schedule after the act in progress.
    """
    began = time.time() + first_close
    closes = {window: began + index * every for index, window in enumerate(windows)}
    control = running_control(settings)
    with open_state(settings.state_url) as state:

        def ready(window: str) -> bool:
            place = windows.index(window)
            done = {item.window for item in state.verdicts(experiment.name)}
            return time.time() >= closes[window] and (place == 0 or windows[place - 1] in done)

        def act(window: str) -> SlotOutcome:
            run = name_run(f"{experiment.name}-{window}")
            job = Job(
                kind="cycle",
                run=run,
                experiment=experiment,
                window=window,
                trigger=f"schedule, window {window}",
            )
            ended = control.wait(control.submit(project_root(), job.to_run_config()), pause=0.15)
            if not ended.completed:
                raise RoundError(
                    f"the cycle of window '{window}' ended as {ended.sub_status}: {ended.details}"
                )
            return SlotOutcome(slot=window)

        run_schedule(
            schedule=Schedule(
                job=f"drift/{experiment.name}", interval=min(every / 4, _LONGEST_TICK), slots=windows
            ),
            claims=_StateClaims(state),
            act=act,
            ready=ready,
            report=_report,
            stop=stop,
        )


def _report(outcome: SlotOutcome) -> None:
    words = "done" if outcome.done else f"failed: {outcome.detail}"
    print(shown(f"window {outcome.slot}: {words}", limit=_LONGEST), flush=True)
