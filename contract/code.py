"""One name for the code that runs, the same on both sides of the boundary."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

__all__ = ["BUNDLED_PACKAGES", "code_hash"]

BUNDLED_PACKAGES = ("contract", "clients", "monitoring", "server")
"""What Flower's app bundle carries; the rest of the tree stays at home."""


def code_hash(files: Mapping[str, bytes]) -> str:
    """SHA-256 over the Python files of the bundled packages.

    Args:
        files: content by path relative to the project's root, with `/` between
            its parts. Other files are left out of the count.
    """
    digest = hashlib.sha256()
    for path in sorted(files):
        if path.endswith(".py") and path.split("/")[0] in BUNDLED_PACKAGES:
            digest.update(f"{path}\0{hashlib.sha256(files[path]).hexdigest()}\n".encode())
    return digest.hexdigest()
