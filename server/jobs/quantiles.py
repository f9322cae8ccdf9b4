"""Between which values all but a small share of the rows lie, told from noisy counts.

Counts of all sites over the public grid (`contract.range_grid`) are added. Of the 365 cells of a
feature's values most are empty and hold noise alone, so that the sum over a whole tail says little.
Hence, for each feature:

1. *Where the rows are.* A cell holds rows where its count is above t standard deviations of the
   noise, and so do 2, 4 or 8 neighbouring cells where their sum is above t deviations of the sum's
   noise. t is such that noise alone passes with a chance of .1 % over all features and runs of cells.
   What lies between the first and the last of these cells is looked at, and eight cells on either
   side (a factor of 6.3), where a tail thins out below what can be seen; what lies beyond counts as
   empty. (Google's library of differential privacy finds bounds so; Wilson et al., 2020.)
2. *The range.* From each end inwards until `share` of the rows with a value are passed: the outer
   edge of that cell. Without noise this is the quantile, rounded outward.
3. *How sure it is.* The edges at which that point is reached if the noise in the sum was two
   standard deviations one way, or the other.
4. *When it means nothing.* Rows that are too few for step 1 are not seen. A range is told only where
   a tail of `share` of the rows would be seen though it lay over four neighbouring cells
   (`least_share`).

All of it is post-processing of what the sites released, and costs nothing more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from contract.range_grid import CELL_HIGHS, CELL_LOWS, CELLS, LARGEST, MISSING_CELL
from contract.releases import Array, RangeSummary

__all__ = ["PooledCounts", "RangeEstimate", "estimate_range", "least_share", "pool"]

_RUNS = (1, 2, 4, 8)
"""Lengths of the runs of cells that are looked at."""
_FALSE_ALARM = 0.001
_TAIL_CELLS = 4
"""Over how many cells a tail may lie: 2.5 fold between its ends."""
_BESIDE = 8
"""How many cells are looked at beside those that hold rows for sure. Their noise together is below a third of
the least share."""
_SURE = 2.0

Edges = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class PooledCounts:
    """Counts of all sites together, of each feature over all cells of the grid.

    Attributes:
        counts: shape (CELLS,) each, by feature.
        noise_deviation: standard deviation of the noise in each count; 0 if none.
    """

    counts: Mapping[str, Array]
    noise_deviation: float

    @property
    def rows(self) -> float:
        """Estimated number of rows. Every feature counts every row, so their noise is averaged."""
        return float(np.mean([counts.sum() for counts in self.counts.values()]))

    @property
    def rows_error(self) -> float:
        """Standard error of `rows` that the noise causes."""
        return self.noise_deviation * math.sqrt(CELLS / len(self.counts))


@dataclass(frozen=True, kw_only=True)
class RangeEstimate:
    """What the counts tell of one feature.

    Attributes:
        feature: the column.
        low, high: the range, rounded outward to edges of the grid; None where none can be told.
        low_between, high_between: each end's error bar, two standard errors of the noise either way.
        missing_share: of all rows; `missing_error` is its standard error.
        least_share: the least share of rows at which a range can be told with this noise.
        reason: why there is no range, as a clause; empty where there is one.
    """

    feature: str
    low: float | None = None
    high: float | None = None
    low_between: Edges | None = None
    high_between: Edges | None = None
    missing_share: float
    missing_error: float
    least_share: float
    reason: str = ""


def pool(summaries: Iterable[RangeSummary], weights: Sequence[float] | None = None) -> PooledCounts:
    """Add the counts of all sites; independent noise adds in variance.

    Args:
        summaries: one a site, of the same features.
        weights: for how much a row of each counts; 1 each without.
    """
    summaries = list(summaries)
    weights = [1.0] * len(summaries) if weights is None else weights
    total: dict[str, Array] = {}
    for summary, weight in zip(summaries, weights, strict=True):
        for feature in summary.features:
            total[feature.feature] = total.get(feature.feature, 0.0) + weight * feature.counts
    deviations = (
        weight * summary.noise_deviation for summary, weight in zip(summaries, weights, strict=True)
    )
    return PooledCounts(counts=total, noise_deviation=math.hypot(*deviations))


def least_share(*, rows: float, noise_deviation: float, features: int) -> float:
    """The least share of `rows` at which a range can be told, where so many features are asked for.

    The threshold of step 1 for a run of four cells; 1 or more where nothing can be told.
    """
    if noise_deviation == 0:
        return 0.0
    seen = _threshold(features) * noise_deviation * math.sqrt(_TAIL_CELLS)
    return seen / rows if rows > 0 else math.inf


def estimate_range(pooled: PooledCounts, feature: str, share: float) -> RangeEstimate:
    """The range of one feature.

    Args:
        pooled: the counts of every feature that was asked for.
        feature: one of them.
        share: of the rows with a value, how many may lie below the range, and above it; below one half.
    """
    counts, deviation = pooled.counts[feature], pooled.noise_deviation
    rows = max(pooled.rows, 1.0)
    missing = float(np.clip(counts[MISSING_CELL] / rows, 0.0, 1.0))
    missing_error = math.hypot(deviation, missing * pooled.rows_error) / rows
    values = counts[:MISSING_CELL]
    place = _where_rows_are(values, _threshold(len(pooled.counts)) * deviation)
    seen = 0.0 if place is None else float(values[place].sum())
    least = least_share(rows=seen, noise_deviation=deviation, features=len(pooled.counts))
    if place is None or least > share:
        reason = "the noise hides every value" if least >= 0.5 else f"the noise hides tails below {least:.1%}"
        return RangeEstimate(
            feature=feature,
            missing_share=missing,
            missing_error=missing_error,
            least_share=least,
            reason=reason,
        )
    inside, passed = values[place], share * seen
    low = _cells_at(inside, passed, deviation) + place.start
    high = place.stop - 1 - _cells_at(inside[::-1], passed, deviation)
    reason = _why_not(float(CELL_LOWS[low[1]]), float(CELL_HIGHS[high[1]]))
    return RangeEstimate(
        feature=feature,
        low=None if reason else float(CELL_LOWS[low[1]]),
        high=None if reason else float(CELL_HIGHS[high[1]]),
        low_between=(float(CELL_LOWS[low[0]]), float(CELL_LOWS[low[2]])),
        high_between=(float(CELL_HIGHS[high[2]]), float(CELL_HIGHS[high[0]])),
        missing_share=missing,
        missing_error=missing_error,
        least_share=least,
        reason=reason,
    )


def _why_not(low: float, high: float) -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"too many values lie beyond the grid's end at ±{LARGEST:g}"
    return f"nearly every value is {low:g}" if low == high else ""


def _threshold(features: int) -> float:
    """How many deviations noise alone passes in some run of some feature with a chance of .1 %."""
    runs = features * sum(MISSING_CELL + 1 - length for length in _RUNS)
    return NormalDist().inv_cdf(1 - _FALSE_ALARM / runs)


def _where_rows_are(values: Array, threshold: float) -> slice | None:
    """The cells from the first to the last that hold rows for sure, alone or in a run, and some beside.

    Args:
        values: the count of each cell.
        threshold: for a single cell.
    """
    first, stop = len(values), 0
    summed = np.concatenate([[0.0], np.cumsum(values)])
    for length in _RUNS:
        sums = summed[length:] - summed[:-length]
        starts = np.arange(len(sums))
        while True:
            outside = (starts + length <= first) | (starts >= stop)
            found = np.flatnonzero(outside & (sums > threshold * math.sqrt(length)))
            if not found.size:
                break
            # the fullest first: a run that only touches one is a worse place for its rows
            best = int(found[sums[found].argmax()])
            first, stop = min(first, best), max(stop, best + length)
    if first >= stop:
        return None
    return slice(max(0, first - _BESIDE), min(len(values), stop + _BESIDE))


def _cells_at(inside: Sequence[float] | Array, passed: float, deviation: float) -> npt.NDArray[np.intp]:
    """The cells at which `passed` rows are reached from the left: early, as counted, and late."""
    noise = _SURE * deviation * np.sqrt(np.arange(1, len(inside) + 1))
    reached = np.cumsum(inside)
    return np.array([_first(reached + shift >= passed) for shift in (noise, 0 * noise, -noise)])


def _first(reached: npt.NDArray[np.bool_]) -> int:
    return int(reached.argmax()) if reached.any() else len(reached) - 1
