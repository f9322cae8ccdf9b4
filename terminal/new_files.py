"""Files that a command writes for its user, and over no other one but a plot that is drawn anew."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

from contract.errors import InputError

__all__ = ["new_file", "plot_kind", "require_new", "write_new", "write_plot"]

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PLOTS: tuple[Literal["png", "svg"], ...] = ("png", "svg")


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


def write_plot(path: Path, draw: Callable[[Literal["png", "svg"]], bytes]) -> None:
    """Draw a picture of the kind that the file's name says; one of before is drawn over.

    Raises:
        InputError: the name says no such kind, or the file cannot be written.
    """
    kind = plot_kind(path)
    with new_file(path, "wb") as file:
        file.write(draw(kind))


def plot_kind(path: Path) -> Literal["png", "svg"]:
    """The kind of picture that the file's name says.

    Raises:
        InputError: it says none.
    """
    for kind in _PLOTS:
        if path.suffix.lower() == f".{kind}":
            return kind
    raise InputError("a plot is a .png or an .svg", where=str(path), remedy="Name the file so")


@contextmanager
def new_file(path: Path, mode: str = "x") -> Iterator[IO[Any]]:
    """A file to write to; it is gone again if that fails.

    Args:
        path: of the file.
        mode: as `open` has it: `x` makes a new one.

    Raises:
        InputError: there is one of that name and it is to be new, it cannot be made, or the disk is full.
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
    except OSError as exc:
        path.unlink(missing_ok=True)
        if exc.errno not in _NO_ROOM or exc.filename is not None:  # of another file
            raise
        raise InputError(
            f"cannot be written: {exc.strerror}", where=str(path), remedy="Free room on that disk"
        ) from exc
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _taken(path: Path) -> InputError:
    return InputError("there is a file already", where=str(path), remedy="Name another file")
