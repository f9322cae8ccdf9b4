"""The hash of the code that the server runs, for passports."""

from __future__ import annotations

from pathlib import Path

from contract.code import code_hash, read_code

__all__ = ["server_code_hash"]


def server_code_hash() -> str:
    """SHA-256 over the bundled packages where this module lies."""
    return code_hash(read_code(Path(__file__).resolve().parent.parent))
