"""The addresses of the federation page: the page, its style and script, and signing in and out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib import metadata, resources
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, RedirectResponse, Response

from server.api.door import PERSON, Failures
from server.api.overview import read_overview
from server.api.page import federation_page, sign_in_page
from server.api.reading import Reading
from server.api.session import Sessions, session_of
from server.state.people import People, Person

__all__ = ["page_routes"]

_log = logging.getLogger("tidegate.api")
_FILES = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
_SENTENCES = {
    401: "This token is not good: ask the operator for another.",
    429: "Too many tries without a good token: wait a minute.",
}


def page_routes(reading: Reading, sessions: Sessions, failures: Failures) -> APIRouter:
    """Where a browser finds the page.

    Args:
        reading: makes what is shown.
        sessions: who is signed in.
        failures: counts wrong tokens, with those that were shown to the API.
    """
    router = APIRouter(include_in_schema=False)
    people, version = People(reading.state.database), metadata.version("tidegate")

    @router.get("/")
    def page(request: Request) -> Response:
        person: Person | None = request.scope[PERSON]
        if person is None:
            return HTMLResponse(sign_in_page())
        return HTMLResponse(federation_page(read_overview(reading), person, version))

    @router.post("/sign-in")
    async def sign_in(request: Request) -> Response:
        token = _token(await request.body())
        person = await run_in_threadpool(people.with_token, token)
        if person is None:
            status = failures.of(request.scope)
            return HTMLResponse(sign_in_page(_SENTENCES[status]), status)
        answer = RedirectResponse("/", 303)
        sessions.begin(person, answer)
        _log.info("%s signs in", person.name)
        return answer

    @router.post("/sign-out")
    async def sign_out(request: Request) -> Response:
        answer = RedirectResponse("/", 303)
        sessions.end(session_of(request.headers), answer)
        return answer

    for name, kind in _FILES.items():
        router.add_api_route(f"/{name}", _sends(name, kind), methods=["GET"])
    return router


def _sends(name: str, kind: str) -> Callable[[], Response]:
    content = resources.files("server.api").joinpath(name).read_bytes()

    def send() -> Response:
        return Response(content, media_type=kind)

    return send


def _token(body: bytes) -> str:
    """What was typed into the form; empty where it is no such form."""
    try:
        fields = parse_qs(body.decode("ascii"), max_num_fields=3, strict_parsing=True)
    except ValueError:
        return ""
    return fields.get("token", [""])[0].strip()
