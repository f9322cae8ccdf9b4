"""The public grid over which values of unknown range are counted.

Nothing about it comes from data, so it costs no privacy and counts of two sites
may be added. Its edges are 0 and plus and minus Renard's preferred numbers, ten
a decade (R10 of ISO 3: 1, 1.25, 1.6, 2, 2.5, 3.15, 4, 5, 6.3, 8), from 1e-6 to
1e12: a number that a person would write down, never more than 28 % from a value.

A cell holds its end that is farther from 0, and not the nearer one: (1, 1.25],
[-1.25, -1). So a range that is rounded outward to an edge holds a value that
lies on the edge, and a column of zeros and ones has the range 0 to 1. The value
0 has a cell of its own; there is one below -1e12, one above 1e12, and last one
for what is missing or not a number.

>>> [(float(CELL_LOWS[cell]), float(CELL_HIGHS[cell])) for cell in cells_of(np.array([0.0, 1.0, 7.0, -0.3]))]
[(0.0, 0.0), (0.8, 1.0), (6.3, 8.0), (-0.315, -0.25)]
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from contract.experiment_file import LARGEST

__all__ = ["CELLS", "CELL_HIGHS", "CELL_LOWS", "LARGEST", "MISSING_CELL", "cells_of"]

_PREFERRED = ("1", "1.25", "1.6", "2", "2.5", "3.15", "4", "5", "6.3", "8")
_LARGEST_POWER = round(math.log10(LARGEST))
_MAGNITUDES = np.array(
    [float(f"{digits}e{power}") for power in range(-6, _LARGEST_POWER) for digits in _PREFERRED] + [LARGEST]
)
_ZERO_CELL = len(_MAGNITUDES) + 1
MISSING_CELL = 2 * _ZERO_CELL + 1
"""The cell of what is missing or not a number; the last one."""
CELLS = MISSING_CELL + 1
"""How many counts there are of one feature."""

_OUTER = np.append(_MAGNITUDES, np.inf)
_INNER = np.insert(_MAGNITUDES, 0, 0.0)
CELL_LOWS = np.concatenate([-_OUTER[::-1], [0.0], _INNER])
"""The lower edge of each cell but that of the missing; minus infinity of the first."""
CELL_HIGHS = np.concatenate([-_INNER[::-1], [0.0], _OUTER]) + 0.0
"""The upper edge of each cell but that of the missing; infinity of the last."""


def cells_of(values: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """The cell of each value, NaN among the missing: a function of that value alone."""
    steps = np.searchsorted(_MAGNITUDES, np.abs(values), side="left") + 1
    cells = _ZERO_CELL + np.where(values > 0, steps, np.where(values < 0, -steps, 0))
    return np.where(np.isnan(values), MISSING_CELL, cells).astype(np.intp)
