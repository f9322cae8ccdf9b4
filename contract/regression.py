"""What a site says of a model that predicts a number, on its held-out rows: noisy sums, and their figures.

A row's error and label are taken as shares of the label's public range, so that what a row adds to each sum
is bounded: the error a lies in [0, 1], and the label, less the middle of its range, in [-1/2, 1/2]. Beside
rows, errors and squared errors, higher powers are summed: the standard errors of the figures need them. Each
sum has a weight, and with the weights a row adds a vector of a length of at most 1, as it does to the score
histogram of a classification. So the noise of an evaluation is the same for both tasks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import with_config

from contract.releases import READ_WHOLE, Array, Metrics, ScoreHistogram

__all__ = [
    "GREATEST",
    "WEIGHTS",
    "ErrorSums",
    "Measured",
    "RegressionErrors",
    "RegressionMetrics",
    "Scores",
    "weighed",
]

_ERROR_POWERS = np.array([0, 1, 2, 4])
"""Of a row's error; the power 0 counts the rows."""
_LABEL_POWERS = np.array([1, 2, 3, 4])
_BOTH_POWERS = np.array([1, 2])
"""Of a row's label, times the square of its error."""
GREATEST = np.concatenate([np.ones(4), 0.5**_LABEL_POWERS, 0.5**_BOTH_POWERS])
"""What a row adds to each sum at most, before it is weighed."""
_SHARES = np.array([0.5, 1.0, 1.0, 0.5, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5])
"""What serves the standard errors alone can bear more noise than errors and squares can, and so can rows."""
WEIGHTS = np.trunc(_SHARES / np.linalg.norm(_SHARES * GREATEST) * 2**20) / 2**20
"""Of each sum: on the grid of every noise, so that the number of rows is exact without noise."""


@dataclass(frozen=True, kw_only=True)
class RegressionErrors:
    """Standard errors of the figures of error sums: of their noise and of their rows together."""

    mae: float
    rmse: float
    r2: float


@dataclass(frozen=True, kw_only=True)
class RegressionMetrics:
    """Figures computed from error sums: post-processing, no further cost.

    Attributes:
        mae: mean absolute error, in the label's unit.
        rmse: root of the mean squared error, in the label's unit.
        r2: the share of the label's variance that the model explains; below 0 where it does worse than the
            mean.
        rows: estimated number of rows.
        errors: of the figures.
    """

    mae: float
    rmse: float
    r2: float
    rows: float
    errors: RegressionErrors | None = None

    def as_dict(self) -> dict[str, float]:
        """By name, errors as `<name>_error`, without those that are not a number."""
        named = {name: value for name, value in vars(self).items() if name != "errors"}
        if self.errors is not None:
            named |= {f"{name}_error": value for name, value in vars(self.errors).items()}
        return {name: value for name, value in named.items() if math.isfinite(value)}


def weighed(errors: Array, labels: Array) -> npt.NDArray[np.float64]:
    """What each row adds, shape (rows, sums): on the grid of every noise, and no longer than 1.

    Args:
        errors: absolute errors as shares of the label's range, in [0, 1].
        labels: as shares of it, less 1/2.
    """
    error, label = errors[:, None], labels[:, None]
    powers = np.concatenate(
        [error**_ERROR_POWERS, label**_LABEL_POWERS, error**2 * label**_BOTH_POWERS], axis=1
    )
    found: npt.NDArray[np.float64] = np.trunc(powers * WEIGHTS * 2**20) / 2**20  # towards 0: no longer
    return found


@with_config(READ_WHOLE)
@dataclass(frozen=True, kw_only=True)
class ErrorSums:
    """Weighed noisy sums over the held-out rows: the evaluation release of a numeric label.

    Attributes:
        sums: of the powers 0, 1, 2 and 4 of the absolute error, 1, 2, 3 and 4 of the label, and of 1 and 2 of
            the label times the squared error; each times its weight (`WEIGHTS`).
        noise_deviation: standard deviation of the noise in each; 0 if none.
        span: the width of the label's public range, in its unit.

    Guarantee: one record adds a vector of a length of at most 1, so the L2 sensitivity is 1.
    """

    sums: Array
    noise_deviation: float
    span: float

    def __post_init__(self) -> None:
        if self.sums.shape != WEIGHTS.shape:
            raise ValueError(f"there are {len(WEIGHTS)} sums")

    def __add__(self, other: ErrorSums) -> ErrorSums:
        """Sums over the rows of both; independent noise adds in variance."""
        return ErrorSums(
            sums=self.sums + other.sums,
            noise_deviation=math.hypot(self.noise_deviation, other.noise_deviation),
            span=self.span,
        )

    def times(self, weight: float) -> ErrorSums:
        """The sums when each row counts for so much; and the noise in them."""
        return ErrorSums(
            sums=weight * self.sums, noise_deviation=weight * self.noise_deviation, span=self.span
        )

    @property
    def rows(self) -> float:
        """Estimated number of rows."""
        return float(self.sums[0] / WEIGHTS[0])

    def metrics(self) -> RegressionMetrics:
        """MAE, RMSE and R² of the rows, with their standard errors by the delta method.

        A figure is NaN where `reasons` has it.
        """
        rows, reasons = self.rows, self.reasons()
        mean, noise = self._means()
        found = (
            {}
            if mean is None
            else {
                "mae": self._mae(mean, noise, rows),
                "rmse": self._rmse(mean, noise, rows),
                "r2": self._r2(mean, noise, rows),
            }
        )
        units = {"mae": self.span, "rmse": self.span, "r2": 1.0}
        nothing = (math.nan, math.nan)
        shown = {name: nothing if name in reasons else found.get(name, nothing) for name in units}
        return RegressionMetrics(
            **{name: units[name] * value for name, (value, _) in shown.items()},
            rows=rows if mean is not None else max(rows, 0.0),
            errors=RegressionErrors(**{name: units[name] * error for name, (_, error) in shown.items()}),
        )

    def reasons(self) -> dict[str, str]:
        """Why a figure is not measurable, in words, by its name.

        None is where the noise in the number of rows is above a third of it; MAE is not where its noise is
        above half of it; RMSE where that in the mean square is above the mean square, and R² where that in
        the label's variance is above a third of it. Nor is one that noise has put where no rows could.
        """
        mean, noise = self._means()
        if mean is None:
            why = "noise hides how many rows there are" if self.noise_deviation else "there is no row"
            return dict.fromkeys(("mae", "rmse", "r2"), why)
        found = {}
        for name, figure, place, hides in (
            ("mae", self._mae, 1, "its noise is above half of it"),
            ("rmse", self._rmse, 2, "noise hides the mean squared error"),
            ("r2", self._r2, None, "noise hides the label's variance"),
        ):
            if place is not None and mean[place] > 1 + 1e-9:
                found[name] = "noise puts it above the width of the label's range"
            elif not math.isfinite(figure(mean, noise, self.rows)[0]):
                found[name] = hides if self.noise_deviation else "the labels do not vary"
        return found

    def _means(self) -> tuple[Array | None, Array]:
        """The mean powers of a row, and the noise in each; None where noise hides the number of rows."""
        noise = self.noise_deviation / WEIGHTS
        if self.rows < max(1.0, 3 * float(noise[0])):
            return None, noise
        return self.sums / WEIGHTS / self.rows, noise / self.rows

    @staticmethod
    def _mae(mean: Array, noise: Array, rows: float) -> tuple[float, float]:
        mae = float(mean[1])
        hidden = math.hypot(float(noise[1]), mae * float(noise[0]))
        if mae < 2 * hidden or mae < 0:
            return math.nan, math.nan
        variance = max(0.0, float(mean[2]) - mae**2) / rows
        return mae, math.hypot(math.sqrt(variance), hidden)

    @staticmethod
    def _rmse(mean: Array, noise: Array, rows: float) -> tuple[float, float]:
        square, fourth = float(mean[2]), float(mean[3])
        hidden = math.hypot(float(noise[2]), square * float(noise[0]))
        if square < hidden or square < 0:
            return math.nan, math.nan
        rmse = math.sqrt(square)
        error = math.sqrt(max(0.0, fourth - square**2) / rows + hidden**2)
        return rmse, error / (2 * rmse) if rmse else 0.0

    @staticmethod
    def _r2(mean: Array, noise: Array, rows: float) -> tuple[float, float]:
        """1 - M / V, with M the mean squared error and V the label's variance.

        With d the label less its mean, a row moves it by (M d² / V - a²) / V.
        """
        square, fourth = max(0.0, float(mean[2])), float(mean[3])
        first, second, third, last, with_error, with_square = (float(moment) for moment in mean[4:])
        variance = second - first**2
        hidden = math.hypot(float(noise[5]), 2 * first * float(noise[4]))
        if variance <= max(3 * hidden, 1e-12):
            return math.nan, math.nan
        ratio = square / variance
        labels = last - 4 * first * third + 6 * first**2 * second - 3 * first**4
        both = with_square - 2 * first * with_error + first**2 * square
        of_rows = max(0.0, fourth - 2 * ratio * both + ratio**2 * labels) / rows
        of_noise = float(noise[2]) ** 2 + ratio**2 * (hidden**2 + (first**2 * float(noise[0])) ** 2)
        return 1 - ratio, math.sqrt(of_rows + of_noise) / variance


Scores = ScoreHistogram | ErrorSums
"""The evaluation release: of classes, or of a number."""

Measured = Metrics | RegressionMetrics
"""The figures of an evaluation release."""
