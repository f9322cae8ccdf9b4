"""What is not there yet is waited for at the server, not asked for again and again.

Flower's SuperLink answers at once, so that who waits asks many times a round, or hears late. Here
a question that finds nothing is held, and asked once more when there is something:

    a site's question for a message     until the ServerApp has pushed one whole, twenty seconds at most,
                                        or the site says that it asks no more
    the ServerApp's for its replies     until a site has pushed one whole, a quarter of a second at most
    anybody's for a part of a message   until that part is there, a second at most
    the SuperExec's for a run to start  until one was submitted, two seconds at most

A message is whole when its last object has been pushed, which has the message's own name. A site
that has a message and has not answered it yet is told at once that there is no other. Nobody is
answered who has hung up meanwhile: Flower gives a message once. A SuperLink that is to end holds nothing.

An idle site asks again and again. Flower's answer costs a signature and a transaction, so "nothing" is
repeated on the same connection for some time without asking Flower: whatever could change it comes through
here, and ends that. Only Flower's own answer, with its checks, ever gives a message.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse, PushMessagesRequest
from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse
from flwr.proto.runtime_pb2 import AcquireTaskResponse, PullAppMessagesResponse
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from contract.messages import HOLD

__all__ = ["LongPoll"]

_SITE_PULLS, _APP_PULLS = "/v1/fleet/pull-messages", "/v1/runtime/pull-messages"
_SITE_SENDS, _APP_SENDS = "/v1/fleet/push-messages", "/v1/runtime/push-messages"
_START_RUN, _RUNS = "/v1/control/start-run", "/v1/runtime/acquire-task"
_REMOVE_SITE = "/v1/control/unregister-node"
_PULL_PART = frozenset({"/v1/fleet/pull-object", "/v1/runtime/pull-object"})
_SEND_PART = frozenset({"/v1/fleet/push-object", "/v1/runtime/push-object"})
_NOBODY = 401
"""Status of an answer to one who is not the node that they say."""
_HUNG_UP = 499
"""Status of an answer that nobody hears."""
_APP_HOLD = 0.25
"""Seconds: in between, an exchange looks at its deadline and says how it stands."""
_PART_HOLD, _RUN_HOLD = 1.0, 2.0
_ANNOUNCED = 20.0
"""Seconds that a message may take to be whole once it was announced; then its sender may have died over it.
Less than a site waits for an answer."""
_NO_PART = 64
"""An answer of more bytes has a part in it, which may be long: it is not read for that."""
_QUIET = 60.0
"""Seconds in which "nothing" may be repeated."""
_ASKS_NO_MORE = 5.0
"""Seconds in which a question of a site that asks no more is not held: it may have crossed that word."""
_MOST_COMING = 100_000
"""Messages that are remembered as on their way; the oldest are forgotten, and found without a wake."""

Ask = Callable[[Request], Awaitable[Response]]
_Awaited = int | str
"""The node that a message is for, an object's id, or `_RUNS`."""


@dataclass(frozen=True, kw_only=True)
class _Nothing:
    """Flower's answer that there was nothing, for this connection; it may be said again until `until`."""

    response: Response
    connection: tuple[str, int] | None
    until: float


class LongPoll:
    """Stands before the handlers, and knows who waits for what."""

    def __init__(self) -> None:
        self._coming: dict[str, int] = {}
        self._waiting: dict[_Awaited, set[asyncio.Event]] = {}
        self._announced: dict[int, float] = {}
        """When a message was announced for a node that is not whole yet."""
        self._working: set[int] = set()
        self._nothing: dict[_Awaited, _Nothing] = {}
        self._released: dict[int, float] = {}
        """Sites that ask no more, and until when."""
        self._ends = False
        self._submitted = True
        """Whether a run may wait to be started: at first, nothing is known."""

    async def answer(self, request: Request, ask: Ask) -> Response:
        """What `ask` answers, now or when there is something to say.

        Args:
            request: of a site or of the ServerApp.
            ask: authenticates and handles it.
        """
        path = request.scope["path"]
        if path == _SITE_PULLS:
            return await self._pull(request, ask)
        if path == _APP_PULLS:
            return await self._held(request, ask, SUPERLINK_NODE_ID, _has_replies, _APP_HOLD)
        if path == _RUNS:
            return await self._start_run(request, ask)
        if path in _PULL_PART:
            name = (await _read(request, PullObjectRequest)).object_id
            return await self._held(request, ask, name, _has_part, _PART_HOLD)
        response = await ask(request)
        if path == _SITE_SENDS and response.status_code != _NOBODY:
            self._working.discard(_told(request).node.node_id)  # refused or not, the site has done with it
        if response.status_code < 400:
            self._note(path, _told(request))
        return response

    async def arrival(self, request: Request, name: str) -> None:
        """Wait until an object has been pushed, as long as for any part of a message.

        Args:
            request: of who waits; who hangs up waits no more.
            name: the object's id.
        """
        with self._waits_for(name) as came:
            await _came(came, request, _PART_HOLD)

    def release(self, node: int) -> None:
        """A site asks no more: its question is answered."""
        now = time.monotonic()
        self._released = {known: until for known, until in self._released.items() if until > now}
        self._released[node] = now + _ASKS_NO_MORE
        self._wake(node)

    def end(self) -> None:
        """Answer everybody: who closes a server waits for what is held."""
        self._ends = True
        for awaited in list(self._waiting):
            self._wake(awaited)

    def note_control(self, path: str) -> None:
        """A request of the operator's was answered: who waits for what it may change is woken."""
        if path == _START_RUN:
            self._submitted = True
            self._wake(_RUNS)
        elif path == _REMOVE_SITE:  # it hears at once that it is known no more
            for awaited in {*self._nothing, *self._waiting}:
                self._wake(awaited)

    async def _start_run(self, request: Request, ask: Ask) -> Response:
        """What `ask` answers, once: the request is signed for one time. So it is held before, not after."""
        await request.body()
        if not self._submitted:
            with self._waits_for(_RUNS) as came:
                arrived = await _came(came, request, self._hold(_RUN_HOLD))
            if arrived is None:
                return Response(status_code=_HUNG_UP)
            if not arrived and (nothing := self._repeated(_RUNS, request)) is not None:
                return nothing
        self._submitted = False
        response = await ask(request)
        self._submitted |= response.status_code >= 400 or _has_task(response)
        if not self._submitted:
            self._note_nothing(_RUNS, request, response)
        return response

    async def _pull(self, request: Request, ask: Ask) -> Response:
        node = (await _read(request, PullMessagesRequest)).node.node_id
        if (nothing := self._repeated(node, request)) is not None:
            with self._waits_for(node) as came:
                arrived = await _came(came, request, self._hold(HOLD, node))
            if not arrived:
                return Response(status_code=_HUNG_UP) if arrived is None else nothing
            request = _again(request, await request.body())
        hold = 0.0 if node in self._working else self._hold(HOLD, node)
        if hold and not await self._whole(request, node):
            return Response(status_code=_HUNG_UP)
        response = await self._held(request, ask, node, _has_message, hold, repeats=True)
        if response.status_code < 400 and _has_message(response):
            self._working.add(node)
        return response

    async def _whole(self, request: Request, node: int) -> bool:
        """Wait until a message for this node that was announced is whole; false where who asks hangs up.

        In a round of many sites the last message is whole long after all were announced.
        """
        with self._waits_for(node) as came:
            left = self._announced.get(node, -math.inf) + _ANNOUNCED - time.monotonic()
            return left <= 0 or await _came(came, request, left) is not None

    def _hold(self, seconds: float, node: int | None = None) -> float:
        is_released = node is not None and self._released.get(node, -math.inf) > time.monotonic()
        return 0.0 if self._ends or is_released else seconds

    def _repeated(self, awaited: _Awaited, request: Request) -> Response | None:
        """The answer that there is nothing, if Flower gave it on this connection and nothing came since."""
        nothing = self._nothing.get(awaited)
        if nothing is None or nothing.until < time.monotonic():
            return None
        return nothing.response if nothing.connection == _connection(request) else None

    def _note_nothing(self, awaited: _Awaited, request: Request, response: Response) -> None:
        connection = _connection(request)
        if connection is not None:
            until = time.monotonic() + _QUIET
            self._nothing[awaited] = _Nothing(response=response, connection=connection, until=until)

    def _note(self, path: str, told: Any) -> None:
        if path in (_SITE_SENDS, _APP_SENDS):
            for said in (message.metadata for message in told.messages_list):
                if path == _APP_SENDS:
                    self._coming[said.message_id] = said.dst_node_id
                    self._announced[said.dst_node_id] = time.monotonic()
                else:  # whatever a site says, its reply wakes no site
                    self._coming.setdefault(said.message_id, SUPERLINK_NODE_ID)
            while len(self._coming) > _MOST_COMING:
                self._announced.pop(self._coming.pop(next(iter(self._coming))), None)
        elif path in _SEND_PART:
            self._wake(told.object_id)
            if (node := self._coming.pop(told.object_id, None)) is not None:
                self._announced.pop(node, None)
                self._wake(node)

    def _wake(self, awaited: _Awaited) -> None:
        self._nothing.pop(awaited, None)
        for event in self._waiting.get(awaited, ()):
            event.set()

    async def _held(
        self,
        request: Request,
        ask: Ask,
        awaited: _Awaited,
        is_there: Callable[[Response], bool],
        hold: float,
        *,
        repeats: bool = False,
    ) -> Response:
        """What `ask` answers; again, once, if what was asked for comes within `hold` seconds.

        Where nothing comes and `repeats` is set, that is said for some time without asking.
        """
        body = await request.body()
        with self._waits_for(awaited) as came:  # before the first look, so that nothing is missed
            response = await ask(_again(request, body))
            if response.status_code >= 400 or not hold or is_there(response):
                return response
            arrived = await _came(came, request, self._hold(hold))
            if arrived:
                return await ask(_again(request, body))
            if repeats and arrived is False:
                self._note_nothing(awaited, request, response)
            return response

    @contextlib.contextmanager
    def _waits_for(self, awaited: _Awaited) -> Iterator[asyncio.Event]:
        came = asyncio.Event()
        self._waiting.setdefault(awaited, set()).add(came)
        try:
            yield came
        finally:
            self._waiting[awaited].discard(came)
            if not self._waiting[awaited]:
                del self._waiting[awaited]


def _has_message(response: Response) -> bool:
    return bool(PullMessagesResponse.FromString(bytes(response.body)).messages_list)


def _has_replies(response: Response) -> bool:
    return bool(PullAppMessagesResponse.FromString(bytes(response.body)).messages_list)


def _has_task(response: Response) -> bool:
    return bool(AcquireTaskResponse.FromString(bytes(response.body)).HasField("task"))


def _has_part(response: Response) -> bool:
    """Also if there is no such part and never will be."""
    if len(response.body) > _NO_PART:
        return True
    found = PullObjectResponse.FromString(bytes(response.body))
    return found.object_available or not found.object_found


async def _came(came: asyncio.Event, request: Request, hold: float) -> bool | None:
    """Whether it came in time; None where who asked has hung up."""
    arrival = asyncio.ensure_future(came.wait())
    hung_up = asyncio.ensure_future(request.receive())  # its body is read: what comes next is the end
    try:
        await asyncio.wait({arrival, hung_up}, timeout=hold, return_when=asyncio.FIRST_COMPLETED)
        return None if hung_up.done() else came.is_set()
    finally:
        arrival.cancel()
        hung_up.cancel()


def _connection(request: Request) -> tuple[str, int] | None:
    """Address and port of the other end, which one connection alone has while it lasts."""
    client = request.scope.get("client")
    return None if client is None else (client[0], client[1])


async def _read(request: Request, kind: Any) -> Any:
    """The request's body as a message of this kind; empty if it is none, as the handler will find too."""
    try:
        return kind.FromString(await request.body())
    except DecodeError:
        return kind()


def _told(request: Request) -> Any:
    """What Flower read of the request; if it did not come to that, nothing."""
    return getattr(request.state, "protobuf_request", PushMessagesRequest())


def _again(request: Request, body: bytes) -> Request:
    """The same request, as if it had just come."""

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request({**request.scope, "state": dict(request.scope.get("state", {}))}, receive)
