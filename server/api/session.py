"""A signed-in browser: a cookie in the place of a token.

    GET  /sign-in    the form; who is signed in can sign out there
    POST /sign-in    a token is exchanged for a cookie
    POST /sign-out   the cookie is worth nothing more

The token is in no address and no cookie, so no history and no log has it. The cookie is 256 random bits that
no script reads, that goes over TLS and from this server's own pages alone, and that ends after some hours or
with the token. The server keeps hashes of cookies, in memory: after a restart everybody signs in again.

Another page can make a browser send a request, but not say that it comes from here: what a cookie may change
is asked with this server's own address in the header `Origin` (see `is_from_here`).
"""

from __future__ import annotations

import hashlib
import html
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, RedirectResponse, Response

from server.state.people import Person

__all__ = ["COOKIE", "HOURS", "SIGN_IN", "SIGN_OUT", "Sessions", "is_from_here", "sign_in_page", "to_sign_in"]

COOKIE = "__Host-tidegate"
"""With that prefix a browser takes it over TLS alone, and no other host of a domain can set it."""
HOURS = 8
SIGN_IN, SIGN_OUT = "/sign-in", "/sign-out"
_MOST_OF_A_PERSON = 10


@dataclass(frozen=True, kw_only=True)
class _Session:
    person: Person
    ends: float


@dataclass(kw_only=True)
class Sessions:
    """Who is signed in.

    Attributes:
        is_good: whether the token of somebody who signed in still is.
    """

    is_good: Callable[[Person], bool]
    _known: dict[str, _Session] = field(default_factory=dict)

    def begin(self, person: Person, response: Response) -> None:
        """Sign a person in at the browser that gets this response; of ten such sessions the oldest ends."""
        now, cookie = time.monotonic(), secrets.token_urlsafe(32)
        self._known = {key: one for key, one in self._known.items() if now < one.ends}
        theirs = [key for key, one in self._known.items() if one.person.name == person.name]
        for key in theirs[: max(0, len(theirs) + 1 - _MOST_OF_A_PERSON)]:
            self._known.pop(key, None)
        self._known[_hash(cookie)] = _Session(person=person, ends=now + HOURS * 3600)
        response.set_cookie(
            COOKIE, cookie, max_age=HOURS * 3600, path="/", secure=True, httponly=True, samesite="strict"
        )

    def person(self, headers: Headers) -> Person | None:
        """Who is signed in at the browser that sends these headers; asks the database whether they may.

        Raises:
            StorageError: the database is away.
        """
        key = _hash(_cookie(headers))
        session = self._known.get(key)
        if session is None:
            return None
        if time.monotonic() >= session.ends or not self.is_good(session.person):
            self._known.pop(key, None)
            return None
        return session.person

    def end(self, headers: Headers, response: Response) -> None:
        """Sign the browser that sends these headers out."""
        self._known.pop(_hash(_cookie(headers)), None)
        response.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="strict")


def is_from_here(headers: Headers) -> bool:
    """Whether a browser sends this from a page of the host that it asks."""
    return headers.get("origin", "") == f"https://{headers.get('host', '')}"


def sign_in_page(person: Person | None, *, words: str = "", status: int = 200) -> Response:
    """The form; or, for somebody who is signed in, where to go, and the button to sign out."""
    if person is None:
        body = (
            f'<form method=post action="{SIGN_IN}"><p><label>Your token <input name=token type=password '
            "autocomplete=off required autofocus></label> <button>Sign in</button></form>"
            "<p>The operator gives tokens: <code>tidegate server person add NAME --role reviewer</code>."
        )
    else:
        body = (
            f"<p>You are {html.escape(person.name)}, {person.role}. <a href=/mlflow/>Models in MLflow</a>"
            f'<form method=post action="{SIGN_OUT}"><button>Sign out</button></form>'
        )
    alert = f"<p role=alert>{html.escape(words)}" if words else ""
    page = (
        "<!doctype html><meta charset=utf-8><title>Tidegate</title>"
        f"<style>body{{font:1em sans-serif;margin:2em}}</style><h1>Tidegate</h1>{alert}{body}"
    )
    # with `no-referrer` a browser would not say in `Origin` that the form is this server's
    return HTMLResponse(page, status, headers={"referrer-policy": "same-origin"})


def to_sign_in() -> Response:
    """Send a browser to the form."""
    return RedirectResponse(SIGN_IN, 303)


def _cookie(headers: Headers) -> str:
    return cookie_parser(headers.get("cookie", "")).get(COOKIE, "")


def _hash(cookie: str) -> str:
    return hashlib.sha256(cookie.encode("utf-8", "surrogatepass")).hexdigest()
