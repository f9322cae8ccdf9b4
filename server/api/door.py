"""The door of the API: who is let through to it, and with how much.

    GET /                  what this is, in a sentence
    GET /authority.pem     the federation's authority, to be compared by its fingerprint
    GET /openapi.json, /docs   what can be asked
    …   /v1/…              whoever shows the token of a person
    …   /mlflow/…          likewise, or a browser that is signed in
    …   /sign-in, /sign-out   see `session`

A request is refused before its body is read. A wrong token is told nothing. After some from one address they
are told to wait, and no more of them is written to the log; a good token is let through from there all the
same, because many people may share an address, and 256 bits are not guessed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contract.errors import StorageError
from contract.federation_api import MOST_BODY, Problem
from contract.outside import shown
from server.api.session import SIGN_IN, SIGN_OUT, Sessions, is_from_here, to_sign_in
from server.state.people import Person

__all__ = ["PERSON", "Door", "Failures", "no_token", "refusal"]

PERSON = "tidegate.person"
"""Key of a request's scope: whose token it has."""
_log = logging.getLogger("tidegate.api")
_SCHEME = "bearer "
_BROWSED = "/mlflow"
"""Below which a browser that is signed in may ask."""
_BODY_SECONDS = 30.0
_FAILURES, _WINDOW = 10, 60.0
"""Failures of one address that are answered and logged, in so many seconds."""
_MOST_ADDRESSES = 4096
_SAFE = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
}


def refusal(status: int, what: str, *, where: str = "", remedy: str = "") -> Response:
    """A refusal in words."""
    return JSONResponse(Problem(what=what, where=where, remedy=remedy).model_dump(), status)


class Door:
    """Asks for a token, bounds a request, and makes answers safe to show in a browser.

    Args:
        app: answers.
        with_token: the person with a token; None for a wrong one.
        sessions: the browsers that are signed in.
        failures: counts wrong tokens.
    """

    def __init__(
        self,
        app: ASGIApp,
        with_token: Callable[[str], Person | None],
        sessions: Sessions,
        failures: Failures,
    ) -> None:
        self._app, self._with_token = app, with_token
        self._sessions, self._failures = sessions, failures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return  # uvicorn refuses a WebSocket that nobody accepts
        refused = await self._refusal(scope)
        answer = self._app if refused is None else refused
        if refused is not None:
            refused.headers["connection"] = "close"  # what follows of it is not read
        await answer(scope, _patient(receive), _safely(send))

    async def _refusal(self, scope: Scope) -> Response | None:
        headers, path = Headers(scope=scope), scope["path"]
        browsed = path == _BROWSED or path.startswith(f"{_BROWSED}/")
        if browsed or path.startswith("/v1/"):
            try:
                scope[PERSON] = await run_in_threadpool(self._person, headers, browsed)
            except StorageError as exc:
                _log.error("%s", exc)
                return refusal(503, "the server's database is away", remedy="Try again later")
            if scope[PERSON] is None:
                return self._stranger(scope, headers, browsed)
            if browsed and not _has_token(headers) and not _is_safe(scope) and not is_from_here(headers):
                return refusal(403, "this comes from another page")
        elif path in (SIGN_IN, SIGN_OUT):
            if not _is_safe(scope) and not is_from_here(headers):
                return refusal(403, "this comes from another page")
        elif not _is_safe(scope):
            return refusal(405, "this can be read only")
        return _too_long(scope, headers, 16_000 if browsed else 2000)

    def _person(self, headers: Headers, browsed: bool) -> Person | None:
        """Whose token the request has; without one, and where a browser may be, who is signed in there."""
        if browsed and not _has_token(headers):
            return self._sessions.person(headers)
        return self._with_token(_token(headers))

    def _stranger(self, scope: Scope, headers: Headers, browsed: bool) -> Response:
        if (
            browsed
            and _is_safe(scope)
            and not _has_token(headers)
            and "text/html" in headers.get("accept", "")
        ):
            return to_sign_in()
        return self._failures.refused(scope) or no_token()


class Failures:
    """How often each address has failed of late; of so many addresses, the last ones."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def count(self, address: str, now: float) -> int:
        """Count one more; how many there were in the last minute."""
        since, number = self._seen.pop(address, (now, 0))
        if now - since > _WINDOW:
            since, number = now, 0
        self._seen[address] = since, number + 1
        while len(self._seen) > _MOST_ADDRESSES:
            self._seen.popitem(last=False)
        return number + 1

    def refused(self, scope: Scope) -> Response | None:
        """Count and log that a request showed no good token; a refusal where it was one too many."""
        address = str((scope.get("client") or ("unknown",))[0])
        count = self.count(address, time.monotonic())
        if count > _FAILURES:
            return refusal(429, "too many requests without a good token", remedy="Wait a minute")
        last = ", and no more is logged of it for a while" if count == _FAILURES else ""
        _log.warning("%s has no good token: %s %s%s", address, scope["method"], shown(scope["path"]), last)
        return None


def no_token() -> Response:
    """The refusal of who shows no good token."""
    response = refusal(401, "this needs a good token", remedy="Connect with one: tidegate connect URL")
    response.headers["www-authenticate"] = "Bearer"
    return response


def _is_safe(scope: Scope) -> bool:
    """Whether the request's method changes nothing."""
    return scope["method"] in ("GET", "HEAD")


def _has_token(headers: Headers) -> bool:
    return "authorization" in headers


def _token(headers: Headers) -> str:
    shown_token = headers.get("authorization", "")
    return shown_token[len(_SCHEME) :] if shown_token.lower().startswith(_SCHEME) else ""


def _too_long(scope: Scope, headers: Headers, most_query: int) -> Response | None:
    if "transfer-encoding" in headers:
        return refusal(411, "the length of a request must be stated")
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()) or int(length[:20]) > MOST_BODY:
        return refusal(413, f"a request has {MOST_BODY:,} bytes at most")
    if len(scope.get("query_string", b"")) > most_query:
        return refusal(414, "the address is too long")
    return None


def _patient(receive: Receive) -> Receive:
    """What is received, for half a minute: a body that does not come holds nothing up."""
    end = time.monotonic() + _BODY_SECONDS
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


def _safely(send: Send) -> Send:
    async def send_safely(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            stated = {name.lower() for name, _ in headers}  # an answer may know better
            extra = [(name.encode(), value.encode()) for name, value in _SAFE.items()]
            message["headers"] = [*headers, *((name, value) for name, value in extra if name not in stated)]
        await send(message)

    return send_safely
