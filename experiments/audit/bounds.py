"""From an attack's errors to a lower bound on ε.

An attack says of each canary, which is there by the toss of a coin, whether it is.
Whatever the attack, a mechanism bounds how often it is right: its error rate is at
least half of one less the total variation between the two cases, which is δ at
ε = 0. So errors that are rarer disprove every mechanism of less variation: of the
stated kind, those with more noise (Nasr et al., 2023, do so for Gaussians). The
lower bound on ε is that of the most private mechanism that they do not disprove.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

__all__ = ["epsilon_lower_bound", "share_at_most", "spread_by_chance"]

Floats = npt.NDArray[np.float64]

_FEW = 4
"""Errors a run below which their spread is not that of a normal distribution."""


def share_at_most(wrong: int, of: int, chance: float) -> float:
    """An upper bound on the error rate behind so many errors (Clopper and Pearson, 1934).

    Args:
        wrong, of: errors, and independent trials.
        chance: of the bound being too low.
    """
    from scipy.stats import beta

    return 1.0 if wrong == of else float(beta.isf(chance, wrong + 1, of - wrong))


def spread_by_chance(wrong: npt.NDArray[np.int64], of: int) -> float:
    """The chance of error counts that differ as much from run to run, if all trials are independent.

    1 where there are too few errors to tell. Errors that come together in some runs are those of
    noise that is not independent from one coordinate to the next.

    Args:
        wrong: errors by run, shape (runs,).
        of: trials in each run.
    """
    from scipy.stats import chi2

    share = wrong.mean() / of
    if of * min(share, 1 - share) < _FEW:
        return 1.0
    spread = ((wrong - of * share) ** 2).sum() / (of * share * (1 - share))
    return float(chi2.sf(spread, len(wrong) - 1))


def epsilon_lower_bound(
    errors: float, *, delta: float, noise_multiplier: float, sampling_rate: float, steps: int
) -> float:
    """The least ε at `delta` that such an error rate leaves possible; infinite if it leaves none.

    Args:
        errors: an upper bound on the attack's error rate on canaries that are there by a fair coin.
        delta: of the statement.
        noise_multiplier, sampling_rate, steps: of the mechanism as stated; other noise
            multipliers are tried.
    """
    from clients.ledger.accounting import Event, compose

    variation = 1 - 2 * errors
    if variation <= 0:
        return 0.0
    if sampling_rate == 1:
        from scipy.stats import norm

        multiplier = -1 / (2 * float(norm.ppf(errors)))
        return compose([Event(noise_multiplier=multiplier)], delta)[0] if multiplier else math.inf
    few, much = noise_multiplier / 2, noise_multiplier * 32
    if _total_variation(few, sampling_rate, steps) < variation:
        return math.inf
    while much / few > 1.01:
        middle = math.sqrt(few * much)
        too_private = _total_variation(middle, sampling_rate, steps) < variation
        few, much = (few, middle) if too_private else (middle, much)
    return compose([Event(noise_multiplier=much, sampling_rate=sampling_rate, count=steps)], delta)[0]


@lru_cache(maxsize=256)
def _total_variation(multiplier: float, rate: float, steps: int) -> float:
    """Between runs with and without one canary: δ at ε = 0."""
    from dp_accounting.pld import privacy_loss_distribution

    one = privacy_loss_distribution.from_gaussian_mechanism(
        multiplier, sampling_prob=rate, value_discretization_interval=1e-3
    )
    return float(one.self_compose(steps).get_delta_for_epsilon(0.0))
