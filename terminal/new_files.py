"""Files that a command writes for its user, and never over another one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from contract.errors import InputError

__all__ = ["new_file", "require_new", "write_new"]


def require_new(path: Path) -> None:
    """Refuse a name that a file has, before any work is done for it.

    Raises:
        InputError: there is one.
    """
    if path.exists():
        raise _taken(path)


def write_new(path: Path, content: str | bytes) -> None:
    """Write a new file; a text in UTF-8.

    Raises:
        InputError: there is one of that name, or it cannot be written.
    """
    with new_file(path, "xb") as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def new_file(path: Path, mode: str = "x") -> Iterator[IO[Any]]:
    """A new file to write to; it is gone again if that fails.

    Raises:
        InputError: there is one of that name, or it cannot be made.
    """
    try:
        file: IO[Any] = path.open(mode) if "b" in mode else path.open(mode, encoding="utf-8", newline="")
    except FileExistsError as exc:
        raise _taken(path) from exc
    except OSError as exc:
        raise InputError(
            f"cannot be written: {exc.strerror}",
            where=str(path),
            remedy="Name a file in a folder that exists",
        ) from exc
    try:
        with file:
            yield file
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _taken(path: Path) -> InputError:
    return InputError("there is a file already", where=str(path), remedy="Name another file")
