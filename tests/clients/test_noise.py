"""The noise has the right scale, and streams have nothing to do with each other."""

from __future__ import annotations

import numpy as np
from scipy.stats import kstest, pearsonr

from clients.noise import NoNoise, SystemNoise, noisy

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


def test_no_noise_changes_nothing() -> None:
    values = np.array([1.5, -2.0])
    np.testing.assert_array_equal(noisy(values, 0.0, NoNoise()), values)
