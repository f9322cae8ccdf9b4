"""How far off the figures of a planned run will be: drawn from the very release that carries them.

Nobody knows the scores of a model that is not trained. So held-out rows are imagined: of each class scores
whose log odds are normal with one deviation (Green and Swets, 1966), as far apart as an AUC has them, and
calibrated, or surer than that where noise alone makes scores differ by more; of a number, labels and errors
that are normal within its range, as large as an R² has them.

Counts of such rows are drawn, get the noise of the experiment's evaluation, and are read as a server does
(`ScoreHistogram.metrics`, `ErrorSums.metrics`). The spread of what comes out is the error.
"""

from __future__ import annotations

import functools
import math
import operator
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from contract.experiment import Experiment
from contract.figures import Figure, figures_for
from contract.regression import WEIGHTS, ErrorSums, Scores, weighed
from contract.releases import SCORE_BINS, ScoreHistogram
from experiments.planning.warnings import evaluation_noise, positive_share
from server.exchange.weights import row_weights

__all__ = ["LEVELS", "ExpectedError", "errors_by_site", "expected_errors"]

LEVELS = (0.6, 0.75, 0.9)
"""AUCs of models for which errors are drawn; of a number the R² is that of 2 · AUC - 1."""

_DRAWS, _FEWEST_DRAWS = 200, 60
_RELEASES = 4000
"""Drawn for one level at most: with many sites fewer draws do, as a spread is rough by nature."""
_RIGHT = 0.7
"""Of more than two classes, the share of rows that the imagined model gets right."""
_LEAST_SPREAD = {"linear": 0.8}
_LEAST_SPREAD_OF_NETWORKS = 1.8
"""Of the log odds of scores: in a private model noise makes them differ, whatever the AUC (as seen in runs of
`experiments.benchmarks.planning`)."""
_SPREAD = 1 / 6
"""Standard deviation of imagined labels, over the width of their range."""
_IMAGINED = 20_000

_Floats = npt.NDArray[np.float64]
_Draw = Callable[[int], Scores]
"""Makes the release of a site of so many held-out rows, without noise."""


@dataclass(frozen=True, kw_only=True)
class ExpectedError:
    """Standard errors of one figure at one level of the model.

    Attributes:
        figure: which.
        level: the AUC, or R², of the imagined model.
        value: the figure's middle value.
        error: of noise and rows together; NaN where most draws could not be told.
        of_noise, of_rows: its two parts.
        told: how often the noise left the figure readable, from 0 to 1.
    """

    figure: Figure
    level: float
    value: float
    error: float
    of_noise: float
    of_rows: float
    told: float


def expected_errors(
    experiment: Experiment,
    held_out: Sequence[int],
    *,
    levels: Sequence[float] = LEVELS,
    draws: int = _DRAWS,
    seed: int = 0,
) -> tuple[ExpectedError, ...]:
    """Of every figure over the rows of all sites together, at each level.

    Args:
        experiment: the plan, with all settings chosen: noise grows with the number of evaluations.
        held_out: how many rows each site evaluates on.
        levels: AUCs.
        draws: at each level; less with many sites.
        seed: of the draws; no data is in them.
    """
    rng = np.random.default_rng(seed)
    rows = [max(0, number) for number in held_out]
    times = min(draws, max(_FEWEST_DRAWS, _RELEASES // max(1, len(rows))))
    return tuple(found for level in levels for found in _at_level(experiment, rows, level, times, rng))


def errors_by_site(
    experiment: Experiment, held_out: Sequence[int], *, level: float
) -> list[tuple[ExpectedError, ...]]:
    """Of every figure over the rows of each site alone, at one level; arguments as of `expected_errors`."""
    draws = max(_FEWEST_DRAWS, _RELEASES // max(1, len(held_out)))
    by_rows = {
        rows: expected_errors(experiment, [rows], levels=(level,), draws=min(_DRAWS, draws))
        for rows in set(held_out)
    }
    return [by_rows[rows] for rows in held_out]


def _at_level(
    experiment: Experiment, rows: Sequence[int], level: float, draws: int, rng: np.random.Generator
) -> list[ExpectedError]:
    numeric, deviation = experiment.task.label.kind == "numeric", evaluation_noise(experiment)
    draw = _sums_of(experiment, 2 * level - 1, rng) if numeric else _histogram_of(experiment, level, rng)
    plain, told = [], []
    for _ in range(draws):
        releases = [draw(number) for number in rows]
        plain.append(_pooled(releases).metrics())
        told.append(_pooled([_noisy(one, deviation, rng) for one in releases]).metrics())
    return [
        _of_figure(figure, 2 * level - 1 if numeric else level, plain, told)
        for figure in figures_for(experiment.task.label)
    ]


def _of_figure(figure: Figure, level: float, plain: Sequence[Any], told: Sequence[Any]) -> ExpectedError:
    without = np.array([getattr(one, figure.name) for one in plain])
    noisy = np.array([getattr(one, figure.name) for one in told])
    readable = np.isfinite(without) & np.isfinite(noisy)
    whole = readable.mean() > 0.5
    return ExpectedError(
        figure=figure,
        level=level,
        value=statistics.median(noisy[readable]) if whole else math.nan,
        error=float(noisy[readable].std()) if whole else math.nan,
        of_noise=float((noisy - without)[readable].std()) if whole else math.nan,
        of_rows=float(without[readable].std()) if whole else math.nan,
        told=float(readable.mean()),
    )


def _pooled(releases: Sequence[Scores]) -> Scores:
    """Over all sites, each weighed as the server weighs it."""
    weights = row_weights({str(number): one.rows for number, one in enumerate(releases)})
    weighed_releases = [one.times(weights[str(number)]) for number, one in enumerate(releases)]
    return functools.reduce(operator.add, weighed_releases)


def _noisy(release: Scores, deviation: float, rng: np.random.Generator) -> Scores:
    if isinstance(release, ErrorSums):
        noise = rng.normal(0, deviation, release.sums.shape)
        return ErrorSums(sums=release.sums + noise, noise_deviation=deviation, span=release.span)
    return ScoreHistogram(
        negative=release.negative + rng.normal(0, deviation, SCORE_BINS),
        positive=release.positive + rng.normal(0, deviation, SCORE_BINS),
        noise_deviation=deviation,
        binary=release.binary,
    )


def _histogram_of(experiment: Experiment, auc: float, rng: np.random.Generator) -> _Draw:
    binary = len(experiment.task.label.classes) == 2
    spread = _LEAST_SPREAD.get(experiment.model.kind, _LEAST_SPREAD_OF_NETWORKS)
    least = spread if experiment.privacy.private else 0.0
    chances = _cells(auc, positive_share(experiment) if binary else _RIGHT, least)

    def draw(rows: int) -> ScoreHistogram:
        counts = rng.multinomial(rows, chances).astype(np.float64)
        return ScoreHistogram(
            negative=counts[:SCORE_BINS], positive=counts[SCORE_BINS:], noise_deviation=0.0, binary=binary
        )

    return draw


def _cells(auc: float, positive: float, spread: float) -> _Floats:
    """Chances of the cells of a histogram: of the negatives from low scores to high, then of the positives.

    A score is the chance that its row is positive, given its place x: normal around 0, or around d. With a
    small d it is surer than that: its log odds have the stated spread.
    """
    normal = statistics.NormalDist()
    apart = math.sqrt(2) * normal.inv_cdf(auc)
    edges = np.arange(1, SCORE_BINS) / SCORE_BINS
    odds = np.log(edges / (1 - edges)) - math.log(positive / (1 - positive))
    places = odds / max(apart, spread) + apart / 2

    def of(middle: float) -> _Floats:
        below = [0.0, *(normal.cdf(float(place) - middle) for place in places), 1.0]
        return np.diff(below)

    return np.concatenate([(1 - positive) * of(0.0), positive * of(apart)])


def _sums_of(experiment: Experiment, explained: float, rng: np.random.Generator) -> _Draw:
    """Sums over many rows are normal: their mean and covariance are those of imagined rows."""
    label = experiment.task.label.range
    assert label is not None  # noqa: S101 - the caller has looked
    truth = np.clip(rng.normal(0, _SPREAD, _IMAGINED), -0.5, 0.5)
    errors = np.clip(np.abs(rng.normal(0, _SPREAD * math.sqrt(1 - explained), _IMAGINED)), 0, 1)
    each = weighed(errors, truth)
    mean, covariance = each.mean(axis=0), np.cov(each.T)

    def draw(rows: int) -> ErrorSums:
        sums = rng.multivariate_normal(rows * mean, rows * covariance, method="eigh")
        sums[0] = rows * WEIGHTS[0]
        return ErrorSums(sums=sums, noise_deviation=0.0, span=label.high - label.low)

    return draw
