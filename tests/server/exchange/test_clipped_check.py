"""What a site says of clipped gradients is held against plan and rows before anything is made of it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from clients.mechanisms.noise import SystemNoise, noisy
from contract.clipped import ClippedCounts, clipped_deviation
from contract.errors import ReleaseError
from contract.experiment import Experiment
from contract.messages import Reply
from server.exchange.checks import check_clipped, check_public
from tests.server.exchange.test_checks import reply
from tests.server.federation import plan, text_of, written


def counted(**strategy: Any) -> Experiment:
    return plan(private=True, **{"clipped_every": 4, **strategy})


def honest(experiment: Experiment, cut: float = 70.0, kept: float = 30.0) -> ClippedCounts:
    deviation = clipped_deviation(experiment)
    found = noisy(np.array([cut, kept]), deviation, SystemNoise())
    return ClippedCounts(cut=float(found[0]), kept=float(found[1]), noise_deviation=deviation)


@pytest.mark.parametrize("every", [1, 4, 100])
def test_an_honest_count_passes(every: int) -> None:
    experiment = counted(clipped_every=every)
    for cut, kept in ((0.0, 0.0), (100.0, 0.0), (0.0, 390.0)) * 30:
        check_clipped(reply(clipped=honest(experiment, cut, kept)), experiment)


LIES: dict[str, Any] = {
    "none": None,
    "no number": {"cut": math.nan},
    "no end": {"cut": math.inf},
    "below nothing": {"cut": -1e4},
    "more rows than it may have": {"kept": 1e5},
    "a number that spoils every sum": {"cut": 1e308, "kept": 1e308},
    "no noise": {"noise_deviation": 0.0},
    "half the noise": {"noise_deviation": 0.5},
    "noise of no number": {"noise_deviation": math.nan},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused_with_its_reason(lie: str) -> None:
    experiment = counted()
    told = None if LIES[lie] is None else replace(honest(experiment), **LIES[lie])
    with pytest.raises(ReleaseError, match="scores refused"):
        check_clipped(reply(clipped=told), experiment)


def test_a_count_that_nobody_asked_for_is_refused() -> None:
    experiment = counted()
    with pytest.raises(ReleaseError, match="holds clipped, which was not asked for"):
        check_public(reply(clipped=honest(experiment)), experiment, asked={"update"}, stated={})


ODD: dict[str, Any] = {
    "a text": "all",
    "a list": [1.0, 2.0],
    "one number": {"cut": 1.0},
    "a number more": {"cut": 1.0, "kept": 1.0, "noise_deviation": 1.0, "rows": 2.0},
    "a text for a number": {"cut": "1", "kept": 1.0, "noise_deviation": 1.0},
    "a list for a number": {"cut": [1.0], "kept": 1.0, "noise_deviation": 1.0},
    "thousands of digits": {"cut": 10**4000, "kept": 1.0, "noise_deviation": 1.0},
    "true": {"cut": True, "kept": 1.0, "noise_deviation": 1.0},
}


@pytest.mark.parametrize("odd", ODD)
def test_what_is_no_count_is_no_reply(odd: str) -> None:
    experiment = counted()
    text = text_of(reply(clipped=honest(experiment)))
    assert Reply.from_records(written(text)).clipped is not None
    assert json.dumps(text)
    with pytest.raises(ReleaseError):
        check_clipped(Reply.from_records(written({**text, "clipped": ODD[odd]})), experiment)
