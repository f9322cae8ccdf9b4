"""From values to a model's inputs, by the task's public preprocessing: for training and for prediction alike.

Nothing here is computed from the rows as a whole: each row of the result is a function of one row.
A row that does not fit is marked, with the column and the reason, and changes nothing about the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from contract.experiment import CategoricalFeature, NumericFeature, Task

__all__ = ["Fitting", "encode", "encode_number", "is_none", "places_of"]

Mask = npt.NDArray[np.bool_]
Declared = Callable[[str], frozenset[str]]


class Fitting:
    """Which of n rows fit, and why others do not.

    Attributes:
        fits: which rows fit.
        left_out: the rows that are left out for a column, by the column and the reason.
        clamped: how many values were set to the nearer end of their range, by column.
        filled: how many missing values have a stand-in, by column.
        other: how many values fell to the category for undeclared ones, by column.
    """

    def __init__(self, rows: int) -> None:
        self.fits = np.ones(rows, dtype=np.bool_)
        self.left_out: dict[str, dict[str, Mask]] = {}
        self.clamped: dict[str, int] = {}
        self.filled: dict[str, int] = {}
        self.other: dict[str, int] = {}

    def leave_out(self, column: str, reason: str, wrong: Mask) -> None:
        """Mark rows as left out."""
        if wrong.any():
            self.left_out.setdefault(column, {})[reason] = wrong
            self.fits &= ~wrong

    def note(self, counts: dict[str, int], column: str, found: Mask) -> None:
        """Count rows of which something is to be said."""
        if count := int(found.sum()):
            counts[column] = count

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """How many rows are left out, by the column and the reason."""
        return {
            column: {reason: int(wrong.sum()) for reason, wrong in reasons.items()}
            for column, reasons in self.left_out.items()
        }


def encode(
    values: Mapping[str, npt.NDArray[Any]], task: Task, fitting: Fitting, *, declared: Declared | None = None
) -> npt.NDArray[np.float32]:
    """The inputs of the task's model, float32 [n, task.width]; of a row that does not fit they mean nothing.

    Args:
        values: of each feature: float64, NaN where one is missing; or texts, None where one is missing
            (`serving.values`).
        task: gives ranges, categories, and what stands for a missing value.
        fitting: is told what does not fit.
        declared: the categories that a site's card has for a column; without it, those of the task.
    """
    refuses = task.out_of_range == "leave-out"
    encoded = [
        encode_number(values[feature.name], feature, fitting, leave_out_outside=refuses)
        if isinstance(feature, NumericFeature)
        else _category(values[feature.name], feature, fitting, declared)
        for feature in task.features
    ]
    inputs = np.concatenate(encoded, axis=1, dtype=np.float32)
    return 2 * inputs - 1 if task.scaling == "symmetric" else inputs


def encode_number(
    values: npt.NDArray[Any],
    feature: NumericFeature,
    fitting: Fitting,
    *,
    leave_out_outside: bool,
    absent: str = "a missing value",
) -> npt.NDArray[np.float32]:
    """One column in [0, 1], shape [n, 1]."""
    values = values.astype(np.float64)
    missing = np.isnan(values)
    if feature.missing is None:
        fitting.leave_out(feature.name, absent, missing)
    else:
        fitting.note(fitting.filled, feature.name, missing)
    values = np.where(missing, feature.low if feature.missing is None else feature.missing, values)
    outside = (values < feature.low) | (values > feature.high)
    if leave_out_outside:
        fitting.leave_out(feature.name, "a value outside its range", outside)
    else:
        fitting.note(fitting.clamped, feature.name, outside)
    inside = np.clip(values, feature.low, feature.high)
    low, high = feature.scaled_range
    if feature.transform == "log1p":
        inside = np.log1p(inside)
    scaled: npt.NDArray[np.float32] = np.clip((inside - low) / (high - low), 0, 1).astype(np.float32)
    return scaled[:, None]


def _category(
    values: npt.NDArray[Any], feature: CategoricalFeature, fitting: Fitting, declared: Declared | None
) -> npt.NDArray[np.float32]:
    """One column a category."""
    on_card = frozenset(feature.categories) if declared is None else declared(feature.name)
    codes = places_of(values, feature.categories, on_card)
    missing = is_none(values)
    if feature.missing is None:
        fitting.leave_out(feature.name, "a missing value", missing)
    else:
        fitting.note(fitting.filled, feature.name, missing)
        codes[missing] = feature.categories.index(feature.missing)
    strange = (codes < 0) & ~missing
    if feature.other is None:
        known = np.ones(len(values), np.bool_)
        if declared is not None:
            known = np.fromiter((value in on_card for value in values), np.bool_, count=len(values))
        fitting.leave_out(feature.name, "a category that the card does not declare", strange & ~known)
        fitting.leave_out(feature.name, "a category that the experiment does not list", strange & known)
    else:
        fitting.note(fitting.other, feature.name, strange)
        codes[strange] = feature.categories.index(feature.other)
    encoded = np.zeros((len(values), len(feature.categories)), dtype=np.float32)
    encoded[np.arange(len(values)), np.maximum(codes, 0)] = 1  # a row that fits no category is left out
    return encoded


def places_of(
    values: npt.NDArray[Any], known: Sequence[str], declared: frozenset[str]
) -> npt.NDArray[np.int64]:
    """The place of each value among the known ones that are declared too, -1 for any other."""
    places = {value: place for place, value in enumerate(known) if value in declared}
    return np.fromiter((places.get(value, -1) for value in values), dtype=np.int64, count=len(values))


def is_none(values: npt.NDArray[Any]) -> Mask:
    """Which values are missing."""
    return np.fromiter((value is None for value in values), dtype=np.bool_, count=len(values))
