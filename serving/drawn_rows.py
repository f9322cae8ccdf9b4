"""Rows that nobody has: made from a task's public ranges and categories alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from contract.experiment import NumericFeature, Task

__all__ = ["drawn_columns", "middle_row"]


def drawn_columns(task: Task, rows: int, rng: np.random.Generator) -> dict[str, npt.NDArray[Any]]:
    """Columns that fit a task, from public ranges and categories alone: each value as likely as another."""
    found: dict[str, npt.NDArray[Any]] = {}
    for feature in task.features:
        if isinstance(feature, NumericFeature):
            low, high = feature.scaled_range
            values = rng.uniform(low, high, rows)
            found[feature.name] = np.clip(
                np.expm1(values) if feature.transform == "log1p" else values, feature.low, feature.high
            )
        else:
            found[feature.name] = np.array(feature.categories, object)[
                rng.integers(len(feature.categories), size=rows)
            ]
    return found


def middle_row(task: Task) -> dict[str, float | str]:
    """One row that fits a task, by feature: the middle of its range, or its first category."""
    return {
        one.name: (one.low + one.high) / 2 if isinstance(one, NumericFeature) else one.categories[0]
        for one in task.features
    }
