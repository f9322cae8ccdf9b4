"""Who is connected to a port: strangers, and those who have shown who they are.

A stranger costs nothing to be: whoever reaches the port is one, from before TLS is made. So their number is
bounded, in all and for each network that they come from (an IPv4 address, or the 64 bits of an IPv6 address
that one subscriber has), and where there are too many the one goes that has waited longest: a newcomer finds
room, and quiet connections keep nobody out. Those who are known are no strangers, and only bounded each.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Visitor", "Visitors", "network_of"]

_MOST_STRANGERS = 256
"""Strangers at a time: each costs some memory, and none needs to last."""
_MOST_OF_ONE = 64
"""Connections of one site or person at a time. An honest one has a few; a process has so many files."""


@dataclass(eq=False, kw_only=True)
class Visitor:
    """One connection, from the moment in which it is accepted.

    Attributes:
        network: from which it comes.
        close: ends it at once.
        is_answered: whether a request of it is being answered.
        is_leaving: whether it was closed, and may still take its last bytes.
        name: whose it is; None of a stranger.
    """

    network: str
    close: Callable[[], None]
    is_answered: bool = False
    is_leaving: bool = False
    name: bytes | None = None


class Visitors:
    """Those of one port. It belongs to the port's event loop.

    Args:
        most_of_a_network: strangers of one network at a time.
    """

    def __init__(self, most_of_a_network: int) -> None:
        self._most_of_a_network = most_of_a_network
        self._strangers: dict[str, dict[Visitor, None]] = {}  # of each network, oldest first
        self.known: Counter[bytes] = Counter()
        """How many connections each site or person has."""

    @property
    def strangers(self) -> int:
        """How many there are."""
        return sum(map(len, self._strangers.values()))

    def arrive(self, address: str, close: Callable[[], None]) -> Visitor:
        """Enter a stranger; where there are too many, another goes."""
        visitor = Visitor(network=network_of(address), close=close)
        own = self._strangers.get(visitor.network, {})
        if len(own) >= self._most_of_a_network:
            self._turn_out(own)
        elif self.strangers >= _MOST_STRANGERS:
            self._turn_out(max(self._strangers.values(), key=len))
        self._strangers.setdefault(visitor.network, {})[visitor] = None
        return visitor

    def recognize(self, visitor: Visitor, name: bytes) -> bool:
        """Count a stranger among those who are known; false if whoever it is has too many connections.

        One that is known already stays what it is.
        """
        if visitor.name is not None:
            return True
        if self.known[name] >= _MOST_OF_ONE:
            return False
        self._forget_stranger(visitor)
        visitor.name = name
        self.known[name] += 1
        return True

    def leave(self, visitor: Visitor) -> None:
        """Forget a connection that has ended; more than once does no harm."""
        if visitor.name is None:
            self._forget_stranger(visitor)
            return
        self.known[visitor.name] -= 1
        if not self.known[visitor.name]:
            del self.known[visitor.name]
        visitor.name = None

    def _turn_out(self, crowd: dict[Visitor, None]) -> None:
        """Of these, the oldest that is leaving; or else that nobody is answering; or else of all."""
        leaving = min(crowd, key=lambda one: (not one.is_leaving, one.is_answered))  # the first of equals
        self._forget_stranger(leaving)
        leaving.close()

    def _forget_stranger(self, visitor: Visitor) -> None:
        own = self._strangers.get(visitor.network, {})
        own.pop(visitor, None)
        if not own:
            self._strangers.pop(visitor.network, None)


def network_of(address: str) -> str:
    """The network that an address stands for: of IPv6 the first 64 bits, which are one subscriber's.

    >>> network_of("192.0.2.7"), network_of("2001:db8:1:2:3::4"), network_of("::ffff:192.0.2.7")
    ('192.0.2.7', '2001:db8:1:2::', '192.0.2.7')
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found.packed[:8] + bytes(8), 64)).network_address)
