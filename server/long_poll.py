"""A site's question for a message waits until there is one, or a second.

Flower's SuperLink answers at once, so that a site asks many times a round, or late. Here a
question that finds nothing is held, and asked again when the ServerApp has pushed the message
whole: its last object has the message's own name. A site that has a message and has not answered
it yet is told at once that there is no other; so is everybody after a second. Nobody is answered
who has hung up meanwhile: Flower gives a message once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse, PushMessagesRequest
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from contract.messages import HOLD

__all__ = ["LongPoll"]

_PULL, _ANSWER = "/v1/fleet/pull-messages", "/v1/fleet/push-messages"
_SEND, _SEND_PART = "/v1/runtime/push-messages", "/v1/runtime/push-object"
_MOST_COMING = 100_000
"""Messages that are remembered as on their way; the oldest are forgotten, and found without a wake."""

Ask = Callable[[Request], Awaitable[Response]]


class LongPoll:
    """Stands before the handlers, and knows for which sites messages are on their way."""

    def __init__(self) -> None:
        self._coming: dict[str, int] = {}
        self._asking: dict[int, set[asyncio.Event]] = {}
        self._working: set[int] = set()

    async def answer(self, request: Request, ask: Ask) -> Response:
        """What `ask` answers, now or when there is something to say.

        Args:
            request: of a site or of the ServerApp.
            ask: authenticates and handles it.
        """
        path = request.scope["path"]
        if path == _PULL:
            return await self._pull(request, ask)
        try:
            response = await ask(request)
        finally:
            if path == _ANSWER:  # refused or not, the site has done with it
                self._working -= {message.metadata.src_node_id for message in _told(request).messages_list}
        if response.status_code < 400:
            self._note(path, _told(request))
        return response

    def _note(self, path: str, told: Any) -> None:
        if path == _SEND:
            for message in told.messages_list:
                self._coming[message.metadata.message_id] = message.metadata.dst_node_id
            while len(self._coming) > _MOST_COMING:
                del self._coming[next(iter(self._coming))]
        elif path == _SEND_PART:
            for event in self._asking.get(self._coming.pop(told.object_id, 0), ()):
                event.set()

    async def _pull(self, request: Request, ask: Ask) -> Response:
        body = await request.body()
        try:
            node = PullMessagesRequest.FromString(body).node.node_id
        except DecodeError:
            return await ask(request)
        came = asyncio.Event()
        self._asking.setdefault(node, set()).add(came)  # before the first look, so that nothing is missed
        try:
            response = await ask(_again(request, body))
            idle = response.status_code < 400 and node not in self._working
            if idle and not _has_message(response) and await _waited(came, request):
                response = await ask(_again(request, body))
            if _has_message(response):
                self._working.add(node)
            return response
        finally:
            self._asking[node].discard(came)
            if not self._asking[node]:
                del self._asking[node]


def _has_message(response: Response) -> bool:
    ok = response.status_code < 400
    return ok and bool(PullMessagesResponse.FromString(bytes(response.body)).messages_list)


async def _waited(came: asyncio.Event, request: Request) -> bool:
    """Whether a message came while the site still listened."""
    message = asyncio.ensure_future(came.wait())
    hung_up = asyncio.ensure_future(request.receive())  # its body is read: what comes next is the end
    try:
        await asyncio.wait({message, hung_up}, timeout=HOLD, return_when=asyncio.FIRST_COMPLETED)
        return came.is_set() and not hung_up.done()
    finally:
        message.cancel()
        hung_up.cancel()


def _told(request: Request) -> Any:
    """What Flower read of the request; if it did not come to that, nothing."""
    return getattr(request.state, "protobuf_request", PushMessagesRequest())


def _again(request: Request, body: bytes) -> Request:
    """The same request, as if it had just come."""

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request({**request.scope, "state": dict(request.scope.get("state", {}))}, receive)
