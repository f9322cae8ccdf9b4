"""Messages that a site has received and not yet answered, on its disk.

A message is written here before the server is told that it arrived, and is taken
away once the server has the reply. Whatever dies in between, the agent finds it
when it starts again: the ledger has the reply if it was made, and the work is done
if it was not. The worker's reply lies beside the message until it was sent.

Each file is an uncompressed zip archive, written aside and renamed into place.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clients.line.packing import PackedReply, Work
from contract.errors import LedgerError

__all__ = ["Spool", "has_reply", "read_reply", "read_work", "write_reply"]

_OBJECTS = "objects/"
_DAMAGED = (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile)


class Spool:
    """The folder of one site's unanswered messages.

    Args:
        folder: made if there is none.

    Raises:
        LedgerError: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with _on_disk(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for half_written in folder.glob(".*"):
                half_written.unlink()

    def path(self, work: Work) -> Path:
        """Where a message lies. Its id comes from outside, and is no part of the name."""
        name = hashlib.sha256(work.message_id.encode(errors="surrogatepass")).hexdigest()
        return self._folder / f"{work.run:d}-{name[:32]}.message"

    def keep(self, work: Work) -> None:
        """Write a message down, so that no crash loses it.

        Raises:
            LedgerError: the disk is full or cannot be written.
        """
        facts = {
            "run": work.run,
            "message_id": work.message_id,
            "node_id": work.node_id,
            "node_config": work.node_config,
            "run_config": work.run_config,
            "made_at": work.made_at,
            "request": work.request,
        }
        _write(self.path(work), facts, work.contents)

    def waiting(self) -> list[Path]:
        """The messages without an acknowledged reply, oldest first."""
        return sorted(self._folder.glob("*.message"), key=lambda path: (path.stat().st_mtime_ns, path.name))

    def done(self, work: Work) -> None:
        """Take a message away, with its reply."""
        path = self.path(work)
        with _on_disk(path):
            path.unlink(missing_ok=True)
            _reply_path(path).unlink(missing_ok=True)


def read_work(path: Path) -> Work:
    """A message that was kept.

    Raises:
        LedgerError: the file is damaged.
    """
    facts, contents = _read(path)
    return Work(**facts, contents=contents)


def write_reply(work_path: Path, reply: PackedReply) -> None:
    """Write the reply to a message beside it."""
    facts = {"run": reply.run, "envelope": reply.envelope.hex(), "tree": reply.tree.hex()}
    _write(_reply_path(work_path), facts, reply.objects)


def has_reply(work_path: Path) -> bool:
    """Whether the reply to a message is beside it."""
    return _reply_path(work_path).exists()


def read_reply(work_path: Path) -> PackedReply:
    """The reply beside a message.

    Raises:
        LedgerError: the file is damaged.
    """
    facts, objects = _read(_reply_path(work_path))
    return PackedReply(
        run=facts["run"],
        envelope=bytes.fromhex(facts["envelope"]),
        tree=bytes.fromhex(facts["tree"]),
        objects=objects,
    )


def _reply_path(work_path: Path) -> Path:
    return work_path.with_suffix(".reply")


def _write(path: Path, facts: Mapping[str, Any], objects: Mapping[str, bytes]) -> None:
    aside = path.with_name(f".{path.name}")
    with _on_disk(path):
        with aside.open("wb") as file:
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr("facts.json", json.dumps(facts))
                for name, content in objects.items():
                    archive.writestr(_OBJECTS + name, content)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(path)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    try:
        with zipfile.ZipFile(path) as archive:
            facts = json.loads(archive.read("facts.json"))
            names = [name for name in archive.namelist() if name.startswith(_OBJECTS)]
            return facts, {name.removeprefix(_OBJECTS): archive.read(name) for name in names}
    except _DAMAGED as exc:
        raise LedgerError(
            "a message that was kept cannot be read",
            where=str(path),
            remedy="Remove the file: the server asks again if it still needs the answer",
        ) from exc


@contextmanager
def _on_disk(path: Path) -> Any:
    try:
        yield
    except OSError as exc:
        raise LedgerError(
            f"the site's folder cannot be written ({exc.strerror}); nothing was answered",
            where=str(path),
            remedy="Free disk space, or correct the folder's owner and permissions",
        ) from exc
