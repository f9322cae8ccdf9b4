"""Flower's SuperLink with a shorter way to its handlers: `python -m server.line.superlink`, its options.

Flower 1.42 puts eight of Starlette's `BaseHTTPMiddleware` before its handlers. Each starts a task and stream
for every request and a task group for every 64 KB of its body: three quarters of what a small request costs.
Here the same eight are asked in the same order, for authentication and all, but each by a plain call. Only
requests of sites and of the ServerApp take this way; what the operator's commands ask (`/v1/control/…`,
which may stream) goes as before. A site's question for a message is held until there is one
(`server.line.long_poll`).

Whoever does not send the secret (`server.line.secret`) is answered by the Fleet API, which knows each site by
its key, and by the health page: by nothing else, whatever else Flower has or will have there.

No request is read whose length is not stated, or is above that of the largest release: Flower holds a request
in memory, several times over, before anything of ours sees it. What sites send has narrower bounds, which are
those of `server.line.replies`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contract.allocator import reuse_large_blocks
from contract.collector import collect_rarely, leave_loaded
from contract.releases import MOST_VALUES
from server.line.flower import run_superlink
from server.line.in_place import Handlers, look_up_in_place
from server.line.long_poll import LongPoll
from server.line.replies import Replies, RequestRefusedError
from server.line.rest import Rest
from server.line.secret import FILE_VARIABLE, holds, read_secret, superexec_command
from server.line.whole import answer_whole, is_whole
from server.settings import LARGEST_REPLY, apply_quiet_environment, read_settings
from terminal.logs import PlainRecords

__all__ = ["MOST_BYTES", "Server", "ShortWay", "run"]

_SHORT = ("/v1/fleet/", "/v1/runtime/")
_OPEN, _HEALTH = "/v1/fleet/", "/health"
_KEPT = 2**31 - 1
"""Bytes of freed memory that SuperLink and ServerApp may keep for the next messages."""
MOST_BYTES = 4 * MOST_VALUES + 64 * 2**20
"""Of one request: the largest release, and room for what it is packed in."""


class ShortWay:
    """Calls the dispatch functions of several middlewares one inside the other, without tasks between them.

    Args:
        app: what comes after them.
        middlewares: outermost first.
        secret: what whoever is no site must send.
        largest_reply: bytes of a reply of a site.
        polls: holds what waits for an answer.

    Raises:
        TypeError: one of them has no dispatch function.
    """

    def __init__(
        self,
        app: ASGIApp,
        middlewares: Sequence[Middleware],
        secret: str,
        largest_reply: int = LARGEST_REPLY,
        polls: LongPoll | None = None,
    ) -> None:
        self._secret = secret
        self._app = self._long = app
        chain: list[Any] = []
        for middleware in reversed(middlewares):
            self._long = middleware.cls(self._long, *middleware.args, **middleware.kwargs)
            if not isinstance(self._long, BaseHTTPMiddleware):
                raise TypeError(f"{middleware!r} has no dispatch function")
            chain.append(self._long.dispatch_func)
        self._chain = tuple(reversed(chain))
        self._polls = polls or LongPoll()
        self._replies = Replies(largest_reply)
        self._handlers = Handlers(self._replies.is_short)
        self._rest = Rest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "lifespan" and (refusal := self._refusal(scope)) is not None:
            await refusal(scope, receive, send)
            return
        if scope["type"] != "http" or not scope["path"].startswith(_SHORT):
            await self._long(scope, receive, send)
            self._polls.note_control(scope.get("path", ""))
            return
        self._rest.note(int(Headers(scope=scope).get("content-length", "0")))
        try:
            async with self._replies.admitted(scope, receive) as read:
                request, ask = Request(scope, read), functools.partial(self._polls.answer, ask=self._first)
                await request.body()  # here, where one that does not come whole is no error of Flower's
                if is_whole(scope["path"]):
                    response = await answer_whole(request, ask, self._replies, self._polls)
                else:
                    response = await ask(request)
        except RequestRefusedError as exc:
            response = PlainTextResponse(exc.words, exc.status)
        except ClientDisconnect:  # or it does not come in time, and who sends it hears why
            close = {"connection": "close"}
            response = PlainTextResponse("the request did not come in time", 408, close)
        self._rest.note(len(response.body))
        await response(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        headers, path = Headers(scope=scope), scope["path"]
        is_open = scope["type"] == "http" and (path.startswith(_OPEN) or path == _HEALTH)
        if not is_open and not holds(headers, self._secret):
            return PlainTextResponse("this is for the server's own processes", 403)
        return _no_address(headers) or _too_long(headers)

    async def _first(self, request: Request) -> Response:
        return await self._ask(0, request)

    async def _ask(self, number: int, request: Request) -> Response:
        if number == len(self._chain):
            return await self._replies.answer(request, self._handled)

        async def call_next(request: Request) -> Response:
            return await self._ask(number + 1, request)

        response: Response = await self._chain[number](request, call_next)
        return response

    async def _handled(self, request: Request) -> Response:
        """What the handler behind them answers; its body is whole, for no handler on this way streams."""
        if await self._handlers.answer(request):
            return Response()  # in whose place Flower puts what the handler said
        body = await request.body()
        start: Message = {}
        parts: list[bytes] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                parts.append(message.get("body", b""))

        await self._app(request.scope, receive, send)
        response = Response(b"".join(parts), status_code=start["status"])
        response.raw_headers = list(start["headers"])
        return response


def _no_address(headers: Headers) -> Response | None:
    """The refusal of a request to a host that cannot be one: Starlette fails over it where Flower asks."""
    try:
        urlsplit(f"//{headers.get('host', '')}")
    except ValueError:
        return PlainTextResponse("the request's host is none", 400)
    return None


def _too_long(headers: Headers) -> Response | None:
    """The refusal of a request that may not be read; its rest is cut off with the connection."""
    if "transfer-encoding" in headers:
        return PlainTextResponse("the length of a request must be stated", 411)
    if int(headers.get("content-length", "0")) > MOST_BYTES:
        return PlainTextResponse(f"a request has {MOST_BYTES:,} bytes at most", 413)
    return None


class Server(uvicorn.Server):
    """Ends at once, whatever it holds.

    Args:
        config: uvicorn's.
        answer_all: called when it is to end, before it waits for what is not answered yet.
    """

    def __init__(self, config: uvicorn.Config, answer_all: Callable[[], None]) -> None:
        super().__init__(config)
        self._answer_all = answer_all

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End, where `run` or `serve` was told to."""
        self._answer_all()
        await super().shutdown(sockets)


Serve = Callable[[ASGIApp, dict[str, Any], Callable[[], None]], None]


def _serve(app: ASGIApp, options: dict[str, Any], answer_all: Callable[[], None]) -> None:
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again when all has ended
        Server(uvicorn.Config(app, **options), answer_all).run()


def run(serve: Serve = _serve) -> None:
    """Run the SuperLink with the options on the command line, until it is told to stop.

    Args:
        serve: is given the app, what Flower would give to `uvicorn.run` with it, and what answers those who
            wait when it is to end.
    """
    apply_quiet_environment()
    for name in ("flwr", "uvicorn.error"):  # they write what a site says, and a line of it is a record
        logging.getLogger(name).addFilter(PlainRecords())
    collect_rarely()
    reuse_large_blocks(_KEPT)
    look_up_in_place()
    polls = LongPoll()

    def arrange(middlewares: Sequence[Middleware]) -> list[Middleware]:
        secret, largest = read_secret(Path(os.environ[FILE_VARIABLE])), read_settings().largest_reply
        options: dict[str, Any] = {"secret": secret, "largest_reply": largest, "polls": polls}
        return [Middleware(ShortWay, middlewares=middlewares, **options)]

    def serve_app(app: ASGIApp, **options: Any) -> None:
        leave_loaded()
        serve(app, options, polls.end)

    run_superlink(arrange, superexec=superexec_command(), serve=serve_app)


if __name__ == "__main__":
    run()
