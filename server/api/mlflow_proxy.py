"""MLflow behind the API: requests below `/mlflow` go on to the socket at which it listens.

The door has said who asks, and has bounded the body; `mlflow_rules` says what may be asked. Of a request only
what MLflow needs is passed on: no token, no cookie, and no word of the client's about hosts and addresses.
Answers stream through. They may run MLflow's scripts in a browser and load nothing from elsewhere, and a file
that somebody logged runs nothing at all.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self
from urllib.parse import quote

import anyio
import httpx
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from contract.errors import AddressError, ChangedError, RegistryError, StorageError, TidegateError
from contract.outside import shown
from server.api.door import MLFLOW, PERSON
from server.api.mlflow_rules import ReviewTag, allowed_body, is_artifact, review_tag
from server.state.people import Person

__all__ = ["MlflowProxy"]

_log = logging.getLogger("tidegate.api")
_MOST_AT_ONCE, _MOST_OF_A_PERSON = 64, 16
_ANSWER_SECONDS = 300.0
"""Until MLflow answers."""
_LONGEST_SOCKET_PATH = 100
_TO_MLFLOW = (
    "accept", "accept-encoding", "accept-language", "if-modified-since", "if-none-match", "range",
    "user-agent",
)  # fmt: skip
_FROM_MLFLOW = (
    "accept-ranges", "cache-control", "content-disposition", "content-encoding", "content-length",
    "content-range", "content-type", "etag", "last-modified", "vary",
)  # fmt: skip
_PAGES = (
    "default-src 'self'; script-src 'self' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; frame-src 'self' blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
)
_FILES = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
_ERROR_CODES = {
    400: "INVALID_PARAMETER_VALUE",
    403: "PERMISSION_DENIED",
    409: "INVALID_STATE",
    503: "TEMPORARILY_UNAVAILABLE",
}


class MlflowProxy:
    """Passes requests on to MLflow.

    Args:
        socket: at which it listens.
        decide: enters what a person says of a version, or raises a TidegateError that says why not.
    """

    def __init__(self, socket: Path, decide: Callable[[Person, ReviewTag], None]) -> None:
        self._socket, self._decide = socket, decide
        self._open: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        person: Person = scope[PERSON]
        if self._open.total() >= _MOST_AT_ONCE or self._open[person.name] >= _MOST_OF_A_PERSON:
            refused = _refused(503, "too many requests are open: come back later")
            await refused(scope, receive, send)
            return
        self._open[person.name] += 1
        try:
            async with _Line(self._socket) as line:
                answer = await self._answer(request, person, line)
                await answer(scope, receive, send)
        finally:
            self._open[person.name] -= 1
            self._open += Counter()  # forgets who has none open

    async def _answer(self, request: Request, person: Person, line: _Line) -> Response:
        try:
            path = _plain_path(request.scope)
            came = b"" if request.method in ("GET", "HEAD") else await request.body()
            body = allowed_body(request.method, path, came, person.role)
            word = review_tag(request.method, path, body, person.role)
            if word is not None:
                await run_in_threadpool(self._decide, person, word)
                body = word.written(person.name)
        except TidegateError as exc:
            return self._not_entered(exc, person, path)
        except HTTPException as exc:
            return _refused(exc.status_code, exc.detail)
        if body is not came:
            _log.info("%s writes to MLflow: %s %s", person.name, path, shown(body.decode()[:300]))
        return await self._passed_on(request, path, body, line)

    def _not_entered(self, error: TidegateError, person: Person, path: str) -> Response:
        """Why a word on a version was not entered."""
        if isinstance(error, ChangedError):
            _log.error("%s was refused at %s: %s", person.name, path, shown(str(error)))
            return _refused(409, str(error))
        if isinstance(error, AddressError | RegistryError | StorageError):
            _log.error("%s at %s: %s", person.name, path, shown(str(error)))
            return _refused(503, "a part of the server is away")
        return _refused(400, str(error))

    async def _passed_on(self, request: Request, path: str, body: bytes, line: _Line) -> Response:
        headers = {name: request.headers[name] for name in _TO_MLFLOW if name in request.headers}
        if body:
            headers["content-type"] = "application/json"
        url = httpx.URL("http://localhost", raw_path=_target(path, request.scope))
        asked = httpx.Request(
            request.method,
            url,
            headers=headers,
            content=body,
            extensions={"timeout": httpx.Timeout(_ANSWER_SECONDS, connect=10).as_dict()},
        )
        try:
            answer = await line.ask(asked)
        except httpx.HTTPError as exc:
            _log.warning("MLflow does not answer: %s", type(exc).__name__)
            return _refused(
                503, "MLflow does not answer: it starts some seconds after the server, or has ended"
            )
        kept = {name: answer.headers[name] for name in _FROM_MLFLOW if name in answer.headers}
        kept["content-security-policy"] = _FILES if is_artifact(path) else _PAGES
        kept["referrer-policy"] = "same-origin"
        if not path.startswith("/static-files/"):
            kept["cache-control"] = "no-store"
        passed = StreamingResponse(answer.aiter_raw(), answer.status_code)
        passed.raw_headers = [(name.encode(), value.encode("latin-1")) for name, value in kept.items()]
        return passed


class _Line:
    """One connection to MLflow: for one request, because it may close one that waits at any moment."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._folder: int | None = None
        self._transport: httpx.AsyncHTTPTransport | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it, also where the client is gone and this task is cancelled."""
        if self._folder is not None:
            os.close(self._folder)
        if self._transport is not None:
            with anyio.CancelScope(shield=True):
                await self._transport.aclose()

    async def ask(self, request: httpx.Request) -> httpx.Response:
        """Send a request; the answer's body can be read until this is closed."""
        self._transport = httpx.AsyncHTTPTransport(uds=self._name(), verify=False)
        return await self._transport.handle_async_request(request)

    def _name(self) -> str:
        """The socket's path, or one that leads there and is short enough for a socket's."""
        if len(os.fsencode(self._socket)) <= _LONGEST_SOCKET_PATH:
            return str(self._socket)
        with suppress(FileNotFoundError):
            self._folder = os.open(self._socket.parent, os.O_PATH | os.O_DIRECTORY)
        return f"/proc/self/fd/{self._folder}/{self._socket.name}"


def _plain_path(scope: Scope) -> str:
    """The path behind the prefix, of which there is one reading only.

    Raises:
        HTTPException: others might read it in another way.
    """
    raw, path = scope["raw_path"].lower(), scope["path"]
    segments = path.split("/")[1:]
    odd = "//" in path or any(part in (".", "..") for part in segments)
    if odd or any(code in raw for code in (b"%2f", b"%5c", b"%25")) or not path.isprintable() or "\\" in path:
        raise HTTPException(400, "this is no plain path")
    return str(path.removeprefix(MLFLOW))


def _target(path: str, scope: Scope) -> bytes:
    query: bytes = scope.get("query_string", b"")
    return quote(path).encode() + (b"?" + query if query else b"")


def _refused(status: int, words: str) -> Response:
    """A refusal as MLflow's pages and its client show it."""
    return JSONResponse({"error_code": _ERROR_CODES.get(status, "BAD_REQUEST"), "message": words}, status)
