"""Opens the state database: connections, transactions, migrations, errors.

SQLite runs in WAL mode: readers never wait for the writer. A writer takes its lock
when the transaction begins (`BEGIN IMMEDIATE`) and so waits its turn: one that
upgraded from reading would fail at once, whatever the busy timeout. The driver's
own transaction control is off, which also makes DDL transactional, so a killed
migration leaves nothing behind.

PostgreSQL is used in the same way: a writer waits its turn, for a lock that all writers take, and who reads
sees one moment. So what is true of SQLite is true of it, and nothing has to be thought of twice.

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
from server.state.sqlite_files import BUSY_SECONDS, what_to_do
from server.state.tables import HEAD

__all__ = ["Database", "dump_command", "open_database", "require_known", "sqlite_file"]

CONNECT_SECONDS = 10
WRITE_LOCK = 7_163_021  # any number that other users of the same PostgreSQL database do not take
READ_ONLY = "tidegate_read_only"
_SHOWN_OPTIONS = ("host", "port", "sslmode", "sslrootcert")
_WHAT = "the state database"
_IN_SQLITE_WORDS = {"53100": "disk is full", "55P03": "locked", "25006": "readonly database"}
"""PostgreSQL's states that mean the same."""


class Database:
    """An engine whose transactions raise `StorageError`, except for a broken
    uniqueness rule: `IntegrityError` goes through, for the caller knows what it means."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.where = _shown(engine.url)
        self._is_postgresql = engine.dialect.name == "postgresql"
        self._of_thread = threading.local()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction that commits at the end, or leaves nothing."""
        self._of_thread.writes = True
        try:
            with self._translated(), self.engine.begin() as connection:
                if self._is_postgresql:
                    _wait_for_turn(connection)
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
            options = {"isolation_level": "REPEATABLE READ"} if self._is_postgresql else {}
            yield connection.execution_options(**{READ_ONLY: True, **options})

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
    try:
        with database.write() as connection:
            if _revision(connection) != HEAD:
                _upgrade(connection, database.where)
    except BaseException:
        database.engine.dispose()
        raise
    return database


def require_known(url: str, what: str, *, remedy: str) -> None:
    """Refuse to look at a database that nobody has made: opening it would make one.

    Args:
        url: an SQLite file that may not be there; or a PostgreSQL database that may be empty.
        what, remedy: what is said if so.

    Raises:
        InputError: there is none.
        StorageError: the URL is none, or the database cannot be reached.
    """
    address = _address(url)
    if address.get_backend_name() == "sqlite":
        name = address.database
        if name and name != ":memory:" and not Path(name).exists():
            raise InputError(what, where=name, remedy=remedy)
        return
    database = Database(_engine(address))
    try:
        with database.read() as connection:
            is_empty = _revision(connection) is None
    finally:
        database.engine.dispose()
    if is_empty:
        raise InputError(what, where=database.where, remedy=remedy)


def sqlite_file(url: str) -> Path | None:
    """The file of an SQLite database; None for any other address."""
    if not url.startswith("sqlite"):
        return None
    name = _address(url).database
    return Path(name) if name and name != ":memory:" else None


def dump_command(url: str, file: str) -> str:
    """The command with which PostgreSQL's own tool copies a database; without the password.

    Args:
        url: of the database.
        file: which it writes.
    """
    import shlex

    plain = _public(_address(url)).set(drivername="postgresql").render_as_string()
    return shlex.join(["pg_dump", "--format=custom", "--no-owner", f"--file={file}", f"--dbname={plain}"])


def _address(url: str) -> URL:
    try:
        address = make_url(url)
    except (ArgumentError, ValueError) as exc:
        raise StorageError(
            "the state database's URL cannot be read",
            where="TIDEGATE_STATE_URL",
            remedy="Write sqlite:////absolute/path/state.db or postgresql://user:password@host/database",
        ) from exc
    if address.get_backend_name() == "sqlite":
        return address
    if "@" in f"{address.host}{address.database}":  # the rest of a password, which nobody is to be shown
        raise StorageError(
            "the state database's URL has more than one '@'",
            where="TIDEGATE_STATE_URL",
            remedy="Write %40 for an '@' in the password; or leave the password to PGPASSWORD",
        )
    if address.drivername in ("postgresql", "postgres", "postgresql+psycopg2"):
        return address.set(drivername="postgresql+psycopg")
    return address


def _public(address: URL) -> URL:
    """The address without a password, which may stand among the options too."""
    options = {name: value for name, value in address.query.items() if name in _SHOWN_OPTIONS}
    who, where = address.username, address.host
    return URL.create(
        address.drivername,
        username=who,
        host=where,
        port=address.port,
        database=address.database,
        query=options,
    )


def _shown(address: URL) -> str:
    return _public(address).render_as_string()


def _wait_for_turn(connection: Connection) -> None:
    """One writer at a time; the lock ends with the transaction."""
    connection.execute(
        text("SELECT set_config('lock_timeout', :wait, true)"), {"wait": f"{BUSY_SECONDS:.0f}s"}
    )
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": WRITE_LOCK})


def _engine(address: URL) -> Engine:
    sqlite = address.get_backend_name() == "sqlite"
    where = _shown(address)
    waits = {"timeout": BUSY_SECONDS} if sqlite else {"connect_timeout": CONNECT_SECONDS}
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
    # FULL is not every build's default: without it the database is older than its folder after a power cut
    durable = ("journal_mode=WAL", "synchronous=FULL")
    for pragma in (f"busy_timeout={BUSY_SECONDS * 1000:.0f}", *durable, "foreign_keys=ON"):
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
    if known := what_to_do(_IN_SQLITE_WORDS.get(getattr(cause, "sqlstate", None) or "", said), _WHAT):
        words, remedy = known
        return StorageError(words, where=where, remedy=remedy)
    remedy = "Check that the address in TIDEGATE_STATE_URL is reachable and may be written"
    if "password" in said:
        remedy = "Give the user's password: in TIDEGATE_STATE_URL, PGPASSWORD or ~/.pgpass"
    return StorageError(f"the state database could not be used ({said})", where=where, remedy=remedy)
