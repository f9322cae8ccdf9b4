"""Files that are written whole or not at all: a crash or a full disk leaves what was there before.

What was written is there after the power failed too: the folder is on the disk as well as the file. And where
root acts for a service, the file stays the service's, which is to read it: SQLite does the same with its own.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["replace_file", "sync", "written_aside"]


def replace_file(path: Path, content: bytes) -> None:
    """Write a file that its owner alone may read, in the place of one that may be there.

    Its owner is this user, and for root whoever owned what was there.

    Raises:
        OSError: it cannot be written; what was there is as it was.
    """
    with written_aside(path, content) as aside:
        aside.replace(path)


@contextmanager
def written_aside(path: Path, content: bytes) -> Iterator[Path]:
    """A file beside `path`, on the disk with this content, to be moved or linked into its place in the block.

    This user alone may read it, from its first byte on. What is left of it after the block is removed.

    Raises:
        OSError: it cannot be written.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            _leave_to_owner(file.fileno(), path)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield aside
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        with suppress(OSError):  # some file systems know no such thing; what is in its place is so by now
            sync(path.parent)


def _leave_to_owner(descriptor: int, path: Path) -> None:
    if os.geteuid() != 0:
        return
    with suppress(FileNotFoundError):
        before = path.lstat()
        os.fchown(descriptor, before.st_uid, before.st_gid)


def sync(path: Path) -> None:
    """Have a file on the disk, or which names a folder has.

    Raises:
        OSError: the disk is full, say; or the file system knows no such thing of folders.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
