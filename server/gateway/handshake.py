"""A connection before TLS is made: it is bounded from the first moment, and has some seconds for it.

uvicorn has no bound there: it leaves TLS to asyncio, which gives a handshake a minute and keeps no count. So
uvicorn serves without TLS here, this is its protocol, and `Connection` takes over behind TLS.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from server.gateway.connections import Connection
from server.gateway.visitors import Visitors

__all__ = ["Handshake"]

_HANDSHAKE_SECONDS = 10.0
_FAREWELL_SECONDS = 10.0
"""For the last bytes of a connection that ends to be taken."""


class Handshake(asyncio.Protocol):
    """Makes TLS, then hands over.

    Args:
        tls: the server's side of it.
        visitors: of the port.
        served: what uvicorn gives to a protocol.
    """

    def __init__(self, tls: ssl.SSLContext, visitors: Visitors, **served: Any) -> None:
        self._tls, self._visitors, self._served = tls, visitors, served
        self._open: set[Any] = served["server_state"].connections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Make room for it, and begin."""
        self._transport, self._early = transport, b""
        self._open.add(self)
        address = transport.get_extra_info("peername") or ("unknown",)
        self._visitor = self._visitors.arrive(str(address[0]), transport.abort)
        self._task = asyncio.get_running_loop().create_task(self._shake_hands())

    def data_received(self, data: bytes) -> None:
        """Keep what comes before TLS listens, which is a moment."""
        self._early += data

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone before TLS listens: nothing would tell TLS so."""
        del exc
        self._task.cancel()
        self._forget()

    def shutdown(self) -> None:
        """End with the server: uvicorn asks this of every connection."""
        self._transport.abort()

    async def _shake_hands(self) -> None:
        connection = Connection(visitors=self._visitors, visitor=self._visitor, **self._served)
        try:
            async with asyncio.timeout(_HANDSHAKE_SECONDS + 1):  # TLS keeps its own, if it hears of an end
                transport = await self._make_tls(connection)
        except (OSError, RuntimeError):  # no TLS, a certificate of nobody's, not in time; or it has gone
            self._transport.abort()
            return
        finally:
            if self._transport.is_closing():
                self._forget()
        self._open.discard(self)
        if transport is not None and not self._transport.is_closing():
            connection.connection_made(transport)

    def _forget(self) -> None:
        self._open.discard(self)
        self._visitors.leave(self._visitor)

    async def _make_tls(self, connection: Connection) -> asyncio.Transport | None:
        if self._transport.is_closing():
            raise ConnectionResetError
        loop = asyncio.get_running_loop()
        making = loop.create_task(
            loop.start_tls(
                self._transport,
                connection,
                self._tls,
                server_side=True,
                ssl_handshake_timeout=_HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=_FAREWELL_SECONDS,
            )
        )
        await asyncio.sleep(0)  # now TLS is the transport's protocol, and has read nothing yet
        listening: Any = self._transport.get_protocol()
        while self._early and listening is not self:
            room = memoryview(listening.get_buffer(len(self._early)))
            part, self._early = self._early[: len(room)], self._early[len(room) :]
            room[: len(part)] = part
            listening.buffer_updated(len(part))
        return await making
