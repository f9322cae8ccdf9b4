"""Poisson sampling: each row is in a batch by itself, with the rate that is accounted.

A row is taken if its own 64-bit word from the operating system's generator
(`clients.mechanisms.entropy`) is below the whole number ⌊q · 2⁶⁴⌋.

Guarantee: rows are taken independently of each other and of what they hold, each
with probability ⌊q · 2⁶⁴⌋ / 2⁶⁴. That is at most q, and above q − 2⁻⁶⁴: of the 2⁶⁴
equally likely words ⌊q · 2⁶⁴⌋ are below the threshold, and the threshold is exact,
for multiplying a float by 2⁶⁴ changes its exponent alone. The loss of privacy grows
with the rate, so that a true rate of at most q costs no more than what is accounted
for q (amplification by Poisson sampling: Balle, Barthe and Gaboardi, 2018). A float
that is compared with q has a grid of its own: `torch.rand() < 2e-8` holds with
probability 6e-8.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from clients.mechanisms.entropy import random_words
from contract.errors import InputError

__all__ = ["poisson_sample", "require_rate"]

Words = Callable[[int], npt.NDArray[np.uint64]]


def poisson_sample(rows: int, rate: float, words: Words = random_words) -> npt.NDArray[np.bool_]:
    """Which of so many rows are in a batch, shape (rows,).

    Args:
        rows: how many there are.
        rate: the chance of each, in (0, 1]; at 1 all are taken, and no word is drawn.
        words: makes independent uniform integers of 64 bits; a test may fix them.

    Raises:
        InputError: the rate is not in (0, 1].
    """
    require_rate(rate)
    threshold = int(rate * 2.0**64)  # exact, and rounded down
    if threshold == 2**64:
        return np.ones(rows, dtype=np.bool_)
    return words(rows) < np.uint64(threshold)


def require_rate(rate: float) -> None:
    """Refuse a sampling rate that is none.

    Raises:
        InputError: it is not in (0, 1].
    """
    if not 0 < rate <= 1:
        raise InputError(f"the sampling rate {rate} is not in (0, 1]", where="privacy.sampling_rate")
