"""With a real SuperLink and agent: a question is held until the message is there, or one of them ends."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from contract.messages import HOLD
from contract.whole import PULL, RELEASE
from experiments.benchmarks.rounds_trial import Trial

pytestmark = pytest.mark.e2e
_ENOUGH = 0.9 * HOLD


def asked(trial: Trial, path: str) -> list[float]:
    """Seconds that each question took of those that were answered."""
    return [taken for _, called, taken in trial._site_calls() if called == path]


def wait_for(what: str, is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 20 * HOLD
    while not is_so():
        assert time.monotonic() < end, f"waited for {what}"
        time.sleep(0.1)


def test_an_idle_site_is_held_and_hears_of_a_message_at_once(tmp_path: Path) -> None:
    """Of another Flower, whose messages are whole when another object is there, this would say so.

    Then the agent is told to stop, and another's server: neither waits for the end of what is held.
    """
    with Trial(tmp_path / "trial") as trial:
        trial.start_agents(1)
        wait_for("the answer to a question", lambda: bool(asked(trial, PULL)))
        idle = asked(trial, PULL)
        outcome = trial.rounds("noop", 6, 1)
        before = len(asked(trial, PULL))
        processes = trial._processes.process_ids()
        site = psutil.Process(processes["sites-0"])
        os.kill(site.pid, signal.SIGTERM)
        wait_for("the agent's end", lambda: site.status() == psutil.STATUS_ZOMBIE)
        released, held = asked(trial, RELEASE), asked(trial, PULL)[before:]
    assert min(idle) >= _ENOUGH
    assert outcome.missing == 0
    assert outcome.median < _ENOUGH
    assert len(released) == 1
    assert max(held, default=0.0) < _ENOUGH


def test_a_server_that_is_to_end_answers_what_it_holds(tmp_path: Path) -> None:
    with Trial(tmp_path / "trial") as trial:
        trial.start_agents(1)
        server = psutil.Process(trial._processes.process_ids()["superlink"])
        trial._control.close()  # TLS waits half a minute for the other end's goodbye
        os.kill(server.pid, signal.SIGTERM)
        wait_for("the server's end", lambda: server.status() == psutil.STATUS_ZOMBIE)
        held = asked(trial, PULL)
    assert max(held, default=0.0) < _ENOUGH
