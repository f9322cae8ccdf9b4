"""Epsilons against independent computations, and the theorem that is named with each."""

from __future__ import annotations

import math
import time
from typing import Any

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
    FORESEEN,
    PLAN_AND_GAUSSIAN,
    PLAN_PLD,
    Event,
    _mechanism,
    _pld_on_grid,
    compose,
    gaussian_epsilon,
    noise_multiplier,
)
from clients.ledger.event import LEAST_NOISE, MOST_NOISE
from contract.errors import BudgetError, InputError


@pytest.mark.parametrize(
    ("sigma", "steps", "delta"), [(1.0, 1, 1e-5), (5.0, 30, 1e-4), (20.0, 300, 1e-6), (2.0, 3, 1e-5)]
)
def test_the_closed_form_is_that_of_the_privacy_loss_distribution(
    sigma: float, steps: int, delta: float
) -> None:
    epsilon, method = compose([Event(noise_multiplier=sigma, count=steps)], delta)
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE)
    expected = accountant.compose(SelfComposedDpEvent(GaussianDpEvent(sigma), steps)).get_epsilon(
        FORESEEN * delta
    )
    assert epsilon == pytest.approx(expected, rel=2e-3)
    assert method == FILTER_GAUSSIAN


def test_fifty_two_retrainings_cost_what_was_measured_elsewhere() -> None:
    event = Event(noise_multiplier=2.0, sampling_rate=0.05, count=200 * 52, plan="year")
    epsilon, method = compose([event], 1e-5 / FORESEEN)
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
    assert epsilon == pytest.approx(accountant.get_epsilon(FORESEEN * 1e-5), rel=5e-3)
    assert method == PLAN_AND_GAUSSIAN


def test_each_charge_of_a_plan_is_the_librarys_and_no_step_is_made_twice() -> None:
    plan = ((1.1, 0.2, 1), (9.0, 1.0, 4))
    _pld_on_grid(plan, 1e-5, 1e-3)
    made = _mechanism.cache_info().misses
    for count in (3, 9, 27):
        counted = ((1.1, 0.2, count), (9.0, 1.0, 4))
        accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=1e-3)
        accountant.compose(PoissonSampledDpEvent(0.2, GaussianDpEvent(1.1)), count)
        accountant.compose(GaussianDpEvent(9.0), 4)
        found = _pld_on_grid(counted, 1e-5, 1e-3)
        assert found == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-9)
    assert _mechanism.cache_info().misses == made


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


# -- fails closed ----------------------------------------------------------------------------------

NO_NUMBERS = [math.nan, math.inf, -math.inf, -1.0, 0.0, "5", None, True]


@pytest.mark.parametrize("value", [*NO_NUMBERS, 1e-16, LEAST_NOISE / 2, 2 * MOST_NOISE])
def test_a_noise_multiplier_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="noise multiplier"):
        Event(noise_multiplier=value)


@pytest.mark.parametrize("value", [*NO_NUMBERS, 1e-6, 2e-8, 1.0001])
def test_a_sampling_rate_that_is_none_is_refused(value: Any) -> None:
    if value is not True:
        with pytest.raises(InputError, match="sampling rate"):
            Event(noise_multiplier=1.0, sampling_rate=value)
    with pytest.raises(InputError, match="sampling rate"):
        noise_multiplier(epsilon=1.0, delta=1e-6, sampling_rate=0.0 if value is True else value, steps=1)


@pytest.mark.parametrize("value", [*NO_NUMBERS, 1e-6, 1.0, 0, 10**10])
def test_a_count_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="whole number"):
        Event(noise_multiplier=1.0, count=value)


@pytest.mark.parametrize("value", [*NO_NUMBERS, 1.0, 1e-20])
def test_a_delta_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="δ"):
        compose([Event(noise_multiplier=1.0)], value)
    with pytest.raises(InputError, match="δ"):
        noise_multiplier(epsilon=2.0, delta=value, sampling_rate=1.0, steps=1)
    if value != 1e-20:
        with pytest.raises(InputError, match="δ"):
            gaussian_epsilon(1.0, value)


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_a_mu_an_epsilon_or_a_cap_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="μ"):
        gaussian_epsilon(value, 1e-5)
    with pytest.raises(InputError, match="ε"):
        noise_multiplier(epsilon=value, delta=3e-6, sampling_rate=1.0, steps=1)
    with pytest.raises(InputError, match="cap"):
        compose([Event(noise_multiplier=1.0)], 1e-5, cap=value)


@pytest.mark.parametrize(
    ("noise", "rate", "count"),
    [
        (1e-3, 0.1, 1),
        (0.01, 1e-4, 10),
        (0.1, 1e-4, 10**9),
        (1e9, 0.5, 10**9),
        (1e3, 1e-4, 10**9),
        (1, 0.999, 10**6),
    ],
)
def test_sizes_at_which_the_library_hangs_have_no_bound(noise: float, rate: float, count: int) -> None:
    began = time.monotonic()
    epsilon, _ = compose([Event(noise_multiplier=noise, sampling_rate=rate, count=count)], 1e-5)
    assert epsilon == math.inf
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("told", [math.nan, -1.0, ZeroDivisionError(), MemoryError()])
def test_what_the_library_cannot_give_is_a_refusal(told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def get_epsilon(*_: object) -> float:
        if isinstance(told, Exception):
            raise told
        return float(told)

    for asked in (
        "pld.privacy_loss_distribution.PrivacyLossDistribution.get_epsilon_for_delta",
        "rdp.rdp_privacy_accountant.RdpAccountant.get_epsilon",
    ):
        monkeypatch.setattr(f"dp_accounting.{asked}", get_epsilon)
    for plan in ("hurt", None):
        event = Event(noise_multiplier=1.2345, sampling_rate=0.1, count=7, plan=plan)
        with pytest.raises(BudgetError, match="cannot be worked out"):
            compose([event], 1e-5)


def test_a_large_mu_has_a_closed_bound_above_the_exact_figure() -> None:
    exact = gaussian_epsilon(999.0, 1e-5)
    bound = gaussian_epsilon(1001.0, 1e-5)
    assert exact < bound < 1.01 * exact
    assert gaussian_epsilon(1e8, 1e-5) > 4e15
    assert gaussian_epsilon(1e-9, 1e-5) == 0


def test_a_noise_that_nobody_can_add_is_refused() -> None:
    with pytest.raises(BudgetError, match="no noise"):
        noise_multiplier(epsilon=1e-300, delta=1e-14, sampling_rate=1.0, steps=10**9)
    with pytest.raises(BudgetError, match="no noise"):
        noise_multiplier(epsilon=1.0, delta=1e-5, sampling_rate=0.01, steps=10**9)
    assert noise_multiplier(epsilon=1e300, delta=1e-5, sampling_rate=1.0, steps=1) == LEAST_NOISE
