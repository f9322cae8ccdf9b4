"""No honest site passes the bound, on any shipped experiment; an update a thousand times as long does."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients.ledger.accounting import noise_multiplier
from clients.ledger.plan import Split
from clients.ledger.plans import train_plan
from clients.mechanisms.noise import SystemNoise
from clients.mechanisms.training import LocalSteps, train_locally
from clients.rows.table import Table
from contract.errors import ReleaseError
from contract.experiment import Experiment, Model, Privacy, Strategy
from contract.gaussian import gaussian_multiplier
from contract.messages import Instruction, Reply
from contract.models import initial_arrays
from contract.norm_bound import greatest_normal, update_bound
from contract.releases import ModelUpdate, Spent
from server.exchange.checks import check_update
from terminal.experiment_files import read_experiment
from tests.server.federation import plan

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted(ROOT.glob("experiments/*.toml"))
SPENT = Spent(epsilon=1.0, delta=1e-5, unit="record", method="PLD", block="all/train")

Arrays = dict[str, np.ndarray[Any, Any]]


def norm(update: ModelUpdate, model: Arrays) -> float:
    return math.sqrt(sum(float(((update.arrays[name] - model[name]) ** 2).sum()) for name in model))


def update_of(experiment: Experiment, stated: int, rows: int, model: Arrays, *, alike: bool) -> ModelUpdate:
    """One honest round on `rows` rows: random, or all the same and misjudged, so that no gradient cancels."""
    rng = np.random.default_rng(rows)
    width = experiment.task.width
    features = np.ones((rows, width)) if alike else rng.uniform(0, 1, (rows, width))
    labels = np.zeros(rows) if alike else rng.integers(0, 2, rows)
    table = Table(
        features=features.astype(np.float32),
        labels=labels.astype(np.int64),
        person=None,
    )
    instruction = Instruction(run="r", step=1)
    multiplier = train_plan(experiment, instruction, Split(name="s", lasting=True)).noise_multiplier
    steps = LocalSteps(experiment=experiment, stated_rows=stated, noise_multiplier=multiplier)
    return train_locally(model, table, steps, SystemNoise())


def reply_of(update: ModelUpdate, stated: int) -> Reply:
    return Reply(
        site="north",
        stated_rows=stated,
        mechanism="none",
        spent_in_run=SPENT,
        spent_in_total=SPENT,
        update=update,
    )


def further(update: ModelUpdate, model: Arrays, factor: float) -> ModelUpdate:
    return ModelUpdate(
        arrays={
            name: model[name] + np.float32(factor) * (update.arrays[name] - model[name]) for name in model
        }
    )


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
@pytest.mark.parametrize(("stated", "rows"), [(30, 30), (30, 110), (500, 450), (5000, 2000)])
@pytest.mark.parametrize("alike", [True, False])
def test_an_honest_site_is_within_the_bound_of_every_shipped_experiment(
    path: Path, stated: int, rows: int, alike: bool
) -> None:
    experiment = read_experiment(path)
    model: Arrays = dict(initial_arrays(experiment, np.random.default_rng(1)))
    update = update_of(experiment, stated, rows, model, alike=alike)
    check_update(reply_of(update, stated), experiment, model)
    found = norm(update, model)
    bound = update_bound(experiment, stated, sum(value.size for value in model.values()))
    assert found < bound < 10_000 * found  # a sum of unlike gradients nearly cancels
    with pytest.raises(ReleaseError, match="update refused: its norm is"):
        check_update(reply_of(further(update, model, 2 * bound / found), stated), experiment, model)


VARIED: dict[str, dict[str, Any]] = {
    "sampled": {"privacy": Privacy(sampling_rate=0.02, epsilon=3.0)},
    "more steps": {"privacy": Privacy(clipping_norm=0.1), "strategy": Strategy(local_steps=5, rounds=3)},
    "pulled back": {"strategy": Strategy(name="fedprox", proximal_mu=0.5, local_steps=4)},
    "pulled too far": {"strategy": Strategy(name="fedprox", proximal_mu=2.5, local_steps=4)},
    "layers": {"model": Model(kind="mlp", hidden=(16,))},
    "much noise": {"privacy": Privacy(epsilon=0.05, delta=1e-7)},
}


@pytest.mark.parametrize("change", VARIED)
@pytest.mark.parametrize("stated", [3, 400])
def test_and_of_other_plans(change: str, stated: int) -> None:
    experiment = plan(private=True).model_copy(update=VARIED[change])
    model: Arrays = dict(initial_arrays(experiment, np.random.default_rng(1)))
    for _ in range(5):
        update = update_of(experiment, stated, stated, model, alike=True)
        check_update(reply_of(update, stated), experiment, model)
        model = dict(update.arrays)


def test_a_step_without_noise_is_the_learning_rate_times_the_clipping_norm() -> None:
    """Of as many rows as stated, four times less than allowed; the noise of ε = 10^6 is nothing."""
    experiment = plan(private=True, rounds=1, learning_rate=0.5).model_copy(
        update={"privacy": Privacy(epsilon=1e4, clipping_norm=3.0)}
    )
    assert update_bound(experiment, 10**9, 10) == pytest.approx(4 * 0.5 * 3.0, rel=0.01)


def test_the_noise_of_the_bound_follows_its_formula() -> None:
    """d = 10^6 and one stated row: noise alone, √d + √80 deviations long."""
    experiment = plan(private=True, rounds=1, learning_rate=1.0)
    deviation = noise_multiplier(epsilon=1.0, delta=1e-5, sampling_rate=1.0, steps=1)
    expected = 1.005 * (4 + deviation * (1000 + math.sqrt(80)))
    assert update_bound(experiment, 1, 10**6) == pytest.approx(expected)


def test_a_run_that_is_not_private_has_no_bound() -> None:
    assert update_bound(plan(), 100, 4) == math.inf


@pytest.mark.parametrize(
    ("epsilon", "delta", "times"),
    list(itertools.product([0.01, 0.5, 3.0, 100.0], [1e-10, 1e-5, 1e-2], [1, 40])),
)
def test_the_multiplier_is_that_of_the_sites_accountant(epsilon: float, delta: float, times: int) -> None:
    theirs = noise_multiplier(epsilon=epsilon, delta=delta, sampling_rate=1.0, steps=times)
    assert gaussian_multiplier(epsilon, delta, times) == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("rate", [0.01, 0.3])
def test_sampling_needs_no_more_noise_than_the_bound_allows_for(rate: float) -> None:
    sampled = noise_multiplier(epsilon=1.0, delta=1e-5, sampling_rate=rate, steps=50)
    assert sampled <= gaussian_multiplier(1.0, 1e-5, 50)


def test_the_greatest_of_normal_numbers() -> None:
    """P(any of n above x) is at most n · exp(-x² / 2)."""
    for count in (1, 40):
        assert count * math.exp(-(greatest_normal(count) ** 2) / 2) == pytest.approx(math.exp(-40))
