"""What `tidegate models fetch` and `predict` do with a version's files, wherever they came from."""

from __future__ import annotations

import csv
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contract.errors import InputError
from contract.model_version import SUMS_FILE, sums_of
from contract.names import MISSING_TEXTS
from contract.words import counted
from terminal.new_files import new_file, require_new, write_new
from terminal.output import figure, print_json, print_table, say

if TYPE_CHECKING:
    from serving.prediction import Predictor

__all__ = ["RowFile", "predict_by", "predict_rows", "write_files", "write_version"]

_SHOWN = 20
_UNFIT = "not as many values as the header has"

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RowFile:
    """A CSV file of rows.

    Attributes:
        path: of the file.
        separator: between columns; a backslash and a t are a tab.
        decimal: the decimal sign.
        missing: texts that stand for a missing value, beside an empty one, `NA` and `NaN`.
    """

    path: Path
    separator: str = ","
    decimal: str = "."
    missing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.separator == r"\t":  # as one types a tab
            object.__setattr__(self, "separator", "\t")
        if len(self.separator) != 1 or self.separator in '"\r\n':
            raise InputError("not one character", where="--separator", remedy=r"Give one such as ';' or '\t'")
        if self.decimal not in (".", ",") or self.decimal == self.separator:
            raise InputError(
                "'.' or ',', and not the separator", where="--decimal", remedy="Give one of the two"
            )


def write_version(model: str, version: int, files: Mapping[str, bytes], folder: Path | None) -> None:
    """Write the files of a version into a new folder, their hashes last.

    Raises:
        InputError: there is a file or folder of that name, or it cannot be made.
    """
    folder = folder or Path(f"{model}-{version}")
    write_files(files, folder)
    say(f"version {version} of '{model}' is in {folder}")


def write_files(files: Mapping[str, bytes], folder: Path) -> None:
    """Write a version's files into a new folder, their hashes last. Errors as with `write_version`."""
    require_new(folder)
    try:
        folder.mkdir()
    except OSError as exc:
        raise InputError(
            f"cannot be made: {exc.strerror}", where=str(folder), remedy="Name a folder in one that exists"
        ) from exc
    try:
        for name, content in files.items():
            write_new(folder / name, content)
        write_new(folder / SUMS_FILE, sums_of(files))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # half a version is none
        raise


def predict_rows(
    model: str, version: int, files: Mapping[str, bytes], rows: RowFile, *, out: Path | None, json: bool
) -> None:
    """Predict for each row of a file: into a new file, as JSON, or the first ones as a table.

    Raises:
        InputError: the rows lack a feature's column, or a file cannot be read or written.
    """
    from serving.model_folder import read_model
    from serving.prediction import Predictor

    where = f"{model} version {version}"
    experiment, arrays = read_model(files, where=where)
    predictor = Predictor(experiment=experiment, arrays=arrays)
    predict_by(predictor, rows, {"model": model, "version": version}, by=where, out=out, json=json)


def predict_by(
    predictor: Predictor, rows: RowFile, told: Mapping[str, object], *, by: str, out: Path | None, json: bool
) -> None:
    """What `predict_rows` does, by any predictor.

    Args:
        predictor: the model.
        rows: the file.
        told: what JSON says of the model.
        by: the model's name to a person.
        out: the new file.
        json: whether JSON is printed.

    Raises:
        InputError: as with `predict_rows`.
    """
    if out is not None:
        require_new(out)
    found = _kept(predictor, rows, out, most=None if json else _SHOWN)
    if json:
        counts = {"rows": found.rows, "without": found.without}
        print_json({**told, **counts} | ({"file": str(out)} if out else {"predictions": found.first}))
        return
    if found.first:
        headings = ("row", *predictor.told)
        print_table(headings, ([_shown(row[name]) for name in headings] for row in found.first))
        if found.rows > len(found.first):
            say(f"{found.rows - len(found.first):,} more; `--out FILE` writes all.")
    place = f" in {out}" if out else ""
    made = counted(found.rows - found.without, "prediction")
    say(f"{made}{place} by {by}; {counted(found.without, 'row')} without.")


@dataclass(kw_only=True)
class _Found:
    """How many rows there were, how many of them without a prediction, and those that are shown."""

    rows: int = 0
    without: int = 0
    first: list[Row] = field(default_factory=list)


def _kept(predictor: Predictor, rows: RowFile, out: Path | None, *, most: int | None) -> _Found:
    """Go through the rows, which may be too many to be held: into a file, or the first ones into a list."""
    found = _Found()
    with nullcontext() if out is None else new_file(out) as file:
        writer = None if file is None else csv.DictWriter(file, fieldnames=("row", *predictor.told))
        if writer is not None:
            writer.writeheader()
        for row in _predicted(predictor, rows):
            found.rows += 1
            found.without += row["prediction"] is None
            if writer is not None:
                writer.writerow(row)
            elif most is None or len(found.first) < most:
                found.first.append(row)
    return found


def _predicted(predictor: Predictor, rows: RowFile) -> Iterator[Row]:
    from serving.csv_rows import read_batches

    number = 0
    for batch in read_batches(rows.path, separator=rows.separator):
        _require_columns(predictor, tuple(batch.columns), rows)
        columns = predictor.predict(
            batch.columns, missing=(*MISSING_TEXTS, *rows.missing), decimal=rows.decimal
        ).columns()
        told = zip(*(values.tolist() for values in columns.values()), strict=True)
        for fits in batch.fits.tolist():
            number += 1
            values = dict(zip(columns, next(told), strict=True)) if fits else dict.fromkeys(columns)
            yield {"row": number, **_without_nan(values), **({} if fits else {"reason": _UNFIT})}


def _require_columns(predictor: Predictor, names: tuple[str, ...], rows: RowFile) -> None:
    """Refuse a file in which a feature has no column.

    Raises:
        InputError: it lacks one.
    """
    try:
        predictor.require_columns(names, where=str(rows.path))
    except InputError as exc:
        if len(names) > 1:
            raise
        remedy = (
            f"Its header is one column, '{names[0][:100]}': name the sign between columns with --separator"
        )
        raise InputError(exc.what, where=exc.where, remedy=remedy) from exc


def _without_nan(values: Row) -> Row:
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in values.items()
    }


def _shown(value: object) -> object:
    if isinstance(value, float):
        return figure(value)
    return "–" if value is None else value
