"""No site is more than its share of a mean or a sum, and who is below it counts as it says."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.exchange.weights import LARGEST_SHARE, row_weights, site_weights

ROWS = st.dictionaries(
    st.text(max_size=3), st.one_of(st.integers(1, 1000), st.integers(1, 10**12)), min_size=1, max_size=8
)
SHARES = st.floats(0.01, 0.99)


@given(ROWS, SHARES)
def test_no_share_is_passed_and_nobody_gains(rows: dict[str, int], largest: float) -> None:
    weights = site_weights(rows, largest)
    limit = largest if len(rows) > 2 else (1 + largest) / 2
    limit = max(limit, 1 / len(rows))
    assert max(weights.values()) <= limit * sum(weights.values()) * (1 + 1e-9)
    assert all(0 < weights[site] <= rows[site] for site in rows)


@given(ROWS, SHARES)
def test_who_passes_no_share_counts_in_full(rows: dict[str, int], largest: float) -> None:
    limit = largest if len(rows) > 2 else (1 + largest) / 2
    if max(rows.values()) <= limit * sum(rows.values()):
        assert site_weights(rows, largest) == rows
        assert set(row_weights(rows, largest).values()) == {1.0}


@given(ROWS)
def test_more_rows_never_weigh_less(rows: dict[str, int]) -> None:
    weights = site_weights(rows)
    ordered = sorted(rows, key=lambda site: rows[site])
    assert all(weights[low] <= weights[high] for low, high in itertools.pairwise(ordered))


def test_one_site_is_itself_and_two_keep_three_to_one() -> None:
    assert site_weights({"a": 7}) == {"a": 7}
    assert site_weights({"a": 10, "b": 10**12}) == {"a": 10, "b": pytest.approx(30)}
    assert site_weights({}) == {}


@pytest.mark.parametrize("rows", [-50.0, 0.0, 0.3])
def test_rows_that_noise_made_none_or_less_count_as_one(rows: float) -> None:
    weights = row_weights({"a": rows, "b": 100.0, "c": 150.0})
    assert weights["a"] == 1.0
    assert all(math.isfinite(weight) and 0 < weight <= 1 for weight in weights.values())


def test_the_share_is_that_of_the_documents() -> None:
    weights = site_weights({"a": 1, "b": 1, "c": 10**12})
    assert weights["c"] / sum(weights.values()) == pytest.approx(LARGEST_SHARE)
