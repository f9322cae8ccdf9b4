"""Epsilons against independent computations, and the theorem that is named with each."""

from __future__ import annotations

import math

import pytest
from dp_accounting import (
    GaussianDpEvent,
    NeighboringRelation,
    PoissonSampledDpEvent,
    SelfComposedDpEvent,
)
from dp_accounting.pld import PLDAccountant

from clients.ledger.accounting import (
    FILTER_GAUSSIAN,
    FILTER_RENYI,
    PLAN_AND_GAUSSIAN,
    PLAN_PLD,
    Event,
    compose,
    noise_multiplier,
)
from contract.errors import InputError


@pytest.mark.parametrize(
    ("sigma", "steps", "delta"), [(1.0, 1, 1e-5), (5.0, 30, 1e-4), (20.0, 300, 1e-6), (2.0, 3, 1e-5)]
)
def test_the_closed_form_is_that_of_the_privacy_loss_distribution(
    sigma: float, steps: int, delta: float
) -> None:
    epsilon, method = compose([Event(noise_multiplier=sigma, count=steps)], delta)
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE)
    expected = accountant.compose(SelfComposedDpEvent(GaussianDpEvent(sigma), steps)).get_epsilon(delta)
    assert epsilon == pytest.approx(expected, rel=2e-3)
    assert method == FILTER_GAUSSIAN


def test_fifty_two_retrainings_cost_what_was_measured_elsewhere() -> None:
    event = Event(noise_multiplier=2.0, sampling_rate=0.05, count=200 * 52, plan="year")
    epsilon, method = compose([event], 1e-5)
    assert epsilon == pytest.approx(14.8, abs=0.1)  # the same by Google's accountant; added epsilons give 101
    assert method == PLAN_PLD


def test_sampled_events_of_two_plans_need_a_filter() -> None:
    events = [Event(noise_multiplier=2.0, sampling_rate=0.05, count=50, plan=plan) for plan in ("one", "two")]
    filtered, method = compose(events, 1e-5)
    joint, _ = compose([Event(noise_multiplier=2.0, sampling_rate=0.05, count=100, plan="one")], 1e-5)
    assert method == FILTER_RENYI
    assert filtered >= joint


def test_sampled_events_that_nothing_fixed_in_advance_need_a_filter() -> None:
    event = Event(noise_multiplier=2.0, sampling_rate=0.05, count=50, plan=None)
    assert compose([event], 1e-5)[1] == FILTER_RENYI


def test_a_plan_and_gaussians_beside_it_compose_as_one() -> None:
    plan = Event(noise_multiplier=2.0, sampling_rate=0.05, count=500, plan="year")
    checks = [Event(noise_multiplier=noise) for noise in (4.0, 8.0, 8.0)]
    epsilon, method = compose([plan, *checks], 1e-5)
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=1e-4)
    accountant.compose(PoissonSampledDpEvent(0.05, GaussianDpEvent(2.0)), 500)
    for check in checks:
        accountant.compose(GaussianDpEvent(check.noise_multiplier))
    assert epsilon == pytest.approx(accountant.get_epsilon(1e-5), rel=5e-3)
    assert method == PLAN_AND_GAUSSIAN


@pytest.mark.parametrize(
    ("epsilon", "rate", "steps"), [(0.1, 1.0, 30), (1.0, 1.0, 1), (8.0, 1.0, 500), (1.0, 0.1, 40)]
)
def test_the_noise_for_an_epsilon_never_spends_more(epsilon: float, rate: float, steps: int) -> None:
    sigma = noise_multiplier(epsilon=epsilon, delta=1e-5, sampling_rate=rate, steps=steps)
    spent, _ = compose([Event(noise_multiplier=sigma, sampling_rate=rate, count=steps)], 1e-5)
    assert epsilon * 0.99 < spent <= epsilon * (1 + 1e-6)


def test_nothing_spent_is_zero_and_no_noise_is_refused() -> None:
    assert compose([], 1e-5)[0] == 0
    with pytest.raises(InputError):
        Event(noise_multiplier=0.0)


def test_independent_gaussians_add_in_squares_and_not_in_epsilons() -> None:
    once, _ = compose([Event(noise_multiplier=10.0)], 1e-5)
    hundred, _ = compose([Event(noise_multiplier=10.0, count=100)], 1e-5)
    assert hundred == pytest.approx(compose([Event(noise_multiplier=1.0)], 1e-5)[0], rel=1e-6)
    assert hundred < 100 * once
    assert math.isfinite(hundred)
