"""Where noise comes from: the operating system's cryptographic generator.

Every normal number is made from 64 fresh bits of `os.urandom` by inverting the
normal distribution function, so that nobody who sees some noise can predict
other noise, and no two sites can share a stream. A seeded generator exists for
runs that are marked "not private" alone.

The 53-bit grid cuts the tails at about 8.3 standard deviations (probability
below 2e-16 a draw). Floating-point noise leaves a known theoretical weakness in
its low bits (Mironov, 2012); values are therefore rounded to a fixed grid of
2^-20 standard deviations after adding, which is post-processing of the sum and
takes the low bits away from both.
"""

from __future__ import annotations

import os
from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["NoNoise", "NormalSource", "SystemNoise", "noisy"]


class NormalSource(Protocol):
    """Makes normal numbers."""

    def normal(self, shape: tuple[int, ...], deviation: float) -> npt.NDArray[np.float64]:
        """Independent normal numbers of mean 0 and the given standard deviation."""
        ...


class SystemNoise:
    """Normal numbers from the operating system's entropy."""

    def normal(self, shape: tuple[int, ...], deviation: float) -> npt.NDArray[np.float64]:
        """Independent normal numbers of mean 0 and the given standard deviation."""
        from scipy.special import ndtri

        size = int(np.prod(shape))
        bits = np.frombuffer(os.urandom(8 * size), dtype=np.uint64) >> np.uint64(11)
        uniform = (bits.astype(np.float64) + 0.5) * 2.0**-53
        return np.asarray(ndtri(uniform) * deviation, dtype=np.float64).reshape(shape)


class NoNoise:
    """Zeros: for runs that are marked "not private" all the way into the passport."""

    def normal(self, shape: tuple[int, ...], deviation: float) -> npt.NDArray[np.float64]:
        """Zeros."""
        return np.zeros(shape)


def noisy(values: npt.NDArray[np.float64], deviation: float, source: NormalSource) -> npt.NDArray[np.float64]:
    """`values` plus noise of the given standard deviation, rounded to the noise's grid."""
    if deviation == 0:
        return values.astype(np.float64)
    grid = deviation * 2.0**-20
    return np.asarray(np.round((values + source.normal(values.shape, deviation)) / grid) * grid)
