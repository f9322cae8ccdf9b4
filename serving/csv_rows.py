"""Reads the rows of a CSV file, some thousands at a time, for predictions.

Values stay texts as they are in the file: what they mean is for `serving.values` alone, as at a site.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from contract.errors import InputError

__all__ = ["Batch", "read_batches"]

_AT_ONCE = 5000
_MOST_BYTES = 2**30
_REMEDY = "Give a CSV file in UTF-8 whose first line names the columns"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some rows, in the file's order.

    Attributes:
        columns: texts by column, of the rows that have a value for each.
        fits: which rows these are; the others have too few or too many values.
    """

    columns: Mapping[str, npt.NDArray[np.object_]]
    fits: npt.NDArray[np.bool_]


def read_batches(path: Path, *, separator: str = ",") -> Iterator[Batch]:
    """The rows of a file with a header; a blank line is none. There is at least one batch.

    Raises:
        InputError: the file cannot be read, is longer than 1 GiB, or is no CSV file with a header.
    """
    where = str(path)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError("longer than 1 GiB", where=where, remedy="Split it into several files")
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=separator)
            header = _header(next(reader, []), where)
            records: list[list[str]] = []
            sent = False
            for record in reader:
                if record:
                    records.append(record)
                if len(records) == _AT_ONCE:
                    yield _batch(header, records)
                    records, sent = [], True
            if records or not sent:
                yield _batch(header, records)
    except OSError as exc:
        raise InputError(f"cannot be read: {exc.strerror}", where=where, remedy=_REMEDY) from exc
    except UnicodeDecodeError as exc:
        remedy = f"{_REMEDY}; where a spreadsheet saves it, that is 'CSV UTF-8'"
        raise InputError("not UTF-8", where=where, remedy=remedy) from exc
    except csv.Error as exc:
        raise InputError(f"not a CSV file: {exc}", where=where, remedy=_REMEDY) from exc


def _header(record: list[str], where: str) -> list[str]:
    names = [name.strip() for name in record]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not any(names) or twice:
        what = f"column '{twice[0]}' is named twice" if any(names) else "there is no header"
        raise InputError(what, where=where, remedy=_REMEDY)
    return names


def _batch(header: list[str], records: list[list[str]]) -> Batch:
    fits = np.array([len(record) == len(header) for record in records], dtype=np.bool_)
    whole = [record for record in records if len(record) == len(header)]
    table: npt.NDArray[Any] = np.array(whole, dtype=object).reshape(len(whole), len(header))
    return Batch(columns={name: table[:, place] for place, name in enumerate(header)}, fits=fits)
