"""Of which messages the ServerApp need not ask, for there is no answer yet.

Each time that it asks, the ServerApp names all messages whose replies it waits for, and Flower looks at each
of them: with many sites that is most of a round. And it gives a reply as soon as that is announced, whose
parts must then be asked for again and again. So a message is asked for

    at once           when its reply is whole
    not yet           while a site sends its reply, for some seconds
    once in a second  otherwise: Flower then says which sites have gone
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable

__all__ = ["Arrivals"]

_LOOKS, _COMING = 1.0, 8.0
"""Seconds between two looks at a message without a reply, and that a reply may be on its way."""
_MOST = 100_000
"""Messages that are remembered; the oldest are forgotten, and asked for."""


class Arrivals:
    """Knows how far the replies are.

    Args:
        clock: seconds, in the place of the system's.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._coming: dict[str, float] = {}
        self._looked: dict[str, float] = {}

    def announced(self, message: str) -> None:
        """A reply to this message is on its way."""
        _keep(self._coming, message, self._clock())

    def is_whole(self, message: str) -> None:
        """Its reply is there, or there will be none."""
        self._coming.pop(message, None)
        self._looked.pop(message, None)

    def worth_asking(self, messages: Iterable[str]) -> list[str]:
        """Those of which Flower may have something to say; they are taken for asked."""
        now = self._clock()
        asked = [message for message in messages if self._is_due(message, now)]
        for message in asked:
            _keep(self._looked, message, now)
        return asked

    def _is_due(self, message: str, now: float) -> bool:
        coming, looked = self._coming.get(message, -math.inf), self._looked.get(message, -math.inf)
        return now >= max(coming + _COMING, looked + _LOOKS)


def _keep(kept: dict[str, float], name: str, value: float) -> None:
    kept.pop(name, None)
    kept[name] = value
    while len(kept) > _MOST:
        del kept[next(iter(kept))]
