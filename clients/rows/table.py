"""From a site's frame to the arrays of training, by the task's public preprocessing.

Nothing here is computed from the rows as a whole: the scale of a number is its
public range, the code of a category its place in the public list, the side of a
record (train or held out) a keyed hash of that record alone. So each row of the
table is a function of one row of the frame, and what is later proven about one
record's influence on training holds from the raw data on.

**Held-out records.** The training rows and the held-out rows pay separate
budgets (parallel composition), which is true only if adding or removing one
record leaves every other record on its side. A shuffle, a position or a
stratified split does not have that property. So a record goes where the site's
own column sends it, or where BLAKE2b, keyed with the site's secret, of its
values puts it; where the task names a person, the person's id is hashed, so
that all rows of a person fall on one side. Records that are equal in every
value go together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from clients.rows.sources import HOLDOUT, locate
from contract.errors import DataError
from contract.experiment import CategoricalFeature, Feature, Label, NumericFeature, Task

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Table", "prepare", "require_two_classes", "select"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Table:
    """n encoded rows.

    Attributes:
        features: float32 [n, task.width], each value in [0, 1], or in [-1, 1] as the task scales.
        labels: int64 [n], the place of the label in the task's classes.
        person: int64 [n], equal for rows of one person and distinct otherwise; None without ids.
        window: object [n], the task's time column as text; None without one.
        holdout: bool [n], whether the row is for evaluation only.
        clamped: how many values of each numeric feature were outside their public range and
            set to its nearer end. Exact counts of private data: for the site's own log.
    """

    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    person: npt.NDArray[np.int64] | None
    window: npt.NDArray[np.object_] | None
    holdout: npt.NDArray[np.bool_]
    clamped: dict[str, int] = field(default_factory=dict)

    def rows(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.integer[Any]]) -> Table:
        """The rows of a mask or of indices; `clamped` stays that of the whole."""
        return Table(
            features=self.features[chosen],
            labels=self.labels[chosen],
            person=None if self.person is None else self.person[chosen],
            window=None if self.window is None else self.window[chosen],
            holdout=self.holdout[chosen],
            clamped=self.clamped,
        )


def prepare(frame: pd.DataFrame, task: Task, *, key: bytes, holdout_share: float = 0.3) -> Table:
    """Encode the rows of `clients.rows.sources.load_frame`.

    Args:
        frame: one row a record; the column `HOLDOUT` of `train` and `holdout`, if there is one,
            decides the side of each record.
        task: gives ranges, categories, and what stands for a missing value.
        key: the site's secret, at most 64 bytes (`clients.site_config.holdout_key`).
        holdout_share: the chance that the hash holds a record out.

    Raises:
        DataError: a missing value, category, class or side that the task does not allow, or a
            value out of range where the task refuses it; names column, row and value.
    """
    clamped: dict[str, int] = {}
    raw = [_codes(frame, feature) for feature in task.features]
    encoded = [
        _encoded(frame, task, feature, values, clamped)
        for feature, values in zip(task.features, raw, strict=True)
    ]
    labels = _labels(frame, task.label)
    window = None if task.time is None else _present(frame, task.time)
    people = None if task.person is None else _present(frame, task.person)
    if HOLDOUT in frame:
        holdout = _declared_side(frame)
    else:
        records = people if people is not None else _records([*raw, labels.astype(np.float64)], window)
        holdout = _hashed_side(records, key, holdout_share)
    return Table(
        features=_scaled(np.concatenate(encoded, axis=1, dtype=np.float32), task),
        labels=labels,
        person=None if people is None else np.unique(people, return_inverse=True)[1].astype(np.int64),
        window=window,
        holdout=holdout,
        clamped={name: count for name, count in clamped.items() if count},
    )


def select(table: Table, windows: Sequence[str], *, holdout: bool) -> Table:
    """The training rows, or the held-out rows, of some windows; no windows means all.

    Raises:
        DataError: windows are named and the task has no time column.
    """
    chosen = table.holdout == holdout
    if windows:
        if table.window is None:
            raise DataError(
                "windows are asked for and the task names no time column",
                where="task.time",
                remedy="Name the column of the time window in the experiment, or ask for all rows",
            )
        chosen = chosen & np.isin(table.window.astype(str), list(windows))
    return table.rows(chosen)


def require_two_classes(table: Table) -> None:
    """Refuse rows of which all have one label, from which nothing can be learned.

    Raises:
        DataError: the rows hold fewer than two classes. That says something of the rows: what
            the other side hears of it is the one word of its code.
    """
    if len(np.unique(table.labels)) < 2:
        raise DataError(
            "the label has fewer than two classes in the rows of this site",
            where="task.label",
            remedy="Deliver rows of another class, or leave this site out of the run",
        )


def _codes(frame: pd.DataFrame, feature: Feature) -> Floats:
    """The raw number, or the place in the public list of categories; missing values filled."""
    if isinstance(feature, NumericFeature):
        values = frame[feature.name].to_numpy(dtype=np.float64, na_value=np.nan)
        missing = np.isnan(values)
        _refuse(
            frame, feature.name, missing & (feature.missing is None), lambda _: "a missing value", _STAND_IN
        )
        stand_in = np.nan if feature.missing is None else feature.missing
        return np.where(missing, stand_in, values) + 0.0
    return _category_codes(frame, feature).astype(np.float64)


def _category_codes(frame: pd.DataFrame, feature: CategoricalFeature) -> npt.NDArray[np.int64]:
    column = frame[feature.name]
    codes = _places(column, feature.categories)
    missing = column.isna().to_numpy()
    if feature.missing is None:
        _refuse(frame, feature.name, missing, lambda _: "a missing value", _STAND_IN)
    else:
        codes[missing] = feature.categories.index(feature.missing)
    if feature.other is not None:
        codes[codes < 0] = feature.categories.index(feature.other)
    _refuse(
        frame,
        feature.name,
        codes < 0,
        lambda row: f"the category {column.iloc[row]!r}, which the task does not declare",
        "Add it to the feature's categories, or name one of them as other",
    )
    return codes


def _places(column: pd.Series[Any], known: Sequence[str]) -> npt.NDArray[np.int64]:
    import pandas as pd

    return pd.Index(list(known), dtype=object).get_indexer(pd.Index(column, dtype=object)).astype(np.int64)


def _encoded(
    frame: pd.DataFrame, task: Task, feature: Feature, values: Floats, clamped: dict[str, int]
) -> npt.NDArray[np.float32]:
    """The feature's columns: one in [0, 1], or one a category."""
    if isinstance(feature, CategoricalFeature):
        return np.eye(len(feature.categories), dtype=np.float32)[values.astype(np.int64)]
    outside = (values < feature.low) | (values > feature.high)
    clamped[feature.name] = int(outside.sum())
    if task.out_of_range == "refuse":
        _refuse(
            frame,
            feature.name,
            outside,
            lambda row: f"{values[row]:g}, outside its public range [{feature.low:g}, {feature.high:g}]",
            "Correct it, widen the range, or set task.out_of_range = 'clamp'",
        )
    inside, low, high = np.clip(values, feature.low, feature.high), feature.low, feature.high
    if feature.transform == "log1p":
        inside, low, high = np.log1p(inside), float(np.log1p(low)), float(np.log1p(high))
    scaled = np.clip((inside - low) / (high - low), 0, 1)
    return scaled.astype(np.float32)[:, None]


def _scaled(features: npt.NDArray[np.float32], task: Task) -> npt.NDArray[np.float32]:
    return features if task.scaling == "unit" else 2 * features - 1


def _labels(frame: pd.DataFrame, label: Label) -> npt.NDArray[np.int64]:
    codes = _places(frame[label.column], label.classes)
    _refuse(
        frame,
        label.column,
        codes < 0,
        lambda row: f"the label {frame[label.column].iloc[row]!r}, which is not one of the classes",
        f"The classes are {', '.join(label.classes)}: correct the value, or task.label.classes",
    )
    return codes


def _present(frame: pd.DataFrame, column: str) -> npt.NDArray[np.object_]:
    missing = frame[column].isna().to_numpy()
    _refuse(frame, column, missing, lambda _: "a missing value", "Every row needs one")
    return frame[column].to_numpy(dtype=object)


def _declared_side(frame: pd.DataFrame) -> npt.NDArray[np.bool_]:
    sides = _places(frame[HOLDOUT], ("train", "holdout"))
    _refuse(
        frame,
        "data.holdout_column",
        sides < 0,
        lambda row: f"{frame[HOLDOUT].iloc[row]!r}, which is neither 'train' nor 'holdout'",
        "Write one of the two in every row",
    )
    return np.asarray(sides == 1, dtype=np.bool_)


def _records(columns: Sequence[Floats], window: npt.NDArray[np.object_] | None) -> list[bytes]:
    """Each row's own values as bytes: raw numbers and public codes, so of that row alone."""
    rows = np.stack(columns, axis=1)
    width = rows.shape[1] * rows.itemsize
    packed = rows.tobytes()
    values = [packed[start : start + width] for start in range(0, len(packed), width)]
    if window is None:
        return values
    return [value + str(label).encode() for value, label in zip(values, window, strict=True)]


def _hashed_side(
    records: Sequence[bytes] | npt.NDArray[np.object_], key: bytes, share: float
) -> npt.NDArray[np.bool_]:
    hashed = (
        blake2b(
            record if isinstance(record, bytes) else str(record).encode(), key=key, digest_size=8
        ).digest()
        for record in records
    )
    numbers = np.frombuffer(b"".join(hashed), dtype=">u8")
    return numbers < np.uint64(share * 2**64)


_STAND_IN = "Say in the experiment what stands for a missing value of this feature"


def _refuse(
    frame: pd.DataFrame,
    column: str,
    wrong: npt.NDArray[np.bool_],
    describe: Callable[[int], str],
    remedy: str,
) -> None:
    """Raise for the first of the rows that are wrong, if any is."""
    if wrong.any():
        first = int(wrong.argmax())
        more = f" (and {int(wrong.sum()) - 1} more rows)" if wrong.sum() > 1 else ""
        raise DataError(
            f"column '{column}' holds {describe(first)}{more}", where=locate(frame, first), remedy=remedy
        )
