"""Flower's handlers are called with what its routes say, and a signature that was good opens nothing else."""

from __future__ import annotations

import asyncio
import datetime
import os
from base64 import b64encode, encodebytes
from importlib.metadata import version
from typing import Annotated, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.dependencies.version import VersionDependency
from flwr.supercore.error import FlowerError
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.supercore.protobuf.routing import ProtobufRoute
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_DEPENDENCY
from flwr.superlink import main
from flwr.superlink.routers.fleet import node_auth
from starlette.exceptions import HTTPException as Refused
from starlette.types import Message

from server.line.in_place import Handlers, _checked_version, _plain_routes, look_up_in_place
from tests.server.line.test_superlink import KEY, PUBLIC, signed

TIMES = 5


class Door:
    """Flower's check of a site's signature, as `look_up_in_place` leaves it; how often it did the sums."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.checks = 0
        verify = node_auth.verify_signature

        def counted(*given: Any) -> bool:
            self.checks += 1
            return verify(*given)

        for name in ("run_in_threadpool", "bytes_to_public_key"):
            patch.setattr(node_auth, name, getattr(node_auth, name))  # as it was, afterwards
        patch.setattr(node_auth, "verify_signature", counted)
        look_up_in_place()
        self.app = main.create_app()
        state: Any = self.app.state.linkstate_factory.state()
        self.node = state.create_node("", "", PUBLIC, 30.0)

    def opens(self, headers: dict[str, str], node: int) -> bool:
        lines = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
        request = Request({"type": "http", "app": self.app, "headers": lines, "state": {}})
        request.state.protobuf_request = PullMessagesRequest(node=Node(node_id=node))
        try:
            node_auth.authenticate_node(request)
        except Refused as exc:
            return exc.status_code != 401
        return True


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Door:
    return Door(monkeypatch)


def test_the_same_signature_is_checked_once(door: Door) -> None:
    headers = signed()
    assert all(door.opens(headers, door.node) for _ in range(TIMES))
    assert door.checks == 1
    assert door.opens(signed(), door.node)
    assert door.checks == 2


def test_a_signature_that_was_good_opens_nothing_else(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    good, other = signed(), ec.generate_private_key(ec.SECP384R1())
    assert door.opens(good, door.node)
    assert not door.opens(good, door.node + 1)  # another's name
    later = (now() + datetime.timedelta(milliseconds=1)).isoformat()
    assert not door.opens({**good, TIMESTAMP_HEADER: later}, door.node)
    assert not door.opens({**good, **signed(other), TIMESTAMP_HEADER: good[TIMESTAMP_HEADER]}, door.node)
    stranger = b64encode(public_key_to_bytes(other.public_key())).decode()
    assert not door.opens({**good, FLEET_HTTP_PUBLIC_KEY_HEADER: stranger}, door.node)
    cut = b64encode(b"\0" + sign_message(KEY, good[TIMESTAMP_HEADER].encode())[1:]).decode()
    assert not door.opens({**good, FLEET_HTTP_SIGNATURE_HEADER: cut}, door.node)
    assert door.opens(good, door.node)
    hour = datetime.timedelta(hours=1)
    monkeypatch.setattr(node_auth, "now", lambda: now() + hour)
    assert not door.opens(good, door.node)  # it was good once


def test_a_bad_signature_stays_bad(door: Door) -> None:
    stranger = ec.generate_private_key(ec.SECP384R1())
    headers = signed(stranger)
    assert not any(door.opens(headers, door.node) for _ in range(TIMES))
    assert door.opens(signed(), door.node)


def pem(key: Any) -> bytes:
    return bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def of_no_curve() -> bytes:
    """A key as a site's, of a curve that nobody knows: the next number after that of P-256."""
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    known = bytes.fromhex("2a8648ce3d030107")
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    written = encodebytes(der.replace(known, known[:-1] + b"\x09")).decode()
    return f"-----BEGIN PUBLIC KEY-----\n{written}-----END PUBLIC KEY-----\n".encode()


@pytest.mark.parametrize(
    "key",
    [
        b"",
        b"\0",
        b"x" * 5000,
        PUBLIC[:-40],
        PUBLIC * 20,
        pem(x25519.X25519PrivateKey.generate().public_key()),
        pem(ed25519.Ed25519PrivateKey.generate().public_key()),
        of_no_curve(),
    ],
    ids=["none", "a byte", "long", "cut short", "many", "signs nothing", "another kind", "of no curve"],
)
def test_what_is_no_key_opens_nothing(door: Door, key: bytes) -> None:
    assert not door.opens({**signed(), FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(key).decode()}, door.node)


def test_what_is_long_is_not_remembered(door: Door) -> None:
    """Else a stranger fills the memory: a line of a header may have 64 KB."""
    headers = {**signed(), FLEET_HTTP_SIGNATURE_HEADER: b64encode(b"x" * 30_000).decode()}
    assert not any(door.opens(headers, door.node) for _ in range(TIMES))
    assert door.checks == TIMES


def test_the_requests_of_a_round_are_called_in_place() -> None:
    """A release of Flower in which one takes something new makes rounds slow, and this test red."""
    found = _plain_routes(main.create_app())
    every = ("pull-messages", "push-messages", "pull-object", "push-object", "confirm-message-received")
    assert {f"/v1/{side}/{name}" for side in ("fleet", "runtime") for name in every} <= found.keys()
    assert "/v1/runtime/acquire-task" not in found  # it has a check of its own
    assert not [path for path in found if "control" in path]


def of_version(**said: str) -> Request:
    lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in said.items()]
    return Request({"type": "http", "headers": [*lines, (b"another", os.urandom(8).hex().encode())]})


def test_another_version_is_refused_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    check = VersionDependency(component_name="SuperLink", connection_name="test")
    asked: list[Request] = []
    usual = VersionDependency.__call__

    def counted(self: VersionDependency, request: Request) -> None:
        asked.append(request)
        usual(self, request)

    monkeypatch.setattr(VersionDependency, "__call__", counted)
    same = {"flwr_package_name": "flwr", "flwr_package_version": version("flwr")}
    same["flwr_component_name"] = "flwr-serverapp"
    for _ in range(TIMES):
        _checked_version(check, of_version(**same))
    assert len(asked) == 1
    for wrong in ("0.9.0", "x" * 5000):
        for _ in range(2):
            with pytest.raises(FlowerError):
                _checked_version(check, of_version(**{**same, "flwr_package_version": wrong}))
    assert len(asked) == 5


def refuse(request: Request) -> None:
    raise HTTPException(403, "not for you")


def test_a_route_with_a_check_that_is_not_known_is_fastapi_s() -> None:
    router = APIRouter(prefix="/v1/fleet", route_class=ProtobufRoute)

    @router.post("/checked")
    def checked(
        request: Annotated[PullMessagesRequest, PROTOBUF_REQUEST_DEPENDENCY],
        _may: Annotated[None, Depends(refuse)],
    ) -> PullMessagesResponse:
        return PullMessagesResponse()

    @router.post("/plain")
    def plain(
        request: Annotated[PullMessagesRequest, PROTOBUF_REQUEST_DEPENDENCY],
    ) -> PullMessagesResponse:
        return PullMessagesResponse()

    beside = APIRouter(dependencies=[Depends(refuse)])  # one of a router is one of each of its routes
    beside.include_router(router, prefix="/v1/fleet/more")
    app = FastAPI()
    app.include_router(router)
    app.include_router(beside)
    assert _plain_routes(app).keys() == {"/v1/fleet/plain"}
    handlers = Handlers(lambda *_: True)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    def answered(path: str, method: str = "POST") -> bool:
        request = Request(
            {"type": "http", "app": app, "method": method, "path": path, "headers": [], "state": {}},
            receive,
        )
        request.state.protobuf_request = PullMessagesRequest()
        was = asyncio.run(handlers.answer(request))
        assert was == hasattr(request.state, "protobuf_response")
        return was

    assert answered("/v1/fleet/plain")
    assert not answered("/v1/fleet/plain", "GET")
    assert not answered("/v1/fleet/checked")
    assert not answered("/v1/fleet/nothing")
