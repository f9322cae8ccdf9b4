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

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from clients.rows.persons import numbered, rows_within_limit
from clients.rows.rows import Rows
from contract.card import Card, CategoricalColumn
from contract.experiment import Experiment, Task
from serving.encoding import Fitting, encode, encode_number, is_none, places_of

__all__ = ["Fit", "Table", "prepare"]

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


def prepare(rows: Rows, experiment: Experiment, card: Card) -> Table:
    """Encode the rows that fit; it never fails for what they hold.

    Args:
        rows: of `clients.rows.rows`.
        experiment: gives ranges, categories, what stands for a missing value, and the privacy unit.
        card: a value that it does not declare is undeclared, whatever the experiment lists.
    """
    task, fitting = experiment.task, Fitting(len(rows))
    values = {feature.name: rows.frame[feature.name].to_numpy() for feature in task.features}
    features = encode(values, task, fitting, declared=lambda name: _declared(card, name))
    labels = _labels(rows.frame[task.label.column].to_numpy(), task, card, fitting)
    person = None
    if experiment.privacy.unit == "person" and rows.person is not None:
        unnamed = is_none(rows.person)
        fitting.leave_out(str(card.person), "no person", unnamed)
        person = numbered(rows.person)
    fit = Fit(
        rows=len(rows),
        kept=int(fitting.fits.sum()),
        left_out=fitting.counts,
        clamped=fitting.clamped,
        filled=fitting.filled,
        other=fitting.other,
    )
    table = Table(features=features, labels=labels, person=person, fit=fit)
    return table if fitting.fits.all() else table.rows(fitting.fits)


def _labels(
    values: npt.NDArray[Any], task: Task, card: Card, fitting: Fitting
) -> npt.NDArray[np.int64] | npt.NDArray[np.float32]:
    label = task.label
    if label.range is not None:
        refuses = task.out_of_range == "leave-out"
        found = encode_number(values, label.range, fitting, leave_out_outside=refuses, absent="no label")
        return 2 * found[:, 0] - 1
    places = places_of(values, label.classes, _declared(card, label.column))
    absent = is_none(values)
    fitting.leave_out(label.column, "no label", absent)
    fitting.leave_out(label.column, "a label that is none of the classes", (places < 0) & ~absent)
    return places


def _declared(card: Card, name: str) -> frozenset[str]:
    column = card.column(name)
    return frozenset(column.categories) if isinstance(column, CategoricalColumn) else frozenset()
