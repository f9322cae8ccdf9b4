"""A benchmark says what it measured and whether the goal holds, missed ones included."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
import torch

from clients.mechanisms.clipping import BatchSum
from clients.mechanisms.each_row import EachRow, steady
from clients.mechanisms.models import LogLoss
from experiments.benchmarks import models
from experiments.benchmarks.accounting import _joint, _lower_bound, _renyi
from experiments.benchmarks.clipping import Setting
from experiments.benchmarks.measurement import Measurement, to_json


def measured(ours: float, *, at_least: bool = False) -> Measurement:
    return Measurement(name="a", ours=ours, theirs=None, unit="s", goal=2.0, at_least=at_least)


def test_a_goal_holds_up_to_its_figure_and_never_without_one() -> None:
    assert measured(2.0).holds
    assert not measured(2.1).holds
    assert measured(2.1, at_least=True).holds
    assert not measured(1.9, at_least=True).holds
    assert not measured(math.nan).holds
    assert not measured(math.nan, at_least=True).holds


def test_what_programs_read() -> None:
    (row,) = to_json([measured(math.nan)])
    assert json.loads(json.dumps(row)) == {
        "name": "a", "ours": None, "theirs": None, "unit": "s", "goal": 2.0,
        "at_least": False, "note": "", "holds": False,
    }  # fmt: skip


def test_the_reference_lies_between_the_lower_bound_and_renyi() -> None:
    mechanism = (2.0, 0.05, 1000)
    exact = _joint([mechanism], 1e-5)
    assert _lower_bound(mechanism, 1e-5) < exact < _renyi([mechanism], 1e-5)
    # Four releases at twice the noise are one at once: the closed form of full-batch Gaussian runs.
    assert _joint([(10.0, 1.0, 4)], 1e-5) == pytest.approx(_joint([(5.0, 1.0, 1)], 1e-5), rel=1e-3)


@pytest.mark.e2e
def test_an_unknown_benchmark_is_refused_with_those_that_there_are() -> None:
    command = [sys.executable, "-m", "experiments.cli.main", "bench", "nonsense"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there is no benchmark 'nonsense'" in done.stderr
    assert "privacy" in done.stderr


@pytest.mark.parametrize("setting", models._SETTINGS, ids=lambda setting: str(setting.name[:20]))
def test_each_model_is_taken_in_one_pass_and_rightly(setting: Setting) -> None:
    """Four rows, not clipped: their sum is that of a plain backward pass."""
    torch.manual_seed(0)
    module = setting.build().eval()
    inputs, labels = torch.randn(4, *setting.shape), torch.tensor([0, 1, 1, 0])
    plain = torch.autograd.grad(LogLoss(labels)(module(inputs)).sum(), list(module.parameters()))
    with steady():
        apart = EachRow(module, models._loss, models._as_it_is, inputs, labels)
        with BatchSum(module, 4, add=apart.add) as take_sum:
            sums = take_sum(inputs, labels, 1000.0)
    assert apart.way == "one pass"
    for found, wanted in zip(sums.by_name.values(), plain, strict=True):
        assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))
