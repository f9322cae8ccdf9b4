"""Fed-Heart-Disease as the FLamby benchmark gives it to its models, and how it scores them.

Its rows and its split are those of `experiments.data.layout` (Ogier du Terrail et al., 2022). Its inputs are
z-scored: with mean and deviation of each centre's own training rows; where all rows are in one place, for
pooled training and for figures of all patients together, with those of all training rows. These statistics
are of the data and cost a budget that nobody pays: **a model on these inputs is not private**. The two ways
of scaling are why a model trained in one place does worse in the mean of the centres than over all patients.

A model is one vector: 13 weights, then the intercept; rows carry a last column of ones to match.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from experiments.data.layout import SiteRows
from experiments.studies.heart_scores import HeartScores, score_hospitals

__all__ = ["Benchmark", "Centre", "Vector", "flamby_inputs", "score", "scored"]

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Centre:
    """Rows of one centre, or of all together.

    Attributes:
        inputs: [rows, 14], scaled, the last column all ones.
        labels: [rows], 0 or 1.
    """

    inputs: Vector
    labels: Vector


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The rows of Fed-Heart-Disease.

    Attributes:
        train, held: by centre, each z-scored with the centre's own training rows.
        all_train, all_held: all rows in one place, z-scored with all training rows.
    """

    train: dict[str, Centre]
    held: dict[str, Centre]
    all_train: Centre
    all_held: Centre


def flamby_inputs(sites: Sequence[SiteRows]) -> Benchmark:
    """FLamby's 13 inputs of the four hospitals: chest pain and resting ECG one-hot but the first."""
    import pandas as pd

    frame = pd.concat([site.rows.assign(centre=site.name) for site in sites], ignore_index=True)
    features = frame.drop(columns=["disease", "split", "centre"])
    coded = pd.get_dummies(features, columns=["chest_pain", "resting_ecg"], drop_first=True, dtype=float)
    inputs, labels = coded.to_numpy(np.float64), frame["disease"].to_numpy(np.float64)
    in_train = (frame["split"] == "train").to_numpy()
    of = {site.name: (frame["centre"] == site.name).to_numpy() for site in sites}

    def centre(rows: npt.NDArray[np.bool_], scale: npt.NDArray[np.bool_]) -> Centre:
        mean, deviation = inputs[scale].mean(axis=0), inputs[scale].std(axis=0, ddof=1)
        scaled = (inputs[rows] - mean) / (deviation + 1e-9)  # FLamby's guard for an input that does not vary
        return Centre(inputs=np.column_stack([scaled, np.ones(len(scaled))]), labels=labels[rows])

    return Benchmark(
        train={name: centre(rows & in_train, rows & in_train) for name, rows in of.items()},
        held={name: centre(rows & ~in_train, rows & in_train) for name, rows in of.items()},
        all_train=centre(in_train, in_train),
        all_held=centre(~in_train, in_train),
    )


def score(model: Vector, benchmark: Benchmark) -> HeartScores:
    """Figures of one model as FLamby takes them: all patients together are scaled together."""
    by_centre = score_hospitals({name: scored(model, rows) for name, rows in benchmark.held.items()})
    together = score_hospitals({"all": scored(model, benchmark.all_held)})
    return HeartScores(
        accuracy=by_centre.accuracy,
        pooled_accuracy=together.pooled_accuracy,
        auc=together.auc,
        mean_auc=by_centre.mean_auc,
    )


def scored(model: Vector, rows: Centre) -> tuple[Vector, npt.NDArray[np.int64]]:
    """The linear score of each row, and its label."""
    return rows.inputs @ model, rows.labels.astype(np.int64)
