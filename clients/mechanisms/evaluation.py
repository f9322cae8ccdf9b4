"""What a site says of a model on its held-out rows: noisy counts, never a metric.

Accuracy, AUC, log loss and calibration are computed from the counts at the
server. Two models are compared row by row: a paired difference needs far less
noise than two histograms. Everything that one call releases is one Gaussian
mechanism on one vector, whose L2 sensitivity is stated with each function.

Each row counts by itself: whatever the model's arrays and the rows hold, a row is in
one cell of a histogram, and its loss is that of its cell. Differences of losses, and their
squares, are added on the grid of every noise, so that the sum is exact. A row's scores do
not depend on which other rows are scored beside it (`clients.mechanisms.blocks`).

Of a numeric label there are sums of bounded powers of its error in place of a histogram
(`contract.regression`), with the same sensitivity.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clients.mechanisms.blocks import in_blocks, one_thread
from clients.mechanisms.devices import CPU, Wish, in_use, usable
from clients.mechanisms.each_row import steady
from clients.mechanisms.models import losses, module_for, scores
from clients.mechanisms.noise import NormalSource, noisy, require_deviation
from clients.mechanisms.packaged import each_row
from clients.mechanisms.places import require_same_bits
from clients.mechanisms.trial import require_sound
from clients.rows.table import Table
from contract.experiment import Experiment
from contract.models import parameter_count
from contract.regression import ErrorSums, Scores, weighed
from contract.releases import (
    COMPARISON_SENSITIVITY,
    LOG_LOSS_SPAN,
    ROWS_WEIGHT,
    SCORE_BINS,
    SCORES_WEIGHT,
    SQUARES_WEIGHT,
    Array,
    Comparison,
    Metrics,
    ScoreHistogram,
    score_cell,
    score_middle,
)

__all__ = ["compare", "evaluate", "exact_scores", "require_places"]

_AT_ONCE = 1024
"""Rows that are scored in one call: always so many, with rows of zeros after the last ones."""
_GREATEST_LOSS = 1e6
"""What stands for a loss that is greater, infinite or NaN."""


def evaluate(
    arrays: Mapping[str, np.ndarray[Any, Any]],
    table: Table,
    experiment: Experiment,
    *,
    noise_multiplier: float,
    noise: NormalSource,
    device: torch.device = CPU,
) -> Scores:
    """Count the scores of the rows, with noise of `noise_multiplier` (L2 sensitivity 1) in each count.

    Of a numeric label the errors are summed. The model computes on `device`, as `require_places` gives it;
    scores and sums are made on the processor.

    Raises:
        InputError: the noise is none, whatever the rows are.
    """
    require_deviation(noise_multiplier, noise)
    if experiment.task.label.kind == "numeric":
        return _summed(*_errors(arrays, table, experiment, device), experiment, noise_multiplier, noise)
    score, outcome, _ = _scored(arrays, table, experiment, device)
    return _released(score, outcome, experiment, noise_multiplier, noise)


def compare(
    champion: Mapping[str, np.ndarray[Any, Any]],
    challenger: Mapping[str, np.ndarray[Any, Any]],
    table: Table,
    experiment: Experiment,
    *,
    noise_multiplier: float,
    noise: NormalSource,
    device: torch.device = CPU,
) -> tuple[Scores, Scores, Comparison]:
    """Both score histograms and the paired difference of the losses that the gate's metric names.

    The joint L2 sensitivity of the weighed numbers is `COMPARISON_SENSITIVITY`, so the noise in each is that
    many times `noise_multiplier`, over its weight. The loss of a row is that of the histogram's cell that it
    is in: the Brier score, or the log loss as a share of `LOG_LOSS_SPAN` when the gate judges by that. So no
    difference is clipped, and the paired gain and the two histograms' figures are of the same quantity. Of a
    numeric label there are sums in place of the histograms, and differences of the absolute error as a share
    of the label's range.

    Raises:
        InputError: the noise is none, whatever the rows are.
    """
    deviation = noise_multiplier * COMPARISON_SENSITIVITY
    of_scores = deviation / SCORES_WEIGHT
    require_deviation(deviation, noise)
    if experiment.task.label.kind == "numeric":
        champion_error, truth = _errors(champion, table, experiment, device)
        error, _ = _errors(challenger, table, experiment, device)
        return (
            _summed(champion_error, truth, experiment, of_scores, noise),
            _summed(error, truth, experiment, of_scores, noise),
            _compared(champion_error - error, deviation, noise),
        )
    champion_score, champion_outcome, _ = _scored(champion, table, experiment, device)
    score, outcome, _ = _scored(challenger, table, experiment, device)
    loss = _log_loss if experiment.gate.metric == "log_loss" else _brier
    differences = loss(champion_score, champion_outcome) - loss(score, outcome)
    return (
        _released(champion_score, champion_outcome, experiment, of_scores, noise),
        _released(score, outcome, experiment, of_scores, noise),
        _compared(differences, deviation, noise),
    )


def exact_scores(arrays: Mapping[str, np.ndarray[Any, Any]], table: Table, experiment: Experiment) -> Metrics:
    """Metrics of public rows, without noise and without bins.

    For studies and plots on rows that lie at hand. It makes no release: nothing
    at a site calls it.
    """
    from scipy.stats import rankdata

    score, outcome, loss = _scored(arrays, table, experiment)
    positives = float(outcome.sum())
    negatives = len(outcome) - positives
    ranks = rankdata(score)[outcome == 1].sum()
    auc = (
        (ranks - positives * (positives + 1) / 2) / (positives * negatives)
        if positives * negatives
        else math.nan
    )
    right = (score >= 0.5) == (outcome == 1) if len(experiment.task.label.classes) == 2 else outcome == 1
    return Metrics(
        log_loss=float(loss.mean()),
        brier=float(((score - outcome) ** 2).mean()),
        auc=float(auc),
        accuracy=float(right.mean()),
        rows=float(len(outcome)),
    )


def require_places(experiment: Experiment, wish: Wish = "cpu") -> torch.device:
    """Refuse to evaluate a model privately on a machine where a row's place changes its score.

    Returns:
        Where it is evaluated, by the site's wish and by a trial on public numbers.

    Raises:
        InputError: see `clients.mechanisms.places.require_same_bits`.
    """
    require_sound(experiment)
    trial = functools.partial(require_same_bits, experiment, _AT_ONCE, training=False)
    return usable(wish, parameter_count(experiment), trial)


def _brier(score: Array, outcome: Array) -> Array:
    """Of each row, in [0, 1]: of the middle of its cell."""
    return np.asarray((score_middle(score_cell(score)) - outcome) ** 2)


def _log_loss(score: Array, outcome: Array) -> Array:
    """Of each row, as a share of how far two can lie apart."""
    middle = score_middle(score_cell(score))
    return np.asarray(-np.log(np.where(outcome == 1, middle, 1 - middle)) / LOG_LOSS_SPAN)


def _compared(differences: Array, deviation: float, noise: NormalSource) -> Comparison:
    clipped = np.trunc(np.clip(differences, -1.0, 1.0) * 2**20) / 2**20  # on the grid of every noise
    squares = np.trunc(clipped**2 * SQUARES_WEIGHT * 2**20) / 2**20  # towards 0: no longer
    sums = [float(clipped.sum()), float(squares.sum()), ROWS_WEIGHT * len(clipped)]
    gain, weighed_squares, weighed_rows = (float(one) for one in noisy(np.array(sums), deviation, noise))
    return Comparison(
        gain=gain,
        squares=weighed_squares / SQUARES_WEIGHT,
        rows=weighed_rows / ROWS_WEIGHT,
        noise_deviation=deviation,
    )


def _errors(
    arrays: Mapping[str, np.ndarray[Any, Any]], table: Table, experiment: Experiment, device: torch.device
) -> tuple[Array, Array]:
    """Each row's absolute error, and its label less the middle of the range: both as shares of the range."""
    outputs = _outputs_of(experiment, arrays, device)
    found: list[Tensor] = []
    with torch.no_grad(), one_thread(), in_use(device):
        for features in torch.split(torch.from_numpy(table.features), _AT_ONCE):
            found.append(outputs(in_blocks(features, _AT_ONCE))[: len(features), 0])
    predicted = np.clip(np.nan_to_num(np.asarray(torch.cat(found), dtype=np.float64), nan=0.0), -1.0, 1.0)
    truth = table.labels.astype(np.float64)
    return np.abs(predicted - truth) / 2, truth / 2


def _outputs_of(
    experiment: Experiment, arrays: Mapping[str, np.ndarray[Any, Any]], device: torch.device
) -> Callable[[Tensor], Tensor]:
    """What gives the outputs of a block of rows, which lie on the processor as the rows do."""
    if experiment.model.kind == "package":
        apart, _ = each_row(experiment, arrays, device)

        def outputs(rows: Tensor) -> Tensor:
            with steady():
                return apart.outputs(rows.to(device)).cpu()

        return outputs
    module = module_for(experiment, arrays).to(device).eval()
    return lambda rows: module(rows.to(device)).cpu()


def _summed(
    errors: Array, truth: Array, experiment: Experiment, deviation: float, noise: NormalSource
) -> ErrorSums:
    label = experiment.task.label.range
    assert label is not None  # the caller has looked  # noqa: S101
    return ErrorSums(
        sums=noisy(weighed(errors, truth).sum(axis=0), deviation, noise),
        noise_deviation=deviation,
        span=label.high - label.low,
    )


def _scored(
    arrays: Mapping[str, np.ndarray[Any, Any]],
    table: Table,
    experiment: Experiment,
    device: torch.device = CPU,
) -> tuple[Array, Array, Array]:
    outputs = _outputs_of(experiment, arrays, device)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    with torch.no_grad(), one_thread(), in_use(device):
        for features, classes in zip(
            torch.split(torch.from_numpy(table.features), _AT_ONCE),
            torch.split(torch.from_numpy(table.labels), _AT_ONCE),
            strict=True,
        ):
            labels = in_blocks(classes, _AT_ONCE)
            logits = outputs(in_blocks(features, _AT_ONCE))
            score, outcome, loss = (*scores(logits, labels), losses(logits, labels))
            here = len(features)
            found.append((score[:here], outcome[:here], loss[:here]))
    score, outcome, loss = (torch.cat(parts) for parts in zip(*found, strict=True))
    finite = np.nan_to_num(np.asarray(loss, dtype=np.float64), nan=_GREATEST_LOSS)
    return (
        np.nan_to_num(np.asarray(score, dtype=np.float64), nan=0.5),
        np.asarray(outcome, dtype=np.float64),
        np.clip(finite, -_GREATEST_LOSS, _GREATEST_LOSS),
    )


def _released(
    score: Array, outcome: Array, experiment: Experiment, deviation: float, noise: NormalSource
) -> ScoreHistogram:
    cell = score_cell(score)
    positive = np.bincount(cell[outcome == 1], minlength=SCORE_BINS).astype(np.float64)
    negative = np.bincount(cell[outcome == 0], minlength=SCORE_BINS).astype(np.float64)
    return ScoreHistogram(
        negative=noisy(negative, deviation, noise),
        positive=noisy(positive, deviation, noise),
        noise_deviation=deviation,
        binary=len(experiment.task.label.classes) == 2,
    )
