"""Counts over fixed public bins: the only view of the rows that drift needs.

The bins come from the task's public ranges and categories, never from data, so
that they cost no privacy and are the same at every site: counts of two sites
may be added. Every row adds exactly 1 to exactly one cell of every feature and
of the label, whatever it holds: too low, too high, missing, undeclared, not a
number. So one row moves the counts of d features and the label by sqrt(d + 1)
in L2 norm, and by nothing more (`l2_sensitivity`).

Count the rows as they were read, before missing values are filled in: a rise of
missing values is drift, and has a cell of its own to be seen in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from contract.errors import DataError
from contract.experiment import CategoricalFeature, Feature, NumericFeature, Task
from contract.releases import Array

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "MISSING",
    "UNDECLARED",
    "FeatureBins",
    "as_text",
    "count_features",
    "feature_bins",
    "l2_sensitivity",
]

MISSING = "missing"
UNDECLARED = "undeclared"


@dataclass(frozen=True, kw_only=True)
class FeatureBins:
    """The cells of one feature, or of the label, in the order of its counts.

    Attributes:
        feature: the column.
        cells: a public name for each cell, such as `[0, 5.8)`, `female` or `missing`.
    """

    feature: str
    cells: tuple[str, ...]


def feature_bins(task: Task, bins: int) -> tuple[FeatureBins, ...]:
    """The cells of every feature in the task's order, and last those of the label.

    A numeric feature has `bins` cells, of equal width after its transform, and
    one for missing. A categorical one has a cell a category, one for undeclared
    values and one for missing; the label the same, with its classes or its range. A label that
    is missing is not yet known, and says nothing of the labels that are.
    """
    features = (FeatureBins(feature=item.name, cells=_cells(item, bins)) for item in task.features)
    label = _cells(task.label.range, bins) if task.label.range else _categories(task.label.classes)
    return (*features, FeatureBins(feature=task.label.column, cells=label))


def count_features(frame: pd.DataFrame, task: Task, bins: int) -> dict[str, Array]:
    """Count the rows in each cell of each feature and of the label, by column name.

    Values outside a numeric range fall in the end cells, and so do infinities;
    what is not a number counts as missing. In a column of whole numbers that
    was read as decimal, `2.0` is the category `2`.

    Raises:
        DataError: a column of the task is not in the frame.
    """
    absent = [name for name in (*(f.name for f in task.features), task.label.column) if name not in frame]
    if absent:
        raise DataError(
            f"column '{absent[0]}' is missing",
            where="drift check",
            remedy="Deliver every column that the task declares",
        )
    counts = {feature.name: _count(_index(frame[feature.name], feature, bins)) for feature in task.features}
    label = frame[task.label.column]
    numeric = task.label.range
    counts[task.label.column] = _count(
        _numeric_index(label, numeric, bins) if numeric else _category_index(label, task.label.classes)
    )
    return counts


def l2_sensitivity(task: Task, *, rows_per_unit: int = 1) -> float:
    """How far all counts together move, in L2 norm, when one privacy unit comes or goes.

    A unit of r rows can put all r in the same cells, so r times that of a row.
    """
    return rows_per_unit * math.sqrt(len(task.features) + 1)


def _cells(feature: Feature, bins: int) -> tuple[str, ...]:
    if isinstance(feature, CategoricalFeature):
        return _categories(feature.categories)
    low, high = _scaled(feature, np.array([feature.low, feature.high]))
    edges = np.linspace(low, high, bins + 1)
    shown = [f"{edge:.4g}" for edge in (np.expm1(edges) if feature.transform == "log1p" else edges)]
    closing = [")"] * (bins - 1) + ["]"]
    ranges = (f"[{low}, {high}{end}" for low, high, end in zip(shown[:-1], shown[1:], closing, strict=True))
    return (*ranges, MISSING)


def _categories(known: tuple[str, ...]) -> tuple[str, ...]:
    return (*known, UNDECLARED, MISSING)


def _scaled(feature: NumericFeature, values: Array) -> Array:
    return np.log1p(values) if feature.transform == "log1p" else values


Index = tuple[npt.NDArray[np.intp], int]
"""The cell of each row, and the number of cells."""


def _count(index: Index) -> Array:
    cells, number = index
    return np.bincount(cells, minlength=number).astype(np.float64)


def _index(column: pd.Series[Any], feature: Feature, bins: int) -> Index:
    if isinstance(feature, CategoricalFeature):
        return _category_index(column, feature.categories)
    return _numeric_index(column, feature, bins)


def _numeric_index(column: pd.Series[Any], feature: NumericFeature, bins: int) -> Index:
    import pandas as pd

    values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    missing = np.isnan(values)
    inside = np.clip(np.where(missing, feature.low, values), feature.low, feature.high)
    low, high = _scaled(feature, np.array([feature.low, feature.high]))
    position = np.floor((_scaled(feature, inside) - low) / (high - low) * bins)
    cells = np.clip(position, 0, bins - 1).astype(np.intp)
    return np.where(missing, bins, cells), bins + 1


def _category_index(column: pd.Series[Any], known: tuple[str, ...]) -> Index:
    import pandas as pd

    missing = column.isna().to_numpy(dtype=bool)
    found = pd.Index(known).get_indexer(pd.Index([as_text(value) for value in column], dtype=object))
    cells = np.where(missing, len(known) + 1, np.where(found < 0, len(known), found))
    return cells.astype(np.intp), len(known) + 2


def as_text(value: object) -> str:
    """The category that a value of a column names."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)
