"""The code that is installed at the site, by its hash: an approval names it, and a bundle must equal it."""

from __future__ import annotations

import functools
from pathlib import Path

from contract.code import code_hash, read_code

__all__ = ["installed_code", "installed_code_hash"]


def installed_code() -> dict[str, bytes]:
    """The code that runs here: content by path, as in a bundle."""
    return read_code(Path(__file__).resolve().parents[1])


@functools.cache
def installed_code_hash() -> str:
    """The hash of the code that runs here, read once in each process."""
    return code_hash(installed_code())
