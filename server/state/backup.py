"""A backup of a server: an operator's folder with the default layout, made while the server runs.

    FOLDER/.tidegate/state.db  superlink.db      FOLDER/mlruns/mlflow.db  artifacts/

Each database is copied by SQLite's own interface: the copy is one moment of it, with what `-wal` held. The
three are not of the same moment, so the order is that in which a run writes them, the last first: state, then
MLflow, then the SuperLink, then the artifacts. What the state speaks of is then in the others too.

Keys are not in it: not the certificates with the authority's key, nor the SuperLink's secret, nor
server.toml. They do not change, and who finds a backup is not to be taken for the server. What lies in
PostgreSQL or at a tracking server is kept by its own tools; which command does it is said.

Whoever was revoked after a backup was made is not revoked in it. So it says when it was made, in a file
`backup.json` beside the state, and a server that finds that file says what to look at again.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from contract.errors import InputError, StorageError
from contract.whole_file import sync
from server.state.database import dump_command, sqlite_file
from server.state.sqlite_files import opened

__all__ = ["Backup", "back_up", "restored_words"]

_MADE = "backup.json"


@dataclass(frozen=True, kw_only=True)
class Backup:
    """What a backup holds.

    Attributes:
        files: bytes of each database that was copied, by its place in the backup.
        artifacts: how many files of models and plots were copied; None where they lie elsewhere.
        commands: what copies the databases that lie elsewhere, by what each is.
    """

    files: Mapping[str, int]
    artifacts: int | None
    commands: Mapping[str, str]


def back_up(
    target: Path, *, state_url: str, tracking_uri: str, superlink: Path, artifact_root: Path
) -> Backup:
    """Copy what the server remembers into a new folder, for this user alone.

    Args:
        target: the folder to make. It has its name once it is whole: a backup that is killed leaves another.
        state_url: SQLAlchemy URL of the state database.
        tracking_uri: MLflow's address.
        superlink: the SuperLink's database; there may be none.
        artifact_root: where artifacts are, if MLflow's database is a file.

    Raises:
        InputError: there is something of that name, there is no server to back up, or the folder cannot be
            written.
        StorageError: a database is locked, damaged or not to be read.
    """
    state, mlflow = sqlite_file(state_url), sqlite_file(tracking_uri)
    if state is not None and not state.exists():
        raise InputError(
            "there is no server here",
            where=str(state),
            remedy="Go to the operator's folder, or name its place with TIDEGATE_HOME or TIDEGATE_STATE_URL",
        )
    wanted = {
        ".tidegate/state.db": (state, "the state database"),
        "mlruns/mlflow.db": (mlflow, "MLflow's database"),
        ".tidegate/superlink.db": (superlink, "the SuperLink's database"),
    }
    made = datetime.now(UTC)  # before anything is copied: what is done from here on may be in it, or not
    with _new_folder(target) as folder:
        _say_when(folder / ".tidegate", made)
        files = {}
        for name, (path, what) in wanted.items():
            if path is not None and path.exists():
                _copy(path, folder / name, what)
                files[name] = (folder / name).stat().st_size
        artifacts = None
        if mlflow is not None and artifact_root.is_dir():
            artifacts = _copy_files(artifact_root, folder / "mlruns" / "artifacts")
    commands = {} if state is not None else {"the state database": dump_command(state_url, "state.dump")}
    if mlflow is None:
        is_database = tracking_uri.startswith("postgres")
        commands["MLflow"] = dump_command(tracking_uri, "mlflow.dump") if is_database else ""
    return Backup(files=files, artifacts=artifacts, commands=commands)


def restored_words(home: Path) -> str:
    """What an operator has to look at where the server's folder is a backup; empty where it is none.

    Args:
        home: the folder with the state.
    """
    path = home / _MADE
    try:
        made = datetime.fromisoformat(json.loads(path.read_bytes())["made"]).astimezone(UTC)
        when = f"of {made:%Y-%m-%d %H:%M} UTC"
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, TypeError):
        when = "of an unknown time"
    return (
        f"this folder is a backup {when}: who was revoked since may come in again, and an invitation that "
        "was used since is open. Revoke them again (`tidegate server revoke NAME` for sites, "
        "`tidegate server person revoke NAME` for people; `tidegate server sites` lists them); "
        f"then remove {path}"
    )


def _say_when(folder: Path, made: datetime) -> None:
    folder.mkdir(mode=0o700)
    descriptor = os.open(folder / _MADE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        json.dump({"made": made.isoformat(timespec="seconds")}, file)


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target` that gets its name if the block ends well, and is removed otherwise."""
    if target.exists() or target.is_symlink():
        raise InputError(
            "there is something already, and an earlier backup is worth keeping",
            where=str(target),
            remedy="Name a folder that is not there",
        )
    aside = target.with_name(f"{target.name}.unfinished-{secrets.token_hex(4)}")
    try:
        aside.mkdir(mode=0o700)
        yield aside
        _sync(aside)
        aside.rename(target)
        sync(target.parent)
    except OSError as exc:
        raise InputError(
            f"the backup cannot be written: {exc.strerror}",
            where=str(exc.filename or target),
            remedy="Name a folder that this user may make, on a disk with room",
        ) from exc
    finally:
        with suppress(OSError):
            shutil.rmtree(aside)


def _copy(path: Path, copy: Path, what: str) -> None:
    """One moment of a database, checked.

    Raises:
        StorageError: it is locked, or damaged.
        OSError: the copy cannot be written.
    """
    copy.parent.mkdir(mode=0o700, exist_ok=True)
    os.close(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with opened(path, what) as source:
        source.execute("SELECT count(*) FROM sqlite_master").fetchone()  # what is wrong here is the source's
        written = sqlite3.connect(copy)
        try:
            source.backup(written)  # in one step: in several, each write to the source would begin it anew
            written.execute("PRAGMA journal_mode=DELETE")
            found = written.execute("PRAGMA integrity_check").fetchone()[0]
        except sqlite3.OperationalError as exc:
            if "locked" in str(exc):
                raise
            raise OSError(0, str(exc)) from exc  # of the copy: the source could be read
        finally:
            written.close()
    if found != "ok":
        raise StorageError(
            f"{what} is damaged ({found})", where=str(path), remedy="Restore an earlier backup"
        )


def _copy_files(root: Path, target: Path) -> int:
    """Copies of regular files; of what is removed meanwhile none."""
    count = 0
    target.mkdir(mode=0o700)
    for folder, _, names in os.walk(root):
        place = target / Path(folder).relative_to(root)
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in names:
            path = Path(folder) / name
            if path.is_symlink() or not path.is_file():
                continue
            with suppress(FileNotFoundError), path.open("rb") as file:
                descriptor = os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "wb") as written:
                    shutil.copyfileobj(file, written)
                count += 1
    return count


def _sync(root: Path) -> None:
    """Have all of it on the disk before it has its name."""
    for folder, _, names in os.walk(root):
        for name in names:
            sync(Path(folder) / name)
        sync(Path(folder))
