"""From a site's rows to the arrays of training, by the task's public preprocessing.

Nothing here is computed from the rows as a whole: the scale of a number is its public
range, the code of a category its place in the public list. Each row of the table is a
function of one row, and what is later proven about one record's influence on training
holds from the raw data on.

A row that does not fit (a value that is missing, undeclared or out of range where the
task has no place for it, a label that is none of the classes) is left out, by itself: it
changes nothing about the others, and nobody but the administrator hears of it (`Fit`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from clients.rows.persons import numbered, rows_within_limit
from clients.rows.rows import Rows
from contract.card import Card, CategoricalColumn
from contract.experiment import CategoricalFeature, Experiment, NumericFeature, Task

__all__ = ["Fit", "Table", "prepare"]

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How rows fit an experiment: exact counts of private data, for the administrator alone.

    Attributes:
        rows: how many rows there were.
        kept: how many fit.
        left_out: rows left out for a column, by the column and the reason; one may count for several.
        clamped: values outside a public range that were set to its nearer end, by column.
        filled: missing values that the task has a stand-in for, by column.
        other: values that fell to the category for undeclared ones, by column.
    """

    rows: int = 0
    kept: int = 0
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)
    clamped: dict[str, int] = field(default_factory=dict)
    filled: dict[str, int] = field(default_factory=dict)
    other: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Table:
    """n encoded rows.

    Attributes:
        features: float32 [n, task.width], each value in [0, 1], or in [-1, 1] as the task scales.
        labels: int64 [n], the place of the label in the task's classes; float32 [n] of a numeric label, its
            range mapped to [-1, 1].
        person: int64 [n], equal for rows of one person and distinct otherwise; None where a record
            is the privacy unit.
        fit: how the rows fit that it was made of.
    """

    features: npt.NDArray[np.float32]
    labels: npt.NDArray[Any]
    person: npt.NDArray[np.int64] | None = None
    fit: Fit = field(default_factory=Fit)

    def rows(self, chosen: Mask | npt.NDArray[np.integer[Any]]) -> Table:
        """The rows of a mask or of indices; `fit` stays that of the whole."""
        return Table(
            features=self.features[chosen],
            labels=self.labels[chosen],
            person=None if self.person is None else self.person[chosen],
            fit=self.fit,
        )

    def limited(self, most: int) -> Table:
        """At most so many rows of each person, drawn anew in each call; all rows without persons."""
        return self if self.person is None else self.rows(rows_within_limit(self.person, most))


class _Fitting:
    """Which rows still fit, and why others do not."""

    def __init__(self, rows: int) -> None:
        self.fits = np.ones(rows, dtype=np.bool_)
        self.left_out: dict[str, dict[str, int]] = {}
        self.clamped: dict[str, int] = {}
        self.filled: dict[str, int] = {}
        self.other: dict[str, int] = {}

    def leave_out(self, column: str, reason: str, wrong: Mask) -> None:
        if count := int(wrong.sum()):
            self.left_out.setdefault(column, {})[reason] = count
            self.fits &= ~wrong

    def note(self, counts: dict[str, int], column: str, found: Mask) -> None:
        if count := int(found.sum()):
            counts[column] = count


def prepare(rows: Rows, experiment: Experiment, card: Card) -> Table:
    """Encode the rows that fit; it never fails for what they hold.

    Args:
        rows: of `clients.rows.rows`.
        experiment: gives ranges, categories, what stands for a missing value, and the privacy unit.
        card: a value that it does not declare is undeclared, whatever the experiment lists.
    """
    task, fitting = experiment.task, _Fitting(len(rows))
    encoded = []
    for feature in task.features:
        values = rows.frame[feature.name].to_numpy()
        if isinstance(feature, NumericFeature):
            refuses = task.out_of_range == "leave-out"
            encoded.append(_number(values, feature, fitting, leave_out_outside=refuses))
        else:
            encoded.append(_category(values, feature, _declared(card, feature.name), fitting))
    labels = _labels(rows.frame[task.label.column].to_numpy(), task, card, fitting)
    person = None
    if experiment.privacy.unit == "person" and rows.person is not None:
        unnamed = _is_none(rows.person)
        fitting.leave_out(str(card.person), "no person", unnamed)
        person = numbered(rows.person)
    features = np.concatenate(encoded, axis=1, dtype=np.float32)
    if task.scaling == "symmetric":
        features = 2 * features - 1
    fit = Fit(
        rows=len(rows),
        kept=int(fitting.fits.sum()),
        left_out=fitting.left_out,
        clamped=fitting.clamped,
        filled=fitting.filled,
        other=fitting.other,
    )
    table = Table(features=features, labels=labels, person=person, fit=fit)
    return table if fitting.fits.all() else table.rows(fitting.fits)


def _labels(
    values: npt.NDArray[Any], task: Task, card: Card, fitting: _Fitting
) -> npt.NDArray[np.int64] | npt.NDArray[np.float32]:
    label = task.label
    if label.range is not None:
        refuses = task.out_of_range == "leave-out"
        found = _number(values, label.range, fitting, leave_out_outside=refuses, absent="no label")
        return 2 * found[:, 0] - 1
    places = _places(values, label.classes, _declared(card, label.column))
    absent = _is_none(values)
    fitting.leave_out(label.column, "no label", absent)
    fitting.leave_out(label.column, "a label that is none of the classes", (places < 0) & ~absent)
    return places


def _number(
    values: npt.NDArray[Any],
    feature: NumericFeature,
    fitting: _Fitting,
    *,
    leave_out_outside: bool,
    absent: str = "a missing value",
) -> npt.NDArray[np.float32]:
    """One column in [0, 1]."""
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
    values: npt.NDArray[Any], feature: CategoricalFeature, declared: frozenset[str], fitting: _Fitting
) -> npt.NDArray[np.float32]:
    """One column a category."""
    codes = _places(values, feature.categories, declared)
    missing = _is_none(values)
    if feature.missing is None:
        fitting.leave_out(feature.name, "a missing value", missing)
    else:
        fitting.note(fitting.filled, feature.name, missing)
        codes[missing] = feature.categories.index(feature.missing)
    strange = (codes < 0) & ~missing
    if feature.other is None:
        on_card = np.fromiter((value in declared for value in values), np.bool_, count=len(values))
        fitting.leave_out(feature.name, "a category that the card does not declare", strange & ~on_card)
        fitting.leave_out(feature.name, "a category that the experiment does not list", strange & on_card)
    else:
        fitting.note(fitting.other, feature.name, strange)
        codes[strange] = feature.categories.index(feature.other)
    encoded = np.zeros((len(values), len(feature.categories)), dtype=np.float32)
    encoded[np.arange(len(values)), np.maximum(codes, 0)] = 1  # a row that fits no category is left out
    return encoded


def _declared(card: Card, name: str) -> frozenset[str]:
    column = card.column(name)
    return frozenset(column.categories) if isinstance(column, CategoricalColumn) else frozenset()


def _places(
    values: npt.NDArray[Any], known: Sequence[str], declared: frozenset[str]
) -> npt.NDArray[np.int64]:
    """The place of each value among the known ones that the card declares too, -1 for any other."""
    places = {value: place for place, value in enumerate(known) if value in declared}
    return np.fromiter((places.get(value, -1) for value in values), dtype=np.int64, count=len(values))


def _is_none(values: npt.NDArray[Any]) -> Mask:
    return np.fromiter((value is None for value in values), dtype=np.bool_, count=len(values))
