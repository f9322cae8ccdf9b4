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

δ is kept strictly. Whether a block is counted by the last theorem (U) or by one of the
others (F) may depend on what was released, so δ is divided: F is evaluated at
s δ with s = `FORESEEN`, U at the rest. Let S be any set of transcripts, S_F and S_U its parts that
are counted by F and by U. The exchange that stops where the count would leave F is
(ε, s δ)-private and has the transcripts of S_F in common with the real one; the one
that stops where the filter of U would pass ε is (ε, (1-s) δ)-private and has S_U in common,
for a filter's sum only grows. So P(S) = P(S_F) + P(S_U) ≤ e^ε Q(S) + s δ + (1-s) δ.
Among the theorems of F there is no choice left: which plan is foreseen, if any, is
settled before a block's first release.

Accounting fails closed. A parameter that is not finite or out of its bounds is refused when an
`Event` is made; an ε that is not a number, or that the library cannot give, is a refusal; what would
take a privacy loss distribution of more than a million points or sampled steps has no bound (infinity).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

from clients.ledger.event import (
    LEAST_NOISE,
    MOST_NOISE,
    MOST_TIMES,
    Event,
    is_number,
    require_count,
    require_delta,
    require_rate,
)
from contract.errors import BudgetError, InputError
from contract.gaussian import FORESEEN, gaussian_delta

__all__ = [
    "FILTER_GAUSSIAN",
    "FILTER_RENYI",
    "FORESEEN",
    "PLAN_AND_GAUSSIAN",
    "PLAN_PLD",
    "Event",
    "compose",
    "gaussian_epsilon",
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

_MOST_POINTS, _MOST_STEPS = 2**20, 10**6
"""Of a privacy loss distribution, and of one mechanism in it: with more, the library takes minutes."""

_MOST_SAMPLED = 500.0
"""The largest ε that a privacy loss distribution is asked for; noise for it is more than enough above."""

_LARGE_MU = 1e3
"""Of a Gaussian mechanism, from which on a closed bound stands for the exact ε: half a million and more."""


def compose(events: Iterable[Event], delta: float, *, cap: float = 8.0) -> tuple[float, str]:
    """ε of all events together at `delta`, and the theorem that gives it.

    The whole δ, whichever theorem was used: see above. `cap` is the site's limit: the Rényi
    filter's order is fixed by it in advance.

    Raises:
        InputError: δ or the cap is no number, or out of bounds.
        BudgetError: ε cannot be worked out.
    """
    require_delta(delta)
    if not is_number(cap) or not 0 < cap < math.inf:
        raise InputError(f"a cap of {cap!r:.40} is not a positive number")
    events = list(events)
    if not events:
        return 0.0, FILTER_GAUSSIAN
    foreseen = FORESEEN * delta
    full = [event for event in events if event.sampling_rate == 1]
    sampled = [event for event in events if event.sampling_rate < 1]
    if not sampled:
        return gaussian_epsilon(math.sqrt(_squared_mu(full)), foreseen), FILTER_GAUSSIAN
    plans = {event.plan for event in sampled}
    if None in plans or len(plans) > 1:
        return _renyi_epsilon(_merged(events), delta - foreseen, cap), FILTER_RENYI
    return _pld_epsilon(_one_plan(events), foreseen), PLAN_AND_GAUSSIAN if full else PLAN_PLD


@lru_cache(maxsize=256)
def noise_multiplier(
    *, epsilon: float, delta: float, sampling_rate: float, steps: int, beside: float = 0.0
) -> float:
    """The least noise multiplier with which `steps` steps stay within (ε, δ), as `compose` counts.

    Exact without sub-sampling; otherwise within .2 %, and never below. It ignores earlier spending; see
    `clients.ledger.cost.room_for`.

    Args:
        epsilon, delta: of all together.
        sampling_rate: the chance with which a record takes part in a step.
        steps: how many.
        beside: the sum of 1/noise multiplier² of Gaussian mechanisms without sub-sampling that the same
            rows answer beside the steps, within the same ε.

    Raises:
        InputError: a parameter is out of bounds.
        BudgetError: no noise multiplier within `MOST_NOISE` will do.
    """
    require_delta(delta)
    require_rate(sampling_rate)
    require_count(steps, MOST_TIMES, "steps")
    if not is_number(epsilon) or not 0 < epsilon < math.inf:
        raise InputError(f"ε = {epsilon!r:.40} is not a positive number")
    if not is_number(beside) or not 0 <= beside < math.inf:
        raise InputError(f"a sum of squares of {beside!r:.40} is not a number from 0 on")
    most = epsilon if sampling_rate == 1 else min(epsilon, _MOST_SAMPLED)
    left = _gaussian_mu(most, FORESEEN * delta) ** 2 - beside
    if left <= 0:
        found = math.inf
    elif sampling_rate == 1:
        found = math.sqrt(steps / left)
    else:
        found = _sampled_noise(most, FORESEEN * delta, sampling_rate, steps, left=left, beside=beside)
    if not found <= MOST_NOISE:
        raise BudgetError(
            f"no noise brings {steps:,} steps to ε = {epsilon:.3g}",
            remedy="Ask for a larger ε, or fewer steps",
        )
    return max(found, LEAST_NOISE)


def _sampled_noise(
    epsilon: float, delta: float, sampling_rate: float, steps: int, *, left: float, beside: float
) -> float:
    """Of `noise_multiplier`; `left` is the squared μ that `beside` leaves of ε."""
    from scipy.optimize import brentq

    others: _Plan = ((1 / math.sqrt(beside), 1.0, 1),) if beside else ()

    def plan(log_multiplier: float) -> _Plan:
        return ((math.exp(log_multiplier), sampling_rate, steps), *others)

    # where the central limit theorem, which is no bound, sees the root (Dong, Roth and Su, 2022)
    guess = -0.5 * math.log(math.log1p(left / sampling_rate**2 / steps))
    guess = min(guess, math.log(MOST_NOISE))
    grid = _fine_enough(plan(guess), delta)

    def excess(log_multiplier: float) -> float:
        found = _pld_on_grid(plan(log_multiplier), delta, grid)
        return math.log(min(max(found, 1e-12), 1e12) / epsilon)

    low = high = guess
    while excess(low) < 0:
        low -= 0.2
    while excess(high) > 0:
        high += 0.2
        if high > math.log(MOST_NOISE):
            return math.inf
    if low < high:
        high = brentq(excess, low, high, xtol=2e-4) + 2e-4
    while excess(high) > 0:
        high += 1e-3
    return math.exp(high)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """ε of a μ-Gaussian mechanism at `delta` (Balle and Wang, 2018, theorem 8).

    From μ = 1,000 on, where differences of huge numbers would be taken, the bound of zero-concentrated
    privacy (Bun and Steinke, 2016, proposition 1.3): μ²/2 + μ sqrt(2 log(1/δ)).

    Raises:
        InputError: μ or δ is no number, or out of bounds.
    """
    if not is_number(delta) or not 0 < delta < 1:
        raise InputError(f"δ = {delta!r:.40} is not between 0 and 1")
    if not is_number(mu) or not 0 < mu < math.inf:
        raise InputError(f"μ = {mu!r:.40} is not a positive number")
    if mu > _LARGE_MU:
        return mu * (mu / 2 + math.sqrt(2 * math.log(1 / delta)))
    if math.erf(mu / math.sqrt(8)) <= delta:  # δ at ε = 0
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
        enough = coarse - fine <= 3e-3 * fine or not math.isfinite(fine)
        if enough or interval < _FINEST_GRID or _width(plan) > _MOST_POINTS * interval / 2:
            return interval
        interval, coarse = interval / 2, fine


def _width(plan: _Plan) -> float:
    """About how far the privacy losses of a plan reach: with a grid's interval, what the grid will cost."""
    single = sum(_reach(noise, rate) for noise, rate, _ in plan)
    most = sum(count * _reach(noise, rate) for noise, rate, count in plan)
    squares = sum(count * rate**2 * math.expm1(min(700.0, 1 / noise**2)) for noise, rate, count in plan)
    return max(single, min(most, squares + 20 * math.sqrt(squares)))  # mean and 20 deviations, about


def _reach(noise: float, rate: float) -> float:
    """The largest loss of one step, ten deviations out."""
    whole = 1 / (2 * noise**2) + 10 / noise
    return math.log1p(rate * math.expm1(whole)) if whole < 700 else whole + math.log(rate)


@lru_cache(maxsize=1024)
def _pld_on_grid(plan: _Plan, delta: float, interval: float) -> float:
    too_many = any(rate < 1 and count > _MOST_STEPS for _, rate, count in plan)
    if too_many or _width(plan) > _MOST_POINTS * interval:
        return math.inf
    return _number_of(lambda: _loss_of(plan, interval).get_epsilon_for_delta(delta))


@lru_cache(maxsize=1024)
def _renyi_epsilon(merged: _Plan, delta: float, cap: float) -> float:
    def epsilon() -> float:
        from dp_accounting import NeighboringRelation
        from dp_accounting.rdp import RdpAccountant

        accountant = RdpAccountant([_renyi_order(delta, cap)], NeighboringRelation.ADD_OR_REMOVE_ONE)
        return float(accountant.compose(_dp_event(merged)).get_epsilon(delta))

    return _number_of(epsilon)


def _loss_of(plan: _Plan, interval: float) -> Any:
    """The privacy loss distribution of a plan, as the library's `PLDAccountant` composes it."""
    parts = [
        _mechanism(noise, rate, interval).self_compose(count)
        if rate < 1
        else _mechanism(noise / math.sqrt(count), 1.0, interval)
        for noise, rate, count in plan
    ]
    return functools.reduce(lambda composed, part: composed.compose(part), parts)


@lru_cache(maxsize=16)  # one takes 10 MB or so on a fine grid
def _mechanism(noise: float, rate: float, interval: float) -> Any:
    """Of one step: this takes most of the time, and every charge of one plan needs the same."""
    from dp_accounting import NeighboringRelation
    from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism

    return from_gaussian_mechanism(
        standard_deviation=noise,
        value_discretization_interval=interval,
        sampling_prob=rate,
        neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
    )


def _number_of(work_out: Callable[[], float]) -> float:
    """The library's ε: whatever it does but give one, nothing is admitted on it."""
    try:
        epsilon = float(work_out())
    except Exception as exc:  # of any kind, from numbers at the edge of what it was made for
        raise BudgetError(f"its cost cannot be worked out ({type(exc).__name__})") from exc
    if not epsilon >= 0:
        raise BudgetError("its cost cannot be worked out: it is not a number")
    return epsilon


def _renyi_order(delta: float, cap: float) -> float:
    """The order at which a Gaussian mechanism that spends just the cap converts best."""
    logarithm = math.log(1 / delta)
    root = math.sqrt(logarithm + cap) - math.sqrt(logarithm)
    return 1 + math.sqrt(logarithm) / root
