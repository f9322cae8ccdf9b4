"""What may leave a site: these types and no others.

Each is made by the site's gate, after its cost was reserved in the site's
ledger. None holds a row, a raw value, a file name or a free text. Counts carry
noise; what is public (the site's name, the rows that its administrator stated,
the budget spent) is marked so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, ConfigDict, with_config

__all__ = [
    "PLAIN_METHOD",
    "READ_WHOLE",
    "Array",
    "Comparison",
    "DriftSummary",
    "FeatureCounts",
    "Metrics",
    "ModelUpdate",
    "Release",
    "ScoreHistogram",
    "Spent",
]


def _counts(values: object) -> npt.NDArray[np.float64]:
    counts = np.asarray(values, dtype=np.float64)
    if counts.ndim != 1:
        raise ValueError("counts are one row of numbers")
    return counts


Array = Annotated[npt.NDArray[np.float64], BeforeValidator(_counts)]
"""Counts; whoever reads a message has them checked to be one row of numbers."""

PLAIN_METHOD = "not private"
"""What stands in place of an accountant's name where no guarantee is given."""


READ_WHOLE = ConfigDict(arbitrary_types_allowed=True, extra="forbid")
"""How a message's parts are read: every field of its type, and no field that is not known."""


@with_config(READ_WHOLE)
@dataclass(frozen=True, kw_only=True)
class Spent:
    """What a data block has paid: public, for it depends on no record.

    Attributes:
        epsilon: the bound at `delta`; infinity when the run was not private.
        delta: of the approximate differential privacy statement.
        unit: `record` or `person`, under adding or removing one.
        method: the composition theorem that gives the number.
        block: the data block that has paid most.
    """

    epsilon: float
    delta: float
    unit: Literal["record", "person"]
    method: str
    block: str


@with_config(READ_WHOLE)
@dataclass(frozen=True, kw_only=True)
class ModelUpdate:
    """Model arrays after the site's noisy local steps."""

    arrays: dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Figures computed from a score histogram: post-processing, no further cost."""

    log_loss: float
    brier: float
    auc: float
    accuracy: float
    rows: float

    def as_dict(self) -> dict[str, float]:
        """By name, without those that are not a number."""
        return {name: value for name, value in vars(self).items() if math.isfinite(value)}


@with_config(READ_WHOLE)
@dataclass(frozen=True, kw_only=True)
class ScoreHistogram:
    """How many held-out rows got which score, by outcome: the evaluation release.

    A binary task counts P(positive class) by label. A task of more classes
    counts the confidence in the predicted class by whether it was right, so
    that `accuracy` and calibration hold and `auc` is that of the confidence.

    Attributes:
        negative, positive: noisy counts, one for each of the equal bins of [0, 1].
        noise_deviation: standard deviation of the noise in each count; 0 if none.
        binary: whether the scores are those of a binary task.

    Guarantee: one record adds 1 to one cell, so the L2 sensitivity is 1.
    """

    negative: Array
    positive: Array
    noise_deviation: float
    binary: bool = True

    def __post_init__(self) -> None:
        if self.negative.shape != self.positive.shape:
            raise ValueError("both outcomes have as many bins")

    def __add__(self, other: ScoreHistogram) -> ScoreHistogram:
        """Counts of the rows of both; independent noise adds in variance."""
        return ScoreHistogram(
            negative=self.negative + other.negative,
            positive=self.positive + other.positive,
            noise_deviation=math.hypot(self.noise_deviation, other.noise_deviation),
            binary=self.binary,
        )

    def metrics(self) -> Metrics:
        """Log loss, Brier score, AUC and accuracy of the counted scores.

        A row is scored at the middle of its bin. Negative noisy counts stay in
        the sums, for clipping them at zero would bias every figure; a figure is
        then put back into its own range. Where the noise in the number of rows is
        above a third of it, no figure says anything, and all are NaN.
        """
        bins = len(self.negative)
        middle = (np.arange(bins) + 0.5) / bins
        negatives, positives = float(self.negative.sum()), float(self.positive.sum())
        rows = negatives + positives
        if rows < max(1.0, 3 * self.noise_deviation * math.sqrt(2 * bins)):
            return Metrics(
                log_loss=math.nan, brier=math.nan, auc=math.nan, accuracy=math.nan, rows=max(rows, 0.0)
            )
        log_loss = -float(self.positive @ np.log(middle) + self.negative @ np.log1p(-middle)) / rows
        brier = float(self.positive @ (1 - middle) ** 2 + self.negative @ middle**2) / rows
        right = (
            float(self.positive[middle >= 0.5].sum() + self.negative[middle < 0.5].sum())
            if self.binary
            else positives
        )
        return Metrics(
            log_loss=max(0.0, log_loss),
            brier=min(1.0, max(0.0, brier)),
            auc=self._auc(negatives, positives),
            accuracy=min(1.0, max(0.0, right / rows)),
            rows=rows,
        )

    def _auc(self, negatives: float, positives: float) -> float:
        """Chance that a positive row scores above a negative one; ties count half.

        NaN where the noise in the number of either is above a third of it.
        """
        if min(negatives, positives) < max(1.0, 3 * self.noise_deviation * math.sqrt(len(self.negative))):
            return math.nan
        below = np.cumsum(self.negative) - 0.5 * self.negative
        return float(np.clip(self.positive @ below / (negatives * positives), 0.0, 1.0))


@with_config(READ_WHOLE)
@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How much better a challenger's loss is than the champion's, row by row on the same rows.

    Differences of the two losses of a row are clipped to [-1, 1] and summed. A
    paired sum needs far less noise than two histograms compared afterwards.

    Attributes:
        gain: noisy sum of (champion's loss - challenger's loss) over the rows.
        rows: noisy number of rows.
        noise_deviation: standard deviation of the noise in each of the two; 0 if none.

    Guarantee: one record moves each of the two by at most 1, so the L2 sensitivity is sqrt(2).
    """

    gain: float
    rows: float
    noise_deviation: float

    def __add__(self, other: Comparison) -> Comparison:
        """The comparison over the rows of both."""
        return Comparison(
            gain=self.gain + other.gain,
            rows=self.rows + other.rows,
            noise_deviation=math.hypot(self.noise_deviation, other.noise_deviation),
        )

    @property
    def mean_gain(self) -> float:
        """Mean gain a row; positive where the challenger is better. NaN without rows."""
        return self.gain / self.rows if self.rows >= 1 else math.nan

    @property
    def error(self) -> float:
        """Standard error of `mean_gain` that the noise alone causes."""
        return self.noise_deviation / self.rows if self.rows >= 1 else math.nan


@with_config(READ_WHOLE)
@dataclass(frozen=True, kw_only=True)
class FeatureCounts:
    """Noisy counts of one feature over its public bins, in both windows."""

    feature: str
    reference: Array
    current: Array


@with_config(READ_WHOLE)
@dataclass(frozen=True, kw_only=True)
class DriftSummary:
    """The counts of every feature, and of the label, in two windows of a site.

    Attributes:
        window: name of the current window.
        reference_window: name of the reference window.
        reference_deviation, current_deviation: standard deviation of the noise
            in each reference and each current count; 0 if none.

    Guarantee: one record adds 1 to one count of each of the d features, so the
    L2 sensitivity is sqrt(d).
    """

    window: str
    reference_window: str
    features: tuple[FeatureCounts, ...]
    reference_deviation: float
    current_deviation: float


Release = ModelUpdate | ScoreHistogram | Comparison | DriftSummary
