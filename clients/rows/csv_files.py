"""Reads CSV files, line by line: a line is a row, whatever the lines around it are.

A CSV reader lets a quoted value go on over line breaks. One stray quotation mark then takes
the following lines with it, as far as the next one: a row would change other rows, and a
person's influence would be more than that person's rows. So a line whose quotation marks do
not match is left out, by itself, as one with too few or too many values is; they are counted,
by cause (`clients.rows.unfit_lines`).
A last line without a line break is a row like any other: many programs write none there. If the
file was still being written its last value may be cut, which nothing here can tell: files are moved
into place whole.
A site whose files have line breaks within values, and are written by a program that quotes
properly, says so with `data.line_breaks`.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clients.rows.parts import Part, require_columns
from clients.rows.unfit_lines import LineSorter
from clients.site_config import DataSource
from contract.errors import DataError
from contract.words import headed

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["csv_header", "other_encoding", "read_csv", "require_header"]

_BATCH = 500
_BLOCK = 2**20
_MARKS_OF_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def csv_header(path: Path, source: DataSource, *, where: str) -> list[str]:
    """The names in the first line.

    Raises:
        DataError: there are none.
    """
    with _opened(path, source) as lines:
        return _names(lines.readline(), source, where)


def require_header(path: Path, source: DataSource, wanted: dict[str, str], *, where: str) -> None:
    """Refuse a file whose header has not the columns that are wanted, without a look at its rows.

    Raises:
        DataError: it has not.
    """
    _require(path, source, csv_header(path, source, where=where), wanted, where=where)


def _require(
    path: Path, source: DataSource, header: list[str], wanted: dict[str, str], *, where: str
) -> None:
    try:
        require_columns(header, wanted, where=where)
    except DataError as error:
        meant = ""
        if any("\\x" in name or "\0" in name for name in header):  # bytes that are no text, see `_opened`
            meant = other_encoding(path, source, whole=False)
        if not meant:
            raise
        remedy = headed(meant)
        raise DataError("its header cannot be read", where=where, remedy=remedy) from error


def other_encoding(path: Path, source: DataSource, *, whole: bool = True) -> str:
    """What to do where the file is not text in the encoding that the site names; empty where it is.

    It reads the whole file unless told to read its beginning, for the administrator alone: no answer
    hangs on it.
    """
    decoder = codecs.getincrementaldecoder(_codec(source))()
    meant = ""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        beginning = block = file.read(_BLOCK)
        try:
            while block:
                decoder.decode(block)
                block = file.read(_BLOCK) if whole else b""
            if whole:
                decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            meant = "windows-1252"
    if source.encoding == "utf-8" and (
        beginning[:2] in _MARKS_OF_UTF_16 or 4 * beginning.count(0) > len(beginning)
    ):
        meant = "utf-16"
    if not meant:
        return ""
    if source.encoding != "utf-8":
        return f"this file is not {source.encoding}: correct data.encoding, or convert it"
    return f'this file is not UTF-8: set data.encoding = "{meant}", or convert it'


def read_csv(
    path: Path, source: DataSource, wanted: dict[str, str], numeric: set[str], *, where: str
) -> Part:
    """Every line that fits the header.

    Args:
        path: the file.
        source: says how it is written.
        wanted: the file's name of each column of the card.
        numeric: the card's names of those that are numeric.
        where: names the site and the file.

    Raises:
        DataError: the header has not the columns that are wanted.
    """
    with _opened(path, source) as lines:
        header = _names(lines.readline(), source, where)
        _require(path, source, header, wanted, where=where)
        sorter = LineSorter(columns=len(header), separator=source.separator)
        read = _across_lines if source.line_breaks else _by_line
        columns = [_Column(name, header.index(wanted[name]), name not in numeric) for name in wanted]
        _fill(columns, read(lines, source, header, sorter))
    unfit = sorter.found()
    return Part(
        name=str(path), frame=_frame(columns), left_out=sum(item.count for item in unfit), unfit=unfit
    )


class _Column:
    """Values of a column; texts, which come often, are kept once."""

    def __init__(self, name: str, place: int, often: bool) -> None:
        self.name = name
        self.place = place
        self.often = often
        self.values: list[str] = []

    def extend(self, values: Iterable[str]) -> None:
        self.values.extend(map(sys.intern, values) if self.often else values)


def _fill(columns: list[_Column], records: Iterable[list[str]]) -> None:
    """Give the columns the values of the records."""
    batch: list[list[str]] = []
    for record in records:
        batch.append(record)
        if len(batch) == _BATCH:
            _append(columns, batch)
            batch.clear()
    _append(columns, batch)


def _is_header(record: list[str], header: list[str]) -> bool:
    """Files that were joined have it in their midst."""
    return record[0].strip() == header[0] and [name.strip() for name in record] == header


def _append(columns: list[_Column], records: list[list[str]]) -> None:
    if records:
        turned = list(zip(*records, strict=True))
        for column in columns:
            column.extend(turned[column.place])


def _frame(columns: list[_Column]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame({column.name: np.array(column.values, dtype=object) for column in columns})


def _names(line: str, source: DataSource, where: str) -> list[str]:
    names = [name.strip() for name in _fields(line, source.separator)]
    if not any(names):
        raise DataError(
            "the file has no header in its first line", where=where, remedy="Deliver it with header and rows"
        )
    return names


def _by_line(
    lines: Iterable[str], source: DataSource, header: list[str], sorter: LineSorter
) -> Iterator[list[str]]:
    """The values of each line that fits the header; blank lines are no rows, the sorter gets all others."""
    separator, columns = source.separator, len(header)
    for number, line in enumerate(lines, start=2):
        if line.isspace():
            continue
        record = _fields(line, separator)
        if len(record) != columns:
            sorter.unfit(number, line, is_broken=not record)
        elif _is_header(record, header):
            sorter.enter("repeated header", number)
        else:
            if sorter.waits:
                sorter.row(number, line)
            yield record


def _fields(line: str, separator: str) -> list[str]:
    """The values of a line, none where its quotation marks do not match."""
    if '"' not in line:
        return line.rstrip("\r\n").split(separator)
    try:
        return next(csv.reader([line], delimiter=separator, strict=True), [])
    except csv.Error:
        return []


def _across_lines(
    lines: Iterable[str], source: DataSource, header: list[str], sorter: LineSorter
) -> Iterator[list[str]]:
    """The values of each record that fits the header; it may go on over line breaks."""
    reader = csv.reader(lines, delimiter=source.separator)
    while True:
        first = reader.line_num + 2  # the header's line is before the reader's first
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error:
            sorter.enter("quotation mark", first)
            continue
        if not record:
            continue
        if len(record) != len(header):
            several = reader.line_num + 1 > first
            sorter.enter("quotation mark" if several else "number of values", first)
        elif _is_header(record, header):
            sorter.enter("repeated header", first)
        else:
            yield record


def _codec(source: DataSource) -> str:
    """A byte order mark is no part of the first name."""
    return "utf-8-sig" if source.encoding == "utf-8" else source.encoding


@contextmanager
def _opened(path: Path, source: DataSource) -> Iterator[Any]:
    """Bytes that are no text are shown as such in their own value: two of them stay two."""
    options: dict[str, Any] = {"encoding": _codec(source), "errors": "backslashreplace", "newline": ""}
    with gzip.open(path, "rt", **options) if path.suffix == ".gz" else path.open("r", **options) as file:
        yield file
