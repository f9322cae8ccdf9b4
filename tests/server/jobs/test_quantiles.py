"""Ranges from pooled counts: numpy's quantiles without noise, near them with noise, none in noise alone."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.range_grid import CELL_HIGHS, CELL_LOWS, CELLS, cells_of
from contract.releases import RangeCounts, RangeSummary
from server.jobs.quantiles import RangeEstimate, estimate_range, least_share, pool

Values = npt.NDArray[np.float64]


def counted(values: Values) -> Values:
    return np.bincount(cells_of(values), minlength=CELLS).astype(np.float64)


def summary(
    values: Mapping[str, Values], deviation: float = 0.0, rng: np.random.Generator | None = None
) -> RangeSummary:
    noise = (lambda: 0.0) if rng is None else (lambda: rng.normal(0, deviation, CELLS))
    return RangeSummary(
        features=tuple(
            RangeCounts(feature=name, counts=counted(column) + noise()) for name, column in values.items()
        ),
        noise_deviation=deviation,
    )


def told(
    values: Values, share: float = 0.01, deviation: float = 0.0, seed: int | None = None
) -> RangeEstimate:
    rng = None if seed is None else np.random.default_rng(seed)
    return estimate_range(pool([summary({"x": values}, deviation, rng)]), "x", share)


def skewed(rows: int, seed: int = 0) -> Values:
    """Laboratory values as they are: right-skewed over three decades."""
    return np.random.default_rng(seed).lognormal(2.0, 1.0, rows)


DATA = {
    "skewed": skewed(10_000),
    "symmetric": np.random.default_rng(1).normal(0, 50, 10_000),
    "flag": np.repeat([0.0, 1.0], [4000, 6000]),
    "whole": np.random.default_rng(2).integers(1, 90, 3000).astype(float),
    "far": -np.random.default_rng(3).pareto(1.5, 5000) * 1e6,
}


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.3])
def test_without_noise_they_are_numpys_quantiles_rounded_outward(name: str, share: float) -> None:
    values, found = DATA[name], told(DATA[name], share)
    low = np.quantile(values, share, method="inverted_cdf")
    high = -np.quantile(-values, share, method="inverted_cdf")
    assert found.low == CELL_LOWS[cells_of(np.array([low]))[0]]
    assert found.high == CELL_HIGHS[cells_of(np.array([high]))[0]]
    assert found.low_between == (found.low, found.low)
    assert found.high_between == (found.high, found.high)
    assert np.mean(values < found.low) <= share
    assert np.mean(values > found.high) <= share


@given(st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=30), st.floats(0.001, 0.49))
def test_no_more_than_the_share_lies_beyond(values: list[float], share: float) -> None:
    column = np.array(values)
    found = told(column, share)
    if found.low is None or found.high is None:
        assert found.reason.startswith("nearly every value is 0")
    else:
        assert found.low < found.high
        assert np.mean(column < found.low) < share
        assert np.mean(column > found.high) < share


def test_sites_are_added_and_their_noise_in_variance() -> None:
    parts = np.array_split(DATA["skewed"], 3)
    pooled = pool(
        [summary({"x": part}, deviation) for part, deviation in zip(parts, (3, 4, 12), strict=True)]
    )
    assert pooled.counts["x"].tolist() == counted(DATA["skewed"]).tolist()
    assert pooled.noise_deviation == pytest.approx(13)
    assert pooled.rows == 10_000


def test_missing_values_have_their_share_and_do_not_move_the_range() -> None:
    values = DATA["skewed"]
    found = told(np.concatenate([values, np.full(2500, math.nan)]))
    assert (found.low, found.high) == (told(values).low, told(values).high)
    assert found.missing_share == pytest.approx(0.2)
    shares = []
    for seed in range(200):
        noisy = told(np.concatenate([values, np.full(2500, math.nan)]), deviation=20.0, seed=seed)
        shares.append((noisy.missing_share - 0.2) / noisy.missing_error)
    assert np.std(shares) == pytest.approx(1.0, abs=0.2)  # the stated error is the true one


def test_a_quantile_of_skewed_data_is_near_under_noise() -> None:
    """Noise with which 50,000 rows bear .39 %: a step or two of the grid at most, and never a wild one."""
    values = skewed(50_000)
    exact, steps = told(values), []
    assert least_share(rows=50_000, noise_deviation=20.0, features=1) == pytest.approx(0.0039, rel=0.03)
    for seed in range(100):
        found = told(values, deviation=20.0, seed=seed)
        assert found.low is not None
        assert found.high is not None
        steps.append((np.searchsorted(CELL_LOWS, [found.low]) - np.searchsorted(CELL_LOWS, [exact.low]))[0])
        assert np.mean(values < found.low) < 0.015
        assert np.mean(values > found.high) < 0.015
        assert found.low_between is not None
        assert found.low_between[0] <= found.low <= found.low_between[1]
    assert np.abs(steps).max() <= 2
    assert np.mean(np.abs(steps)) < 0.5


def test_error_bars_hold_what_would_be_told_without_noise() -> None:
    values, held = skewed(50_000, seed=5), 0
    exact = told(values, share=0.05)
    for seed in range(100):
        found = told(values, share=0.05, deviation=220.0, seed=seed)
        assert found.low_between is not None
        assert found.high_between is not None
        held += found.low_between[0] <= float(exact.low or 0) <= found.low_between[1]
        held += found.high_between[0] <= float(exact.high or 0) <= found.high_between[1]
    assert held >= 190  # of 200: two standard errors


def test_noise_alone_gives_no_range() -> None:
    nothing = {name: np.array([]) for name in "abcd"}
    reasons = []
    for seed in range(100):
        pooled = pool([summary(nothing, 10.0, np.random.default_rng(seed))])
        reasons += [estimate_range(pooled, name, 0.49).reason for name in nothing]
    assert sum(not reason for reason in reasons) <= 2  # .1 expected: .1 % of 100 answers
    assert "hides" in reasons[0]


def test_a_share_that_the_noise_hides_is_refused_with_the_least_that_it_would_show() -> None:
    values = skewed(1000)
    found = told(values, share=0.01, deviation=10.0, seed=1)
    assert (found.low, found.high, found.low_between) == (None, None, None)
    assert 0.05 < found.least_share < 0.15
    assert found.reason == f"the noise hides tails below {found.least_share:.1%}"
    assert told(values, share=1.2 * found.least_share, deviation=10.0, seed=1).reason == ""
    assert told(values[:20], deviation=10.0, seed=1).reason == "the noise hides every value"


def test_a_column_that_has_no_range_says_why() -> None:
    assert told(np.zeros(1000)).reason == "nearly every value is 0"
    assert "beyond the grid" in told(np.full(100, 2e12)).reason
    assert "beyond the grid" in told(np.array([-math.inf] * 50 + [1.0] * 50)).reason
    assert told(np.full(100, 7.0)).low == 6.3
