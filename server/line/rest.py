"""What freed memory the SuperLink keeps for the next messages, it keeps for a minute.

Large updates want freed memory kept (`contract.allocator`), and a moment with many requests leaves it lying
between what is used: 100,000 odd requests of one site left 290 MB, of which Python held 40. An error
that was answered may be in a cycle with its request, and the collector looks rarely: it looks here too.
"""

from __future__ import annotations

import asyncio
import gc

from contract.allocator import give_back

__all__ = ["Rest"]

_BYTES = 2**20
"""Read or said before there is anything worth giving back: ten idle sites ask as much in ten minutes."""
_SECONDS = 60.0
"""Between that and giving back: a training asks for the same memory again many times in a minute."""


class Rest:
    """Gives the system back what is free, at most once a minute.

    Args:
        seconds: in the place of a minute.
    """

    def __init__(self, seconds: float = _SECONDS) -> None:
        self._seconds = seconds
        self._bytes = 0
        self._due: asyncio.TimerHandle | None = None

    def note(self, size: int) -> None:
        """So many bytes were read or said; called where a loop runs."""
        self._bytes += size
        if self._due is None and self._bytes > _BYTES:
            self._due = asyncio.get_running_loop().call_later(self._seconds, self._give_back)

    def _give_back(self) -> None:
        self._due, self._bytes = None, 0
        gc.collect()
        give_back()
