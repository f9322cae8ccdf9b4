"""Files that a command writes for its user, and never over another one."""

from __future__ import annotations

from pathlib import Path

from contract.errors import InputError

__all__ = ["require_new", "write_new"]


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
    try:
        with path.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
    except FileExistsError as exc:
        raise _taken(path) from exc
    except OSError as exc:
        raise InputError(
            f"cannot be written: {exc.strerror}",
            where=str(path),
            remedy="Name a file in a folder that exists",
        ) from exc


def _taken(path: Path) -> InputError:
    return InputError("there is a file already", where=str(path), remedy="Name another file")
