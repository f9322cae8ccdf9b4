"""Reads a site's rows as they lie: CSV and Parquet files, or any database that SQLAlchemy knows.

There are two questions, and a site asks them at different times. `check_source` looks whether
the source is there and has the columns of the card: it reads headers and types, no row, and is
asked before anything is charged. `read_source` reads the rows, afterwards, and no row makes it
fail: a line that does not fit the header is left out and counted, a byte that is no UTF-8 spoils
its own value. What fails then is a disk or a database, and not a row.

Columns have the card's names, whatever the source calls them; their values are as the source
holds them (`serving.values` reads them). Every error names the site and the file.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clients.rows.csv_files import csv_header, other_encoding, read_csv, require_header
from clients.rows.databases import check_database, database_names, read_database
from clients.rows.parquet_files import check_parquet, parquet_names, read_parquet
from clients.rows.parts import Part
from clients.site_config import DataSource, SiteConfig
from contract.card import Card, NumericColumn
from contract.errors import DataError
from contract.outside import shown

__all__ = ["Part", "check_source", "column_names", "other_encodings", "read_source", "source_files"]

_ENDINGS = {"csv": (".csv", ".csv.gz"), "parquet": (".parquet",)}


def check_source(config: SiteConfig, card: Card) -> None:
    """See that the source is there, and has every column of the card. No row is read.

    Raises:
        DataError: it is missing or unreadable, lacks a column, has one twice, or holds dates where
            the card says numbers.
    """
    source, wanted, numeric = config.data, _wanted(config.data, card), _numeric(card)
    if source.kind == "sql":
        check_database(source, wanted, numeric, site=config.name)
        return
    for path in _files(config):
        with _readable(config, path) as where:
            if source.kind == "csv":
                require_header(path, source, wanted, where=where)
            else:
                check_parquet(path, wanted, numeric, where=where)


def column_names(config: SiteConfig) -> list[str]:
    """Every column of the source, by the source's own name: what a card can be drafted from.

    Raises:
        DataError: the source cannot be read.
    """
    source = config.data
    if source.kind == "sql":
        return database_names(source, site=config.name)
    path = _files(config)[0]
    with _readable(config, path) as where:
        return (
            csv_header(path, source, where=where)
            if source.kind == "csv"
            else parquet_names(path, where=where)
        )


def other_encodings(config: SiteConfig) -> tuple[str, ...]:
    """A sentence for each CSV file that is not in the encoding that the site names.

    The files are read for it, for the administrator alone.

    Raises:
        DataError: there is no file, or one cannot be read.
    """
    found = []
    for path in _files(config) if config.data.kind == "csv" else ():
        with _readable(config, path):
            if told := other_encoding(path, config.data):
                found.append(f"{shown(str(path), limit=300)}: {told}")
    return tuple(found)


def read_source(config: SiteConfig, card: Card) -> list[Part]:
    """Every row, with the card's columns.

    Raises:
        DataError: the disk or the database fails, or `check_source` would have refused.
    """
    source, wanted, numeric = config.data, _wanted(config.data, card), _numeric(card)
    if source.kind == "sql":
        return [read_database(source, wanted, site=config.name)]
    parts = []
    for path in _files(config):
        with _readable(config, path) as where:
            if source.kind == "csv":
                parts.append(read_csv(path, source, wanted, numeric, where=where))
            else:
                parts.append(read_parquet(path, wanted, numeric, where=where))
    return parts


def source_files(source: DataSource) -> list[Path]:
    """The files that `data.path` names: itself, those in the folder, or those of the pattern.

    Raises:
        DataError: there is none.
    """
    path = Path(str(source.path))
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [item for item in sorted(path.iterdir()) if item.name.lower().endswith(_ENDINGS[source.kind])]
    else:
        parts = path.parts
        fixed = next(
            (i for i, part in enumerate(parts) if any(sign in part for sign in "*?[")), len(parts) - 1
        )
        found = sorted(Path(*parts[:fixed]).glob("/".join(parts[fixed:])))
    if not found:
        what = f"holds no {' or '.join(_ENDINGS[source.kind])} file" if path.is_dir() else "no such file"
        raise DataError(what, where=str(path), remedy="Correct data.path in site.toml, or deliver the file")
    return found


def _wanted(source: DataSource, card: Card) -> dict[str, str]:
    """The source's name of each column of the card."""
    return {name: source.column(name) for name in card.names}


def _numeric(card: Card) -> set[str]:
    return {column.name for column in card.columns if isinstance(column, NumericColumn)}


def _files(config: SiteConfig) -> list[Path]:
    with _readable(config, str(config.data.path)):
        try:
            return source_files(config.data)
        except DataError as exc:
            raise DataError(exc.what, where=f"site '{config.name}', {exc.where}", remedy=exc.remedy) from exc


@contextmanager
def _readable(config: SiteConfig, path: Path | str) -> Iterator[str]:
    where = f"site '{config.name}', {path}"
    try:
        yield where
    except (OSError, EOFError, zlib.error) as exc:
        reason = getattr(exc, "strerror", None) or "not a file of this kind, or a broken one"
        raise DataError(f"cannot be read: {reason}", where=where, remedy="Check the file") from exc
