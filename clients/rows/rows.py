"""The rows of a site, read by its card: which ones they are, whose, and on which side of the hold-out.

Nothing here knows an experiment. A row's window is the text in the card's time column, or the calendar
window of the date in it; its person the text in the person column, its side what the hold-out column says,
or a hash of the row:

**Held-out rows.** Training rows and held-out rows pay separate budgets (parallel composition), which
is true only if adding or removing one record leaves every other record on its side. A shuffle, a
position or a stratified split does not have that property. So a record goes where the card's own
column sends it, or where BLAKE2b, keyed with the site's secret, puts it: of the person's id where the
card names a person, so that all rows of a person fall on one side whatever file they came in; of the
record's id where it names one, of whose rows one counts; else of all its columns on the card. Records
that are equal in every value then go together, and one whose values change later may change sides. So
where nothing lasting says the side, whatever is done to one side is charged to both
(`clients.ledger.plans.blocks`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from clients.rows.sources import read_source
from clients.rows.unfit_lines import UnfitLines
from clients.site_config import DataSource, SiteConfig
from contract.card import Card, CategoricalColumn, NumericColumn
from contract.windows import window_of
from serving.values import dates, numbers, texts

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["UNDECLARED", "Reading", "Rows", "as_declared", "read_rows", "record_digests", "rows_of"]

UNDECLARED = "\0undeclared"
"""Stands for a value that the card does not declare: no category can be named so."""

Texts = npt.NDArray[np.object_]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What was seen while the rows were read: exact counts of private data, for the administrator alone.

    Attributes:
        rows: how many rows were read.
        left_out: lines that did not fit their file's header, by file.
        unfit: the same lines, by file and by cause.
        unreadable: values of a numeric column that are no number, by column.
        undeclared: values of a categorical column that the card does not declare, with their counts.
        without_side: rows whose hold-out column says neither `train` nor `holdout`, or that have no
            value in the column that says which record it is.
        repeated: rows left out because another row of the same record counts.
        undated: rows in no calendar window, because their time is no date.
    """

    rows: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    unfit: dict[str, tuple[UnfitLines, ...]] = field(default_factory=dict)
    unreadable: dict[str, int] = field(default_factory=dict)
    undeclared: dict[str, dict[str, int]] = field(default_factory=dict)
    without_side: int = 0
    repeated: int = 0
    undated: int = 0


@dataclass(frozen=True, kw_only=True)
class Rows:
    """n rows.

    Attributes:
        frame: the card's columns under their names: float64 where it says numeric (missing is NaN),
            texts elsewhere (missing is None).
        person: whose row it is, None where it does not say; no array where the card names no person.
        window: the row's window, None where it does not say; no array where the card has no time.
        holdout: bool [n], whether the row is for evaluation alone.
        reading: what was seen while they were read, of all rows of the site.
        unreadable: bool [n], where a numeric column has a value that is no number, by column; without
            columns that have none.
    """

    frame: pd.DataFrame
    person: Texts | None
    window: Texts | None
    holdout: Mask
    reading: Reading = field(default_factory=Reading)
    unreadable: dict[str, Mask] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.holdout)

    def chosen(self, mask: Mask | npt.NDArray[np.integer[Any]]) -> Rows:
        """The rows of a mask or of indices."""
        return Rows(
            frame=self.frame.iloc[np.flatnonzero(mask) if mask.dtype == np.bool_ else mask],
            person=None if self.person is None else self.person[mask],
            window=None if self.window is None else self.window[mask],
            holdout=self.holdout[mask],
            reading=self.reading,
            unreadable={name: found[mask] for name, found in self.unreadable.items()},
        )

    def of(self, windows: Collection[str], *, holdout: bool | None = None) -> Rows:
        """The rows of these windows (of all, if none is named), of one side or of both.

        A window's rows are those whose text is its name: neither more nor less, and perhaps none.
        """
        mask = np.ones(len(self), dtype=np.bool_)
        if windows:
            names = frozenset(windows)
            held = () if self.window is None else self.window
            mask = np.fromiter((name in names for name in held), dtype=np.bool_, count=len(held))
        if holdout is not None:
            mask = mask & (self.holdout == holdout)
        return self.chosen(mask)


def read_rows(config: SiteConfig, card: Card, *, key: bytes) -> Rows:
    """Every row of the site.

    Args:
        config: names the source, and what stands for a missing value.
        card: what the columns are.
        key: the site's secret, at most 64 bytes (`clients.site_config.holdout_key`).

    Raises:
        DataError: the source fails, whatever its rows hold (`clients.rows.sources`).
    """
    import pandas as pd

    parts = read_source(config, card)
    if len(parts) == 1:
        raw = parts[0].frame
    else:
        whole = {name: np.concatenate([part.frame[name].to_numpy() for part in parts]) for name in card.names}
        raw = pd.DataFrame(whole)
    rows = rows_of(raw, card, source=config.data, key=key)
    left_out = {part.name: part.left_out for part in parts if part.left_out}
    unfit = {part.name: part.unfit for part in parts if part.unfit}
    return replace(rows, reading=replace(rows.reading, left_out=left_out, unfit=unfit))


def rows_of(raw: pd.DataFrame, card: Card, *, source: DataSource, key: bytes) -> Rows:
    """The rows of a frame with the card's columns, whose values are as the source holds them.

    Args:
        raw: one row a record.
        card: what the columns are.
        source: says what stands for a missing value.
        key: the site's secret.
    """
    import pandas as pd

    def missing(name: str) -> tuple[str, ...]:
        return (*source.na_values, *source.missing.get(name, ()))

    def as_texts(name: str, declared: Sequence[str] = ()) -> Texts:
        return texts(raw[name], missing=missing(name), declared=declared, decimal=source.decimal)

    columns: dict[str, npt.NDArray[Any]] = {}
    unreadable: dict[str, Mask] = {}
    undeclared: dict[str, dict[str, int]] = {}
    for column in card.columns:
        name = column.name
        if isinstance(column, NumericColumn):
            columns[name], wrong = numbers(raw[name], missing=missing(name), decimal=source.decimal)
            if wrong.any():
                unreadable[name] = wrong
        else:
            columns[name] = as_texts(name, column.categories)
            undeclared[name] = _undeclared(columns[name], column.categories)
    person = None if card.person is None else as_texts(card.person)
    window, undated = None, 0
    if card.time is not None and card.time.every is not None:
        name, every = card.time.column, card.time.every
        days, undated = dates(raw[name], missing=missing(name), zone=card.time.zone, form=source.date_format)
        window = np.array([None if day is None else window_of(day, every) for day in days], dtype=object)
    elif card.time is not None:
        window = as_texts(card.time.column)
    side = None if card.holdout.column is None else texts(raw[card.holdout.column], missing=())
    record = None if card.holdout.record is None else as_texts(card.holdout.record)
    values = [*columns.values(), window]
    if side is not None:
        holdout, has_side = side == "holdout", (side == "holdout") | (side == "train")
    else:
        dealt_by = [record] if record is not None else [person] if person is not None else values
        holdout, has_side = (
            _held_out(record_digests(dealt_by), key, card.holdout.share),
            _there(record, len(raw)),
        )
    # the rows of a database have no order that would be theirs alone
    shuffled = record is not None and source.kind == "sql"
    counts = _one_of_each(record, _joined(values) if shuffled else range(len(raw)))
    reading = Reading(
        rows=len(raw),
        unreadable={name: int(wrong.sum()) for name, wrong in unreadable.items()},
        undeclared={name: counts for name, counts in undeclared.items() if counts},
        without_side=int((~has_side).sum()),
        repeated=int((has_side & ~counts).sum()),
        undated=undated,
    )
    rows = Rows(
        frame=pd.DataFrame(columns),
        person=person,
        window=window,
        holdout=np.asarray(holdout, dtype=np.bool_),
        reading=reading,
        unreadable=unreadable,
    )
    chosen = np.asarray(has_side & counts, dtype=np.bool_)
    return rows if chosen.all() else rows.chosen(chosen)


def as_declared(frame: pd.DataFrame, card: Card) -> pd.DataFrame:
    """The frame with every value that the card does not declare as one and the same, `UNDECLARED`."""
    import pandas as pd

    columns = {}
    for column in card.columns:
        values = frame[column.name].to_numpy()
        if isinstance(column, CategoricalColumn):
            known = frozenset(column.categories)
            declared = [value if value is None or value in known else UNDECLARED for value in values]
            values = np.array(declared, dtype=object)
        columns[column.name] = values
    return pd.DataFrame(columns)


def _undeclared(values: Texts, categories: Sequence[str]) -> dict[str, int]:
    known, counts = frozenset(categories), dict[str, int]()
    for value in values:
        if value is not None and value not in known:
            counts[value] = counts.get(value, 0) + 1
    return counts


def record_digests(columns: Sequence[npt.NDArray[Any] | None]) -> npt.NDArray[np.uint8]:
    """16 bytes a column, of each row's value in it, beside each other: of that row alone."""
    return np.concatenate([_digests_of(values) for values in columns if values is not None], axis=1)


def _digests_of(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if values.dtype == np.float64:  # NaN in one form: a missing number is like any other
        plain = np.where(np.isnan(values), np.nan, values + 0.0)
        return np.ascontiguousarray(plain).view(np.uint8).reshape(len(values), 8)
    known: dict[object, bytes] = {}
    for value in values:
        if value not in known:
            text = b"\0" if value is None else b"\1" + str(value).encode("utf-8", "surrogatepass")
            known[value] = blake2b(text, digest_size=16).digest()
    joined = b"".join(known[value] for value in values)
    return np.frombuffer(joined, dtype=np.uint8).reshape(len(values), 16)


def _joined(columns: Sequence[npt.NDArray[Any] | None]) -> list[bytes]:
    return [record.tobytes() for record in record_digests(columns)]


def _there(records: Texts | None, rows: int) -> Mask:
    """Which rows say what record they are; all, where none has to."""
    if records is None:
        return np.ones(rows, dtype=np.bool_)
    return np.fromiter((name is not None for name in records), np.bool_, rows)


def _one_of_each(records: Texts | None, order: Sequence[Any]) -> Mask:
    """The last row of each record by that order; all rows, where each is a record."""
    if records is None:
        return np.ones(len(order), dtype=np.bool_)
    last: dict[str, int] = {}
    for place, name in enumerate(records):
        if name is not None and (name not in last or order[place] >= order[last[name]]):
            last[name] = place
    counts = np.zeros(len(records), dtype=np.bool_)
    counts[list(last.values())] = True
    return counts


def _held_out(records: npt.NDArray[np.uint8], key: bytes, share: float) -> Mask:
    hashed = b"".join(blake2b(record.tobytes(), key=key, digest_size=8).digest() for record in records)
    return np.frombuffer(hashed, dtype=">u8") < np.uint64(share * 2**64)
