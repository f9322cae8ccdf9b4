"""What may leave a site: these types and no others.

Each is made by the site's gate, after its cost was reserved in the site's
ledger. None holds a row, a raw value, a file name or a free text. Counts carry
noise; what is public (the site's name, the rows that its administrator stated,
the budget spent) is marked so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, ConfigDict, with_config

from contract.range_grid import CELLS

__all__ = [
    "COMPARISON_SENSITIVITY",
    "LOG_LOSS_SPAN",
    "MOST_VALUES",
    "PLAIN_METHOD",
    "READ_WHOLE",
    "ROWS_WEIGHT",
    "SCORES_WEIGHT",
    "SCORE_BINS",
    "SQUARES_WEIGHT",
    "Array",
    "CalibrationBin",
    "Comparison",
    "DriftSummary",
    "FeatureCounts",
    "MetricErrors",
    "Metrics",
    "ModelUpdate",
    "RangeCounts",
    "RangeSummary",
    "ReferenceCounts",
    "Release",
    "ScoreHistogram",
    "Spent",
    "score_cell",
    "score_middle",
]


def _counts(values: object) -> npt.NDArray[np.float64]:
    if isinstance(values, list) and not all(type(value) in (int, float) for value in values):
        raise ValueError("counts are numbers")
    try:
        counts = np.asarray(values, dtype=np.float64)
    except OverflowError as exc:
        raise ValueError("counts are numbers, and not of hundreds of digits") from exc
    if counts.ndim != 1:
        raise ValueError("counts are one row of numbers")
    return counts


Array = Annotated[npt.NDArray[np.float64], BeforeValidator(_counts)]
"""Counts; whoever reads a message has them checked to be one row of numbers."""

PLAIN_METHOD = "not private"
"""What stands in place of an accountant's name where no guarantee is given."""

SCORE_BINS = 20
"""Bins of a score histogram: with 20, log loss is off by less than .002 on the shipped tasks."""

LOG_LOSS_SPAN = math.log(2 * SCORE_BINS - 1)
"""How far the log losses of two rows may lie apart, each scored at the middle of its bin."""

_ROUNDING = 1e-9
"""By so much sums of floats may be off."""

SCORES_WEIGHT = 0.5
SQUARES_WEIGHT = ROWS_WEIGHT = math.trunc(0.3 * 2**20) / 2**20
"""What the two evaluations, the squares and the number of rows of a comparison count before noise is added,
on the grid of every noise. The gain decides, and has the least noise: evaluations are there to be read beside
it, the squares make its error, and the number of rows only scales the result."""
COMPARISON_SENSITIVITY = math.sqrt(2 * SCORES_WEIGHT**2 + 1 + SQUARES_WEIGHT**2 + ROWS_WEIGHT**2)
"""L2, of a comparison's weighed numbers together: one record moves each of two evaluations, the gain, the sum
of its squares and the number of rows by 1 at most, each times its weight."""


def score_cell(score: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """The bin of each score in [0, 1]."""
    return np.asarray(np.clip((score * SCORE_BINS).astype(np.int64), 0, SCORE_BINS - 1))


def score_middle(cell: npt.NDArray[np.int64], bins: int = SCORE_BINS) -> npt.NDArray[np.float64]:
    """The middle of each bin: what a row in it counts as."""
    return np.asarray((cell + 0.5) / bins)


MOST_VALUES = 250_000_000
"""No release holds more numbers: 1 GB of float32."""

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
        guaranteed: the ε that no block will ever pass at `guaranteed_delta`, whatever is asked of the
            site, in whatever order: the site's cap. Infinity where nothing is guaranteed, and where
            `epsilon` is above a cap that was lowered since: which cap bounded it, nobody kept.
        guaranteed_delta: the cap's δ.

    Runs are chosen from what earlier ones released, so `epsilon` is what was *counted so far*; a privacy
    filter bounds what it may come to, and guarantees that bound (Rogers et al., 2016).
    """

    epsilon: float
    delta: float
    unit: Literal["record", "person"]
    method: str
    block: str
    guaranteed: float = math.inf
    guaranteed_delta: float = 1.0


@with_config(READ_WHOLE)
@dataclass(frozen=True, kw_only=True)
class ModelUpdate:
    """Model arrays after the site's noisy local steps.

    Attributes:
        arrays: the parameters, in float32; if quantized the levels of their differences, in int8.
        steps: of a quantized update (`contract.quantization`) what a level is worth, block by block, in
            float32; none otherwise.
    """

    arrays: dict[str, npt.NDArray[Any]]
    steps: dict[str, npt.NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class MetricErrors:
    """Standard errors of the figures of a score histogram: of its noise and of its rows together."""

    log_loss: float
    brier: float
    auc: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Figures computed from a score histogram: post-processing, no further cost.

    `errors` is None where they were computed from the rows themselves.
    """

    log_loss: float
    brier: float
    auc: float
    accuracy: float
    rows: float
    errors: MetricErrors | None = None

    def as_dict(self) -> dict[str, float]:
        """By name, errors as `<name>_error`, without those that are not a number."""
        named = {name: value for name, value in vars(self).items() if name != "errors"}
        if self.errors is not None:
            named |= {f"{name}_error": value for name, value in vars(self.errors).items()}
        return {name: value for name, value in named.items() if math.isfinite(value)}


@with_config(READ_WHOLE)
@dataclass(frozen=True, kw_only=True)
class CalibrationBin:
    """Rows that were scored alike, and how many of them had the outcome.

    Attributes:
        predicted: the middle of the bin: the chance of the positive class, or the confidence.
        share: that had it, or were right.
        error: the standard error of `share`.
        rows: about how many there are.
    """

    predicted: float
    share: float
    error: float
    rows: float


@dataclass(frozen=True, kw_only=True)
class ScoreHistogram:
    """How many held-out rows got which score, by outcome: the evaluation release.

    A binary task counts P(positive class) by label. A task of more classes
    counts the confidence in the predicted class by whether it was right, so
    that `accuracy` and calibration hold and `auc` is that of the confidence.

    Attributes:
        negative, positive: noisy counts, one for each of the `SCORE_BINS` equal bins of [0, 1].
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

    @property
    def rows(self) -> float:
        """Estimated number of rows."""
        return float(self.negative.sum() + self.positive.sum())

    def times(self, weight: float) -> ScoreHistogram:
        """The counts when each row counts for so much; and the noise in them."""
        return ScoreHistogram(
            negative=weight * self.negative,
            positive=weight * self.positive,
            noise_deviation=weight * self.noise_deviation,
            binary=self.binary,
        )

    def metrics(self) -> Metrics:
        """Log loss, Brier score, AUC and accuracy of the counted scores, with their standard errors.

        A row is scored at the middle of its bin. Negative noisy counts stay in
        the sums, for clipping them at zero would bias every figure. A figure is NaN
        where `reasons` has it.
        """
        found = self._figures()
        reasons = self._reasons(found)
        values = {name: math.nan if name in reasons else value for name, (value, _) in found.items()}
        errors = {name: math.nan if name in reasons else error for name, (_, error) in found.items()}
        return Metrics(**values, rows=max(self.rows, 0.0), errors=MetricErrors(**errors))

    def reasons(self) -> dict[str, str]:
        """Why a figure is not measurable, in words, by its name.

        None is where the noise in the number of rows is above a third of it; the AUC is not where that in
        the number of either outcome is. Nor is one that noise has put where no rows could.
        """
        return self._reasons(self._figures())

    def _reasons(self, figures: Mapping[str, tuple[float, float]]) -> dict[str, str]:
        found = {}
        for name, (value, _) in figures.items():
            few = self._too_few(name)
            if few:
                found[name] = few
            elif value < -_ROUNDING or (name != "log_loss" and value > 1 + _ROUNDING):
                found[name] = f"noise puts it at {value:.2f}, which no rows can have"
        return found

    def _too_few(self, name: str) -> str:
        """What of the rows noise hides, or is missing; nothing where there is enough for the figure."""
        cells = len(self.negative)
        if self.rows < max(1.0, 3 * self.noise_deviation * math.sqrt(2 * cells)):
            return "noise hides how many rows there are" if self.noise_deviation else "there is no row"
        fewer = min(float(self.negative.sum()), float(self.positive.sum()))
        if name == "auc" and fewer < max(1.0, 3 * self.noise_deviation * math.sqrt(cells)):
            if self.noise_deviation:
                return "noise hides how many rows one of the outcomes has"
            return "one of the outcomes has no row"
        return ""

    def _figures(self) -> dict[str, tuple[float, float]]:
        """Each figure with its error, whatever they are worth; NaN where it cannot be computed."""
        if self.rows <= 0:
            return dict.fromkeys(("log_loss", "brier", "auc", "accuracy"), (math.nan, math.nan))
        bins = len(self.negative)
        middle = score_middle(np.arange(bins), bins)
        right = (middle >= 0.5).astype(np.float64) if self.binary else np.ones(bins)
        return {
            "log_loss": self._mean(-np.log1p(-middle), -np.log(middle)),
            "brier": self._mean(middle**2, (1 - middle) ** 2),
            "auc": self._auc(),
            "accuracy": self._mean(1.0 - right, right),
        }

    def calibration(self) -> tuple[CalibrationBin, ...]:
        """What share of the rows that were scored alike had the outcome; of bins that noise does not hide.

        The error of a share is of its noise and of its rows, as that of a figure is.
        """
        bins, found = len(self.negative), []
        middle = score_middle(np.arange(bins), bins)
        for place in range(bins):
            negative, positive = float(self.negative[place]), float(self.positive[place])
            rows = negative + positive
            if rows < max(1.0, 3 * math.sqrt(2) * self.noise_deviation):
                continue
            share = positive / rows
            of_rows = rows * max(0.0, share * (1 - share))
            noise = self.noise_deviation**2 * (share**2 + (1 - share) ** 2)
            error = math.sqrt(of_rows + noise) / rows
            found.append(CalibrationBin(predicted=float(middle[place]), share=share, error=error, rows=rows))
        return tuple(found)

    def gain_over_constant(self) -> tuple[float, float]:
        """How much lower the log loss is than that of always saying the share of positives; and its error.

        Both are made of the same counts. NaN of more than two classes, for the counts do not have their
        shares; and where the noise in the number of either outcome is above a third of it.
        """
        share = float(self.positive.sum()) / self.rows if self.rows > 0 else math.nan
        if not self.binary or self._too_few("auc") or not 0 < share < 1:
            return math.nan, math.nan
        middle = score_middle(np.arange(len(self.negative)), len(self.negative))
        # at the share itself, the derivative of the constant's loss by the share is none
        return self._mean(np.log1p(-middle) - math.log1p(-share), np.log(middle) - math.log(share))

    def _mean(self, negative: Array, positive: Array) -> tuple[float, float]:
        """Mean over the rows of a value by cell, with its standard error."""
        rows = self.rows
        mean = float(self.negative @ negative + self.positive @ positive) / rows
        return mean, self._error((negative - mean) / rows, (positive - mean) / rows)

    def _auc(self) -> tuple[float, float]:
        """Chance that a positive row scores above a negative one, ties half, with its standard error.

        NaN where either has no rows.
        """
        negatives, positives = float(self.negative.sum()), float(self.positive.sum())
        if min(negatives, positives) <= 0:
            return math.nan, math.nan
        below = (np.cumsum(self.negative) - 0.5 * self.negative) / negatives
        above = 1 - (np.cumsum(self.positive) - 0.5 * self.positive) / positives
        auc = float(self.positive @ below) / positives
        return auc, self._error((above - auc) / negatives, (below - auc) / positives)

    def _error(self, negative: Array, positive: Array) -> float:
        """Standard error of a figure by the delta method, from its derivatives by each count.

        A count varies by its noise, and as the number of rows that fall into a cell does: by its
        own expectation, for which the noisy count stands, without bias. (Every figure is a ratio,
        so Poisson and multinomial counts give the same. For the AUC this is the error of DeLong,
        DeLong and Clarke-Pearson, 1988, and the noise.) Rows are taken to be independent: where a
        person has several, it is too small.
        """
        squares = np.concatenate([negative, positive]) ** 2
        of_rows = float(np.concatenate([self.negative, self.positive]) @ squares)
        return math.sqrt(max(0.0, of_rows) + self.noise_deviation**2 * float(squares.sum()))


@with_config(READ_WHOLE)
@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How much better a challenger's loss is than the champion's, row by row on the same rows.

    Differences of the two losses of a row, which lie in [-1, 1] as shares of the loss's span, are summed, and
    so are their squares. A paired sum needs far less noise than two histograms compared afterwards, and the
    squares say how far the rows alone may have moved it.

    Attributes:
        gain: noisy sum of (champion's loss - challenger's loss) over the rows.
        squares: noisy sum of the squares of these differences.
        rows: noisy number of rows.
        noise_deviation: standard deviation of the noise in `gain`; 0 if none. That in `squares` and `rows`
            is this over `SQUARES_WEIGHT` and `ROWS_WEIGHT`.

    Guarantee: see `COMPARISON_SENSITIVITY`, for it is released with two evaluations.
    """

    gain: float
    squares: float
    rows: float
    noise_deviation: float

    def __add__(self, other: Comparison) -> Comparison:
        """The comparison over the rows of both."""
        return Comparison(
            gain=self.gain + other.gain,
            squares=self.squares + other.squares,
            rows=self.rows + other.rows,
            noise_deviation=math.hypot(self.noise_deviation, other.noise_deviation),
        )

    def times(self, weight: float) -> Comparison:
        """The comparison when each row counts for so much."""
        return Comparison(
            gain=weight * self.gain,
            squares=weight**2 * self.squares,
            rows=weight * self.rows,
            noise_deviation=weight * self.noise_deviation,
        )

    @property
    def is_hidden(self) -> bool:
        """Whether noise hides how many rows there are, or there is none."""
        return self.rows < max(1.0, 3 * self.noise_deviation / ROWS_WEIGHT)

    @property
    def mean_gain(self) -> float:
        """Mean gain a row; positive where the challenger is better. NaN where `is_hidden`."""
        return math.nan if self.is_hidden else self.gain / self.rows

    @property
    def error(self) -> float:
        """Standard error of `mean_gain`, of noise and rows together; NaN where `is_hidden`.

        Of the rows it is that under the hypothesis that the two are equally good, whose differences then have
        mean 0: so their squares are their variance. (A sum over the root of its squares: Efron, 1969.) Rows
        are taken to be independent: where a person has several, it is too small.
        """
        if self.is_hidden:
            return math.nan
        noise = self.noise_deviation
        of_noise = noise**2 * (1 + (self.mean_gain / ROWS_WEIGHT) ** 2)
        return math.sqrt(max(0.0, self.squares) + of_noise) / self.rows


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
        can_train: whether the site's budget allows a training on the current window and its comparison
            with the champion. It follows from the ledger, which follows from what was asked: no row is in it.

    Guarantee: one record adds 1 to one count of each of the d features, so the
    L2 sensitivity is sqrt(d).
    """

    window: str
    reference_window: str
    features: tuple[FeatureCounts, ...]
    reference_deviation: float
    current_deviation: float
    can_train: bool


@with_config(READ_WHOLE)
@dataclass(frozen=True, kw_only=True)
class ReferenceCounts:
    """The noisy counts of every feature, and of the label, in a drift check's reference windows.

    They are released once, and every later check against the same reference takes them up again.

    Attributes:
        counts: by feature, over its public bins.
        deviation: standard deviation of the noise in each count; 0 if none.

    Guarantee: as for `DriftSummary`.
    """

    counts: dict[str, Array]
    deviation: float


@with_config(READ_WHOLE)
@dataclass(frozen=True, kw_only=True)
class RangeCounts:
    """Noisy counts of one feature over the cells of `contract.range_grid`, in their order."""

    feature: str
    counts: Array

    def __post_init__(self) -> None:
        if self.counts.shape != (CELLS,):
            raise ValueError(f"a feature has {CELLS} counts")


@with_config(READ_WHOLE)
@dataclass(frozen=True, kw_only=True)
class RangeSummary:
    """How many rows have which value of the features whose range is asked for, over a public grid.

    Attributes:
        features: the counts of each feature.
        noise_deviation: standard deviation of the noise in each count; 0 if none.

    Guarantee: one record adds 1 to one count of each of the d features, so the
    L2 sensitivity is sqrt(d); r times that for a person of r rows.
    """

    features: tuple[RangeCounts, ...]
    noise_deviation: float


Release = ModelUpdate | ScoreHistogram | Comparison | DriftSummary | ReferenceCounts | RangeSummary
