"""Sessions: a person who signed in with their token in a browser, and reads on by a cookie.

    POST /sign-in    `token=…` in the body of a form, never in an address: sets the cookie
    POST /sign-out   ends the session

The cookie holds 256 random bits that are good for reading alone (GET), for hours, and no longer than the
token. Scripts cannot read it, and a browser sends it to this host over TLS, never on behalf of another site.
The server keeps the SHA-256 of it, in memory: who signed in signs in again after the server has started anew.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import Response
from starlette.types import Scope

from server.state.people import Person

__all__ = ["COOKIE", "SESSION_SECONDS", "Sessions", "is_own", "session_of"]

COOKIE = "__Host-tidegate"
"""A browser takes a cookie with this beginning only over TLS, for the whole of one host (RFC 6265bis)."""
SESSION_SECONDS = 8 * 3600
_MOST_OF_A_PERSON = 20
_MOST = 10_000


@dataclass(frozen=True, kw_only=True)
class _Session:
    person: Person
    end: float


@dataclass(kw_only=True)
class Sessions:
    """Who is signed in. Safe over threads.

    Attributes:
        is_good: whether a person's token still is.
        now: a clock in seconds.
    """

    is_good: Callable[[Person], bool]
    now: Callable[[], float] = time.monotonic
    _open: OrderedDict[str, _Session] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, person: Person, answer: Response) -> None:
        """Sign a person in, by a cookie that goes with the answer; of too many sessions the oldest ends."""
        seconds = float(SESSION_SECONDS)
        if person.expires is not None:
            seconds = min(seconds, (person.expires - datetime.now(UTC)).total_seconds())
        secret = secrets.token_urlsafe(32)
        with self._lock:
            own = [key for key, one in self._open.items() if one.person.name == person.name]
            for key in own[: max(0, len(own) + 1 - _MOST_OF_A_PERSON)]:
                del self._open[key]
            while len(self._open) >= _MOST:
                self._open.popitem(last=False)
            self._open[_hash(secret)] = _Session(person=person, end=self.now() + seconds)
        _set(answer, secret, max(0, int(seconds)))

    def person(self, secret: str) -> Person | None:
        """Whose session it is, if it goes on and their token is still good.

        Raises:
            StorageError: the database is away.
        """
        with self._lock:
            found = self._open.get(_hash(secret))
        if found is None:
            return None
        if self.now() < found.end and self.is_good(found.person):
            return found.person
        with self._lock:
            self._open.pop(_hash(secret), None)
        return None

    def end(self, secret: str, answer: Response) -> None:
        """Sign out, and have the browser forget the cookie."""
        with self._lock:
            self._open.pop(_hash(secret), None)
        _set(answer, "", 0)


def session_of(headers: Headers) -> str:
    """What the request's cookie holds; empty without one."""
    return cookie_parser(headers.get("cookie", "")).get(COOKIE, "")


def is_own(scope: Scope) -> bool:
    """Whether a browser says that a page of this server made the request, or the person at the address bar.

    A cookie's own bounds leave out that another port of the host is the same site to a browser.
    """
    headers = Headers(scope=scope)
    said = headers.get("sec-fetch-site")
    if scope["method"] in ("GET", "HEAD"):
        return said in (None, "same-origin", "none")
    if said is not None:
        return said == "same-origin"
    return headers.get("origin") == f"https://{headers.get('host', '')}"  # a browser without Sec-Fetch-Site


def _set(answer: Response, value: str, seconds: int) -> None:
    answer.set_cookie(COOKIE, value, max_age=seconds, path="/", secure=True, httponly=True, samesite="strict")


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
