"""Which requests a process makes, and how long each takes: where a round's time goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx

__all__ = ["Call", "record_calls"]

Call = tuple[float, str, float]
"""When it began (monotonic clock, the same in all processes), its path, its seconds."""


def record_calls(write: Callable[[Call], None]) -> None:
    """Give every request of this process from now on to `write`, once it was answered."""
    original = httpx.Client.send

    def send(self: httpx.Client, request: httpx.Request, **options: Any) -> httpx.Response:
        began = time.monotonic()
        try:
            return original(self, request, **options)
        finally:
            write((began, request.url.path, time.monotonic() - began))

    httpx.Client.send = send  # type: ignore[method-assign]
