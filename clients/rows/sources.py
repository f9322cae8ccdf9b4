"""Reads a site's rows as they lie: CSV and Parquet files, or any database that SQLAlchemy knows.

There are two questions, and a site asks them at different times. `check_source` looks whether
the source is there and has the columns of the card: it reads headers and types, no row, and is
asked before anything is charged. `read_source` reads the rows, afterwards, and no row makes it
fail: a line that does not fit the header is left out and counted, a byte that is no UTF-8 spoils
its own field. What fails then is a disk or a database, and not a row.

Columns have the card's names, whatever the source calls them; their values are as the source
holds them (`clients.rows.values` reads them).
"""

from __future__ import annotations

import csv
import difflib
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clients.site_config import DataSource, SiteConfig, database_url
from contract.card import Card, NumericColumn
from contract.errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    from sqlalchemy import Connection, Engine

__all__ = ["Part", "check_source", "column_names", "read_source", "source_files"]

_ENDINGS = {"csv": (".csv", ".csv.gz"), "parquet": (".parquet",)}
_SKIPPED = re.compile(r"Skipping line \d+")


@dataclass(frozen=True, kw_only=True)
class Part:
    """The rows of one file or table.

    Attributes:
        name: of the file or table.
        frame: its rows.
        left_out: how many lines did not fit the header.
    """

    name: str
    frame: pd.DataFrame
    left_out: int = 0


def check_source(config: SiteConfig, card: Card) -> None:
    """See that the source is there, and has every column of the card. No row is read.

    Raises:
        DataError: it is missing or unreadable, lacks a column, has one twice, or holds dates where
            the card says numbers.
    """
    source = config.data
    wanted = _wanted(source, card)
    numeric = {wanted[column.name] for column in card.columns if isinstance(column, NumericColumn)}
    if source.kind == "sql":
        with _connected(source) as (connection, where):
            _header_of_database(connection, source, wanted, where)
        return
    for path in source_files(source):
        where = _where(config, path)
        with _readable(where):
            if source.kind == "csv":
                _check_header(_csv_header(path, source), wanted, where)
            else:
                _check_parquet(path, wanted, numeric, where)


def column_names(config: SiteConfig) -> list[str]:
    """Every column of the source, by the source's own name: what a card can be drafted from.

    Raises:
        DataError: the source cannot be read.
    """
    source = config.data
    if source.kind == "sql":
        with _connected(source) as (connection, _):
            return _columns_of_database(connection, source)
    path = source_files(source)[0]
    with _readable(_where(config, path)):
        return _csv_header(path, source) if source.kind == "csv" else _parquet_schema(path).names


def read_source(config: SiteConfig, card: Card) -> list[Part]:
    """Every row, with the card's columns.

    Raises:
        DataError: the disk or the database fails, or `check_source` would have refused.
    """
    source = config.data
    wanted = _wanted(source, card)
    if source.kind == "sql":
        with _connected(source) as (connection, where):
            _header_of_database(connection, source, wanted, where)
            return [Part(name=source.table or "data.query", frame=_select(connection, source, wanted))]
    read = _read_csv if source.kind == "csv" else _read_parquet
    parts = []
    for path in source_files(source):
        with _readable(_where(config, path)):
            parts.append(read(path, source, wanted))
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


def _where(config: SiteConfig, path: Path) -> str:
    return f"site '{config.name}', {path}"


def _check_header(present: Iterable[str], wanted: dict[str, str], where: str) -> None:
    known = list(present)
    for column in wanted.values():
        if column not in known:
            nearest = difflib.get_close_matches(column, known, n=1, cutoff=0.5)
            hint = f" (nearest: '{nearest[0]}')" if nearest else f" (it has: {', '.join(known[:20])})"
            raise DataError(
                f"column '{column}' of the card is missing{hint}",
                where=where,
                remedy="Deliver it, say its name under data.columns in site.toml, or take it off the card",
            )
        if known.count(column) > 1:
            raise DataError(
                f"column '{column}' is there {known.count(column)} times",
                where=where,
                remedy="Deliver it once: nobody can say which one is meant",
            )


@contextmanager
def _readable(where: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        reason = exc.strerror or "not a file of this kind"
        raise DataError(f"cannot be read: {reason}", where=where, remedy="Check the file") from exc


# -- CSV ------------------------------------------------------------------------------------


def _csv_header(path: Path, source: DataSource) -> list[str]:
    """The names in the first line."""
    with _opened(path) as lines:
        header = next(csv.reader(lines, delimiter=source.separator), [])
    names = [name.strip() for name in header]
    if not any(names):
        raise DataError("the file has no header", where=str(path), remedy="Deliver it with header and rows")
    return names


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import gzip

    options: dict[str, Any] = {"encoding": "utf-8-sig", "errors": "replace", "newline": ""}
    with gzip.open(path, "rt", **options) if path.suffix == ".gz" else path.open("r", **options) as file:
        yield file


def _read_csv(path: Path, source: DataSource, wanted: dict[str, str]) -> Part:
    """By pandas' fast reader; line by line where a stray quotation mark stops it."""
    import pandas as pd

    header = _csv_header(path, source)
    _check_header(header, wanted, str(path))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            frame = pd.read_csv(
                path,
                sep=source.separator,
                encoding="utf-8-sig",
                encoding_errors="replace",
                dtype=str,
                names=header,
                header=0,
                index_col=False,
                usecols=list(dict.fromkeys(wanted.values())),
                na_filter=False,
                on_bad_lines="warn",
                skip_blank_lines=True,
            )
        except (pd.errors.ParserError, ValueError):
            return _read_csv_line_by_line(path, source, header, wanted)
    left_out = sum(len(_SKIPPED.findall(str(item.message))) for item in caught)
    return Part(name=path.name, frame=_renamed(frame, wanted), left_out=left_out)


def _read_csv_line_by_line(path: Path, source: DataSource, header: list[str], wanted: dict[str, str]) -> Part:
    """Each line by itself, so that none can take others with it; one that does not fit is left out."""
    import pandas as pd

    places = {column: header.index(column) for column in wanted.values()}
    values: dict[str, list[str]] = {column: [] for column in places}
    left_out = 0
    with _opened(path) as lines:
        for number, line in enumerate(lines):
            if number == 0 or not line.strip():
                continue
            try:
                fields = next(csv.reader([line], delimiter=source.separator), [])
            except csv.Error:
                fields = []
            if len(fields) != len(header):
                left_out += 1
                continue
            for column, place in places.items():
                values[column].append(fields[place])
    frame = pd.DataFrame(values, dtype=object)
    return Part(name=path.name, frame=_renamed(frame, wanted), left_out=left_out)


def _renamed(frame: pd.DataFrame, wanted: dict[str, str]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame({name: frame[column] for name, column in wanted.items()})


# -- Parquet --------------------------------------------------------------------------------


def _parquet_schema(path: Path) -> Any:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return parquet.read_schema(path)
    except pa.ArrowInvalid as exc:
        raise DataError(
            "not a Parquet file, or a broken one", where=str(path), remedy="Write it again"
        ) from exc


def _check_parquet(path: Path, wanted: dict[str, str], numeric: set[str], where: str) -> None:
    import pyarrow as pa

    schema = _parquet_schema(path)
    _check_header(schema.names, wanted, where)
    for column in numeric:
        if pa.types.is_temporal(schema.field(column).type):
            raise DataError(
                f"column '{column}' holds dates, and the card says numbers",
                where=where,
                remedy="Deliver numbers, such as days, or declare it categorical on the card",
            )


def _read_parquet(path: Path, source: DataSource, wanted: dict[str, str]) -> Part:
    import pandas as pd
    import pyarrow as pa

    del source
    _check_header(_parquet_schema(path).names, wanted, str(path))
    columns = list(dict.fromkeys(wanted.values()))
    try:
        frame = pd.read_parquet(path, columns=columns, engine="pyarrow", dtype_backend="numpy_nullable")
    except pa.ArrowException as exc:
        raise DataError("a broken Parquet file", where=str(path), remedy="Write it again") from exc
    return Part(name=path.name, frame=_renamed(frame, wanted))


# -- databases ------------------------------------------------------------------------------


@contextmanager
def _connected(source: DataSource) -> Iterator[tuple[Connection, str]]:
    from sqlalchemy.exc import NoSuchModuleError, NoSuchTableError, SQLAlchemyError

    where = database_url(source).render_as_string(hide_password=True)
    try:
        engine = _read_only_engine(source)
        try:
            with engine.connect() as connection:
                yield connection, where
        finally:
            engine.dispose()
    except NoSuchTableError as exc:
        raise DataError(
            f"there is no table '{source.table}'", where=where, remedy="Correct data.table in site.toml"
        ) from exc
    except (NoSuchModuleError, ImportError) as exc:
        raise DataError(
            "the driver of this database is not installed", where=where, remedy="Install the driver's package"
        ) from exc
    except SQLAlchemyError as exc:
        raise DataError(
            f"the database refused or cannot be reached: {_first_line(exc)}",
            where=where,
            remedy="Check data.url, the password variable and data.query in site.toml",
        ) from exc


def _read_only_engine(source: DataSource) -> Engine:
    """An engine that cannot write, where the database has such a mode.

    SQLite would create a missing file; opened by `mode=ro` it refuses instead.
    """
    from urllib.parse import quote

    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    url = database_url(source)
    options: dict[str, Any] = {}
    if url.get_backend_name() == "sqlite":
        url = url.set(database=f"file:{quote(str(url.database))}", query={"mode": "ro", "uri": "true"})
    elif url.get_backend_name() == "postgresql":
        options = {"execution_options": {"postgresql_readonly": True}}
    return create_engine(url, poolclass=NullPool, **options)


def _columns_of_database(connection: Connection, source: DataSource) -> list[str]:
    import sqlalchemy as sa

    if source.table is None:
        query = str(source.query).strip().rstrip(";")  # the administrator's own
        limited = f"SELECT * FROM ({query}) AS rows_of_the_site WHERE 1 = 0"  # noqa: S608
        return list(connection.execute(sa.text(limited)).keys())
    schema, _, name = source.table.rpartition(".")
    return [str(item["name"]) for item in sa.inspect(connection).get_columns(name, schema=schema or None)]


def _header_of_database(
    connection: Connection, source: DataSource, wanted: dict[str, str], where: str
) -> None:
    place = f"{where}, table '{source.table}'" if source.table else f"{where}, data.query"
    _check_header(_columns_of_database(connection, source), wanted, place)


def _select(connection: Connection, source: DataSource, wanted: dict[str, str]) -> pd.DataFrame:
    """Objects, so that whole numbers stay whole beside NULL: a category 1 is not read as 1.0."""
    import pandas as pd
    import sqlalchemy as sa

    statement: sa.Executable
    if source.table is not None:
        schema, _, name = source.table.rpartition(".")
        columns = (sa.column(one) for one in dict.fromkeys(wanted.values()))  # type: ignore[var-annotated]
        statement = sa.select(sa.table(name, *columns, schema=schema or None))
    else:
        statement = sa.text(str(source.query))
    rows = list(connection.execute(statement).mappings())
    return pd.DataFrame(
        {name: pd.Series([row[column] for row in rows], dtype=object) for name, column in wanted.items()}
    )


def _first_line(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    return str(cause).strip().partition("\n")[0]
