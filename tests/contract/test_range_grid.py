"""The public grid: every number has one cell, which holds it, and its edges are numbers a person writes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.range_grid import CELL_HIGHS, CELL_LOWS, CELLS, LARGEST, MISSING_CELL, cells_of


def cell(value: float) -> int:
    return int(cells_of(np.array([value]))[0])


@given(st.floats(allow_nan=False))
def test_every_number_lies_in_its_cell(value: float) -> None:
    place = cell(value)
    assert 0 <= place < MISSING_CELL
    assert CELL_LOWS[place] <= value <= CELL_HIGHS[place]


@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_cells_are_in_the_order_of_the_numbers(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert cell(low) <= cell(high)
    assert cell(-high) == MISSING_CELL - 1 - cell(high)


def test_cells_join_without_a_gap() -> None:
    assert CELLS == MISSING_CELL + 1 == len(CELL_LOWS) + 1 == len(CELL_HIGHS) + 1
    assert CELL_HIGHS[:-1].tolist() == CELL_LOWS[1:].tolist()
    assert (CELL_LOWS[0], CELL_HIGHS[-1]) == (-math.inf, math.inf)
    assert (CELL_HIGHS[0], CELL_LOWS[-1]) == (-LARGEST, LARGEST)


@pytest.mark.parametrize("edge", [1e-6, 0.001, 0.315, 1.0, 1.25, 80.0, 1e12])
def test_a_value_on_an_edge_needs_no_wider_range(edge: float) -> None:
    assert CELL_HIGHS[cell(edge)] == edge
    assert CELL_LOWS[cell(-edge)] == -edge


def test_what_is_no_number_and_zero_have_cells_of_their_own() -> None:
    assert cell(math.nan) == MISSING_CELL
    assert cell(0.0) == cell(-0.0)
    assert (CELL_LOWS[cell(0.0)], CELL_HIGHS[cell(0.0)]) == (0.0, 0.0)
    assert cell(math.inf) == MISSING_CELL - 1
    assert cell(-math.inf) == 0
