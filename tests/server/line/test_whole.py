"""A message with all that it holds in one request: as one after another, and no way round anything."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.proto.fleet_pb2 import (
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    Message,
    Metadata,
    ObjectTree,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.proto.node_pb2 import Node
from flwr.supercore.error import http_error_translator
from flwr.supercore.protobuf.translation import ProtobufTranslationMiddleware
from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import Response

from contract.whole import MOST_SAID, MOST_TOGETHER, PULL, PUSH, RELEASE, join, split
from server.line.flower import MOST_OBJECTS
from server.line.long_poll import LongPoll
from server.line.whole import answer_whole
from tests.server.line.test_replies import OTHER, QUESTIONS, RUN, SITE, Flower, Site, signed
from tests.server.line.test_superlink import TYPE

QUESTION = next(name for name, node in QUESTIONS.items() if node == SITE)


class Mailing(Flower):
    """Has a message for the site, with parts, and remembers what it was asked; authenticates as Flower."""

    def __init__(self) -> None:
        super().__init__(
            Middleware(BaseHTTPMiddleware, dispatch=http_error_translator),
            Middleware(ProtobufTranslationMiddleware),
            Middleware(NodeAuthMiddleware),
        )
        self.asked: list[Any] = []
        self.parts = {QUESTION: b"message", "model": b"model", "more": b"more"}
        self.stores = True

    def _answer(self, told: Any) -> Any:
        self.asked.append(told)
        if isinstance(told, PullMessagesRequest):
            tree = ObjectTree(object_id=QUESTION)
            tree.children.add(object_id="model").children.add(object_id="more")
            message = Message(metadata=Metadata(run_id=RUN, message_id=QUESTION, dst_node_id=SITE))
            return PullMessagesResponse(messages_list=[message], message_object_trees=[tree])
        if isinstance(told, PullObjectRequest):
            content = self.parts.get(told.object_id, b"")
            return PullObjectResponse(
                object_found=True, object_available=bool(content), object_content=content
            )
        if isinstance(told, PushMessagesRequest):
            self.sessions += 1
            return PushMessagesResponse(
                objects_to_push=["reply", "part 0"], session_id=f"session {self.sessions}"
            )
        if isinstance(told, PushObjectRequest):
            super()._answer(told)
            return PushObjectResponse(stored=self.stores)
        return super()._answer(told)

    def seen(self, kind: type) -> list[Any]:
        return [told for told in self.asked if isinstance(told, kind)]


class WholeSite(Site):
    flower: Mailing

    def whole(self, path: str, *parts: Any, key: int | None = None) -> tuple[int, list[bytes]]:
        content = join([part.SerializeToString() for part in parts])
        status, answer = self.raw(path, content, key)
        return status, split(answer, most=100) if status == 200 else [answer]

    def raw(self, path: str, content: bytes, key: int | None = None) -> tuple[int, bytes]:
        from tests.server.line.test_replies import KEYS

        headers = signed(KEYS[self.node if key is None else key])
        answer = self._caller.post(path, content, {**TYPE, **headers})
        return answer.status_code, answer.content

    def pull(self) -> tuple[int, list[bytes]]:
        return self.whole(PULL, PullMessagesRequest(node=Node(node_id=self.node)))

    def reply(self, *objects: str, src: int = SITE, confirms: str = QUESTION) -> list[Any]:
        tree = ObjectTree(object_id="reply", children=[ObjectTree(object_id="part 0")])
        message = Message(
            metadata=Metadata(run_id=RUN, message_id="reply", src_node_id=src, reply_to_message_id=QUESTION)
        )
        node = Node(node_id=self.node)
        return [
            PushMessagesRequest(node=node, messages_list=[message], message_object_trees=[tree]),
            *(PushObjectRequest(node=node, object_id=name, object_content=b"x") for name in objects),
            ConfirmMessageReceivedRequest(node=node, run_id=RUN, message_object_id=confirms),
        ]


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> WholeSite:
    monkeypatch.setattr("server.line.long_poll._APP_HOLD", 0.0)
    monkeypatch.setattr("server.line.long_poll._PART_HOLD", 0.0)
    found = WholeSite(Mailing())
    found.asked(b"model")
    for name, content in found.flower.parts.items():
        found.ask("/v1/runtime/push-object", PushObjectRequest(object_id=name, object_content=content))
    found.flower.asked.clear()
    found.flower.stored.clear()
    return found


def test_a_message_comes_with_its_objects_in_their_order(site: WholeSite) -> None:
    status, (found, *contents) = site.pull()
    assert status == 200
    assert PullMessagesResponse.FromString(found).messages_list[0].metadata.message_id == QUESTION
    assert contents == [b"message", b"model", b"more"]
    asked = site.flower.seen(PullObjectRequest)
    assert [(told.node.node_id, told.run_id) for told in asked] == [(SITE, RUN)] * 3


def test_what_is_not_there_or_long_or_unknown_is_left_for_a_request_of_its_own(site: WholeSite) -> None:
    site.flower.parts["more"] = b""
    assert site.pull()[1][1:] == [b"message", b"model"]
    long = bytes(MOST_TOGETHER + 1)
    site.ask("/v1/runtime/push-object", PushObjectRequest(object_id="model", object_content=long))
    site.flower.asked.clear()
    assert site.pull()[1][1:] == [b"message"]
    assert len(site.flower.seen(PullObjectRequest)) == 1  # the long one was not even read
    assert WholeSite(Mailing()).pull()[1][1:] == []  # a SuperLink that was started anew, and knows no sizes


def test_an_object_on_its_way_is_waited_for() -> None:
    """Messages of a round share objects: one may be whole before what it shares with the others is there."""
    mailing, sizes, awaited = Mailing(), {QUESTION: 7}, []
    question = PullMessagesRequest(node=Node(node_id=SITE)).SerializeToString()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": join([question]), "more_body": False}

    async def ask(request: Request) -> Response:
        kind = PullMessagesRequest if request.scope["path"].endswith("messages") else PullObjectRequest
        return Response(mailing._answer(kind.FromString(await request.body())).SerializeToString())

    class Waiting(LongPoll):
        async def arrival(self, _request: Request, name: str) -> None:
            awaited.append(name)
            if name == "model":  # the other does not come
                sizes[name] = 5

    request = Request({"type": "http", "method": "POST", "path": PULL, "headers": []}, receive)
    answer = asyncio.run(answer_whole(request, ask, SimpleNamespace(sizes=sizes, reply_sizes={}), Waiting()))
    assert split(bytes(answer.body), most=4)[1:] == [b"message", b"model"]
    assert awaited == ["model", "more"]


def test_a_reply_goes_with_its_objects_and_says_what_has_arrived(site: WholeSite) -> None:
    status, (announced, *stored) = site.whole(PUSH, *site.reply("part 0", "reply"))
    assert status == 200
    assert PushMessagesResponse.FromString(announced).session_id == "session 1"
    assert [PushObjectResponse.FromString(one).stored for one in stored] == [True, True]
    pushed = site.flower.seen(PushObjectRequest)
    assert [(told.object_id, told.session_id) for told in pushed] == [
        ("part 0", "session 1"), ("reply", "session 1"),
    ]  # fmt: skip
    (confirmed,) = site.flower.seen(ConfirmMessageReceivedRequest)
    assert confirmed.message_object_id == QUESTION


def test_what_is_not_wanted_is_not_stored_and_what_is_not_stored_is_said(site: WholeSite) -> None:
    assert len(site.whole(PUSH, *site.reply("part 0", "of another", "reply"))[1]) == 3
    assert [told.object_id for told in site.flower.seen(PushObjectRequest)] == ["part 0", "reply"]
    site.flower.stores = False
    _, (_, *stored) = site.whole(PUSH, *site.reply("part 0", "reply"))
    assert [PushObjectResponse.FromString(one).stored for one in stored] == [False, False]


def test_each_part_is_held_to_what_it_would_be_alone(site: WholeSite) -> None:
    assert site.whole(PULL, PullMessagesRequest(node=Node(node_id=SITE)), key=OTHER)[0] == 401
    assert site.whole(PUSH, *site.reply("reply"), key=OTHER)[0] == 401
    assert site.whole(PUSH, *site.reply("reply", src=OTHER))[0] == 403
    announcement, *_, arrived = site.reply()
    anothers = PushObjectRequest(node=Node(node_id=OTHER), object_id="reply", object_content=b"x")
    assert site.whole(PUSH, announcement, anothers, arrived)[0] == 401
    assert site.flower.stored == []
    other = WholeSite(site.flower, OTHER)
    assert other.whole(PUSH, *other.reply("reply", src=OTHER))[0] == 200  # Flower's to refuse, as alone
    assert site.flower.stored == [1]


def test_a_site_that_asks_no_more_is_let_go_and_nobody_else(
    site: WholeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    released: list[int] = []
    monkeypatch.setattr(LongPoll, "release", lambda _, node: released.append(node))
    beat = SendNodeHeartbeatRequest(node=Node(node_id=SITE), heartbeat_interval=30)
    assert site.whole(RELEASE, beat, key=OTHER)[0] == 401
    assert site.raw(RELEASE, b"\x00")[0] == 400
    assert released == []
    assert site.whole(RELEASE, beat)[0] == 200
    assert released == [SITE]
    assert site.flower.seen(SendNodeHeartbeatRequest) == [beat]


def test_nobody_confirms_for_another(site: WholeSite) -> None:
    """Or a site could take a round's messages from all others."""
    theirs = next(name for name, node in QUESTIONS.items() if node == SITE)
    other = WholeSite(site.flower, OTHER)
    confirm = ConfirmMessageReceivedRequest(node=Node(node_id=OTHER), message_object_id=theirs)
    path = "/v1/fleet/confirm-message-received"
    assert other.raw(path, confirm.SerializeToString())[0] == 403
    other.whole(PUSH, *other.reply(src=OTHER, confirms=theirs))
    unknown = ConfirmMessageReceivedRequest(node=Node(node_id=OTHER), message_object_id="unknown")
    assert other.raw(path, unknown.SerializeToString())[0] == 403
    assert site.flower.seen(ConfirmMessageReceivedRequest) == []
    own = ConfirmMessageReceivedRequest(node=Node(node_id=SITE), message_object_id=theirs)
    assert site.raw(path, own.SerializeToString())[0] == 200
    assert len(site.flower.seen(ConfirmMessageReceivedRequest)) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00",
        b"\x00\x00\x00\x05four",
        b"\xff\xff\xff\xff",
        join([b"\xff\xff", b"\xff\xff"]),
        join([b""] * (MOST_OBJECTS + 3)),
        join([b""]),
        b"{}",
    ],
)
@pytest.mark.parametrize("path", [PULL, PUSH])
def test_what_is_no_such_request_is_refused(site: WholeSite, path: str, content: bytes) -> None:
    assert site.raw(path, content)[0] in (400, 401, 403)
    assert site.flower.stored == []


def test_a_whole_is_never_long(site: WholeSite) -> None:
    assert site.raw(PUSH, join([bytes(2**21)]))[0] == 413
    assert site.raw(PULL, join([bytes(MOST_SAID)]))[0] == 413
    assert site.flower.asked == []


@pytest.mark.parametrize("which", [0, -1])
def test_what_is_said_in_a_whole_is_as_short_as_alone(site: WholeSite, which: int) -> None:
    """Half a million nested messages fit into a megabyte, and take forty."""
    nested = ObjectTree(children=[ObjectTree()] * (MOST_SAID // 2))
    parts = [b"", b"", b""]
    parts[which] = PushMessagesRequest(message_object_trees=[nested]).SerializeToString()
    assert site.raw(PUSH, join(parts))[0] == 400
    assert site.flower.asked == []
