"""A disk that can be filled: a file system in memory where this user may mount one, else a limit on files."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

_CHUNK = 1 << 16


class Disk:
    """What lies under a folder can be cut off from its room.

    Args:
        folder: made if there is none; empty.
        megabytes: of the file system, where one can be mounted.
        writers: the processes that write there, for where none can be.
    """

    def __init__(self, folder: Path, megabytes: int, writers: Callable[[], Iterable[psutil.Process]]) -> None:
        self._folder, self._writers = folder, writers
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
        self.mounted = (
            os.geteuid() == 0 and not subprocess.run(command, capture_output=True, check=False).returncode
        )

    @contextmanager
    def full(self) -> Iterator[None]:
        """While the block runs, nothing more can be written."""
        if not self.mounted:
            writers = list(self._writers())
            _limit_files(writers, 0)
            yield
            _limit_files([*writers, *self._writers()], resource.RLIM_INFINITY)
            return
        filler = self._folder / "filler"
        _fill(filler)
        try:
            yield
        finally:
            filler.unlink()

    def close(self) -> None:
        """Unmount."""
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self._folder)], check=True)


def _fill(path: Path) -> None:
    """Write until there is no byte left; a process may take or free some in between."""
    chunk = _CHUNK
    with path.open("wb", buffering=0) as file:
        while chunk:
            try:
                file.write(b"\0" * chunk)
            except OSError as exc:
                if exc.errno != errno.ENOSPC:
                    raise
                chunk //= 2


def _limit_files(processes: Iterable[psutil.Process], size: int) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            _, hard = process.rlimit(resource.RLIMIT_FSIZE)
            process.rlimit(resource.RLIMIT_FSIZE, (size if size != resource.RLIM_INFINITY else hard, hard))
