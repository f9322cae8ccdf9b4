"""The privacy of the Gaussian mechanism in closed form (Balle and Wang, 2018, theorem 8).

Site and server work with it each for itself, and neither loads a library for it.
"""

from __future__ import annotations

import math

__all__ = ["FORESEEN", "gaussian_delta", "gaussian_multiplier"]

FORESEEN = 0.98
"""The share of δ at which noise is chosen and foreseen mechanisms are counted; the rest is kept for what
was not foreseen (`clients.ledger.accounting`). What was foreseen pays half a percent of ε
at most for it; what was not pays for the logarithm of its share: a sixth of the room that half of δ gave."""


def gaussian_delta(epsilon: float, mu: float) -> float:
    """δ at ε of the Gaussian mechanism whose sensitivity is μ of its deviations.

    >>> round(gaussian_delta(1.0, 1.0), 6)  # the normal distribution at -1/2, less e times that at -3/2
    0.126937
    """
    near, far = mu / 2 - epsilon / mu, -mu / 2 - epsilon / mu
    return math.exp(_log_normal(near)) - math.exp(epsilon + _log_normal(far))


def gaussian_multiplier(epsilon: float, delta: float, times: int, *, beside: float = 0.0) -> float:
    """The noise multiplier with which `times` Gaussian mechanisms, unsampled, are (ε, δ) together.

    Exact (Balle and Wang, 2018, theorem 8): together they are one with √times over it. At the share of
    δ that a site's ledger counts what was foreseen with.

    Args:
        epsilon, delta: of all together.
        times: how many.
        beside: the sum of 1/noise multiplier² of other Gaussian mechanisms that share this ε.

    Returns:
        It; infinity where the others leave nothing.
    """
    delta *= FORESEEN
    low, high = 0.0, 1.0
    while gaussian_delta(epsilon, high) < delta:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_delta(epsilon, middle) < delta else (low, middle)
    left = low**2 - beside
    return math.sqrt(times / left) if left > 0 else math.inf


def _log_normal(x: float) -> float:
    """Logarithm of the standard normal distribution function; in the far tail by its continued fraction."""
    if x > -20:
        return math.log(math.erfc(-x / math.sqrt(2)) / 2)
    below = -x
    for term in range(12, 0, -1):
        below = -x + term / below
    return -x * x / 2 - math.log(below * math.sqrt(2 * math.pi))
