"""What a site says of a model on its held-out rows: noisy counts, never a metric.

Accuracy, AUC, log loss and calibration are computed from the counts at the
server. Two models are compared row by row: a paired difference needs far less
noise than two histograms. Everything that one call releases is one Gaussian
mechanism on one vector, whose L2 sensitivity is stated with each function.

Each row counts by itself: whatever the model's arrays and the rows hold, a row is in
one cell of a histogram, and its losses are made finite before they are subtracted,
clipped and added, on the grid of every noise, so that the sum is exact. Its scores do
not depend on which other rows are scored beside it (`clients.mechanisms.blocks`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clients.mechanisms.blocks import in_blocks, one_thread
from clients.mechanisms.models import losses, module_for, scores
from clients.mechanisms.noise import NormalSource, noisy, require_deviation
from clients.mechanisms.places import require_same_bits
from clients.rows.table import Table
from contract.experiment import Experiment
from contract.releases import (
    COMPARISON_SENSITIVITY,
    SCORE_BINS,
    Array,
    Comparison,
    Metrics,
    ScoreHistogram,
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
) -> ScoreHistogram:
    """Count the scores of the rows, with noise of `noise_multiplier` (L2 sensitivity 1) in each count.

    Raises:
        InputError: the noise is none, whatever the rows are.
    """
    require_deviation(noise_multiplier, noise)
    score, outcome, _ = _scored(arrays, table, experiment)
    return _released(score, outcome, experiment, noise_multiplier, noise)


def compare(
    champion: Mapping[str, np.ndarray[Any, Any]],
    challenger: Mapping[str, np.ndarray[Any, Any]],
    table: Table,
    experiment: Experiment,
    *,
    noise_multiplier: float,
    noise: NormalSource,
) -> tuple[ScoreHistogram, ScoreHistogram, Comparison]:
    """Both score histograms and the paired difference of the losses that the gate's metric names.

    The joint L2 sensitivity is `COMPARISON_SENSITIVITY`, so the noise in each
    number is that many times `noise_multiplier`. Differences of the log loss, or
    of the Brier score when the gate judges by it, are clipped to [-1, 1].

    Raises:
        InputError: the noise is none, whatever the rows are.
    """
    deviation = noise_multiplier * COMPARISON_SENSITIVITY
    require_deviation(deviation, noise)
    champion_score, champion_outcome, champion_loss = _scored(champion, table, experiment)
    score, outcome, loss = _scored(challenger, table, experiment)
    if experiment.gate.metric == "brier":
        champion_loss, loss = (champion_score - champion_outcome) ** 2, (score - outcome) ** 2
    differences = np.clip(champion_loss - loss, -1.0, 1.0)
    gain = float(np.rint(differences * 2**20).sum() / 2**20)  # on the grid of every noise
    released = noisy(np.array([gain, float(len(loss))]), deviation, noise)
    return (
        _released(champion_score, champion_outcome, experiment, deviation, noise),
        _released(score, outcome, experiment, deviation, noise),
        Comparison(gain=float(released[0]), rows=float(released[1]), noise_deviation=deviation),
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


def require_places(experiment: Experiment) -> None:
    """Refuse to evaluate a model privately on a machine where a row's place changes its score.

    Raises:
        InputError: see `clients.mechanisms.places.require_same_bits`.
    """
    require_same_bits(experiment, _AT_ONCE, training=False)


def _scored(
    arrays: Mapping[str, np.ndarray[Any, Any]], table: Table, experiment: Experiment
) -> tuple[Array, Array, Array]:
    module = module_for(experiment, arrays).eval()
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    with torch.no_grad(), one_thread():
        for features, classes in zip(
            torch.split(torch.from_numpy(table.features), _AT_ONCE),
            torch.split(torch.from_numpy(table.labels), _AT_ONCE),
            strict=True,
        ):
            labels = in_blocks(classes, _AT_ONCE)
            logits = module(in_blocks(features, _AT_ONCE))
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
    cell = np.clip((score * SCORE_BINS).astype(np.int64), 0, SCORE_BINS - 1)
    positive = np.bincount(cell[outcome == 1], minlength=SCORE_BINS).astype(np.float64)
    negative = np.bincount(cell[outcome == 0], minlength=SCORE_BINS).astype(np.float64)
    return ScoreHistogram(
        negative=noisy(negative, deviation, noise),
        positive=noisy(positive, deviation, noise),
        noise_deviation=deviation,
        binary=len(experiment.task.label.classes) == 2,
    )
