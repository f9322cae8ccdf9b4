"""The gateway's door: what comes through from outside, and in whose name.

    GET  /health              anybody
    POST /v1/enrolment/…      anybody, a little at a time (`server.gateway.enrolment`)
    POST /v1/fleet/…          a site, by its certificate, in the name of its own key

Nothing else is looked at. Flower's own check, inside, holds each request's node against the key that signed
it, and ours each message's (`server.line.replies`); here that key must be the one in the certificate with
which TLS was made. So a site that knows another's key, or a stranger who knows one, comes in as nobody else.
"""

from __future__ import annotations

from base64 import b64decode

from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from server.gateway.connections import PEER, Peer, patient, promptly
from server.gateway.room import Room

__all__ = ["IN_FLIGHT", "Door"]

IN_FLIGHT = 2**30
"""Bytes of requests that are being read, of all sites together."""
_STRANGER = 2**16
"""Bytes of a request of somebody who showed no certificate."""
_BODY_SECONDS = 30.0
"""For a request's body to come; a long one of a site has more (`_SLOWEST`)."""
_SLOWEST = 2**15
"""Bytes a second that a site's line has at least: one that trickles would keep the room from all others."""
_AGAIN = {"retry-after": "2"}
"""When a site may ask again for which there was no room."""
_FLEET, _ENROLMENT, _HEALTH = "/v1/fleet/", "/v1/enrolment/", "/health"


class Door:
    """Lets sites through to the SuperLink.

    Args:
        superlink: answers the Fleet API and the health page.
        enrolment: answers those who want to become a site.
        in_flight: bytes of long requests that are read at a time.

    Attributes:
        room: for what sites send.
    """

    def __init__(self, superlink: ASGIApp, enrolment: ASGIApp, in_flight: int = IN_FLIGHT) -> None:
        self._superlink, self._enrolment = superlink, enrolment
        self.room = Room(in_flight)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return  # uvicorn refuses a WebSocket that nobody accepts
        send = promptly(send, scope)
        peer: Peer | None = scope.get(PEER)
        headers, path = Headers(scope=scope), scope["path"]
        refusal = _refusal(scope, headers, peer)
        if refusal is not None:
            refusal.headers["connection"] = "close"  # what follows of it is not read
            await refusal(scope, receive, send)
            return
        length = int(headers.get("content-length", "0"))
        if path.startswith(_ENROLMENT):
            await self._enrolment(scope, patient(receive, _BODY_SECONDS), send)
        elif path == _HEALTH:
            await self._superlink(scope, receive, send)
        else:
            async with self.room.taken(b"" if peer is None else peer.key, length) as fits:
                answer = self._superlink if fits else PlainTextResponse("too much at once", 503, _AGAIN)
                await answer(scope, patient(receive, _BODY_SECONDS + length / _SLOWEST), send)


def _refusal(scope: Scope, headers: Headers, peer: Peer | None) -> Response | None:
    method, path = scope["method"], scope["path"]
    is_asked = (method, path) == ("GET", _HEALTH)
    is_sent = method == "POST" and path.startswith((_FLEET, _ENROLMENT))
    if not (is_asked or is_sent) or scope["query_string"]:
        return PlainTextResponse("there is nothing here", 404)
    if "transfer-encoding" in headers:
        return PlainTextResponse("the length of a request must be stated", 411)
    if path.startswith(_FLEET):
        return _no_site(headers, peer)
    if int(headers.get("content-length", "0")) > _STRANGER:
        return PlainTextResponse(f"a request has {_STRANGER:,} bytes at most", 413)
    return None


def _no_site(headers: Headers, peer: Peer | None) -> Response | None:
    """401, as Flower says it of a wrong signature: 403 means to its client that a run is over."""
    if peer is None:
        return PlainTextResponse("a site shows its certificate: `tidegate site join` fetches one", 401)
    if _signer(headers) != peer.key:
        return PlainTextResponse(f"the certificate of '{peer.site}' is for another key", 401)
    return None


def _signer(headers: Headers) -> bytes | None:
    try:
        return b64decode(headers.get(FLEET_HTTP_PUBLIC_KEY_HEADER, ""), validate=True)
    except ValueError:
        return None
