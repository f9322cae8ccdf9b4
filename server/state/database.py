"""Opens the state database: connections, transactions, migrations, errors.

SQLite runs in WAL mode: readers never wait for the writer. A writer takes its lock
when the transaction begins (`BEGIN IMMEDIATE`) and so waits its turn: one that
upgraded from reading would fail at once, whatever the busy timeout. The driver's
own transaction control is off, which also makes DDL transactional, so a killed
migration leaves nothing behind.

Alembic (.3 s to import) is touched only when the database is not at this program's revision.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from contract.errors import InputError, StorageError
from contract.json_values import finite
from server.state.tables import HEAD

__all__ = ["Database", "open_database", "require_known"]

BUSY_MILLISECONDS = 30_000
CONNECT_SECONDS = 10
MIGRATION_LOCK = 7_163_021  # any number that other users of the same PostgreSQL do not take
READ_ONLY = "tidegate_read_only"


class Database:
    """An engine whose transactions raise `StorageError`, except for a broken
    uniqueness rule: `IntegrityError` goes through, for the caller knows what it means."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.where = engine.url.render_as_string(hide_password=True)
        self._of_thread = threading.local()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction that commits at the end, or leaves nothing."""
        self._of_thread.writes = True
        try:
            with self._translated(), self.engine.begin() as connection:
                yield connection
        finally:
            self._of_thread.writes = False

    @property
    def is_writing(self) -> bool:
        """Whether the calling thread is within a transaction that writes, say when a signal interrupts it."""
        return bool(getattr(self._of_thread, "writes", False))

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent view."""
        with self._translated(), self.engine.connect() as connection:
            yield connection.execution_options(**{READ_ONLY: True})

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError:
            raise
        except SQLAlchemyError as exc:
            raise _explained(exc, self.where) from exc


def open_database(url: str) -> Database:
    """Connect to `url` and bring its tables to this program's revision.

    Args:
        url: a SQLAlchemy URL; `sqlite:///PATH` (its folder is made) or
            `postgresql://…` (spoken to with psycopg 3).

    Raises:
        StorageError: the URL is wrong, the database cannot be reached or written, its
            disk is full, or a newer program has migrated it.
    """
    database = Database(_engine(_address(url)))
    with database.write() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        if _revision(connection) != HEAD:
            _upgrade(connection, database.where)
    return database


def require_known(url: str, what: str, *, remedy: str) -> None:
    """Refuse to look at an SQLite database that is not there: opening it would make one.

    Args:
        url: of any database; of another kind, opening it says whether it is there.
        what, remedy: what is said if it is not.

    Raises:
        InputError: there is no such file.
        StorageError: the URL is none.
    """
    address = _address(url)
    name = address.database if address.get_backend_name() == "sqlite" else None
    if name and name != ":memory:" and not Path(name).exists():
        raise InputError(what, where=name, remedy=remedy)


def _address(url: str) -> URL:
    try:
        address = make_url(url)
    except ArgumentError as exc:
        raise StorageError(
            "the state database's URL cannot be read",
            where="TIDEGATE_STATE_URL",
            remedy="Write sqlite:////absolute/path/state.db or postgresql://user:password@host/database",
        ) from exc
    if address.drivername in ("postgresql", "postgres"):
        return address.set(drivername="postgresql+psycopg")
    return address


def _engine(address: URL) -> Engine:
    sqlite = address.get_backend_name() == "sqlite"
    where = address.render_as_string(hide_password=True)
    waits = {"timeout": BUSY_MILLISECONDS / 1000} if sqlite else {"connect_timeout": CONNECT_SECONDS}
    try:
        if sqlite and address.database:
            Path(address.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(address, connect_args=waits, pool_pre_ping=not sqlite, json_serializer=_json)
    except OSError as exc:
        raise StorageError(
            f"the folder of the state database cannot be made ({exc.strerror})",
            where=where,
            remedy="Set TIDEGATE_HOME",
        ) from exc
    except (ImportError, NoSuchModuleError, TypeError) as exc:
        raise StorageError(
            f"no driver for '{address.drivername}' is installed",
            where=where,
            remedy="Use sqlite:/// or postgresql://",
        ) from exc
    if sqlite:
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    for pragma in (f"busy_timeout={BUSY_MILLISECONDS}", "journal_mode=WAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    read_only = connection.get_execution_options().get(READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


def _json(value: object) -> str:
    return json.dumps(finite(value), allow_nan=False)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    return None if revision is None else str(revision)


def _upgrade(connection: Connection, where: str) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as exc:
        raise StorageError(
            f"the state database is at revision {_revision(connection)}, newer than this program's {HEAD}",
            where=where,
            remedy="Install the newer Tidegate that migrated it, or name another TIDEGATE_STATE_URL",
        ) from exc


def _explained(error: SQLAlchemyError, where: str) -> StorageError:
    """A sentence and a remedy for what a user can cause; the driver's first line otherwise."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    lines = str(cause).strip().splitlines()
    said = lines[0] if lines else type(cause).__name__
    if "disk is full" in said or getattr(cause, "sqlstate", None) == "53100":
        return StorageError(
            "the disk of the state database is full; nothing of this step was written",
            where=where,
            remedy="Free some space and run again: it goes on from the last checkpoint",
        )
    if "locked" in said:
        return StorageError(
            f"another process has held the state database for {BUSY_MILLISECONDS // 1000} s",
            where=where,
            remedy="Stop it, or use PostgreSQL for many writers",
        )
    if "not a database" in said or "malformed" in said:
        return StorageError(
            "the file is not a state database, or is damaged",
            where=where,
            remedy="Restore it or move it away",
        )
    return StorageError(
        f"the state database could not be used ({said})",
        where=where,
        remedy="Check that the address in TIDEGATE_STATE_URL is reachable and may be written",
    )
