"""Counts of clipped gradients: the share with its error, and what is public of their cost."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from clients.ledger.accounting import compose
from clients.ledger.plan import Split
from clients.ledger.plans import clipped_plan, run_plans, train_plan
from contract.clipped import ClippedCounts, clipped_deviation, training_multiplier
from contract.experiment import Experiment, Label, NumericFeature, Privacy, Strategy, Task
from contract.messages import Instruction

ASKED = Instruction(run="r")
SPLIT = Split(name="s", lasting=True)


def plan(*, strategy: dict[str, Any] | None = None, **privacy: Any) -> Experiment:
    return Experiment(
        name="small",
        task=Task(
            label=Label(column="ill"), features=(NumericFeature(name="a", kind="numeric", low=0, high=1),)
        ),
        strategy=Strategy(**({"rounds": 12, "clipped_every": 5} if strategy is None else strategy)),
        privacy=Privacy(**privacy),
    )


def charged(experiment: Experiment) -> float:
    """ε of all that a run does to its training rows, as the accountant composes it."""
    plans = [one for one in run_plans("r", experiment, (), SPLIT) if one.purpose != "evaluate"]
    events = [event for one in plans for event in one.events(one.uses, one.name)]
    return compose(events, experiment.privacy.delta)[0]


PLANS = {
    "plain": plan(),
    "its own part": plan(epsilon=2.0, clipped_epsilon=0.7),
    "half of it": plan(epsilon=2.0, clipped_epsilon=1.0),
    "in each round": plan(strategy={"rounds": 12, "clipped_every": 1}),
    "persons": plan(unit="person", rows_per_person=4),
    "sampled": plan(epsilon=2.0, sampling_rate=0.1),
}


@pytest.mark.parametrize("name", PLANS)
def test_counts_and_training_together_cost_the_stated_epsilon(name: str) -> None:
    """So that an approval, a mandate and a plan, which state privacy.epsilon, cover the counts too."""
    experiment = PLANS[name]
    epsilon = charged(experiment)
    assert epsilon <= experiment.privacy.epsilon * (1 + 1e-9)
    assert epsilon >= 0.99 * experiment.privacy.epsilon


def test_without_counts_nothing_is_what_it_was_not() -> None:
    """Neither the noise of training, nor the digest by which it was approved."""
    without = plan(strategy={"rounds": 12})
    assert clipped_plan(without, ASKED, SPLIT) is None
    assert [one.purpose for one in run_plans("r", without, (), SPLIT)] == ["train", "evaluate"]
    assert "clipped" not in without.model_dump_json()
    assert plan().digest != without.digest


def test_a_count_by_default_takes_a_hundredth_of_the_noise() -> None:
    noise = [
        train_plan(one, ASKED, SPLIT).noise_multiplier for one in (plan(strategy={"rounds": 12}), plan())
    ]
    assert 1.002 < noise[1] / noise[0] < 1.02


@pytest.mark.parametrize("name", [name for name in PLANS if name != "sampled"])
def test_server_and_site_know_the_same_noise(name: str) -> None:
    experiment = PLANS[name]
    counted = clipped_plan(experiment, ASKED, SPLIT)
    assert counted is not None
    site = counted.noise_multiplier * experiment.privacy.rows_per_person
    assert clipped_deviation(experiment) == pytest.approx(site, rel=1e-6)
    steps = train_plan(experiment, ASKED, SPLIT).noise_multiplier
    assert training_multiplier(experiment, 12) == pytest.approx(steps, rel=1e-6)


def test_sampled_steps_have_no_more_noise_than_the_server_allows_for() -> None:
    experiment = PLANS["sampled"]
    assert train_plan(experiment, ASKED, SPLIT).noise_multiplier <= training_multiplier(experiment, 12)


def test_the_experiment_says_in_which_rounds() -> None:
    assert [number for number in range(-5, 40) if plan().counts_clipped_in(number)] == [1, 6, 11]
    assert plan().clipped_counts == 3
    for none in (plan(strategy={"rounds": 12}), plan(private=False)):
        assert not any(none.counts_clipped_in(number) for number in range(40))
        assert none.clipped_counts == 0


@pytest.mark.parametrize("part", [0.6, 1.0, 2.0])
def test_counts_take_at_most_half(part: float) -> None:
    with pytest.raises(ValueError, match="clipped_epsilon"):
        plan(epsilon=1.0, clipped_epsilon=part)


@pytest.mark.parametrize(("cut", "rows"), [(0, 500), (40, 500), (250, 500), (500, 500)])
def test_a_share_is_as_far_off_as_it_says(cut: int, rows: int) -> None:
    rng = np.random.default_rng(3)
    drawn = [
        ClippedCounts(cut=cut + a, kept=rows - cut + b, noise_deviation=20.0)
        for a, b in rng.normal(0, 20.0, (4000, 2))
    ]
    shares = np.array([one.share for one in drawn])
    assert shares.mean() == pytest.approx(cut / rows, abs=4 * shares.std() / math.sqrt(4000) + 2e-3)
    assert np.mean([one.error for one in drawn]) == pytest.approx(shares.std(), rel=0.08)


def test_what_noise_hides_is_said_and_not_told() -> None:
    hidden = ClippedCounts(cut=30.0, kept=20.0, noise_deviation=40.0)
    assert hidden.reason == "noise hides how many rows there are"
    assert math.isnan(hidden.share)
    assert math.isnan(hidden.error)
    assert ClippedCounts(cut=0.0, kept=0.0, noise_deviation=0.0).reason == "there is no row"
    assert not (hidden + ClippedCounts(cut=900.0, kept=50.0, noise_deviation=40.0)).reason
