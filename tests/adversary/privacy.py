"""What an attacker can say of a guarantee from the numbers that came, without asking who gave them.

The truth of the rows is known here. What is left of a released number when the truth is taken away
is its noise, and the noise of n numbers bounds its deviation from above, and so ε from below. None
of it shares a line with the accountant that it judges.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2, norm

__all__ = ["epsilon_of", "least_epsilon"]

_CHANCE = 1e-7
"""Of calling an honest release dishonest."""


def delta_of(epsilon: float, mu: float) -> float:
    """δ at ε of a Gaussian mechanism of sensitivity μ deviations (Balle and Wang, 2018, theorem 8)."""
    near, far = mu / 2 - epsilon / mu, -mu / 2 - epsilon / mu
    return float(norm.cdf(near) - math.exp(min(700.0, epsilon + norm.logcdf(far))))


def epsilon_of(mu: float, delta: float) -> float:
    """ε of a Gaussian mechanism of sensitivity μ deviations; infinity where there is hardly any noise.

    >>> round(epsilon_of(1.0, 1e-5), 2)
    4.38
    """
    if not mu < 1e4:
        return math.inf
    low, high = 0.0, 1.0
    while delta_of(high, mu) > delta:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if delta_of(middle, mu) > delta else (low, middle)
    return high


def least_epsilon(noises: Iterable[tuple[npt.ArrayLike, float]], delta: float) -> float:
    """ε that releases on the same rows have at least, all together, but for a chance of 1e-7 each.

    Args:
        noises: of each release what is left of it without the truth, and its L2 sensitivity.
        delta: of the statement.
    """
    squared_mu = 0.0
    for noise, sensitivity in noises:
        values = np.asarray(noise, dtype=np.float64).ravel()
        energy = float(np.square(values).sum()) / sensitivity**2
        most_variance = energy / chi2.ppf(_CHANCE, len(values))
        squared_mu += 1 / most_variance if most_variance > 0 else math.inf
    return epsilon_of(math.sqrt(squared_mu), delta) if squared_mu else 0.0
