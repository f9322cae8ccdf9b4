"""Each row is taken by itself, with at most the rate that is stated."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, chi2

from clients.mechanisms.sampling import poisson_sample
from contract.errors import InputError


def fixed(*words: int) -> npt.NDArray[np.uint64]:
    return np.array(words, dtype=np.uint64)


@pytest.mark.parametrize("rate", [1e-4, 2e-8, 0.1, 0.5, 1 - 2**-53, 3 * 2**-64])
def test_a_word_below_the_threshold_is_taken_and_no_other(rate: float) -> None:
    threshold = math.floor(Fraction(rate) * 2**64)
    words = fixed(0, threshold - 1, threshold, 2**64 - 1)
    taken = poisson_sample(4, rate, lambda _count: words)
    np.testing.assert_array_equal(taken, [True, True, False, False])


@given(st.floats(min_value=0, max_value=1, exclude_min=True, exclude_max=True))
def test_the_true_rate_is_at_most_the_stated_one(rate: float) -> None:
    """Of the 2^64 words those below a whole number are taken: it is found by halving, and is ⌊q · 2^64⌋."""
    low, high = 0, 2**64  # `low` words are taken, `high` are not
    while low + 1 < high:
        middle = (low + high) // 2
        taken = bool(poisson_sample(1, rate, lambda _count, word=middle - 1: fixed(word))[0])
        low, high = (middle, high) if taken else (low, middle)
    taken = bool(poisson_sample(1, rate, lambda _count: fixed(0))[0])
    count = low if taken else 0
    assert Fraction(count, 2**64) <= Fraction(rate) < Fraction(count + 1, 2**64)


def test_all_are_taken_at_a_rate_of_one() -> None:
    assert poisson_sample(1000, 1.0, lambda _count: fixed()).all()
    assert poisson_sample(0, 1.0).shape == poisson_sample(0, 0.5).shape == (0,)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.0000001, math.nan, math.inf])
def test_what_is_no_rate_is_refused(rate: float) -> None:
    with pytest.raises(InputError, match="sampling rate"):
        poisson_sample(10, rate)


@pytest.mark.parametrize(("rate", "rows"), [(0.2, 20_000), (1e-4, 4_000_000), (0.9, 20_000)])
def test_so_many_are_taken(rate: float, rows: int) -> None:
    taken = int(poisson_sample(rows, rate).sum())
    assert binomtest(taken, rows, rate).pvalue > 1e-6
    for wrong in (2 / 3 * rate, min(1.0, 3 / 2 * rate) - 1e-9):
        assert binomtest(taken, rows, wrong).pvalue < 1e-6


def test_rows_and_calls_have_nothing_to_do_with_each_other() -> None:
    """Neighbours in a call, and the same row in two calls, are as often both taken as chance has it."""
    one, other = (poisson_sample(40_000, 0.3) for _ in range(2))
    for left, right in ((one[:-1:2], one[1::2]), (one, other)):
        cells = np.bincount(2 * left + right, minlength=4)
        expected = len(left) * np.array([0.49, 0.21, 0.21, 0.09])
        assert chi2.sf(((cells - expected) ** 2 / expected).sum(), 3) > 1e-6
    assert not np.array_equal(one, other)
