"""With a real SuperLink and agent: a question is held, and answered when the message is there."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from contract.messages import HOLD
from contract.whole import PULL
from experiments.benchmarks.rounds_trial import Trial


@pytest.mark.e2e
def test_an_idle_site_is_held_and_hears_of_a_message_at_once(tmp_path: Path) -> None:
    """Of another Flower, whose messages are whole when another object is there, this would say so."""
    with Trial(tmp_path / "trial") as trial:
        trial.start_agents(1)
        time.sleep(3 * HOLD)
        idle = [taken for _, path, taken in trial._site_calls() if path == PULL]
        outcome = trial.rounds("noop", 6, 1)
    assert idle
    assert min(idle) >= 0.9 * HOLD
    assert outcome.missing == 0
    assert outcome.median < 0.9 * HOLD
