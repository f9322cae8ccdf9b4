"""Whether the state database has gone back in time: a moment that it and the server's folder keep together.

    state database     a claim, `state`/`newest`: the latest moment
    server's folder    newest-state.json: the latest that was seen in the database
                       unseen-state.json: how new a database was that the folder first saw at work

The moment moves on once a minute while the server runs, and with each revocation. A database that was
restored from a dump, by whatever tool, has an earlier one than the folder: it does not know who was revoked
since. A database may have several folders; a folder has one database.

Of a database that was at work before its folder first saw it nobody can tell how old it is: a dump that was
loaded for a new folder, or the database of a folder that is gone. It is used, and what an operator has to
look at is said at each start until they remove the file, as of a backup (`server.state.backup`).
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection, select, update

from contract.errors import StorageError
from contract.whole_file import replace_file
from server.state import tables
from server.state.backup import restored_words
from server.state.database import Database

__all__ = ["note_newest", "older_words", "unseen_words"]

_FILE, _UNSEEN = "newest-state.json", "unseen-state.json"
_CLAIM = {"job": "state", "slot": "newest"}


def note_newest(home: Path, database: Database) -> None:
    """Have the database and the folder remember this moment; an older database stays as it is.

    Args:
        home: the server's folder.
        database: its state.

    Raises:
        StorageError: the database is away, or the folder cannot be written.
    """
    seen, table = _seen(home), tables.claims
    with database.write() as connection:
        known = _known(connection)
        if seen is not None and (known is None or known < seen):
            return
        if seen is None and known is not None and not restored_words(home):
            _keep(home / _UNSEEN, known)  # first: cut off here, the folder still has not seen it
        now = datetime.now(UTC)
        if known is not None and known >= now:  # the clock was set back: the moment is not
            now = known + timedelta(microseconds=1)
        here = (table.c.job == _CLAIM["job"]) & (table.c.slot == _CLAIM["slot"])
        if not connection.execute(update(table).where(here).values(claimed_at=now)).rowcount:
            connection.execute(table.insert().values(**_CLAIM, owner="the server's folder", claimed_at=now))
    _keep(home / _FILE, now)


def unseen_words(home: Path) -> str:
    """What an operator has to look at where the database was older than its folder; empty once they have.

    Args:
        home: the server's folder, after `note_newest`.

    Raises:
        StorageError: the folder's file cannot be read.
    """
    until = _read(home / _UNSEEN)
    if until is None:
        return ""
    return (
        f"this folder had not seen the state database, which was at work until {_words(until)}. If it was "
        "restored from a dump, whoever was revoked later may come in again, and an invitation that was used "
        "since is open. Revoke them again (`tidegate server revoke NAME` for sites, `tidegate server person "
        "revoke NAME` for people; `tidegate server sites` and `tidegate server person list` list them); "
        f"then remove {home / _UNSEEN}"
    )


def older_words(home: Path, database: Database) -> tuple[str, str] | None:
    """What happened, and what to do, where the database is older than the folder; None where it is not.

    Args:
        home: the server's folder.
        database: its state.

    Raises:
        StorageError: the database is away, or the folder's file cannot be read.
    """
    seen = _seen(home)
    with database.read() as connection:
        known = _known(connection)
    if seen is None or (known is not None and known >= seen):
        return None
    since = "knows no time" if known is None else f"was at work until {_words(known)}"
    return (
        f"the state database is older than this folder: it {since}, and the folder saw it at {_words(seen)}",
        "It was restored, or is another. Whoever was revoked since may come in again, and an invitation that "
        f"was used since is open: {home / 'logs' / 'acts.log'} says whom. Load a newer dump; or revoke "
        f"people again (tidegate server person revoke NAME), remove {home / _FILE}, start, and revoke sites",
    )


def _known(connection: Connection) -> datetime | None:
    wanted = select(tables.claims.c.claimed_at).filter_by(**_CLAIM)
    found: datetime | None = connection.execute(wanted).scalar_one_or_none()
    return found


def _seen(home: Path) -> datetime | None:
    return _read(home / _FILE)


def _read(path: Path) -> datetime | None:
    try:
        return datetime.fromisoformat(json.loads(path.read_bytes())["newest"]).astimezone(UTC)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise StorageError(
            "it says how new the state database was when this folder saw it, and cannot be read",
            where=str(path),
            remedy="If the database was not restored from a dump, remove that file, and start",
        ) from exc


def _keep(path: Path, newest: datetime) -> None:
    try:
        replace_file(path, json.dumps({"newest": newest.isoformat()}).encode())
    except OSError as exc:
        raise StorageError(
            f"the folder cannot remember its state database's time: {exc.strerror}",
            where=str(path),
            remedy="Make the server's folder writable for this user, on a disk with room",
        ) from exc


def _words(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
