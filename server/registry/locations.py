"""Where MLflow's own database says that artifacts lie, after its folder was moved.

MLflow stores an absolute path for each experiment and each run, and has no word for changing it. A folder
that was moved or restored, with database and artifacts side by side in it, would be read and written at its
old place. What points there is pointed to the present one. Artifacts elsewhere are nobody's to move: a
reviewer may look at another's database with a root of their own.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from urllib.parse import unquote, urlsplit

from server.state.sqlite_files import opened

__all__ = ["follow_move"]


def follow_move(database: Path, artifact_root: Path) -> int:
    """Point experiments that we made, and their runs, to where their artifacts are now.

    New artifacts go under `artifact_root`. A run is left where it is if its artifacts are still there and not
    under the root: then the root was changed, and nothing was moved.

    Args:
        database: MLflow's SQLite file; there may be none yet.
        artifact_root: the present one; nothing is changed unless it lies beside the database.

    Returns:
        How many places were corrected.

    Raises:
        StorageError: the database cannot be used.
    """
    if not database.exists() or artifact_root.absolute().parent != database.absolute().parent:
        return 0
    with opened(database, "MLflow's database") as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone():
            return 0
        moved = _moved(connection, artifact_root)
        if not moved:
            return 0
        connection.execute("BEGIN IMMEDIATE")  # and looks again: another may have done it meanwhile
        moved = _moved(connection, artifact_root)
        changed = sum(_follow(connection, *one) for one in moved)
        connection.execute("COMMIT")
    return changed


def _moved(connection: sqlite3.Connection, root: Path) -> list[tuple[int, str, str]]:
    """Number, stored place and right place of each experiment that has another than the present."""
    found = connection.execute("SELECT experiment_id, name, artifact_location FROM experiments").fetchall()
    return [
        (number, stored, right)
        for number, name, stored in found
        if (old := _path(stored)) is not None
        and old.name == name
        and stored != (right := (root / name).as_uri())
    ]


def _follow(connection: sqlite3.Connection, experiment: int, stored: str, right: str) -> int:
    connection.execute(
        "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (right, experiment)
    )
    runs = connection.execute(
        "SELECT run_uuid, artifact_uri FROM runs WHERE experiment_id = ?", (experiment,)
    ).fetchall()
    changed = 1
    for run, place in runs:
        if place is None or not place.startswith(f"{stored}/"):
            continue
        moved = right + place.removeprefix(stored)
        is_left = _is_there(place) and not _is_there(moved)
        if not is_left:
            connection.execute("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", (moved, run))
            changed += 1
    return changed


def _is_there(place: str) -> bool:
    path = _path(place)
    return path is not None and path.is_dir()


def _path(place: str | None) -> Path | None:
    """The folder of a place on this machine; None of another."""
    parts = urlsplit(place or "")
    return Path(unquote(parts.path)) if parts.scheme == "file" and not parts.netloc else None
