"""Rows as a person has them in Python, as columns for a `Predictor`, and its predictions in the same form.

A data frame is known by what it can do, so that pandas is not needed here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from contract.errors import InputError
from serving.prediction import Predictions
from serving.values import Column

__all__ = ["columns_of", "in_the_form_of"]

_REMEDY = "Give a pandas DataFrame, a dict of columns, or a list of rows, each a dict"


def columns_of(rows: Any) -> Mapping[str, Column]:
    """The columns of rows, by name.

    Args:
        rows: a pandas DataFrame; a mapping of columns; or a sequence of rows, each a mapping. A row that
            lacks a name which another has lacks the value.

    Raises:
        InputError: they are none of these, have columns of unequal lengths, or two of one name.
    """
    if _is_frame(rows):
        names = [str(name) for name in rows.columns]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"column '{twice[0]}' is there twice", where="the rows", remedy=_REMEDY)
        return {str(name): rows[name] for name in rows.columns}
    if isinstance(rows, Mapping):
        found = {str(name): _column(str(name), values) for name, values in rows.items()}
        lengths = sorted({len(column) for column in found.values()})
        if len(lengths) > 1:
            words = " and ".join(map(str, lengths[:2]))
            raise InputError(f"columns have {words} values", where="the rows", remedy=_REMEDY)
        return found
    if isinstance(rows, Sequence) and all(isinstance(row, Mapping) for row in rows):
        names = list(dict.fromkeys(str(name) for row in rows for name in row))
        return {name: _objects([row.get(name) for row in rows]) for name in names}
    raise InputError("they are no rows", where="the rows", remedy=_REMEDY)


def in_the_form_of(rows: Any, told: Predictions) -> Any:
    """Predictions as a frame of the same index, a dict of lists, or a list of dicts, as the rows were.

    A probability that there is none of is NaN in a frame, and None elsewhere.
    """
    columns = told.columns()
    if _is_frame(rows):
        return rows[[]].assign(**columns)
    lists = {
        name: [None if isinstance(one, float) and math.isnan(one) else one for one in values.tolist()]
        for name, values in columns.items()
    }
    if isinstance(rows, Mapping):
        return lists
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def _is_frame(rows: Any) -> bool:
    return all(hasattr(rows, name) for name in ("columns", "index", "assign"))


def _column(name: str, values: Any) -> Column:
    """A column of an array, a series, or any sequence but a text."""
    if hasattr(values, "dtype") and getattr(values, "ndim", 0) == 1:
        return cast(Column, values)
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        raise InputError(f"column '{name}' is no list of values", where="the rows", remedy=_REMEDY)
    return _objects(values)


def _objects(values: Sequence[Any]) -> npt.NDArray[np.object_]:
    """As they are: numpy would make texts of a list in which one is."""
    found = np.empty(len(values), dtype=object)
    for place, value in enumerate(values):
        found[place] = value
    return found
