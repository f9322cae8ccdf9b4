"""Waiting for something to become true, with a generous limit that says what was waited for."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["wait_until"]

_SECONDS = 300.0


def wait_until(true: Callable[[], bool], what: str) -> None:
    """Wait until it is true."""
    end = time.monotonic() + _SECONDS
    while not true():
        assert time.monotonic() < end, f"waited {_SECONDS:.0f} s until {what}"
        time.sleep(0.05)
