"""Reads tables and queries of any database that SQLAlchemy knows, without writing.

A query or a view is the administrator's own: one that fails for some row (a cast, a division) makes
reading fail for it, and nothing here can help that. Values come as objects, so that whole numbers stay
whole beside NULL: a category 1 is not read as 1.0.

Facts: SQLite's driver fails for a text that is no UTF-8. psycopg fails for a date or a time that Python
has not (`infinity`, `24:00`, the year 10000), for a JSON number of 4,301 digits and for a text that is none
in the database's encoding. Each fails for the whole answer; both give the text of such a value here.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from clients.rows.parts import Part, dates_for_numbers, require_columns
from clients.site_config import DataSource, database_url
from contract.errors import DataError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

__all__ = ["check_database", "database_names", "read_database"]

_NUMBERS = ("bool", "int2", "int4", "int8", "oid", "float4", "float8")
"""PostgreSQL's types of which Python has every value."""
_VIEW = "tidegate_columns_of_the_query"
_ANY_OTHER = 0
"""Under this number psycopg keeps what reads the types that it does not know."""


def database_names(source: DataSource, *, site: str) -> list[str]:
    """The names of the columns of the table or query.

    Raises:
        DataError: the database refuses.
    """
    with _connected(source, site) as connection:
        return [name for name, _ in _columns(connection, source)]


def check_database(source: DataSource, wanted: dict[str, str], numeric: set[str], *, site: str) -> None:
    """The table or query has the columns; the table has no dates for numbers. No row is read.

    Args:
        source: names the database, and table or query.
        wanted: the source's name of each column of the card.
        numeric: the card's names of those that are numeric.
        site: the site's name.

    Raises:
        DataError: with what is wrong.
    """
    import sqlalchemy as sa

    where = _where(source, site)
    with _connected(source, site) as connection:
        columns = _columns(connection, source)
        require_columns([name for name, _ in columns], wanted, where=where)
        # Whether it may be read. SQLite has no permissions, and might read rows for it (see `_columns`).
        if source.table is not None and connection.dialect.name != "sqlite":
            connection.execute(_statement(source, wanted).where(sa.false()))
    types = dict(columns)
    for name in numeric:
        if _is_of_time(types[wanted[name]]):
            raise dates_for_numbers(wanted[name], where=where)


def read_database(source: DataSource, wanted: dict[str, str], *, site: str) -> Part:
    """Every row.

    Raises:
        DataError: the database refuses, or has not the columns.
    """
    import pandas as pd

    with _connected(source, site) as connection:
        present = [name for name, _ in _columns(connection, source)]
        require_columns(present, wanted, where=_where(source, site))
        _ask_for_plain_bytes(connection)
        result = connection.execute(_statement(source, wanted))
        names = list(result.keys())
        columns = list(zip(*result, strict=True)) or [()] * len(names)
    values = {name: columns[names.index(column)] for name, column in wanted.items()}
    return Part(
        name=source.table or "data.query",
        frame=pd.DataFrame({name: pd.Series(list(found), dtype=object) for name, found in values.items()}),
    )


def _where(source: DataSource, site: str) -> str:
    address = database_url(source).render_as_string(hide_password=True)
    return f"site '{site}', {address}, " + (f"table '{source.table}'" if source.table else "data.query")


@contextmanager
def _connected(source: DataSource, site: str) -> Iterator[Connection]:
    from sqlalchemy.exc import NoSuchModuleError, NoSuchTableError, SQLAlchemyError

    where = _where(source, site)
    try:
        engine = _read_only_engine(source)
        try:
            with engine.connect() as connection:
                yield connection
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

    from sqlalchemy import create_engine, event
    from sqlalchemy.pool import NullPool

    url = database_url(source)
    options: dict[str, Any] = {}
    if url.get_backend_name() == "sqlite":
        url = url.set(database=f"file:{quote(str(url.database))}", query={"mode": "ro", "uri": "true"})
    elif url.get_backend_name() == "postgresql":
        options = {"execution_options": {"postgresql_readonly": True}}
    engine = create_engine(url, poolclass=NullPool, **options)
    if engine.driver == "pysqlite":
        event.listen(engine, "connect", _with_any_text)
    elif engine.driver == "psycopg":
        event.listen(engine, "connect", _with_any_value)
    return engine


def _with_any_text(connection: Any, record: object) -> None:
    del record
    connection.text_factory = lambda raw: raw.decode("utf-8", "backslashreplace")


def _with_any_value(connection: Any, record: object) -> None:
    from psycopg.pq import Format
    from psycopg.types.string import TextLoader

    del record
    adapters = connection.adapters
    adapters.register_loader("interval", TextLoader)  # psycopg's own wraps around at 2**31 days
    plain = {adapters.types[name].oid for name in _NUMBERS}
    types = [number for kind in adapters.types for number in (kind.oid, kind.array_oid) if number]
    for number in (_ANY_OTHER, *types):
        known = adapters.get_loader(number, Format.TEXT)
        if known is not None and number not in plain:
            adapters.register_loader(number, _or_text(known))


def _ask_for_plain_bytes(connection: Connection) -> None:
    """Texts come as the database holds them: PostgreSQL fails for one without a form in another encoding."""
    if connection.engine.driver == "psycopg":
        line: Any = connection.connection.driver_connection
        encoding = line.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            connection.exec_driver_sql(f"SET client_encoding TO '{encoding}'")


def _or_text(known: Any) -> Any:
    """A loader that gives the database's own text where `known` fails."""
    from psycopg.adapt import Loader

    class OrText(Loader):
        def __init__(self, oid: int, context: Any = None) -> None:
            super().__init__(oid, context)
            self._known = known(oid, context)

        def load(self, data: Any) -> object:
            try:
                return self._known.load(data)
            except Exception:  # whatever this psycopg raises for a value that Python has not
                return bytes(data).decode("utf-8", "backslashreplace")

    return OrText


def _columns(connection: Connection, source: DataSource) -> list[tuple[str, Any]]:
    """The columns in their order, with their types where there is a table. No row is read.

    SQLite fills a CTE that is named twice before it looks whether anything can come out: to ask for no row
    (`WHERE 1 = 0`, `LIMIT 0`) reads all of them. The names of a view's columns come without running it, and a
    temporary view is in no database that is read.
    """
    import sqlalchemy as sa

    if source.table is not None:
        schema, _, name = source.table.rpartition(".")
        found = sa.inspect(connection).get_columns(name, schema=schema or None)
        return [(str(item["name"]), item["type"]) for item in found]
    query = str(source.query).strip().rstrip(";")  # the administrator's own
    everything = f"SELECT * FROM (\n{query}\n) AS rows_of_the_site"  # noqa: S608
    if connection.dialect.name != "sqlite":
        names = connection.execute(sa.text(f"{everything} WHERE 1 = 0")).keys()
        return [(name, None) for name in names]
    connection.execute(sa.text(f"CREATE TEMP VIEW {_VIEW} AS {everything}"))
    listed = connection.exec_driver_sql(f"PRAGMA temp.table_info({_VIEW})").mappings().all()
    connection.exec_driver_sql(f"DROP VIEW temp.{_VIEW}")
    return [(re.sub(r":\d+$", "", item["name"]), None) for item in listed]  # it calls a second `a` `a:1`


def _is_of_time(kind: Any) -> bool:
    try:
        return issubclass(kind.python_type, datetime.date | datetime.time | datetime.timedelta)
    except (AttributeError, NotImplementedError):  # a query's columns have no type, some types no Python one
        return False


def _statement(source: DataSource, wanted: dict[str, str]) -> Any:
    import sqlalchemy as sa

    if source.table is None:
        return sa.text(str(source.query))
    schema, _, name = source.table.rpartition(".")
    columns = (sa.column(one) for one in dict.fromkeys(wanted.values()))  # type: ignore[var-annotated]
    return sa.select(sa.table(name, *columns, schema=schema or None))


def _first_line(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    return str(cause).strip().partition("\n")[0]
