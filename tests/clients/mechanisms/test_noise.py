"""The noise has the right scale, and streams have nothing to do with each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import kstest, norm, pearsonr

from clients.mechanisms import noise
from clients.mechanisms.noise import (
    NoNoise,
    SystemNoise,
    add_noise,
    deviation_for,
    grid_of,
    noisy,
    require_deviation,
)
from contract.errors import InputError

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


class _Fixed:
    """Not random: the same numbers at every call."""

    def __init__(self, drawn: list[float]) -> None:
        self._drawn = np.array(drawn)

    def normal(self, shape: tuple[int, ...], deviation: float) -> np.ndarray[Any, np.dtype[np.float64]]:
        return self._drawn.reshape(shape) * deviation


@pytest.mark.parametrize("deviation", [1e-3, 0.7, 2.0, 40.0, 1e4])
def test_released_values_lie_on_the_grid_of_the_noise(deviation: float) -> None:
    released = noisy(np.array([0.1, 1e-9, 5.0, -1234.5]), deviation, SystemNoise())
    steps = released / grid_of(deviation)
    np.testing.assert_array_equal(steps, np.round(steps))
    assert deviation * 2**-31 <= grid_of(deviation) <= deviation * 2**-30 or grid_of(deviation) == 2**-20


@pytest.mark.parametrize("deviation", [1e-3, 0.7, 40.0, 1e7])
def test_a_count_and_its_neighbour_differ_by_one_whatever_the_noise(deviation: float) -> None:
    """A floating-point sum would round differently, and tell the two apart (Mironov, 2012)."""
    drawn = [-0.73212345678, 3.1, 1e-9, 0.5]
    counts = np.array([0.0, 17.0, 1e6, 3.0])
    one, other = (noisy(values, deviation, _Fixed(drawn)) for values in (counts, counts + 1))
    np.testing.assert_array_equal(other - one, 1.0)


def test_the_noise_covers_what_rounding_adds_to_the_sensitivity() -> None:
    multiplier, sensitivity, size = 3.0, 0.5, 1_000_000
    deviation = deviation_for(multiplier, sensitivity, size)
    assert deviation / multiplier >= sensitivity + grid_of(deviation) * np.sqrt(size)
    assert deviation < multiplier * sensitivity * (1 + 1e-5)
    assert deviation_for(0.0, sensitivity, size) == 0


@pytest.mark.parametrize("size", [1, 10**6, 25 * 10**6, 249 * 10**6])
@pytest.mark.parametrize("sensitivity", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("multiplier", [1e-2, 1.0, 800.0, 1e4])
def test_the_noise_covers_the_rounding_to_its_own_grid(
    multiplier: float, sensitivity: float, size: int
) -> None:
    """The grid of an earlier guess is too fine where rounding moves more than the sensitivity."""
    deviation = deviation_for(multiplier, sensitivity, size)
    moved = sensitivity + grid_of(deviation) * np.sqrt(size)
    assert deviation >= multiplier * moved * (1 - 1e-12)
    assert deviation <= 2 * multiplier * moved


def test_the_tails_have_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A radius whose 52 bits are all 0 is drawn on, as often as that comes again."""
    least, later = 1.0, [1.0, 1.0, 1.5]

    def scripted(count: int, _buffer: object) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.array([least, 1.25]) if count == 2 else np.array([later.pop(0)])

    monkeypatch.setattr(noise, "_uniform", scripted)
    longest = np.sqrt(2 * 3 * 52 * np.log(2))
    drawn = SystemNoise().normal((2,), 1.0)
    assert np.hypot(*drawn) == pytest.approx(np.sqrt(longest**2 + 2 * np.log(2)), rel=1e-3)
    assert later == []


def test_a_small_number_is_as_uniform_within_its_cell_as_a_large_one() -> None:
    cell = 2.0**-52
    for number in (0, 1, 1000, 2**31):
        drawn = np.array([noise._refined((number + 0.5) * cell) for _ in range(3000)])
        within = drawn / cell - number
        assert kstest(within, "uniform").pvalue > 1e-6
        assert len(np.unique(within)) > 2900 or number > 2**20


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


@pytest.mark.parametrize("processors", [1, 2, 5])
def test_any_number_of_threads_adds_each_number_once(
    processors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noise, "processors", lambda: processors)
    arrays = [np.full(size, 5.0, dtype=np.float32) for size in (200_001, 3, 70_000)]
    add_noise(arrays, 0.5, SystemNoise())
    drawn = np.concatenate(arrays).astype(np.float64) / 0.5 - 10
    assert kstest(drawn, "norm").pvalue > 1e-6
    assert abs(pearsonr(drawn[:-131_072], drawn[131_072:]).statistic) < 0.02  # of one piece and the next
    assert len(np.unique(drawn)) > 0.9 * len(drawn)


def test_an_error_in_a_thread_is_raised() -> None:
    class Broken:
        def normal(self, shape: tuple[int, ...], deviation: float) -> Any:
            raise OSError("no entropy")

    with pytest.raises(OSError, match="no entropy"):
        add_noise([np.zeros(300_000)], 1.0, Broken())


@pytest.mark.parametrize("by_torch", [False, True])
def test_both_ways_to_a_tangent_give_the_same_distribution(
    by_torch: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = noise._by_torch if by_torch else noise._by_numpy
    angles = np.linspace(-np.pi / 2, np.pi / 2, 50_001)[1:-1]
    found = angles.copy()
    way(found)
    np.testing.assert_allclose(np.arctan(found), angles, rtol=1e-14, atol=1e-300)
    monkeypatch.setattr(noise, "_tangents", lambda: way)
    assert kstest(SystemNoise().normal((DRAWS,), 2.0) / 2, "norm").pvalue > 1e-6


class _Words:
    """What the generator would give for the smallest and the greatest words."""

    def __init__(self, word: int) -> None:
        self._word = word

    def __call__(self, count: int, _buffer: bytearray) -> np.ndarray[Any, np.dtype[np.uint64]]:
        return np.full(count, self._word, dtype=np.uint64)


@pytest.mark.parametrize("word", [0, 1, 2**63, 2**63 - 1, 2**64 - 1])
def test_the_extreme_words_give_finite_numbers(word: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "random_words", _Words(word))
    drawn = SystemNoise().normal((8,), 1.0)
    assert np.isfinite(drawn).all()
    assert np.abs(drawn).max() < 30


@pytest.mark.parametrize("deviation", [0.0, -1.0, np.nan, np.inf, 1e-320, 1e300])
def test_noise_that_is_none_is_refused(deviation: float) -> None:
    values = np.array([1.0])
    with pytest.raises(InputError, match="standard deviation"):
        add_noise([values], deviation, SystemNoise())
    assert values[0] == 1.0
    require_deviation(0.0, NoNoise())


def test_an_array_that_is_not_contiguous_is_refused() -> None:
    with pytest.raises(ValueError, match="contiguous"):
        add_noise([np.zeros((4, 4))[:, ::2]], 1.0, SystemNoise())


def test_no_noise_changes_nothing() -> None:
    values = np.array([1.5, -2.0])
    np.testing.assert_array_equal(noisy(values, 0.0, NoNoise()), values)
