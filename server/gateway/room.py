"""How much the gateway takes in of all sites at a time, and how one site leaves room for the others.

A site may hold as many bytes as are free beside them. One alone has half of the room, four have a fifth each,
and however many there are, something stays free for the next (Choudhury and Hahne, 1998, "Dynamic queue
length thresholds for shared-memory packet switches"). A site has also so many requests at a time, because how
long an answer is shows when it is made.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

__all__ = ["Room"]

_SMALL = 2**20
"""Bytes of a request that need not wait for room."""
_MOST_AT_ONCE = 8
"""Requests of a site that are answered at a time. An honest one asks four: two parts, a question, a beat."""
_WAIT_SECONDS = 20.0
"""For room: sites wait for an answer half a minute, and try again."""


class Room:
    """For so many bytes at a time.

    Args:
        size: of all sites together.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self.taken_by: Counter[bytes] = Counter()
        """Bytes that each site holds."""
        self._asked: Counter[bytes] = Counter()
        self._freed = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def taken(self, site: bytes, length: int) -> AsyncIterator[bool]:
        """Take the room of a request while the block runs; whether there was any in time.

        One that is longer than a site may hold has room when nobody else has any.
        """
        held = length if length > _SMALL else 0
        if not self._fits(site, held) and not await self._wait(site, held):
            yield False
            return
        self._asked[site] += 1
        self.taken_by[site] += held
        try:
            yield True
        finally:
            self._asked[site] -= 1
            self.taken_by[site] -= held
            self._asked, self.taken_by = +self._asked, +self.taken_by  # without those that hold nothing
            async with self._freed:
                self._freed.notify_all()

    async def _wait(self, site: bytes, length: int) -> bool:
        try:
            async with asyncio.timeout(_WAIT_SECONDS), self._freed:
                await self._freed.wait_for(lambda: self._fits(site, length))
        except TimeoutError:
            return False
        return True

    def _fits(self, site: bytes, length: int) -> bool:
        """Whether a site would hold no more than is free then."""
        if self._asked[site] >= _MOST_AT_ONCE:
            return False
        taken = self.taken_by.total()
        return not length or not taken or self.taken_by[site] + length <= self._size - taken - length
