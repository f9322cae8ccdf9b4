"""The hash of the code that the server runs, for passports."""

from __future__ import annotations

from pathlib import Path

from contract.code import BUNDLED_PACKAGES, code_hash

__all__ = ["server_code_hash"]


def server_code_hash() -> str:
    """SHA-256 over the bundled packages where this module lies."""
    root = Path(__file__).resolve().parent.parent
    paths = (path for package in BUNDLED_PACKAGES for path in (root / package).rglob("*.py"))
    return code_hash({path.relative_to(root).as_posix(): path.read_bytes() for path in paths})
