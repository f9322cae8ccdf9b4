"""The errors that a plan foretells are those that evaluations of imagined rows have."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from clients.ledger.plan import Split
from clients.ledger.plans import run_plans
from clients.mechanisms.noise import SystemNoise, noisy
from contract.experiment import Experiment
from contract.releases import SCORE_BINS, ScoreHistogram
from experiments.planning.errors import ExpectedError, errors_by_site, expected_errors
from experiments.planning.warnings import evaluation_noise
from server.rounds import pooled

FEATURES = [{"name": "age", "kind": "numeric", "low": 0, "high": 120}]


def experiment(label: dict[str, object] | None = None, **privacy: object) -> Experiment:
    return Experiment.model_validate(
        {
            "name": "small",
            "task": {"label": {"column": "ill", **(label or {})}, "features": FEATURES},
            "strategy": {"evaluate_every": 20},
            "privacy": {"evaluation_epsilon": 4.0, **privacy},
        }
    )


def of(found: tuple[ExpectedError, ...], name: str) -> ExpectedError:
    (one,) = (error for error in found if error.figure.name == name)
    return one


def test_the_noise_is_that_of_the_plan_that_a_site_is_charged_for() -> None:
    plan = experiment(unit="person", rows_per_person=3)
    charged = run_plans("r", plan, (), Split(name="s", lasting=True))[1].noise_multiplier
    assert evaluation_noise(plan) == pytest.approx(3 * charged, rel=1e-6)


@pytest.mark.parametrize(("rows", "positive"), [((1200, 900), 0.5), ((2500, 400, 300), 0.2)])
def test_evaluations_of_rows_spread_as_foretold(rows: tuple[int, ...], positive: float) -> None:
    plan = experiment({"positive_share": positive})
    foretold = expected_errors(plan, rows, levels=(0.8,))
    rng, source = np.random.default_rng(5), SystemNoise()
    deviation = evaluation_noise(plan)
    apart = math.sqrt(2) * statistics.NormalDist().inv_cdf(0.8)

    def release(count: int) -> ScoreHistogram:
        outcome = rng.random(count) < positive
        odds = math.log(positive / (1 - positive)) + apart * (rng.normal(size=count) + apart * outcome)
        cell = np.minimum(SCORE_BINS / (1 + np.exp(-(odds - apart**2 / 2))), SCORE_BINS - 1).astype(int)
        counts = [np.bincount(cell[outcome == side], minlength=SCORE_BINS) for side in (False, True)]
        negative, positives = (noisy(one.astype(float), deviation, source) for one in counts)
        return ScoreHistogram(negative=negative, positive=positives, noise_deviation=deviation)

    seen = []
    for _ in range(150):
        found_by = {f"site-{number}": release(count) for number, count in enumerate(rows)}
        seen.append(pooled(found_by))
    for name in ("auc", "accuracy", "brier", "log_loss"):
        values = [getattr(one, name) for one in seen]
        found = of(foretold, name)
        assert found.error == pytest.approx(statistics.pstdev(values), rel=0.33), name
        own = statistics.median(getattr(one.errors, name) for one in seen if one is not None)
        assert found.error == pytest.approx(own, rel=0.33), name  # what a run will state
    assert of(foretold, "auc").value == pytest.approx(0.8, abs=0.03)


def test_it_has_two_parts_that_more_rows_and_more_epsilon_lower() -> None:
    few, many = (
        expected_errors(experiment(), [400], levels=(0.75,)),
        expected_errors(experiment(), [4000], levels=(0.75,)),
    )
    more = expected_errors(experiment(evaluation_epsilon=40.0), [400], levels=(0.75,))
    plain = expected_errors(experiment(private=False), [400], levels=(0.75,))
    one, rich, clear, without = (of(found, "auc") for found in (few, many, more, plain))
    assert one.error == pytest.approx(math.hypot(one.of_noise, one.of_rows), rel=0.15)
    assert rich.error < one.error / 2
    assert clear.of_noise < one.of_noise / 3
    assert clear.of_rows == pytest.approx(one.of_rows, rel=0.2)
    assert (without.of_noise, without.told) == (0, 1)


def test_what_the_noise_hides_has_no_error() -> None:
    found = expected_errors(experiment(evaluation_epsilon=0.1), [60], levels=(0.75,))
    assert all(math.isnan(one.error) and one.told < 0.5 for one in found)


def test_a_number_and_many_classes_have_theirs() -> None:
    number = experiment({"kind": "numeric", "low": 0.0, "high": 60.0})
    found = expected_errors(number, [2000, 1000], levels=(0.75,))
    assert [one.figure.name for one in found] == ["mae", "rmse", "r2"]
    assert of(found, "mae").value == pytest.approx(0.8 * 60 / 6 * math.sqrt(0.5), rel=0.1)
    assert 0 < of(found, "mae").error < 2
    classes = experiment({"classes": ["a", "b", "c"]})
    assert of(expected_errors(classes, [2000], levels=(0.75,)), "accuracy").value == pytest.approx(
        0.7, abs=0.05
    )


def test_a_site_alone_knows_less_than_all_together() -> None:
    together = of(expected_errors(experiment(), [600, 300, 600], levels=(0.75,)), "auc").error
    alone = [of(found, "auc").error for found in errors_by_site(experiment(), [600, 300, 600], level=0.75)]
    assert alone[0] == alone[2]
    assert together < alone[0] < alone[1]


def test_the_same_plan_says_the_same_twice() -> None:
    assert expected_errors(experiment(), [500]) == expected_errors(experiment(), [500])
