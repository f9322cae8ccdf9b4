"""A connection to the gateway: who is at its other end, and how long it may say nothing.

uvicorn tells an app nothing of the certificate that a client showed, and waits without end, and without a
bound, for the rest of a request's head. So this is its own protocol for HTTP with four things added: the
other end's certificate in the scope, under `PEER`; bounds on a head; bounds on connections, of those that
show no certificate and of each site; and headers that mean mischief are no request. TLS has checked the
certificate before: the federation's authority signed it, and it is in time.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, cast

from cryptography import x509
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from starlette.types import Message, Receive
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["PEER", "Connection", "Peer", "patient"]

PEER = "tidegate.peer"
"""Key of a request's scope: the `Peer`, or None of one that showed no certificate."""
_HEAD_SECONDS = 20.0
"""Until a request's head must be whole: from its first byte, or the connection's start for the first one."""
_HEAD_BYTES = 2**16
_FAREWELL_SECONDS = 1.0
"""That a connection which ends has for its last bytes to arrive."""
_MOST_STRANGERS = 256
"""Connections without a certificate at a time: each costs some memory, and none needs to last."""
_MOST_OF_A_SITE = 64
"""Connections of one site at a time. An honest one has a few; the process has so many files, and no more."""
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
    """One connection."""

    strangers: set[Connection] = set()  # noqa: RUF012 - of this process, by intent
    sites: Counter[bytes] = Counter()  # noqa: RUF012 - connections of each key, of this process

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See who is there."""
        super().connection_made(transport)
        self._waits: asyncio.TimerHandle | None = None
        self._head = 0
        self._peer = _peer(transport.get_extra_info("ssl_object"))
        self._counted: bytes | None = None
        if self._is_one_too_many():
            transport.abort()
            return
        if self._peer is None:
            self.strangers.add(self)
        else:
            self._counted = self._peer.key
            self.sites[self._counted] += 1
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._wait_no_more()
        self.strangers.discard(self)
        if self._counted is not None:
            self.sites[self._counted] -= 1
            if not self.sites[self._counted]:
                del self.sites[self._counted]
            self._counted = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read what has come."""
        super().data_received(data)
        if self._waits is not None:
            self._head += len(data)
            if self._head > _HEAD_BYTES:
                self.transport.abort()

    def on_message_begin(self) -> None:
        """A request's first byte has come."""
        super().on_message_begin()
        scope: dict[str, object] = cast("dict[str, object]", self.scope)
        scope[PEER] = self._peer
        self._wait()

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
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A request's head is whole."""
        self._wait_no_more()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """A request was answered; what still comes of one that was refused is not read for long."""
        super().on_response_complete()
        if self.transport.is_closing():
            self.loop.call_later(_FAREWELL_SECONDS, self.transport.abort)

    def _is_one_too_many(self) -> bool:
        if self._peer is None:
            return len(self.strangers) >= _MOST_STRANGERS
        return self.sites[self._peer.key] >= _MOST_OF_A_SITE

    def _wait(self) -> None:
        self._wait_no_more()
        self._head = 0
        self._waits = self.loop.call_later(_HEAD_SECONDS, self.transport.abort)

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


def _peer(tls: Any) -> Peer | None:
    shown = None if tls is None else tls.getpeercert(binary_form=True)
    if shown is None:
        return None
    certificate = x509.load_der_x509_certificate(shown)
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    key: Any = certificate.public_key()
    return Peer(site=str(names[0].value), key=public_key_to_bytes(key), certificate=shown)
