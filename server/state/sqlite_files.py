"""SQLite files of whoever's: whether one can be used now, and what SQLite's words mean for a user.

The server has three: its own state, the SuperLink's and MLflow's. Flower and MLflow wait for a locked file
with tries of their own, for minutes, and then say so in a traceback; so it is looked at first.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contract.errors import StorageError

__all__ = ["BUSY_SECONDS", "opened", "require_usable", "what_to_do"]

BUSY_SECONDS = 30.0
"""How long whoever opens a file waits for who has locked it."""


@contextmanager
def opened(path: Path, what: str) -> Iterator[sqlite3.Connection]:
    """A connection to a file that is there, without a transaction of its own; closed afterwards.

    Args:
        path: the file.
        what: what it is, for errors: "MLflow's database".

    Raises:
        StorageError: it is not there, or it is locked, full, damaged or not to be read or written.
    """
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_SECONDS, isolation_level=None
        )
        try:
            yield connection
        finally:
            connection.close()
    except sqlite3.Error as exc:
        words, remedy = what_to_do(str(exc), what) or (
            f"{what} cannot be used ({exc})",
            "See that this user may read and write it and its folder, and that its disk has room",
        )
        raise StorageError(words, where=str(path), remedy=remedy) from exc


def require_usable(path: Path, what: str) -> None:
    """Refuse a file that others keep locked, or that is no database; none at all is no fault.

    Raises:
        StorageError: see `opened`.
    """
    if path.exists():
        with opened(path, what) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()


def what_to_do(said: str, what: str) -> tuple[str, str] | None:
    """What is wrong and what to do about it; None for what no user can cause.

    Args:
        said: SQLite's words, also inside of those of a library.
        what: what is spoken of: "the state database".
    """
    if "disk is full" in said:
        return (
            f"the disk of {what} is full; nothing of this step was written",
            "Free some space and run again: it goes on from the last checkpoint",
        )
    if "locked" in said:
        return (
            f"another process has held {what} for {BUSY_SECONDS:.0f} s",
            "Stop it (`fuser FILE` says which), and run again",
        )
    if "not a database" in said or "malformed" in said:
        whose = "not a state database" if what == "the state database" else f"not {what}"
        return f"the file is {whose}, or is damaged", "Restore it or move it away"
    if "readonly database" in said:
        return (
            f"{what} may not be written",
            "Let this user write the file and its folder, or run this as the user who may",
        )
    return None
