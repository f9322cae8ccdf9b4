"""The privacy of the Gaussian mechanism in closed form (Balle and Wang, 2018, theorem 8).

Site and server work with it each for itself, and neither loads a library for it.
"""

from __future__ import annotations

import math

__all__ = ["FORESEEN", "gaussian_delta"]

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


def _log_normal(x: float) -> float:
    """Logarithm of the standard normal distribution function; in the far tail by its continued fraction."""
    if x > -20:
        return math.log(math.erfc(-x / math.sqrt(2)) / 2)
    below = -x
    for term in range(12, 0, -1):
        below = -x + term / below
    return -x * x / 2 - math.log(below * math.sqrt(2 * math.pi))
