"""Files that are written whole or not at all: a crash or a full disk leaves what was there before."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["replace_file", "written_aside"]


def replace_file(path: Path, content: bytes) -> None:
    """Write a file that this user alone may read, in the place of one that may be there.

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
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield aside
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
