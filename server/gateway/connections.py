"""A connection to the gateway: who is at its other end, and how long it may say nothing.

uvicorn tells an app nothing of the certificate that a client showed, and waits without end, and without a
bound, for the rest of a request's head. So this is its own protocol for HTTP with these things added: the
other end's certificate in the scope, under `PEER`, and the connection, under `CONNECTION`; bounds on a head
and on requests that are sent ahead; who shows a certificate is known (`server.gateway.visitors`); and headers
that mean mischief are no request. TLS has checked the certificate before: the federation's authority signed
it, and it is in time.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any, cast

from cryptography import x509
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.gateway.visitors import Visitor, Visitors

__all__ = ["CONNECTION", "PEER", "Connection", "Peer", "patient", "promptly"]

PEER = "tidegate.peer"
"""Key of a request's scope: the `Peer`, or None of one that showed no certificate."""
CONNECTION = "tidegate.connection"
"""Key of a request's scope: the `Connection` by which it came."""
_HEAD_SECONDS = 20.0
"""Until a request's head must be whole: from its first byte, or the connection's start for the first one."""
_HEAD_BYTES = 2**16
_MOST_HEADERS = 100
_MOST_AHEAD = 8
"""Requests that are sent before the one before them is answered. No client of ours sends any."""
_FAREWELL_SECONDS = 1.0
"""That a connection which ends has for its last bytes to arrive."""
_PIECE = 2**18
"""Bytes of an answer that are sent before it is seen whether they are taken."""
_TAKE_SECONDS, _SLOWEST = 30.0, 2**15
"""For an answer to be taken: so many seconds, and one for so many bytes."""
_LENGTH_DIGITS = 16
"""Of a stated length. More would overflow, or be zeros, which are read in more than one way."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Whose certificate the other end showed.

    Attributes:
        site: its name.
        key: its public key, as Flower writes it into a request's header.
        certificate: in DER form.
    """

    site: str
    key: bytes
    certificate: bytes


class Connection(HttpToolsProtocol):
    """One connection, over TLS.

    Args:
        visitors: of the port.
        visitor: this one among them.
        served: what uvicorn gives to a protocol.
    """

    def __init__(self, *, visitors: Visitors, visitor: Visitor, **served: Any) -> None:
        super().__init__(**served)
        self._visitors, self._visitor = visitors, visitor
        self._early = bytearray()
        self._waits: asyncio.TimerHandle | None = None
        self._came = self._head = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See who is there."""
        super().connection_made(transport)
        self._peer = _peer(transport.get_extra_info("ssl_object"))
        if self._peer is not None and not self.recognize(self._peer.key):
            self.abort()
            return
        self._wait()
        early, self._early = bytes(self._early), bytearray()
        if early:
            self.data_received(early)

    def recognize(self, name: bytes) -> bool:
        """Whoever is there is this site or person; false if they have too many connections."""
        return self._visitors.recognize(self._visitor, name)

    def abort(self) -> None:
        """End it at once, whatever is still to be sent."""
        self._visitor.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._wait_no_more()
        self._visitors.leave(self._visitor)
        if self.transport is not None:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read what has come; it may come with the end of the handshake, before the connection is made."""
        if self.transport is None:
            self._early += data
            return
        super().data_received(data)
        self._part()
        if self._waits is not None:
            self._came += len(data)
            if self._came > _HEAD_BYTES:
                self.abort()

    def on_message_begin(self) -> None:
        """A request's first byte has come."""
        super().on_message_begin()
        scope: dict[str, object] = cast("dict[str, object]", self.scope)
        scope[PEER], scope[CONNECTION] = self._peer, self
        self._head = 0
        self._wait()

    def on_url(self, url: bytes) -> None:
        """Take a part of the address."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header.

        Raises:
            ValueError: the parser and who reads it after might differ in what it says. An upgrade would have
                the parser take what follows for another protocol, without a bound and without an end.
        """
        match name.lower():
            case b"content-length" if not value.isdigit() or len(value) > _LENGTH_DIGITS:
                raise ValueError("no length")
            case b"upgrade":
                raise ValueError("there is no other protocol here")
        self._count(len(name) + len(value))
        if len(self.headers) >= _MOST_HEADERS:
            raise ValueError("too many headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A request's head is whole.

        Raises:
            ValueError: too many were sent ahead: thousands fit into what is read at once.
        """
        self._wait_no_more()
        if len(self.pipeline) >= _MOST_AHEAD:
            raise ValueError("too many requests at once")
        self._visitor.is_answered = True
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """A request was answered; what still comes of one that was refused is not read for long."""
        self._visitor.is_answered = bool(self.pipeline)
        super().on_response_complete()
        self._part()

    def _part(self) -> None:
        """Of one that was closed, nothing more is read for long."""
        if self.transport.is_closing() and not self._visitor.is_leaving:
            self._visitor.is_leaving = True
            self.loop.call_later(_FAREWELL_SECONDS, self.abort)

    def _count(self, length: int) -> None:
        """Bound a head that comes in one piece."""
        self._head += length
        if self._head > _HEAD_BYTES:
            raise ValueError("the head is too long")

    def _wait(self) -> None:
        self._wait_no_more()
        self._came = 0
        self._waits = self.loop.call_later(_HEAD_SECONDS, self.abort)

    def _wait_no_more(self) -> None:
        if self._waits is not None:
            self._waits.cancel()
            self._waits = None


def patient(receive: Receive, seconds: float) -> Receive:
    """As it is, but a body that is not whole in time is one whose sender has hung up.

    Args:
        receive: gives a request's body.
        seconds: from now.
    """
    end = time.monotonic() + seconds
    whole = False

    async def receive_in_time() -> Message:
        nonlocal whole
        if whole:
            return await receive()  # waits for the end of the connection
        try:
            async with asyncio.timeout(max(0.0, end - time.monotonic())):
                message = await receive()
        except TimeoutError:
            return {"type": "http.disconnect"}
        whole = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    return receive_in_time


def promptly(send: Send, scope: Scope) -> Send:
    """As it is, but who does not take an answer in time is hung up on.

    A long answer is sent in pieces. uvicorn waits after each until most of it is taken; of a single piece it
    would keep all that a reader is too slow for.

    Args:
        send: gives parts of an answer.
        scope: of the request.
    """
    connection: Connection = scope[CONNECTION]

    async def send_in_time(message: Message) -> None:
        body = memoryview(message.get("body", b""))
        try:
            async with asyncio.timeout(_TAKE_SECONDS + len(body) / _SLOWEST):
                while len(body) > _PIECE:
                    await send({**message, "body": bytes(body[:_PIECE]), "more_body": True})
                    body = body[_PIECE:]
                await send({**message, "body": bytes(body)} if body else message)
        except TimeoutError:
            connection.abort()

    return send_in_time


def _peer(tls: Any) -> Peer | None:
    shown = None if tls is None else tls.getpeercert(binary_form=True)
    if shown is None:
        return None
    certificate = x509.load_der_x509_certificate(shown)
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    key: Any = certificate.public_key()
    return Peer(site=str(names[0].value), key=public_key_to_bytes(key), certificate=shown)
