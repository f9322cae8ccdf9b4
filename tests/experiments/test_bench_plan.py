"""What `tidegate bench plan` counts: runs that fail, those that were warned of, and errors that came true."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from clients.mechanisms.evaluation import evaluate
from clients.mechanisms.noise import NoNoise
from clients.rows.table import Table
from contract.experiment import Model
from contract.releases import SCORE_BINS, ScoreHistogram
from experiments.benchmarks import planning
from experiments.benchmarks.planning import (
    CHOSEN_ON,
    EPSILONS,
    ROWS,
    TASKS,
    Case,
    Outcome,
    cases,
    outcomes_of,
    summed_up,
)
from experiments.benchmarks.utility import ready_plan, scores, stated_for
from experiments.benchmarks.utility_sets import load
from experiments.planning.warnings import evaluation_noise
from terminal.output import quiet_flower

CASE = Case(
    name="heart-disease", rows=600, epsilon=3.0, evaluation_epsilon=8.0, sites=2, model=Model(), seed=0
)


@pytest.fixture(autouse=True)
def _quiet() -> None:
    quiet_flower()


def outcome(*, auc: float = 0.75, told: bool = True, warned: bool = False, **errors: object) -> Outcome:
    pairs = {"auc": (0.04, 0.05), "brier": (0.01, 0.04), **errors}
    return Outcome(
        case=CASE,
        warnings=("The model would learn little.",) if warned else (),
        auc=auc,
        without_privacy=0.8,
        told=told,
        errors=pairs,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("auc", "told", "failed"),
    [(0.75, True, False), (0.66, True, False), (0.64, True, True), (0.75, False, True), (0.3, True, True)],
)
def test_a_run_fails_that_did_not_learn_half_or_did_not_tell(auc: float, told: bool, failed: bool) -> None:
    assert outcome(auc=auc, told=told).failed is failed


def test_where_next_to_nothing_can_be_learnt_a_run_fails_too() -> None:
    weak = Outcome(case=CASE, warnings=(), auc=0.54, without_privacy=0.55, told=True, errors={})
    assert weak.failed


@pytest.mark.parametrize(
    ("pair", "right"),
    [
        ((0.04, 0.06), True),
        ((0.04, 0.061), False),
        ((0.06, 0.04), True),
        ((0.061, 0.04), False),
        ((math.nan, math.nan), True),
        ((math.nan, 0.04), False),
        ((0.04, math.nan), False),
    ],
)
def test_an_error_came_true_within_the_factor_or_as_too_noisy(pair: tuple[float, float], right: bool) -> None:
    assert outcome(auc_=pair).right["auc_"] is right


def test_a_plan_that_always_warns_or_never_misses_a_goal() -> None:
    mixed = [outcome(auc=0.5), outcome(auc=0.5), outcome(), outcome()]
    right = [outcome(auc=0.5, warned=True), outcome(auc=0.5, warned=True), outcome(), outcome()]
    always = [outcome(auc=one.auc, warned=True) for one in mixed]
    held = [[one.holds for one in summed_up(found, "")[1:]] for found in (right, mixed, always)]
    assert held == [[True, True], [False, True], [True, False]]
    errors = summed_up(right, "")[0]
    assert (errors.ours, errors.holds) == (0.5, False)
    assert "4 of 8 figures of 4 runs; auc 100%, brier 0%" in errors.note


def test_of_no_failure_nothing_is_said_of_failures() -> None:
    assert len(summed_up([outcome()], "")) == 2
    assert summed_up([], "") == []


def test_each_pair_of_rows_and_epsilon_comes_once_and_another_seed_has_others() -> None:
    found = cases(TASKS, range(2))
    assert len(found) == 2 * len(TASKS) * len(ROWS) * len(EPSILONS)
    assert found == cases(TASKS, range(2))
    one, other = (
        [(case.sites, case.model, case.evaluation_epsilon) for case in found if case.seed == seed]
        for seed in range(2)
    )
    assert one != other
    assert set(CHOSEN_ON) < set(TASKS)


def test_the_rows_that_are_counted_are_those_that_a_site_counts() -> None:
    rows = load("rand-health").rows(np.arange(500))
    plan = stated_for(rows, 1.0)
    rng = np.random.default_rng(1)
    model = {
        "layers.0.weight": rng.normal(size=(1, rows.task.width)).astype(np.float32),
        "layers.0.bias": np.zeros(1, dtype=np.float32),
    }
    cells = planning._cells(scores(model, rows), rows.labels)
    free = plan.model_copy(update={"privacy": plan.privacy.model_copy(update={"private": False})})
    table = Table(features=rows.features, labels=rows.labels)
    release = evaluate(model, table, free, noise_multiplier=0.0, noise=NoNoise())
    assert isinstance(release, ScoreHistogram)
    assert np.allclose(500 * cells[:SCORE_BINS], release.negative)
    assert np.allclose(500 * cells[SCORE_BINS:], release.positive)


def test_the_noise_of_its_evaluations_is_that_of_the_plan() -> None:
    rows = load("rand-health")
    plan = ready_plan(rows, 1.0)
    even = np.full(2 * SCORE_BINS, 1 / (2 * SCORE_BINS))
    seen = planning._evaluations(plan, [even], [100_000], np.random.default_rng(1))
    counted = np.std([one.rows for one in seen])
    assert counted == pytest.approx(evaluation_noise(plan) * math.sqrt(2 * SCORE_BINS), rel=0.3)
    assert np.mean([one.auc for one in seen]) == pytest.approx(0.5, abs=0.01)


def test_a_run_on_few_rows_fails_and_was_warned_of_and_one_on_many_is_neither(
    data_dir: Callable[[str], Path],
) -> None:
    data_dir("heart-disease")
    rows = load("heart-disease")
    few = Case(**{**vars(CASE), "rows": 60, "epsilon": 0.1, "evaluation_epsilon": 1.0})
    (lost,) = outcomes_of(few, rows, runs=1)
    assert lost.failed
    assert lost.warnings
    assert all(lost.right.values())
    (learnt,) = outcomes_of(CASE, rows, runs=1)
    assert not learnt.failed
    assert learnt.warnings == ()
    assert sum(learnt.right.values()) >= 3


def test_its_short_form_says_which_sets_the_plan_was_chosen_on(
    monkeypatch: pytest.MonkeyPatch, data_dir: Callable[[str], Path]
) -> None:
    data_dir("heart-disease")
    monkeypatch.setattr(planning, "ROWS", (60,))
    monkeypatch.setattr(planning, "EPSILONS", (0.1,))
    done = []
    names = ("heart-disease", "heart-disease, the highest age")
    found = planning.measure(lambda share, what: done.append((share, what)), names=names, seeds=range(1))
    assert done == [(0, "(heart-disease)"), (50, "(heart-disease, the highest age)")]
    failed = [one for one in found if one.name.startswith("of runs that fail")]
    assert [one.ours for one in failed] == [1.0, 1.0]
    assert ["chosen on" in one.name for one in failed] == [False, True]
