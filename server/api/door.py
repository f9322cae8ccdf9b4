"""The door of the API: who is let through to it, and with how much.

    GET /                  the federation page; for whoever has not signed in, a form
    POST /sign-in, /sign-out   see `server.api.session`
    GET /authority.pem     the federation's authority, to be compared by its fingerprint
    GET /openapi.json, /docs   what can be asked
    …   /v1/…              whoever shows the token of a person; to read, the cookie of one who signed in
    …   /mlflow/…          likewise; what may be written there is said in `server.api.mlflow_rules`

A request is refused before its body is read. A wrong token is told nothing. After some from one address they
are told to wait, and no more of them is written to the log; a good token is let through from there all the
same, because many people may share an address, and 256 bits are not guessed.

A person has a few requests answered at a time, beside their streams, and others of theirs wait: the threads
that answer are everybody's, and each of a crowd that waits for MLflow has one.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contract.errors import StorageError
from contract.federation_api import MOST_BODY, Problem
from contract.outside import shown
from server.api.session import Sessions, is_own, session_of
from server.gateway.connections import CONNECTION, Connection, patient, promptly
from server.gateway.room import Room
from server.gateway.visitors import network_of
from server.state.people import Person

__all__ = ["MLFLOW", "PERSON", "SESSION", "Door", "Failures", "refusal"]

PERSON = "tidegate.person"
"""Key of a request's scope: whose token or session it has."""
SESSION = "tidegate.session"
"""Key of a request's scope: the session by which it was let in; none with a token."""
SIGNING = ("/sign-in", "/sign-out")
"""Where a form may be posted without a token."""
MLFLOW = "/mlflow"
"""Below it MLflow answers."""
_log = logging.getLogger("tidegate.api")
_SCHEME = "bearer "
_BODY_SECONDS = 30.0
_FAILURES, _WINDOW = 10, 60.0
"""Failures of one address that are answered and logged, in so many seconds."""
_MOST_NETWORKS = 4096
_MOST_QUERY, _MOST_QUERY_OF_MLFLOW = 2000, 16_000
_MOST_FORM = 4096
"""Bytes of a form."""
_SAFE = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
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
        sessions: who is signed in.
        failures: how often each address has failed.
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
        self._room = Room(MOST_BODY)  # only how many there are counts here: bodies are short

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return  # uvicorn refuses a WebSocket that nobody accepts
        refused = await self._refusal(scope)
        receive, send = patient(receive, _BODY_SECONDS), _safely(promptly(send, scope))
        if refused is not None:
            refused.headers["connection"] = "close"  # what follows of it is not read
            await refused(scope, receive, send)
            return
        person: Person | None = scope.get(PERSON)
        if person is None or _is_stream(scope):
            await self._app(scope, receive, send)
            return
        async with self._room.taken(person.name.encode(), 0) as fits:
            crowded = refusal(503, "too many requests of one person at once", remedy="Ask one after another")
            await (self._app if fits else crowded)(scope, receive, send)

    async def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if scope["path"].startswith("/v1/") or scope["path"] == "/" or _is_mlflow(scope):
            refused = await self._unknown(scope, headers)
            if refused is not None:
                return refused
        if scope["path"] in SIGNING and scope["method"] == "POST":
            if not is_own(scope):
                return refusal(403, "the request comes from a page of another site")
            return _too_long(headers, scope, _MOST_FORM)
        if not (scope["path"].startswith("/v1/") or _is_mlflow(scope)) and not _is_safe(scope):
            return refusal(405, "this can be read only")
        return _too_long(headers, scope, MOST_BODY)

    async def _unknown(self, scope: Scope, headers: Headers) -> Response | None:
        """The refusal of who is nobody here; a person is entered in the scope."""
        try:
            person = await run_in_threadpool(self._person, scope, headers)
        except StorageError as exc:
            _log.error("%s", exc)
            return refusal(503, "the server's database is away", remedy="Try again later")
        if person is None and scope["path"] != "/":
            return self._stranger(scope, headers)
        connection: Connection = scope[CONNECTION]
        if person is not None and not connection.recognize(person.name.encode()):
            return refusal(503, "too many connections of one person", remedy="Close some, or try again")
        scope[PERSON] = person
        return None

    def _person(self, scope: Scope, headers: Headers) -> Person | None:
        """Whose token is shown, or else whose session it is; at the API itself a session is for reading."""
        if "authorization" in headers and scope["path"] != "/":
            return self._with_token(_token(headers))
        session = session_of(headers)
        if not session or not is_own(scope) or not (_is_safe(scope) or _is_mlflow(scope)):
            return None
        scope[SESSION] = session
        return self._sessions.person(session)

    def _stranger(self, scope: Scope, headers: Headers) -> Response:
        is_page = _is_mlflow(scope) and _is_safe(scope) and "text/html" in headers.get("accept", "")
        if is_page and "authorization" not in headers:
            return RedirectResponse("/", 303)  # where a person signs in
        if self._failures.of(scope) == 429:
            return refusal(429, "too many requests without a good token", remedy="Wait a minute")
        response = refusal(401, "this needs a good token", remedy="Connect with one: tidegate connect URL")
        response.headers["www-authenticate"] = "Bearer"
        return response


class Failures:
    """How often each network (`network_of`) has failed of late; of so many networks, the last ones."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def of(self, scope: Scope) -> int:
        """Count a request without a good token, and log it unless too many were; the status of its answer."""
        address = str((scope.get("client") or ("unknown",))[0])
        count = self.count(network_of(address), time.monotonic())
        if count > _FAILURES:
            return 429
        last = ", and no more is logged of it for a while" if count == _FAILURES else ""
        _log.warning("%s has no good token: %s %s%s", address, scope["method"], shown(scope["path"]), last)
        return 401

    def count(self, network: str, now: float) -> int:
        """Count one more; how many there were in the last minute."""
        since, number = self._seen.pop(network, (now, 0))
        if now - since > _WINDOW:
            since, number = now, 0
        self._seen[network] = since, number + 1
        while len(self._seen) > _MOST_NETWORKS:
            self._seen.popitem(last=False)
        return number + 1


def _token(headers: Headers) -> str:
    shown_token = headers.get("authorization", "")
    return shown_token[len(_SCHEME) :] if shown_token.lower().startswith(_SCHEME) else ""


def _is_safe(scope: Scope) -> bool:
    return scope["method"] in ("GET", "HEAD")


def _is_stream(scope: Scope) -> bool:
    """Whether it is a run's stream of events, which are counted by themselves (`server.api.app`)."""
    path = str(scope["path"])
    return path.startswith("/v1/runs/") and path.endswith("/events")


def _is_mlflow(scope: Scope) -> bool:
    return scope["path"] == MLFLOW or str(scope["path"]).startswith(f"{MLFLOW}/")


def _too_long(headers: Headers, scope: Scope, most: int) -> Response | None:
    if "transfer-encoding" in headers:
        return refusal(411, "the length of a request must be stated")
    length = headers.get("content-length", "0")
    if int(length) > most:  # a few digits: `Connection` has seen to it
        return refusal(413, f"a request has {most:,} bytes at most here")
    if len(scope.get("query_string", b"")) > (_MOST_QUERY_OF_MLFLOW if _is_mlflow(scope) else _MOST_QUERY):
        return refusal(414, "the address is too long")
    return None


def _safely(send: Send) -> Send:
    async def send_safely(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            stated = {name.lower() for name, _ in headers}  # an answer may know better
            extra = [(name.encode(), value.encode()) for name, value in _SAFE.items()]
            message["headers"] = [*headers, *((name, value) for name, value in extra if name not in stated)]
        await send(message)

    return send_safely
