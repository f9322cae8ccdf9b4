"""Detectors keep their promise on clean counts, with noise and without, and see real shifts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from contract.releases import Array
from monitoring.detectors import (
    Stratum,
    draws_for,
    holm,
    holm_adjusted,
    homogeneity,
    noisy_homogeneity,
    total_variation,
)

SHAPES = {
    "uniform": np.full(11, 1 / 11),
    "falling": 0.6 ** np.arange(11) / (0.6 ** np.arange(11)).sum(),
    "rare": np.array([0.97, 0.02, 0.005, 0.003, 0.001, 0.001, 0, 0, 0, 0, 0]),
    "two": np.array([0.8, 0.2, 0.0]),
}
FEATURES = ["uniform"] * 4 + ["falling"] * 2 + ["rare"] * 2 + ["two"] * 2


def window(rng: np.random.Generator, rows: int, shape: Array, deviation: float) -> Array:
    return rng.multinomial(rows, shape) + rng.normal(0, deviation, len(shape))


def most_rejections(checks: int, rate: float) -> int:
    """As many as a test that keeps the rate passes in 999 of 1,000 runs."""
    return int(stats.binom.ppf(0.999, checks, rate))


@pytest.mark.parametrize(
    ("before", "after", "deviation"),
    [
        (200, 200, 0.0),
        (200, 200, 5.0),
        (200, 200, 20.0),
        (1000, 1000, 5.0),
        (1000, 1000, 20.0),
        (3000, 200, 20.0),
    ],
)
def test_the_false_alarm_rate_over_ten_features_is_kept(before: int, after: int, deviation: float) -> None:
    rng = np.random.default_rng([before, after, int(deviation)])
    checks, level, alarms = 50, 0.05, 0
    for _ in range(checks):
        p_values = {
            f"{shape}{number}": noisy_homogeneity(
                window(rng, before, SHAPES[shape], deviation),
                window(rng, after, SHAPES[shape], deviation),
                reference_deviation=deviation,
                current_deviation=deviation,
                rng=rng,
                draws=4000,
            )
            for number, shape in enumerate(FEATURES)
        }
        alarms += bool(holm(p_values, level))
    assert alarms <= most_rejections(checks, level)


@pytest.mark.parametrize("shape", list(SHAPES))
def test_p_values_on_clean_noisy_counts_are_not_too_small(shape: str) -> None:
    rng = np.random.default_rng(len(shape))
    p_values = np.array(
        [
            noisy_homogeneity(
                window(rng, 300, SHAPES[shape], 10),
                window(rng, 200, SHAPES[shape], 20),
                reference_deviation=10,
                current_deviation=20,
                rng=rng,
                draws=2000,
            )
            for _ in range(300)
        ]
    )
    for level in (0.01, 0.05, 0.2):
        assert (p_values <= level).sum() <= most_rejections(300, level)


def test_a_null_that_leaves_the_noise_out_would_be_caught_by_these_tests() -> None:
    rng = np.random.default_rng(5)
    alarms = 0
    for _ in range(100):
        noisy = [np.rint(np.maximum(window(rng, 200, SHAPES["uniform"], 10), 0)) for _ in range(2)]
        p_value = noisy_homogeneity(*noisy, reference_deviation=0, current_deviation=0, rng=rng, draws=2000)
        alarms += p_value <= 0.05
    assert alarms > 2 * most_rejections(100, 0.05)


def test_without_noise_it_is_pearsons_test() -> None:
    rng = np.random.default_rng(2)
    table = np.array([[520.0, 300, 180], [470, 310, 220]])
    p_value = noisy_homogeneity(*table, reference_deviation=0, current_deviation=0, rng=rng, draws=40_000)
    expected = stats.chi2_contingency(table, correction=False).pvalue
    assert p_value == pytest.approx(expected, rel=0.15)


def test_without_noise_small_counts_are_exact() -> None:
    """All of 4 rows change cell: the most extreme of C(8, 4) = 70 deals, in either direction."""
    rng = np.random.default_rng(3)
    p_value = noisy_homogeneity(
        np.array([4.0, 0, 0]),
        np.array([0.0, 4, 0]),
        reference_deviation=0,
        current_deviation=0,
        rng=rng,
        draws=50_000,
    )
    assert p_value == pytest.approx(2 / 70, rel=0.3)


@pytest.mark.parametrize(("deviation", "shift"), [(0.0, 0.4), (5.0, 0.4), (20.0, 1.0)])
def test_a_real_shift_is_found(deviation: float, shift: float) -> None:
    """Ten bins of a normal feature that moves by a part of its standard deviation, 1,000 rows."""
    rng = np.random.default_rng(7)
    edges = np.linspace(-3, 3, 11)
    edges[0], edges[-1] = -np.inf, np.inf
    clean, shifted = np.diff(stats.norm.cdf(edges)), np.diff(stats.norm.cdf(edges - shift))
    found = sum(
        noisy_homogeneity(
            window(rng, 1000, clean, deviation),
            window(rng, 1000, shifted, deviation),
            reference_deviation=deviation,
            current_deviation=deviation,
            rng=rng,
        )
        <= 0.001
        for _ in range(20)
    )
    assert found >= 18


def test_counts_of_nothing_raise_no_alarm() -> None:
    rng = np.random.default_rng(1)
    nothing, rows = np.zeros(4), np.array([10.0, 20, 30, 40])
    for reference, current in ((nothing, nothing), (rows, nothing), (nothing, rows)):
        assert noisy_homogeneity(reference, current, reference_deviation=0, current_deviation=0, rng=rng) == 1


def test_an_empty_window_under_noise_raises_no_more_alarms_than_promised() -> None:
    rng = np.random.default_rng(4)
    p_values = [
        noisy_homogeneity(
            window(rng, 500, SHAPES["falling"], 10),
            rng.normal(0, 10, 11),
            reference_deviation=10,
            current_deviation=10,
            rng=rng,
            draws=2000,
        )
        for _ in range(200)
    ]
    assert sum(p_value <= 0.05 for p_value in p_values) <= most_rejections(200, 0.05)


def two_unlike_sites(rng: np.random.Generator, shares: tuple[int, int]) -> tuple[Stratum, ...]:
    """Two sites without drift; the first sends `shares[0]` rows now, the second `shares[1]`."""
    mixes = np.array([0.9, 0.05, 0.05]), np.array([0.1, 0.45, 0.45])
    return tuple(
        Stratum(
            reference=window(rng, 500, mix, 4),
            current=window(rng, rows, mix, 4),
            reference_deviation=4,
            current_deviation=4,
        )
        for mix, rows in zip(mixes, shares, strict=True)
    )


def test_sites_that_send_more_or_fewer_rows_than_before_are_no_drift() -> None:
    rng = np.random.default_rng(8)
    unlike = [two_unlike_sites(rng, (200, 800)) for _ in range(100)]
    alarms = sum(homogeneity(strata, rng=rng, draws=2000) <= 0.05 for strata in unlike)
    assert alarms <= most_rejections(100, 0.05)
    mixed_up = noisy_homogeneity(
        np.sum([stratum.reference for stratum in unlike[0]], axis=0),
        np.sum([stratum.current for stratum in unlike[0]], axis=0),
        reference_deviation=4 * np.sqrt(2),
        current_deviation=4 * np.sqrt(2),
        rng=rng,
    )
    assert mixed_up < 0.001


def test_a_small_shift_everywhere_shows_in_the_pool_and_at_hardly_any_site() -> None:
    rng = np.random.default_rng(9)
    before, after = np.array([0.5, 0.5]), np.array([0.46, 0.54])
    strata = tuple(
        Stratum(
            reference=window(rng, 1000, before, 5),
            current=window(rng, 1000, after, 5),
            reference_deviation=5,
            current_deviation=5,
        )
        for _ in range(10)
    )
    alone = [homogeneity((stratum,), rng=rng) for stratum in strata]
    assert homogeneity(strata, rng=rng) < 0.001
    assert sum(p_value < 0.001 for p_value in alone) <= 2


def test_the_same_generator_gives_the_same_p_value() -> None:
    stratum = (Stratum(reference=np.array([50.0, 40]), current=np.array([40.0, 50]), current_deviation=3),)
    first, second = (homogeneity(stratum, rng=np.random.default_rng(6)) for _ in range(2))
    assert first == second


def test_the_distance_is_the_share_of_rows_that_moved() -> None:
    rng = np.random.default_rng(10)
    moved = Stratum(
        reference=window(rng, 5000, np.array([0.6, 0.4, 0]), 10),
        current=window(rng, 5000, np.array([0.4, 0.4, 0.2]), 10),
        reference_deviation=10,
        current_deviation=10,
    )
    assert total_variation((moved,)) == pytest.approx(0.2, abs=0.03)
    assert total_variation((Stratum(reference=np.array([9.0, 0]), current=np.array([0.0, 0])),)) == 0


def test_the_distance_of_clean_noisy_counts_is_near_nothing() -> None:
    rng = np.random.default_rng(11)
    distances = [
        total_variation(
            (
                Stratum(
                    reference=window(rng, 1000, SHAPES["uniform"], 20),
                    current=window(rng, 1000, SHAPES["uniform"], 20),
                    reference_deviation=20,
                    current_deviation=20,
                ),
            )
        )
        for _ in range(100)
    ]
    assert np.mean(distances) < 0.05


def test_holm_on_values_worked_by_hand() -> None:
    """.01 x 4, then .013 x 3, are at most .05; .03 x 2 is not, so .04 does not count either."""
    p_values = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.013}
    assert holm(p_values, 0.05) == {"a", "d"}
    assert holm_adjusted(p_values) == pytest.approx({"a": 0.04, "b": 0.06, "c": 0.06, "d": 0.039 + 0.001})
    assert holm({}, 0.05) == frozenset()


@pytest.mark.parametrize(("level", "tests"), [(0.01, 10), (0.001, 50)])
def test_draws_suffice_for_an_alarm(level: float, tests: int) -> None:
    smallest = {str(number): 1 / (draws_for(level, tests) + 1) for number in range(tests)}
    assert len(holm(smallest, level)) == tests
