"""One name for the code that runs, the same on both sides of the boundary."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

__all__ = ["BUNDLED_PACKAGES", "code_hash", "is_bundled", "read_code"]

BUNDLED_PACKAGES = ("contract", "serving", "terminal", "clients", "monitoring", "server")
"""What Flower's app bundle carries of the tree, without the folders in `_AT_HOME`."""

_AT_HOME = frozenset({"api", "cli", "gateway"})
"""Folders of those packages that no app needs: `fab-include` in pyproject.toml leaves them out too."""


def is_bundled(path: str) -> bool:
    """Whether the bundle carries the file at this path, relative to the project's root."""
    package, *folders = path.split("/")
    return path.endswith(".py") and package in BUNDLED_PACKAGES and _AT_HOME.isdisjoint(folders)


def code_hash(files: Mapping[str, bytes]) -> str:
    """SHA-256 over the Python files of the bundled packages.

    Args:
        files: content by path relative to the project's root, with `/` between
            its parts. Other files are left out of the count.
    """
    digest = hashlib.sha256()
    for path in sorted(files):
        if is_bundled(path):
            digest.update(f"{path}\0{hashlib.sha256(files[path]).hexdigest()}\n".encode())
    return digest.hexdigest()


def read_code(root: Path) -> dict[str, bytes]:
    """The Python files of the bundled packages that lie at `root`: content by path, as in a bundle."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for package in BUNDLED_PACKAGES
        for path in sorted((root / package).rglob("*.py"))
    }
