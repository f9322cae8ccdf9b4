"""How much privacy a data block has spent, and how much noise a plan needs.

One record is in one data block, so blocks are composed each on its own.
Neighbouring data sets differ by adding or removing one unit. The theorem that
gives a number is named with it, for runs are chosen from what earlier ones
released, and an ordinary composition does not cover that:

* `gaussian` events alone (every row in every step, or a noisy count): the sum of
  1/noise_multiplier² is a privacy filter, valid for parameters chosen adaptively
  (Koskela, Tobaben and Honkela, 2022; Smith and Thakurta, 2022), and the
  privacy loss distribution of the sum has a closed form (Balle and Wang, 2018).
* sub-sampled events that one plan fixed before the block's first release, and any
  `gaussian` events beside them: one privacy loss distribution of the whole plan and
  of one Gaussian with the sum of 1/noise_multiplier². By induction from the last
  release on: whatever was seen, what may still come is dominated by the rest of the
  plan and a Gaussian of the rest of that sum, which is the same pair for everything
  that can have been seen, and so the pairs compose (Zhu, Dong and Wang, 2022,
  theorem 10, and the filter above). Stopping early is free, and so is any order.
* anything else: a Rényi filter at one order that depends on the cap alone
  (Feldman and Zrnic, 2021).

Epsilons are never added, and CLT-GDP is not used at all: it falls below the
proven lower bound for sub-sampled runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from contract.errors import InputError
from contract.gaussian import gaussian_delta

__all__ = [
    "FILTER_GAUSSIAN",
    "FILTER_RENYI",
    "PLAN_AND_GAUSSIAN",
    "PLAN_PLD",
    "Event",
    "compose",
    "noise_multiplier",
]

FILTER_GAUSSIAN = "Gaussian privacy filter, exact (Koskela et al. 2022)"
PLAN_PLD = "privacy loss distribution of one fixed plan (Zhu et al. 2022)"
PLAN_AND_GAUSSIAN = "privacy loss distribution of one fixed plan and a Gaussian filter (Zhu et al. 2022)"
FILTER_RENYI = "Rényi privacy filter (Feldman and Zrnic 2021)"

_Plan = tuple[tuple[float, float, int], ...]
"""Mechanisms, each with its noise multiplier, sampling rate and count: a key for cached results."""

_FINEST_GRID = 2e-5
"""Interval of the finest grid of a privacy loss distribution: at half of it a plan took 10 s, for .02 %."""

_MOST_NOISE = math.log(1e6)
"""The logarithm of a noise multiplier above which there is no use in looking for one."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """`count` uses of one mechanism on a block, as they ran.

    Attributes:
        noise_multiplier: noise standard deviation over the L2 sensitivity.
        sampling_rate: chance with which each unit took part, independently (Poisson);
            1 when every unit did.
        count: how many times.
        plan: names what fixed a sub-sampled event before the block's first release, None if
            nothing did. Events of one name are one plan. No meaning for other events.
    """

    noise_multiplier: float
    sampling_rate: float = 1.0
    count: int = 1
    plan: str | None = ""

    def __post_init__(self) -> None:
        if not (self.noise_multiplier > 0 and 0 < self.sampling_rate <= 1 and self.count >= 0):
            raise InputError(f"not a differentially private mechanism: {self}")


def compose(events: Iterable[Event], delta: float, *, cap: float = 8.0) -> tuple[float, str]:
    """ε of all events together at `delta`, and the theorem that gives it.

    `cap` is the site's limit: the Rényi filter's order is fixed by it in advance.
    """
    events = [event for event in events if event.count > 0]
    if not events:
        return 0.0, FILTER_GAUSSIAN
    full = [event for event in events if event.sampling_rate == 1]
    sampled = [event for event in events if event.sampling_rate < 1]
    if not sampled:
        return gaussian_epsilon(math.sqrt(_squared_mu(full)), delta), FILTER_GAUSSIAN
    plans = {event.plan for event in sampled}
    if None in plans or len(plans) > 1:
        return _renyi_epsilon(_merged(events), delta, cap), FILTER_RENYI
    return _pld_epsilon(_one_plan(events), delta), PLAN_AND_GAUSSIAN if full else PLAN_PLD


@lru_cache(maxsize=256)
def noise_multiplier(*, epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    """The least noise multiplier with which `steps` steps stay within (ε, δ).

    Exact without sub-sampling; otherwise within .2 %, and never below. What fits beside what was spent
    before, the ledger knows (`clients.ledger.cost.room_for`).
    """
    if sampling_rate == 1:
        return math.sqrt(steps) / _gaussian_mu(epsilon, delta)

    from scipy.optimize import brentq

    def plan(log_multiplier: float) -> _Plan:
        step = Event(noise_multiplier=math.exp(log_multiplier), sampling_rate=sampling_rate, count=steps)
        return _one_plan((step,))

    # where the central limit theorem, which is no bound, sees the root (Dong, Roth and Su, 2022)
    guess = -0.5 * math.log(math.log1p((_gaussian_mu(epsilon, delta) / sampling_rate) ** 2 / steps))
    grid = _fine_enough(plan(guess), delta)

    def excess(log_multiplier: float) -> float:
        return math.log(max(_pld_on_grid(plan(log_multiplier), delta, grid), 1e-9) / epsilon)

    low = high = guess
    while excess(low) < 0:
        low -= 0.2
    while excess(high) > 0:
        high += 0.2
        if high > _MOST_NOISE:
            return math.inf
    if low < high:
        high = brentq(excess, low, high, xtol=2e-4) + 2e-4
    while excess(high) > 0:
        high += 1e-3
    return math.exp(high)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """ε of a μ-Gaussian mechanism at `delta` (Balle and Wang, 2018, theorem 8)."""
    if gaussian_delta(0.0, mu) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while gaussian_delta(high, mu) > delta:
        low, high = high, 2 * high
    while high - low > 1e-9 * max(high, 1.0):
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_delta(middle, mu) > delta else (low, middle)
    return high


def _gaussian_mu(epsilon: float, delta: float) -> float:
    low, high = 0.0, 1.0
    while gaussian_epsilon(high, delta) < epsilon:
        low, high = high, 2 * high
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if gaussian_epsilon(middle, delta) > epsilon else (middle, high)
    return low


def _squared_mu(events: Iterable[Event]) -> float:
    """Of one Gaussian mechanism that stands for all these, none of them sampled."""
    return sum(event.count / event.noise_multiplier**2 for event in events)


def _one_plan(events: Iterable[Event]) -> _Plan:
    """The events, and one Gaussian mechanism for all that are not sampled."""
    events = list(events)
    squares = _squared_mu(event for event in events if event.sampling_rate == 1)
    sampled = _merged([event for event in events if event.sampling_rate < 1])
    return (*sampled, (1 / math.sqrt(squares), 1.0, 1)) if squares else sampled


def _merged(events: Sequence[Event]) -> _Plan:
    """Counts by mechanism, in a fixed order, so that equal histories share a cached result."""
    counts: dict[tuple[float, float], int] = {}
    for event in events:
        key = (event.noise_multiplier, event.sampling_rate)
        counts[key] = counts.get(key, 0) + event.count
    return tuple(sorted((*key, count) for key, count in counts.items()))


def _dp_event(merged: _Plan) -> Any:
    import dp_accounting as dp

    return dp.ComposedDpEvent(
        [
            dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(multiplier)), count)
            if rate < 1
            else dp.SelfComposedDpEvent(dp.GaussianDpEvent(multiplier), count)
            for multiplier, rate, count in merged
        ]
    )


@lru_cache(maxsize=1024)
def _pld_epsilon(plan: _Plan, delta: float) -> float:
    grid = _fine_enough(plan, delta)
    return min(_pld_on_grid(plan, delta, grid), _pld_on_grid(plan, delta, 2 * grid))


def _fine_enough(plan: _Plan, delta: float) -> float:
    """The interval of a grid that is halved until it hardly matters: every grid gives an upper bound.

    The excess of a grid falls with the square of its interval (connect-the-dots; Doroshenko et al.,
    2022), so that two that differ by .3 % leave about .1 %.
    """
    interval, coarse = 1e-3, math.inf
    while True:
        fine = _pld_on_grid(plan, delta, interval)
        if coarse - fine <= 3e-3 * fine or interval < _FINEST_GRID:
            return interval
        interval, coarse = interval / 2, fine


@lru_cache(maxsize=1024)
def _pld_on_grid(plan: _Plan, delta: float, interval: float) -> float:
    from dp_accounting import NeighboringRelation
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=interval)
    return float(accountant.compose(_dp_event(plan)).get_epsilon(delta))


@lru_cache(maxsize=1024)
def _renyi_epsilon(merged: _Plan, delta: float, cap: float) -> float:
    from dp_accounting import NeighboringRelation
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant([_renyi_order(delta, cap)], NeighboringRelation.ADD_OR_REMOVE_ONE)
    return float(accountant.compose(_dp_event(merged)).get_epsilon(delta))


def _renyi_order(delta: float, cap: float) -> float:
    """The order at which a Gaussian mechanism that spends just the cap converts best."""
    logarithm = math.log(1 / delta)
    root = math.sqrt(logarithm + cap) - math.sqrt(logarithm)
    return 1 + math.sqrt(logarithm) / root
