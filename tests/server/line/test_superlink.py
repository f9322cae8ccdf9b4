"""The SuperLink's short way answers as Flower's long way does: who is let in, who is refused, how."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi.dependencies import utils
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest, RegisterNodeFleetRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.superlink import main
from flwr.superlink.routers.fleet import node_auth
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message

from server.line import in_place
from server.line.secret import HEADER
from server.line.superlink import MOST_BYTES, ShortWay

SECRET = "5e" * 32
TYPE = {"content-type": "application/protobuf"}
KEY = ec.generate_private_key(ec.SECP384R1())
PUBLIC = public_key_to_bytes(KEY.public_key())


def signed(key: ec.EllipticCurvePrivateKey = KEY, public: bytes = PUBLIC) -> dict[str, str]:
    timestamp = now().isoformat()
    return {
        FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(public).decode(),
        FLEET_HTTP_SIGNATURE_HEADER: b64encode(sign_message(key, timestamp.encode())).decode(),
        TIMESTAMP_HEADER: timestamp,
    }


class Caller:
    """Asks an app, without a server, and knows its secret."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def post(self, path: str, content: bytes, headers: Mapping[str, str]) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(transport=transport, base_url="https://superlink") as client:
                return await client.post(path, content=content, headers={**headers, HEADER: SECRET})

        return asyncio.run(ask())


class InPlace(Caller):
    """Asks an app whose lookups are made in the loop; `handed` is what goes to a thread all the same."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(app)
        self.handed: list[str] = []

    def post(self, path: str, content: bytes, headers: Mapping[str, str]) -> httpx.Response:
        async def hand(function: Any, *arguments: Any, **named: Any) -> Any:
            self.handed.append(repr(function))
            return await run_in_threadpool(function, *arguments, **named)

        self.handed.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(utils, "run_in_threadpool", hand)
            patch.setattr(in_place, "run_in_threadpool", hand)
            for name in ("run_in_threadpool", "verify_signature", "bytes_to_public_key"):
                patch.setattr(node_auth, name, getattr(node_auth, name))  # as it was, afterwards
            in_place.look_up_in_place()
            return super().post(path, content, headers)


@pytest.fixture(scope="module")
def ways() -> tuple[Caller, InPlace]:
    """Flower's app as it is, and with the short way."""
    usual = main._get_middleware
    long = Caller(main.create_app())
    patch = pytest.MonkeyPatch()
    patch.setattr(main, "_get_middleware", lambda: [Middleware(ShortWay, middlewares=usual(), secret=SECRET)])
    short = InPlace(main.create_app())
    patch.undo()
    return long, short


STRANGER = ec.generate_private_key(ec.SECP384R1())
REQUESTS: dict[str, tuple[str, bytes, Callable[[], dict[str, str]]]] = {
    "nobody": (
        "/v1/fleet/pull-messages", PullMessagesRequest(node=Node(node_id=5)).SerializeToString(), dict,
    ),
    "a site that is not known": (
        "/v1/fleet/pull-messages", PullMessagesRequest(node=Node(node_id=5)).SerializeToString(), signed,
    ),
    "a stranger's signature": (
        "/v1/fleet/pull-messages",
        PullMessagesRequest(node=Node(node_id=5)).SerializeToString(),
        lambda: signed(STRANGER),
    ),
    "another's key in the request": (
        "/v1/fleet/activate-node",
        ActivateNodeRequest(public_key=PUBLIC, heartbeat_interval=30).SerializeToString(),
        lambda: signed(STRANGER, public_key_to_bytes(STRANGER.public_key())),
    ),
    "a key that is not registered": (
        "/v1/fleet/activate-node",
        ActivateNodeRequest(public_key=PUBLIC, heartbeat_interval=30).SerializeToString(),
        signed,
    ),
    "no message": ("/v1/fleet/pull-messages", b"\xff\xff\xff", signed),
    "no such request": ("/v1/fleet/pull-everything", b"", signed),
    "a ServerApp without a token": ("/v1/runtime/get-nodes", b"", dict),
    "a ServerApp with a wrong token": (
        "/v1/runtime/get-nodes", b"", lambda: {"authorization": "Bearer 00", "flwr-token": "00"},
    ),
    "a person": ("/v1/control/stop-run", b"", dict),
}  # fmt: skip


@pytest.mark.parametrize("path", ["/health", "/v1/fleet/pull-messages", "/v1/control/list-runs"])
@pytest.mark.parametrize("host", ["[a:b]", "[::", "[:::::]:1"])
def test_a_host_that_is_none_is_refused_and_fails_nothing(
    ways: tuple[Caller, InPlace], path: str, host: str
) -> None:
    """Starlette takes it for an IPv6 address and cannot read it: a stranger at the gateway had a 5xx."""
    assert ways[1].post(path, b"", {**TYPE, "host": host}).status_code == 400
    assert ways[1].post("/health", b"", {**TYPE, "host": "[::1]:9092"}).status_code == 405


@pytest.mark.parametrize("who", REQUESTS)
def test_both_ways_answer_the_same(ways: tuple[Caller, InPlace], who: str) -> None:
    path, content, headers = REQUESTS[who]
    long, short = (way.post(path, content=content, headers={**TYPE, **headers()}) for way in ways)
    assert (long.status_code, long.content) == (short.status_code, short.content)
    assert set(long.headers) == set(short.headers)
    assert short.status_code >= 400
    if path.startswith(("/v1/fleet", "/v1/runtime")):  # that handler alone is reached, and may ask a database
        assert len(ways[1].handed) == (who == "a key that is not registered")


def test_a_wrong_content_type_is_refused_either_way(ways: tuple[Caller, InPlace]) -> None:
    answers = [
        way.post("/v1/fleet/pull-messages", b"{}", {"content-type": "application/json"}) for way in ways
    ]
    assert answers[0].status_code == answers[1].status_code >= 400
    assert answers[0].content == answers[1].content


def test_a_site_that_registers_is_answered_either_way(ways: tuple[Caller, InPlace]) -> None:
    content = RegisterNodeFleetRequest(public_key=PUBLIC).SerializeToString()
    answers = [
        way.post("/v1/fleet/register-node", content=content, headers={**TYPE, **signed()}) for way in ways
    ]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[1].headers["content-type"] == answers[0].headers["content-type"]
    (handed,) = ways[1].handed  # the handler, which may write to a database
    assert "fleet_register_node" in handed


class Marking(BaseHTTPMiddleware):
    """Writes down when it was asked and when it answered."""

    def __init__(self, app: object, said: list[str], name: str) -> None:
        super().__init__(app)  # type: ignore[arg-type]
        self.said, self.name = said, name

    async def dispatch(self, request: Request, call_next: Callable[[Request], object]) -> Response:
        self.said.append(f"{self.name} in")
        if self.name == "door" and "key" not in request.headers:
            return PlainTextResponse("shut", 401)
        response: Response = await call_next(request)  # type: ignore[misc]
        self.said.append(f"{self.name} out")
        response.headers[self.name] = "seen"
        return response


def test_the_middlewares_are_asked_in_their_order_and_may_refuse() -> None:
    said: list[str] = []

    async def echo(request: Request) -> Response:
        return Response(await request.body(), status_code=201, headers={"handler": "seen"})

    rows = [Middleware(Marking, said=said, name=name) for name in ("outer", "door", "inner")]
    app = Starlette(
        routes=[Route(path, echo, methods=["POST"]) for path in ("/v1/runtime/a", "/v1/control/a")],
        middleware=[Middleware(ShortWay, middlewares=rows, secret=SECRET)],
    )
    client, content = Caller(app), os.urandom(300_000)
    order = ["outer in", "door in", "inner in", "inner out", "door out", "outer out"]
    for path in ("/v1/runtime/a", "/v1/control/a"):
        said.clear()
        answer = client.post(path, content, {"key": "1"})
        assert (answer.status_code, answer.content) == (201, content)
        assert said == order
        assert all(answer.headers[name] == "seen" for name in ("outer", "door", "inner", "handler"))
        said.clear()
        assert client.post(path, content, {}).status_code == 401
        assert said == ["outer in", "door in", "outer out"]


@pytest.mark.parametrize("path", ["/v1/fleet/a", "/v1/control/a"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-length": str(MOST_BYTES + 1)}, 413),
        ({"content-length": str(10 * 2**30)}, 413),
        ({"transfer-encoding": "chunked"}, 411),
    ],
)
def test_a_request_that_is_too_long_or_says_no_length_is_not_read(
    path: str, headers: dict[str, str], status: int
) -> None:
    async def handler(_: Request) -> Response:
        raise AssertionError("it was let through")

    app = Starlette(
        routes=[Route(path, handler, methods=["POST"])],
        middleware=[Middleware(ShortWay, middlewares=[], secret=SECRET)],
    )
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "http_version": "1.1"}
    headers = {**headers, HEADER: SECRET}
    said: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("it was read")

    async def send(message: Message) -> None:
        said.append(message)

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    asyncio.run(app({**scope, "headers": raw}, receive, send))
    assert said[0]["status"] == status
    assert b"length" in said[1]["body"] or b"bytes at most" in said[1]["body"]


def test_a_middleware_that_cannot_be_called_so_is_refused() -> None:
    with pytest.raises(TypeError, match="no dispatch function"):
        ShortWay(Starlette(), [Middleware(GZipMiddleware)], SECRET)


def test_it_has_the_superlinks_own_options() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "server.line.superlink", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "--ssl-certfile" in done.stdout
