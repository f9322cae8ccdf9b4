"""What `tidegate bench utility` measures is what a run does; the recipe learns where nobody tuned it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from contract.experiment import Experiment, Label, Strategy
from experiments.benchmarks import utility
from experiments.benchmarks.utility import auc_of, measure_one, pooled_auc, ready_plan, train
from experiments.benchmarks.utility_numbers import measure_number, numbers
from experiments.benchmarks.utility_sets import SETS, EncodedRows, load, rare
from terminal.output import quiet_flower


@pytest.fixture(autouse=True)
def _quiet() -> None:
    quiet_flower()


def planted(task_of: str, rows: int, *, positive: float, seed: int) -> EncodedRows:
    """Rows of four sites of unlike size with an effect in every fourth column, encoded as that task's are."""
    from experiments.benchmarks.utility_sets import _shipped  # for its task alone

    rng = np.random.default_rng(seed)
    task = _shipped(task_of).task
    columns = []
    for feature in task.features:
        if feature.kind == "numeric":
            columns.append(rng.beta(2, 5, (rows, 1)))
        else:
            count = len(feature.categories)
            columns.append(np.eye(count)[rng.choice(count, rows, p=rng.dirichlet(np.ones(count)))])
    features = np.concatenate(columns, axis=1, dtype=np.float32)
    effect = np.where(np.arange(features.shape[1]) % 4 == 0, rng.normal(0, 1.5, features.shape[1]), 0)
    score = features @ effect + rng.logistic(size=rows)
    return EncodedRows(
        task=task,
        features=features,
        labels=(score > np.quantile(score, 1 - positive)).astype(np.int64),
        site=rng.choice(4, rows, p=(0.5, 0.3, 0.15, 0.05)).astype(np.int64),
        group=np.arange(rows),
    )


@pytest.mark.parametrize("positive", [pytest.param(0.4, marks=pytest.mark.long), 0.1])
def test_it_learns_on_rows_with_a_planted_effect(positive: float) -> None:
    rows = planted("rand-health", 12_000, positive=positive, seed=3)
    at_three, at_one = measure_one("planted", rows, seeds=range(2))
    assert at_three.holds, at_three
    assert at_one.holds, at_one


@pytest.mark.long
def test_it_learns_a_number_on_rows_with_a_planted_effect() -> None:
    rows = planted("rand-health", 12_000, positive=0.4, seed=3)
    effect = np.random.default_rng(1).normal(0, 0.2, rows.features.shape[1])
    value = rows.features @ effect
    noisy = value - np.median(value) + np.random.default_rng(2).laplace(0, 0.1, len(value))
    label = Label(column="cost", kind="numeric", classes=(), low=-1, high=1)
    number = replace(
        rows,
        task=rows.task.model_copy(update={"label": label}),
        labels=np.clip(noisy, -1, 1).astype(np.float32),
    )
    for found in measure_number("planted", number, seeds=range(2)):
        assert found.holds, found
        assert found.theirs is not None
        assert found.ours < found.theirs - 0.05, found  # guessing alone would hold, or nearly


def test_a_column_that_is_predicted_is_no_feature(data_dir: Callable[[str], Path]) -> None:
    data_dir("heart-disease")
    rows, classes = numbers("heart-disease", "age"), load("heart-disease")
    assert rows.features.shape[1] == classes.features.shape[1] - 1
    assert "age" not in [feature.name for feature in rows.task.features]
    assert (rows.labels.min() >= -1, rows.labels.max() <= 1) == (True, True)
    assert np.corrcoef(rows.labels, classes.features[:, 0])[0, 1] == pytest.approx(1)


def test_settings_that_do_not_fit_miss_the_goal(monkeypatch: pytest.MonkeyPatch) -> None:
    def tiny_steps(rows: EncodedRows, epsilon: float, _model: object = None) -> Experiment:
        plan = ready_plan(rows, epsilon)
        strategy = Strategy(learning_rate=1e-3, rounds=2)
        return plan.model_copy(update={"strategy": strategy})

    monkeypatch.setattr(utility, "ready_plan", tiny_steps)
    rows = planted("rand-health", 4000, positive=0.4, seed=3)
    assert not measure_one("planted", rows, seeds=range(1))[0].holds


@pytest.mark.long
def test_heart_disease_meets_its_goals(data_dir: Callable[[str], Path]) -> None:
    data_dir("heart-disease")
    for found in measure_one("heart-disease", load("heart-disease"), seeds=range(5)):
        assert found.holds, found


def test_a_run_of_the_product_gives_the_same(tmp_path: Path, data_dir: Callable[[str], Path]) -> None:
    data_dir("heart-disease")
    from clients.site import close_site, open_site
    from contract.recipe import with_recipe
    from experiments.data.datasets import dataset_sites
    from experiments.data.layout import write_site
    from experiments.studies.heart_resplits import run_on_split

    sites = dataset_sites("heart-disease")
    rows = load("heart-disease")
    stated = Experiment.model_validate(
        {"name": "utility", "task": rows.task, "privacy": {"epsilon": 8.0, "delta": 1e-4}}
    )
    plan = with_recipe(stated, [site.stated_rows for site in sites])
    theirs = run_on_split(plan, sites, tmp_path / "run").scores.auc

    tables = {}
    for number, site in enumerate(sites):
        path = write_site(site, tmp_path / "encoded" / site.name)
        opened = open_site(path)
        tables[number] = [opened.table(plan, (), holdout=side) for side in (False, True)]
        close_site(path)

    def side(which: int) -> EncodedRows:
        return EncodedRows(
            task=rows.task,
            features=np.concatenate([pair[which].features for pair in tables.values()]),
            labels=np.concatenate([pair[which].labels for pair in tables.values()]),
            site=np.concatenate([np.full(len(pair[which].labels), one) for one, pair in tables.items()]),
            group=np.zeros(sum(len(pair[which].labels) for pair in tables.values()), dtype=np.int64),
        )

    training, held_out = side(0), side(1)
    ours = auc_of(train(plan, training, np.random.default_rng(0)), held_out)
    assert ours == pytest.approx(theirs, abs=0.03)  # each with its own noise, of about .005
    whole = np.concatenate([training.features, held_out.features])
    assert np.allclose(np.sort(whole.sum(axis=1)), np.sort(rows.features.sum(axis=1)), atol=1e-5)


@pytest.mark.parametrize("name", sorted(set(SETS) - {"rand-health"}))
def test_a_set_is_encoded_within_its_public_facts(name: str, data_dir: Callable[[str], Path]) -> None:
    data_dir(name)
    rows = load(name)
    assert rows.features.shape == (len(rows.labels), rows.task.width)
    assert rows.features.min() >= 0
    assert rows.features.max() <= 1
    assert set(np.unique(rows.labels)) == {0, 1}
    assert len(np.unique(rows.site)) >= 4


def test_rows_of_a_group_stay_on_one_side_and_rare_ones_are_so_rare() -> None:
    rows = load("rand-health")
    held = rows.held_out(1)
    assert not set(rows.group[held]) & set(rows.group[~held])
    assert held.mean() == pytest.approx(0.3, abs=0.05)
    assert rare(rows, 0.03, 0).labels.mean() == pytest.approx(0.03, abs=0.001)


def test_the_regression_beside_it_knows_the_planted_effect() -> None:
    rows = planted("rand-health", 4000, positive=0.4, seed=3)
    held = rows.held_out(0)
    assert min(pooled_auc(rows.rows(~held), rows.rows(held))) > 0.6
