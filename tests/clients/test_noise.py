"""The noise has the right scale, and streams have nothing to do with each other."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest, norm, pearsonr

from clients.noise import NoNoise, SystemNoise, add_noise, noisy

DRAWS = 20_000


def test_the_right_scale_is_accepted_and_wrong_ones_are_not() -> None:
    drawn = SystemNoise().normal((DRAWS,), 3.0)
    assert kstest(drawn / 3.0, "norm").pvalue > 1e-6
    for wrong in (2 / 3, 3 / 2):
        assert kstest(drawn / (3.0 * wrong), "norm").pvalue < 1e-6


def test_two_sources_are_independent() -> None:
    one, other = (SystemNoise().normal((DRAWS,), 1.0) for _ in range(2))
    assert abs(pearsonr(one, other).statistic) < 0.05
    assert not np.array_equal(one, other)


def test_released_values_lie_on_the_grid_of_the_noise() -> None:
    released = noisy(np.array([0.1, 1e-9, 5.0]), 2.0, SystemNoise())
    steps = released / (2.0 * 2.0**-20)
    np.testing.assert_array_equal(steps, np.round(steps))


def test_the_tails_are_those_of_the_normal_distribution() -> None:
    drawn = SystemNoise().normal((1_000_001,), 1.0)
    for beyond in (2.0, 3.0, 4.0):
        expected = len(drawn) * 2 * norm.sf(beyond)
        assert abs((np.abs(drawn) > beyond).sum() - expected) < 6 * np.sqrt(expected)
    half = len(drawn) // 2  # the two of a pair, and their squares, have nothing to do with each other
    assert abs(pearsonr(drawn[:half], drawn[half + 1 :]).statistic) < 0.01
    assert abs(pearsonr(drawn[:half] ** 2, drawn[half + 1 :] ** 2).statistic) < 0.01


def test_noise_in_place_reaches_every_number_of_every_array_once() -> None:
    arrays = [np.full(shape, 5.0, dtype=np.float32) for shape in ((3,), (0,), (200, 501), (1,), (40_000,))]
    add_noise(arrays, 0.5, SystemNoise())
    drawn = np.concatenate([(array.ravel() - 5.0) / 0.5 for array in arrays])
    assert kstest(drawn, "norm").pvalue > 1e-6
    assert len(np.unique(drawn)) > 0.9 * len(drawn)


def test_an_array_that_is_not_contiguous_is_refused() -> None:
    with pytest.raises(ValueError, match="contiguous"):
        add_noise([np.zeros((4, 4))[:, ::2]], 1.0, SystemNoise())


def test_no_noise_changes_nothing() -> None:
    values = np.array([1.5, -2.0])
    np.testing.assert_array_equal(noisy(values, 0.0, NoNoise()), values)
