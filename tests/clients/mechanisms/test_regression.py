"""A numeric label is trained on and evaluated within a class's sensitivity, whatever the server sends."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from clients.mechanisms import evaluation, training
from clients.mechanisms.evaluation import compare, evaluate
from clients.mechanisms.models import NumberLoss
from clients.mechanisms.noise import NoNoise, SystemNoise
from clients.mechanisms.training import LocalSteps, train_locally
from clients.rows.table import Table
from contract.errors import InputError
from contract.experiment import Experiment, Label, Model, NumericFeature, Privacy, Strategy, Task
from contract.models import initial_arrays
from contract.regression import WEIGHTS, ErrorSums
from contract.releases import COMPARISON_SENSITIVITY, ROWS_WEIGHT, SCORES_WEIGHT, SQUARES_WEIGHT

Arrays = dict[str, np.ndarray[Any, Any]]


def plan(*, kind: Any = "linear", loss: Any = "squared", **privacy: Any) -> Experiment:
    return Experiment(
        name="stay",
        task=Task(
            label=Label(column="days", kind="numeric", low=1, high=14, loss=loss),
            features=tuple(
                NumericFeature(name=name, kind="numeric", low=0, high=1) for name in ("a", "b", "c")
            ),
        ),
        model=Model(kind=kind, hidden=(8,)),
        strategy=Strategy(learning_rate=2.0),
        privacy=Privacy(**{"clipping_norm": 0.2, **privacy}),
    )


def rows(count: int, seed: int = 0) -> Table:
    rng = np.random.default_rng(seed)
    features = rng.random((count, 3)).astype(np.float32)
    labels = np.clip(features @ [1.2, -0.6, 0.2] - 0.3 + 0.1 * rng.normal(size=count), -1, 1)
    return Table(features=features, labels=labels.astype(np.float32))


def start(experiment: Experiment) -> Arrays:
    arrays: Arrays = dict(initial_arrays(experiment, np.random.default_rng(0)))
    return arrays


def step(experiment: Experiment, table: Table, arrays: Arrays, noise: Any = None) -> Arrays:
    steps = LocalSteps(experiment=experiment, stated_rows=100, noise_multiplier=1.0)
    return train_locally(arrays, table, steps, noise or NoNoise()).arrays


@pytest.mark.parametrize("threshold", [math.inf, 0.1])
def test_the_derivative_is_that_of_the_loss(threshold: float) -> None:
    torch.manual_seed(0)
    outputs = torch.randn(50, 1, dtype=torch.float64).requires_grad_()
    loss = NumberLoss(2 * torch.rand(50, dtype=torch.float64) - 1, threshold)
    (expected,) = torch.autograd.grad(loss(outputs).sum(), outputs)
    torch.testing.assert_close(loss.derivative(outputs.detach()), expected)
    huber = torch.nn.functional.huber_loss(
        outputs[:, 0] / 2, loss.labels / 2, reduction="none", delta=min(threshold, 1e6)
    )
    torch.testing.assert_close(loss(outputs), huber)


@pytest.mark.parametrize("loss", ["squared", "huber"])
def test_a_step_is_the_sum_of_clipped_gradients_over_the_stated_rows(loss: str) -> None:
    experiment, table = plan(loss=loss), rows(40)
    found = step(experiment, table, start(experiment))
    inputs = np.c_[table.features, np.ones(40)]
    error = -table.labels[:, None] / 2  # the first model predicts the middle
    gradients = (np.clip(error, -0.1, 0.1) if loss == "huber" else error) / 2 * inputs
    norms = np.linalg.norm(gradients, axis=1, keepdims=True)
    expected = -2.0 * (gradients * np.minimum(1, 0.2 / norms)).sum(axis=0) / 100
    np.testing.assert_allclose(
        np.r_[found["layers.0.weight"][0], found["layers.0.bias"]], expected, atol=1e-6
    )


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_private_training_learns_a_number(kind: str) -> None:
    experiment, table = plan(kind=kind), rows(3000)
    arrays = start(experiment)
    steps = LocalSteps(experiment=experiment, stated_rows=3000, noise_multiplier=5.0)
    for _ in range(40):
        arrays = train_locally(arrays, table, steps, SystemNoise()).arrays
    found = evaluate(arrays, table, experiment, noise_multiplier=0.0, noise=NoNoise()).metrics()
    assert found.as_dict()["r2"] > 0.5


HOSTILE: dict[str, float] = {"huge": 1e9, "small": 1e-30, "usual": 1.0, "infinite within": 3e8}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_one_row_moves_step_and_evaluation_no_further_than_is_charged(name: str, kind: str) -> None:
    """The server chooses the model's numbers, and the row that comes or goes is any."""
    experiment, rng = plan(kind=kind), np.random.default_rng(1)
    shapes = {key: value.shape for key, value in start(experiment).items()}
    model, other = (
        {key: (HOSTILE[name] * rng.normal(size=shape)).astype(np.float32) for key, shape in shapes.items()}
        for _ in range(2)
    )
    whole = rows(101)
    less = whole.rows(np.arange(101) != 40)

    moved = [
        np.concatenate([(one - two).ravel() for one, two in zip(a.values(), b.values(), strict=True)])
        for a, b in [(step(experiment, whole, start(experiment)), step(experiment, less, start(experiment)))]
    ]
    assert np.linalg.norm(moved[0]) <= 2.0 * 0.2 / 100 * (1 + 1e-4)

    def released(table: Table) -> np.ndarray[Any, Any]:
        one, two, paired = compare(model, other, table, experiment, noise_multiplier=0.0, noise=NoNoise())
        assert isinstance(one, ErrorSums)
        assert isinstance(two, ErrorSums)
        weighed_pair = [paired.gain, SQUARES_WEIGHT * paired.squares, ROWS_WEIGHT * paired.rows]
        return np.concatenate([SCORES_WEIGHT * one.sums, SCORES_WEIGHT * two.sums, weighed_pair])

    difference = released(whole) - released(less)
    assert np.isfinite(difference).all()
    assert np.linalg.norm(difference) <= COMPARISON_SENSITIVITY
    assert np.linalg.norm(difference[: len(WEIGHTS)]) <= SCORES_WEIGHT


def test_a_model_that_gives_no_number_predicts_the_middle_of_the_range() -> None:
    experiment, table = plan(kind="mlp"), rows(20)
    arrays = {name: np.full_like(value, 3e38) for name, value in start(experiment).items()}
    arrays["layers.1.weight"][0, ::2] *= -1
    found = evaluate(arrays, table, experiment, noise_multiplier=0.0, noise=NoNoise())
    assert isinstance(found, ErrorSums)
    assert found.metrics().mae == pytest.approx(13 * np.abs(table.labels).mean() / 2, abs=1e-3)


def test_noise_is_asked_for_before_a_row_is_seen() -> None:
    experiment = plan()
    with pytest.raises(InputError, match="standard deviation of 0"):
        evaluate(start(experiment), rows(5), experiment, noise_multiplier=0.0, noise=SystemNoise())


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_the_places_of_rows_are_tried_for_a_number_too(kind: str) -> None:
    training.require_places(plan(kind=kind), 300)
    evaluation.require_places(plan(kind=kind))


def test_no_rows_release_noise_alone() -> None:
    experiment = plan()
    found = evaluate(start(experiment), rows(0), experiment, noise_multiplier=2.0, noise=SystemNoise())
    assert isinstance(found, ErrorSums)
    assert found.noise_deviation == 2.0
    assert (found.sums != 0).all()
