"""What is said of the updates of a run is right, and its standard error too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from contract.experiment import Experiment, Privacy
from contract.messages import Reply
from contract.norm_bound import noise_variance
from contract.releases import ModelUpdate, Spent
from server.exchange.pulls import Pulls
from tests.server.federation import plan

ROWS = {"north": 300, "south": 100, "west": 50}
ROUNDS = 40


def private(features: int = 30, **strategy: Any) -> Experiment:
    return plan(features=features, private=True, rounds=ROUNDS, **strategy)


def with_rounds(
    experiment: Experiment,
    rng: np.random.Generator,
    pull: Mapping[str, float],
    *,
    noise: float = 1.0,
    rounds: range = range(1, ROUNDS + 1),
) -> Pulls:
    """Rounds in which each site's step is this long in the first parameter, and the noise of its plan."""
    width = experiment.task.width
    model = {"layers.0.weight": np.zeros((1, width), np.float32), "layers.0.bias": np.zeros(1, np.float32)}
    found = Pulls()
    for number in rounds:
        replies = {}
        for site, rows in ROWS.items():
            variance = noise_variance(experiment, rows)
            assert variance is not None
            step = rng.normal(0, noise * math.sqrt(variance), width + 1)
            step[0] += pull[site]
            arrays = {
                "layers.0.weight": step[None, :width].astype(np.float32),
                "layers.0.bias": step[width:].astype(np.float32),
            }
            replies[site] = reply(site, rows, arrays)
        found = found.with_round(number, replies, model, experiment)
    return found


def reply(site: str, rows: int, arrays: dict[str, Any]) -> Reply:
    spent = Spent(epsilon=1.0, delta=1e-5, unit="record", method="PLD", block="all/train")
    return Reply(
        site=site,
        stated_rows=rows,
        mechanism="",
        spent_in_run=spent,
        spent_in_total=spent,
        update=ModelUpdate(arrays=arrays),
    )


@pytest.mark.parametrize("strength", [0.0, 0.2])
def test_the_signal_is_within_its_errors_as_often_as_it_should(strength: float) -> None:
    experiment, rng = private(), np.random.default_rng(5)
    truth = strength**2
    off = []
    for _ in range(200):
        pulls = with_rounds(experiment, rng, dict.fromkeys(ROWS, strength), rounds=range(31, 41))
        step = pulls.mean(experiment, list(ROWS), "late")
        off.append((step.signal - truth) / step.error)
    assert abs(np.mean(off)) < 0.3
    assert 0.85 < np.std(off) < 1.2
    assert np.mean(np.abs(off) < 2) > 0.9


def test_noise_of_another_scale_is_seen() -> None:
    experiment, rng = private(), np.random.default_rng(6)
    for noise in (2 / 3, 1.5):
        pulls = with_rounds(experiment, rng, dict.fromkeys(ROWS, 0.0), noise=noise)
        pull = pulls.of("north", "late")
        assert pull.spread / (pull.noise / pull.rounds) == pytest.approx(noise**2, rel=0.25)


def test_a_site_that_pulls_elsewhere_differs_from_the_others() -> None:
    experiment, rng = private(), np.random.default_rng(7)
    pulls = with_rounds(experiment, rng, {"north": 1.2, "south": 1.2, "west": -1.2})
    others = pulls.mean(experiment, ["north", "south"])
    apart = pulls.of("west").step.less(others)
    assert apart.signal == pytest.approx(5.76, abs=3 * apart.error)
    assert apart.signal > 3 * apart.error
    alike = pulls.of("south").step.less(pulls.mean(experiment, ["north"]))
    assert abs(alike.signal) < 3 * alike.error


def test_a_checkpoint_keeps_them() -> None:
    experiment, rng = private(), np.random.default_rng(8)
    pulls = with_rounds(experiment, rng, dict.fromkeys(ROWS, 0.1))
    again = Pulls.of_arrays(pulls.to_arrays())
    assert again.sites == pulls.sites == sorted(ROWS)
    for site, rows in ROWS.items():
        np.testing.assert_array_equal(again.of(site).total, pulls.of(site).total)
        assert (again.of(site).noise, again.of(site).rows) == (pulls.of(site).noise, rows)
    assert Pulls.of_arrays({}).sites == []


def test_of_a_large_model_some_parameters_stand_for_all() -> None:
    experiment, rng = private(features=9000), np.random.default_rng(9)
    pulls = with_rounds(experiment, rng, dict.fromkeys(ROWS, 0.0), rounds=range(37, 41))
    assert len(pulls.of("north", "late").total) == 2048
    assert pulls.kept == pytest.approx(2048 / 9001)
    assert sum(array.nbytes for array in pulls.to_arrays().values()) < 3 * 2049 * 8 + 200


def test_where_the_noise_is_not_public_the_spread_stands_for_it() -> None:
    sampled = private().model_copy(update={"privacy": Privacy(sampling_rate=0.5)})
    assert noise_variance(sampled, 100) is None
    assert noise_variance(private(local_steps=2), 100) is None
    rng = np.random.default_rng(10)
    known = with_rounds(private(), rng, dict.fromkeys(ROWS, 0.3))
    pull = known.of("north", "late")
    blind = type(pull)(
        total=pull.total, squares=pull.squares, noise=math.nan, rounds=pull.rounds, rows=pull.rows
    )
    assert blind.step.noise == pytest.approx(pull.step.noise, rel=0.3)


def test_too_few_rounds_have_no_spans() -> None:
    experiment = plan(private=True, rounds=3)
    pulls = with_rounds(experiment, np.random.default_rng(1), dict.fromkeys(ROWS, 0.0), rounds=range(1, 4))
    assert pulls.sites == []


def test_the_noise_is_that_which_a_site_adds() -> None:
    """Of a private step on no rows the update is noise alone."""
    from clients.ledger.plan import Split
    from clients.ledger.plans import train_plan
    from clients.mechanisms.noise import SystemNoise
    from clients.mechanisms.training import LocalSteps, train_locally
    from clients.rows.table import Table
    from contract.messages import Instruction

    experiment = private(features=999)
    plan_ = train_plan(experiment, Instruction(run="r", step=1), Split(name="s", lasting=True))
    steps = LocalSteps(experiment=experiment, stated_rows=70, noise_multiplier=plan_.noise_multiplier)
    model = {"layers.0.weight": np.zeros((1, 999), np.float32), "layers.0.bias": np.zeros(1, np.float32)}
    none = Table(features=np.zeros((0, 999), np.float32), labels=np.zeros(0, np.int64))
    squares = [
        float((update.arrays["layers.0.weight"].astype(float) ** 2).mean())
        for update in (train_locally(model, none, steps, SystemNoise()) for _ in range(20))
    ]
    variance = noise_variance(experiment, 70)
    assert variance == pytest.approx(np.mean(squares), rel=5 * math.sqrt(2 / (20 * 999)))
