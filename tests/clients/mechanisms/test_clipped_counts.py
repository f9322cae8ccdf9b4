"""Counts of clipped gradients are of all rows, a row changes one of them by one, and have their noise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import kstest

from clients.mechanisms import training
from clients.mechanisms.clipped_counts import count_clipped
from clients.mechanisms.noise import NoNoise, SystemNoise
from clients.mechanisms.training import LocalSteps
from clients.rows.table import Table
from contract.clipped import ClippedCounts
from contract.errors import InputError
from contract.experiment import Experiment, Model
from contract.models import initial_arrays
from tests.clients.mechanisms.test_mechanisms import experiment, start, table


def counted(
    plan: Experiment, rows: Table, *, noise: Any = None, sigma: float = 0.0, model: Any = None
) -> ClippedCounts:
    steps = LocalSteps(experiment=plan, stated_rows=60, noise_multiplier=sigma)
    return count_clipped(start(plan) if model is None else model, rows, steps, noise or NoNoise())


def without(rows: Table, place: int) -> Table:
    return replace(
        rows, features=np.delete(rows.features, place, axis=0), labels=np.delete(rows.labels, place)
    )


def norms(rows: Table) -> Any:
    inputs = np.c_[rows.features, np.ones(len(rows.labels))].astype(np.float64)
    errors = 1 / (1 + np.exp(-inputs @ np.array([0.4, -0.2, 0.0]))) - rows.labels
    return np.abs(errors) * np.linalg.norm(inputs, axis=1)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("rate", [1.0, 0.05])
def test_every_row_is_counted_whatever_a_step_samples(
    monkeypatch: pytest.MonkeyPatch, known: bool, rate: float
) -> None:
    monkeypatch.setattr(training, "supports", lambda _module, _example: known)
    plan, rows = experiment(rate=rate), table(700)
    middle = float(np.median(norms(rows)))
    plan = plan.model_copy(update={"privacy": plan.privacy.model_copy(update={"clipping_norm": middle})})
    found = counted(plan, rows)
    assert found.cut == pytest.approx(350, abs=1)
    assert found.cut + found.kept == 700


@pytest.mark.parametrize(
    ("model", "norm"), [(Model(), 0.65), (Model(kind="mlp", hidden=(5,)), 0.6)], ids=["linear", "mlp"]
)
def test_a_row_more_or_less_changes_one_count_by_one(model: Model, norm: float) -> None:
    plan = experiment()
    privacy = plan.privacy.model_copy(update={"clipping_norm": norm})
    plan = plan.model_copy(update={"model": model, "privacy": privacy})
    arrays = initial_arrays(plan, np.random.default_rng(2))
    rows = table(67, seed=4)
    whole = counted(plan, rows, model=arrays)
    changes = set()
    for place in range(67):
        less = counted(plan, without(rows, place), model=arrays)
        changes.add((whole.cut - less.cut, whole.kept - less.kept))
    assert changes == {(1.0, 0.0), (0.0, 1.0)}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_a_row_that_adds_nothing_to_a_step_is_in_neither_count(bad: float) -> None:
    rows = table(40)
    honest = counted(experiment(), rows)
    rows.features[7] = bad
    found = counted(experiment(), rows)
    assert found.cut + found.kept == 39
    assert abs(honest.cut - found.cut) + abs(honest.kept - found.kept) == 1


def test_without_rows_there_are_two_numbers() -> None:
    found = counted(experiment(), table(0), noise=SystemNoise(), sigma=5.0)
    assert np.isfinite([found.cut, found.kept]).all()
    assert (found.cut, found.kept) != (0.0, 0.0)


def test_the_noise_is_what_is_accounted_and_grows_with_the_rows_of_a_person() -> None:
    plan, rows = experiment(), table(20)
    privacy = plan.privacy.model_copy(update={"unit": "person", "rows_per_person": 3})
    persons = plan.model_copy(update={"privacy": privacy})
    for one, deviation in ((plan, 7.0), (persons, 21.0)):
        calm = counted(one, rows)
        drawn = [counted(one, rows, noise=SystemNoise(), sigma=7.0) for _ in range(150)]
        noise = np.array([(got.cut - calm.cut, got.kept - calm.kept) for got in drawn]).ravel()
        assert {got.noise_deviation for got in drawn} == {deviation}
        assert kstest(noise / deviation, "norm").pvalue > 1e-5
        assert kstest(noise / deviation * 2 / 3, "norm").pvalue < 0.01


def test_no_noise_where_noise_is_needed_is_refused() -> None:
    with pytest.raises(InputError, match="standard deviation"):
        counted(experiment(), table(5), noise=SystemNoise(), sigma=0.0)
