"""How rare the rarer of two outcomes is, as a run's first evaluation counts it, and what that is good for.

A model that takes both outcomes as equally likely spends its first steps on learning that one of them is
rare. With noise in each step and few rows of that outcome this costs much of what can be learnt
(`docs/measured.md`). Where the share is public an experiment states it (`task.label.positive_share`).
Otherwise the counts of a run's first evaluation, which are charged and released anyway, tell it: training
begins anew in the second round, from a model whose bias says as much. This is made of what was released, and
costs no privacy.

The counts are noisy, so the share is taken for as near to a half as two standard errors allow. A site that
lies has half of the weight at most (`server.exchange.weights`), and so makes none rare that is above a fifth.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from contract.experiment import Experiment
from contract.models import beginning_at
from contract.regression import Scores
from contract.releases import ScoreHistogram

__all__ = ["begun_anew", "rare_share"]

Arrays = dict[str, np.ndarray[Any, Any]]

_RARE = 0.1
"""Of all rows; a more frequent outcome is learnt as well without."""
_ERRORS = 2.0
_FEWEST_ROUNDS = 20
"""Of a run that may lose its first round."""
_OWN_KINDS = ("linear", "mlp")
"""Whose last parameters are the output's bias."""


def begun_anew(experiment: Experiment, model: Arrays, scores: Scores | None) -> tuple[Arrays, float] | None:
    """The model of the first round with the share that the counts tell in its bias, and that share.

    Args:
        experiment: the plan.
        model: what the first round began with, made for this run.
        scores: its evaluation, over all sites.

    Returns:
        None where neither outcome is rare, or the experiment is none that this is for.
    """
    if (
        experiment.model.kind not in _OWN_KINDS
        or experiment.task.label.positive_share is not None
        or experiment.strategy.rounds < _FEWEST_ROUNDS
        or not isinstance(scores, ScoreHistogram)
        or not scores.binary
        or (share := rare_share(scores)) is None
    ):
        return None
    return beginning_at(share, model), share


def rare_share(scores: ScoreHistogram) -> float | None:
    """The share of positives where one outcome is surely rare, as near to a half as noise allows; else None.

    Only cells are counted that have more rows than noise could put there: the first model gives all rows
    nearly the same score, and each empty cell would add its noise.
    """
    cells = scores.negative + scores.positive
    held = cells > 3 * math.sqrt(2) * scores.noise_deviation
    negatives, positives = float(scores.negative[held].sum()), float(scores.positive[held].sum())
    rows = negatives + positives
    if rows < 1:
        return None
    rarer = min(max(min(negatives, positives) / rows, 0.0), 0.5)
    noise = scores.noise_deviation * math.sqrt(int(np.sum(held)) * (rarer**2 + (1 - rarer) ** 2)) / rows
    found = _upper_end(rarer, rows, noise)
    if found >= _RARE:
        return None
    return found if positives < negatives else 1 - found


def _upper_end(share: float, rows: float, noise: float) -> float:
    """Of the interval of Wilson (1927) for a share of so many rows, when noise of a deviation was added."""
    square = _ERRORS**2 / rows
    spread = _ERRORS * math.sqrt(share * (1 - share) / rows + noise**2 + square / (4 * rows))
    return (share + square / 2 + spread) / (1 + square)
