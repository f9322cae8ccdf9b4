"""The ledger's file: an SQLite database of three tables, append-only, and how its errors are told.

Triggers refuse to change or delete a row; a stored reply may be deleted once an `expire` entry of its
plan says so. They keep mistakes out. What keeps malice out is the chain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from clients.keys import Signer
from clients.ledger.entries import FORMAT, Kind, sealed, stamped
from contract.errors import LedgerError

__all__ = ["Append", "Store", "tampered", "translated"]

_metadata = sa.MetaData()
_about = sa.Table(
    "about",
    _metadata,
    sa.Column("site", sa.String, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("key", sa.String, nullable=False),
)
_entries = sa.Table(
    "entries",
    _metadata,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("plan", sa.String, nullable=False),
    sa.Column("request", sa.String, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False, unique=True),
    sa.Column("signature", sa.String, nullable=False),
    sa.Index("entries_by_request", "request", "kind"),
)
_replies = sa.Table(
    "replies",
    _metadata,
    sa.Column("request", sa.String, primary_key=True),
    sa.Column("reply", sa.LargeBinary, nullable=False),
)
# Built once: every exchange asks these several times, and building one takes longer than asking it.
_ROWS = sa.select(_entries).where(_entries.c.sequence > sa.bindparam("after")).order_by(_entries.c.sequence)
_HASH = sa.select(_entries.c.hash).where(_entries.c.sequence == sa.bindparam("place"))
_REPLY = sa.select(_replies.c.reply).where(_replies.c.request == sa.bindparam("name"))
_ADD, _ADD_REPLY = _entries.insert(), _replies.insert()
_EXPIRED = """EXISTS (SELECT 1 FROM entries AS kept JOIN entries AS gone
    ON gone.kind = 'expire' AND gone.plan = kept.plan AND gone.sequence > kept.sequence
    WHERE kept.request = OLD.request AND kept.kind = 'commit')"""
_TRIGGERS = tuple(
    f"CREATE TRIGGER {table}_no_{verb} BEFORE {verb.upper()} ON {table} "
    + (f"WHEN NOT {_EXPIRED} " if (table, verb) == ("replies", "delete") else "")
    + "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
    for table in ("entries", "replies", "about")
    for verb in ("update", "delete")
)
_RESTORE = "`tidegate site restore` puts a backup back; until then nothing may be released"


class Store:
    """The database of one ledger.

    Args:
        path: the file; it may be missing.
        site: the site's name.
    """

    def __init__(self, path: Path, *, site: str) -> None:
        self.path = path
        self._site = site
        self.engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 30})
        sa.event.listen(self.engine, "connect", _prepare_connection)

    def is_empty(self) -> bool:
        """Whether there is no ledger: no file, or one without a table. Nothing is made."""
        if not self.path.exists() or not self.path.stat().st_size:
            return True
        with self.engine.connect() as connection:
            return not sa.inspect(connection).get_table_names()

    def open(self, key: str) -> str:
        """Make the tables of an empty file; refuse one that is not a ledger of this site and format.

        Args:
            key: the public key that signs the entries of a new file; empty if they are not signed.

        Returns:
            The public key that signs the file's first entry.

        Raises:
            LedgerError: it is another file than that. It is left as it is.
        """
        with self.engine.begin() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            tables = set(sa.inspect(connection).get_table_names())
            if not tables:
                _metadata.create_all(connection)
                for trigger in _TRIGGERS:
                    connection.exec_driver_sql(trigger)
                connection.execute(_about.insert().values(site=self._site, version=FORMAT, key=key))
                return key
            page = connection.exec_driver_sql("PRAGMA page_size").scalar_one()
            if not tables >= set(_metadata.tables) or self.path.stat().st_size % page:
                raise tampered("what the file holds", self.path)
            about = connection.exec_driver_sql("SELECT * FROM about").mappings().all()
            if len(about) != 1 or type(about[0]["version"]) is not int or about[0]["version"] < 1:
                raise tampered("what the file says of itself", self.path)
            self._require_own(about[0]["site"], about[0]["version"])
            return str(about[0]["key"])

    def _require_own(self, site: str, version: int) -> None:
        if site != self._site:
            raise LedgerError(
                f"this ledger belongs to site '{site}', not '{self._site}'",
                where=str(self.path),
                remedy="Name the ledger's own site, or another storage folder",
            )
        if version > FORMAT:
            raise LedgerError(
                f"this ledger has format {version}, newer than this program's {FORMAT}",
                where=str(self.path),
                remedy="Install the newer Tidegate",
            )
        if version < FORMAT:
            raise LedgerError(
                f"this ledger has format {version}, whose entries are not signed; this program's is {FORMAT}",
                where=str(self.path),
                remedy="Keep it for the record, and begin another storage.folder "
                "with rows that it never charged",
            )

    @staticmethod
    def rows(connection: sa.Connection, *, after: int) -> sa.CursorResult[Any]:
        """The entries after that one, oldest first."""
        return connection.execute(_ROWS, {"after": after})

    @staticmethod
    def hash_at(connection: sa.Connection, sequence: int) -> str | None:
        """The hash of that entry, if it is there."""
        return connection.execute(_HASH, {"place": sequence}).scalar_one_or_none()

    @staticmethod
    def add(connection: sa.Connection, columns: dict[str, Any]) -> None:
        """One entry more."""
        connection.execute(_ADD, columns)

    @staticmethod
    def reply(connection: sa.Connection, request: str) -> bytes | None:
        """The stored reply to a request."""
        row = connection.execute(_REPLY, {"name": request}).first()
        return None if row is None else bytes(row.reply)

    @staticmethod
    def replies(connection: sa.Connection) -> Iterator[tuple[str, bytes]]:
        """Every stored reply; they may be large."""
        for row in connection.execute(sa.select(_replies).execution_options(yield_per=100)):
            yield row.request, row.reply

    @staticmethod
    def add_reply(connection: sa.Connection, request: str, reply: bytes) -> None:
        """Store a reply."""
        connection.execute(_ADD_REPLY, {"request": request, "reply": reply})

    @staticmethod
    def remove_replies(connection: sa.Connection, requests: list[str]) -> None:
        """Delete replies that an `expire` entry lets go."""
        connection.execute(_replies.delete().where(_replies.c.request.in_(requests)))

    def close(self) -> None:
        """Bring everything into the one file, and give it back."""
        with suppress(sa.exc.SQLAlchemyError):  # of another process, or a full disk: -wal holds it still
            if self.engine.pool.checkedin():  # type: ignore[attr-defined]  # of a queue of connections
                with self.engine.connect() as connection:
                    connection.exec_driver_sql("PRAGMA busy_timeout = 200")
                    connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        self.engine.dispose()


class Append:
    """Adds entries to the chain within a transaction: called with what an entry holds."""

    def __init__(
        self,
        connection: sa.Connection,
        sequence: int,
        last_hash: str,
        clock: Callable[[], str],
        signer: Signer | None,
    ) -> None:
        self.connection = connection
        self._sequence, self._last_hash, self._clock, self._signer = sequence, last_hash, clock, signer

    def __call__(
        self, kind: Kind, plan: str, request: str = "", body: Mapping[str, Any] | None = None
    ) -> None:
        """One entry more; its time is the clock's."""
        self._sequence += 1
        told = stamped(body or {}, self._clock())
        columns = sealed(self._last_hash, self._sequence, kind, plan, request, told, self._signer)
        Store.add(self.connection, columns)
        self._last_hash = columns["hash"]


def tampered(what: str, path: Path) -> LedgerError:
    """That the file is not as the ledger left it."""
    return LedgerError(
        f"{what} does not fit the hash chain: the ledger was changed by something else",
        where=str(path),
        remedy=_RESTORE,
    )


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """SQLite's and the file system's errors, told as the ledger's."""
    try:
        yield
    except (sa.exc.SQLAlchemyError, OSError) as exc:
        raise LedgerError(
            f"the ledger cannot be read or written ({_reason(exc)}); nothing was released",
            where=str(path),
            remedy="Free disk space, or correct the file's owner and permissions, and start again",
        ) from exc


def _prepare_connection(connection: Any, _record: Any) -> None:
    """Full durability: a reservation must be on disk before anything is computed."""
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


def _reason(exc: Exception) -> str:
    if isinstance(exc, OSError):
        return exc.strerror or type(exc).__name__
    return str(getattr(exc, "orig", None) or type(exc).__name__)
