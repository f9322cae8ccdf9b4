"""How a linear model does on the held-out patients of the heart-disease hospitals, without noise.

The patients are public and lie at hand, so this makes no release: what the sites of a run release of
them is noisy and charged as always.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clients.rows.table import Table

__all__ = ["HeartScores", "linear_scores", "score_hospitals"]

Floats = npt.NDArray[np.float64]
Scored = tuple[Floats, npt.NDArray[np.int64]]
"""A linear score for each patient, positive where disease is predicted, and whether the disease is there."""


@dataclass(frozen=True, kw_only=True)
class HeartScores:
    """Figures of one model.

    Attributes:
        accuracy: by hospital.
        pooled_accuracy: over all held-out patients together.
        auc: area under the ROC curve over all held-out patients together.
        mean_auc: mean over the hospitals whose held-out patients are of both classes. One patient of
            46 in Switzerland is without disease, so there it is one rank, or nothing.
    """

    accuracy: Mapping[str, float]
    pooled_accuracy: float
    auc: float
    mean_auc: float

    @property
    def mean_accuracy(self) -> float:
        """Mean of the hospitals' accuracies, each counting the same: FLamby's figure."""
        return statistics.mean(self.accuracy.values())


def score_hospitals(hospitals: Mapping[str, Scored]) -> HeartScores:
    """The figures, from scores and labels by hospital."""
    scores = np.concatenate([score for score, _ in hospitals.values()])
    labels = np.concatenate([label for _, label in hospitals.values()])
    within = [_auc(score, label) for score, label in hospitals.values() if len(np.unique(label)) == 2]
    return HeartScores(
        accuracy={name: _accuracy(score, label) for name, (score, label) in hospitals.items()},
        pooled_accuracy=_accuracy(scores, labels),
        auc=_auc(scores, labels),
        mean_auc=statistics.mean(within),
    )


def linear_scores(arrays: Mapping[str, npt.NDArray[np.float32]], table: Table) -> Scored:
    """Scores and labels of a table's rows under a linear model of the contract's names."""
    weights, intercept = (np.asarray(arrays[f"layers.0.{name}"], np.float64) for name in ("weight", "bias"))
    return table.features @ weights[0] + intercept[0], table.labels


def _accuracy(scores: Floats, labels: npt.NDArray[np.int64]) -> float:
    return float(((scores > 0) == (labels == 1)).mean())


def _auc(scores: Floats, labels: npt.NDArray[np.int64]) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, scores))
