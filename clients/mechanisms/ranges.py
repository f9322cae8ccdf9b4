"""A site's answer to a question for ranges: noisy counts over a public grid.

For a task whose features have no public range. Every row adds 1 to one count of
each of the d features that are asked for, whatever it holds (a missing value has
a count of its own), so the L2 sensitivity of all counts together is sqrt(d), and
r times that for a person of r rows. One Gaussian mechanism covers them all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from clients.mechanisms.noise import NormalSource, noisy
from clients.rows.persons import limited
from clients.rows.rows import Rows
from contract.errors import MessageError
from contract.experiment import Experiment, NumericFeature, Task
from contract.range_grid import CELLS, cells_of
from contract.releases import Array, RangeCounts

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["noisy_range_counts", "ranges_deviation", "require_numeric"]


def require_numeric(task: Task, features: Sequence[str]) -> None:
    """Refuse a question for anything but distinct numeric features of the task.

    Raises:
        MessageError: nothing is asked for, or something else is.
    """
    numeric = [feature.name for feature in task.features if isinstance(feature, NumericFeature)]
    if not features or len(set(features)) != len(features) or not set(features) <= set(numeric):
        raise MessageError("ranges are asked for that are not of distinct numeric features of the task")


def ranges_deviation(experiment: Experiment, features: int, noise_multiplier: float) -> float:
    """Standard deviation of the noise in each count, where so many features are asked for."""
    return noise_multiplier * experiment.privacy.rows_per_person * math.sqrt(features)


def noisy_range_counts(
    rows: Rows, experiment: Experiment, features: Sequence[str], deviation: float, noise: NormalSource
) -> tuple[RangeCounts, ...]:
    """Counts of each feature over the cells of `contract.range_grid`, with noise; persons' rows limited."""
    frame = limited(rows, experiment.privacy).frame
    counts = noisy(np.concatenate([_counts(frame, feature) for feature in features]), deviation, noise)
    return tuple(
        RangeCounts(feature=feature, counts=part)
        for feature, part in zip(features, np.split(counts, len(features)), strict=True)
    )


def _counts(frame: pd.DataFrame, feature: str) -> Array:
    values = frame[feature].to_numpy(dtype=np.float64)
    return np.bincount(cells_of(values), minlength=CELLS).astype(np.float64)
