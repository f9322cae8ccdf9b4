"""What a site may send: the parts of one reply, announced, few, and together within the limit."""

from __future__ import annotations

import asyncio
import logging
from base64 import b64encode
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.error_pb2 import Error
from flwr.proto.fleet_pb2 import PushMessagesRequest, PushMessagesResponse
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ConfirmMessageReceivedResponse,
    Message,
    Metadata,
    ObjectTree,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import (
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
    PushAppMessagesResponse,
)
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.supercore.protobuf.translation import ProtobufTranslationMiddleware
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message as Event

from contract.whole import MOST_SAID
from server.line.flower import MOST_OBJECTS, REFUSED, TOO_LONG, TOO_MANY_PARTS
from server.line.replies import _size
from server.line.superlink import ShortWay
from tests.server.line.test_superlink import SECRET, TYPE, Caller

SITE, OTHER, RUN = 7, 8, 5
QUESTIONS = {"question": SITE, "next question": SITE, "another's": OTHER}
LARGEST = 4 * 2**20
HALF = bytes(LARGEST // 2)
KEYS = {SITE: ec.generate_private_key(ec.SECP384R1()), OTHER: ec.generate_private_key(ec.SECP384R1())}


class Flower:
    """The SuperLink's handlers and state: takes whatever comes."""

    def __init__(self, *middlewares: Middleware) -> None:
        self.dropped: set[str] = set()
        self.stored: list[int] = []
        self.sessions = 0
        self.runs = {RUN}
        self.object_store = SimpleNamespace(delete=self.dropped.add)
        self.app = Starlette(
            routes=[Route("/v1/{side}/{what}", self.handle, methods=["POST"])],
            middleware=[
                Middleware(
                    ShortWay,
                    middlewares=middlewares or [Middleware(ProtobufTranslationMiddleware)],
                    secret=SECRET,
                    largest_reply=LARGEST,
                )
            ],
        )
        self.app.state.linkstate_factory = SimpleNamespace(state=lambda: self)

    def get_node_id_by_public_key(self, key: bytes) -> int | None:
        known = {public_key_to_bytes(one.public_key()): node for node, one in KEYS.items()}
        return known.get(key)

    def get_run_status(self, runs: set[int]) -> dict[int, str]:
        return dict.fromkeys(runs & self.runs, "running")

    def _cleanup_push_session(self, session: str, *, cleanup_messages: bool) -> None:
        assert cleanup_messages

    def _on_push_session_expired(self, names: set[str]) -> None:
        assert names <= self.dropped

    async def handle(self, request: Request) -> Response:
        told = request.state.protobuf_request
        request.state.protobuf_response = self._answer(told)
        return Response()

    def _answer(self, told: Any) -> Any:
        if isinstance(told, PushMessagesRequest):
            self.get_run_status({RUN})[RUN]  # as Flower looks it up
            self.sessions += 1
            return PushMessagesResponse(objects_to_push=["all"], session_id=f"session {self.sessions}")
        if isinstance(told, PushObjectRequest):
            self.stored.append(len(told.object_content))
            return PushObjectResponse(stored=True)
        if isinstance(told, PushAppMessagesRequest):
            return PushAppMessagesResponse()
        if isinstance(told, ConfirmMessageReceivedRequest):
            return ConfirmMessageReceivedResponse()
        return PullAppMessagesResponse()


class Site:
    """Speaks to the SuperLink as a site, and listens as the ServerApp."""

    def __init__(self, flower: Flower, node: int = SITE) -> None:
        self.flower, self.node = flower, node
        self._caller = Caller(flower.app)

    def asked(self, model: bytes) -> None:
        """The ServerApp sends its messages, with a model of so many bytes."""
        told = PushAppMessagesRequest(
            messages_list=[
                Message(metadata=Metadata(message_id=name, dst_node_id=node))
                for name, node in QUESTIONS.items()
            ],
            message_object_trees=[
                ObjectTree(object_id=name, children=[ObjectTree(object_id="model")]) for name in QUESTIONS
            ],
        )
        self.ask("/v1/runtime/push-messages", told)
        for name in QUESTIONS:
            self.ask("/v1/runtime/push-object", PushObjectRequest(object_id=name))
        self.ask("/v1/runtime/push-object", PushObjectRequest(object_id="model", object_content=model))
        self.flower.stored.clear()

    def announce(
        self, answers: str = "question", *, objects: int = 3, name: str = "reply", src: int = SITE
    ) -> int:
        children = [ObjectTree(object_id=f"part {number}") for number in range(objects - 1)]
        told = PushMessagesRequest(
            node=Node(node_id=self.node),
            messages_list=[
                Message(
                    metadata=Metadata(
                        run_id=RUN, message_id=name, src_node_id=src, reply_to_message_id=answers
                    ),
                )
            ],
            message_object_trees=[ObjectTree(object_id=name, children=children)],
        )
        return self.ask("/v1/fleet/push-messages", told)[0]

    def send(self, content: bytes, session: str = "session 1") -> int:
        told = PushObjectRequest(node=Node(node_id=self.node), session_id=session, object_content=content)
        return self.ask("/v1/fleet/push-object", told, signed(KEYS[self.node]))[0]

    def ask(self, path: str, told: Any, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        answer = self._caller.post(path, told.SerializeToString(), {**TYPE, **(headers or {})})
        return answer.status_code, answer.content

    def heard(self, *asked: str) -> dict[str, Error]:
        """What the ServerApp hears in the place of a reply to its messages."""
        told = PullAppMessagesRequest(message_ids=asked)
        found = PullAppMessagesResponse.FromString(self.ask("/v1/runtime/pull-messages", told)[1])
        assert all(not tree.object_id for tree in found.message_object_trees)
        return {one.metadata.reply_to_message_id: one.error for one in found.messages_list}

    def reasons(self) -> dict[str, str]:
        found = self.heard(*QUESTIONS)
        assert all(error.code == REFUSED for error in found.values())
        return {name: error.reason for name, error in found.items()}


def signed(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    timestamp = now().isoformat()
    return {
        FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(public_key_to_bytes(key.public_key())).decode(),
        FLEET_HTTP_SIGNATURE_HEADER: b64encode(sign_message(key, timestamp.encode())).decode(),
        TIMESTAMP_HEADER: timestamp,
    }


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr("server.line.long_poll._APP_HOLD", 0.0)
    found = Site(Flower())
    found.asked(bytes(2**20))
    return found


def test_a_reply_within_the_limit_is_taken(site: Site) -> None:
    assert site.announce() == 200
    assert [site.send(HALF), site.send(HALF)] == [200, 200]
    assert site.flower.stored == [len(HALF)] * 2
    assert site.reasons() == {}
    assert not site.flower.dropped


def test_a_reply_of_many_parts_is_refused_where_it_is_announced_and_the_server_app_hears(site: Site) -> None:
    assert site.announce(objects=MOST_OBJECTS) == 200
    assert site.announce("next question", objects=MOST_OBJECTS + 1) == 413
    assert site.flower.sessions == 1
    assert site.reasons() == {"next question": TOO_MANY_PARTS}
    assert site.announce("next question") == 413  # once refused, it stays so: the round goes on without it


def test_a_reply_is_bounded_by_the_model_that_was_sent(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.line.replies.MOST_TEXT", 2**19)
    site.announce()
    assert site.send(HALF) == 413
    assert site.reasons() == {"question": TOO_LONG}
    site.asked(HALF)
    site.announce("next question", name="next")
    assert site.send(HALF, "session 2") == 200


def test_a_tree_is_of_the_message_that_is_announced(site: Site) -> None:
    told = PushMessagesRequest(
        node=Node(node_id=SITE),
        messages_list=[
            Message(metadata=Metadata(message_id="a", src_node_id=SITE, reply_to_message_id="question"))
        ],
        message_object_trees=[ObjectTree(object_id="b")],
    )
    assert site.ask("/v1/fleet/push-messages", told)[0] == 413
    told.messages_list.append(told.messages_list[0])
    told.message_object_trees.append(told.message_object_trees[0])
    assert site.ask("/v1/fleet/push-messages", told)[0] == 400
    assert site.flower.sessions == 0


def test_the_parts_of_a_reply_are_bounded_together_and_what_came_is_dropped(site: Site) -> None:
    site.announce()
    assert [site.send(HALF), site.send(HALF), site.send(b"x")] == [200, 200, 413]
    assert site.flower.dropped == {"reply"}
    assert site.reasons() == {"question": TOO_LONG}
    assert site.send(b"x") == 413
    assert site.announce("next question", name="next") == 200  # of the next round


def test_announced_again_a_reply_has_no_more_room(site: Site) -> None:
    site.announce()
    assert site.send(HALF) == 200
    assert site.announce() == 200
    assert site.send(HALF, "session 2") == 200
    assert site.send(b"x", "session 2") == 413
    assert site.flower.stored == [len(HALF)] * 2


def test_a_part_above_the_limit_is_refused_unread_and_its_reply_with_it(site: Site) -> None:
    site.announce()
    assert site.send(bytes(LARGEST + 2**17)) == 413
    assert site.flower.stored == []
    assert site.flower.dropped == {"reply"}
    assert site.reasons() == {"question": TOO_LONG}


def test_nobody_elses_reply_is_refused_for_it(site: Site) -> None:
    site.announce()
    other = Site(site.flower, OTHER)
    assert other.announce("question", objects=99, src=SITE) == 403  # in another's name
    assert other.announce("question", objects=99, src=OTHER) == 413  # to another's message
    assert other.send(HALF) == 503  # to another's session
    assert other.send(bytes(LARGEST + 2**17)) == 413
    assert site.reasons() == {}
    assert site.send(HALF) == 200


def test_a_site_sends_nothing_but_replies(site: Site) -> None:
    assert site.announce("") == 403
    assert site.send(b"x") == 503  # that was not announced
    long = ConfirmMessageReceivedRequest(message_object_id="x" * MOST_SAID)
    assert site.ask("/v1/fleet/confirm-message-received", long)[0] == 413
    assert site.flower.stored == []


def test_a_reply_to_a_run_of_before_a_restart_is_not_wanted_and_nobodys_fault(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)  # other tests keep it quiet
    caplog.set_level(logging.WARNING, "flwr")
    site.flower.runs.clear()
    assert site.announce() == 403  # Flower's own word for a run that is over
    assert "refused" not in caplog.text
    site.flower.runs.add(RUN)

    def fails(told: object) -> None:
        raise KeyError(RUN)

    monkeypatch.setattr(site.flower, "_answer", fails)
    assert site.announce() == 400
    assert "a request of a site is refused: /v1/fleet/push-messages, KeyError" in caplog.text


@pytest.mark.parametrize("headers", [{}, signed(ec.generate_private_key(ec.SECP384R1()))])
def test_a_long_request_is_not_read_without_the_signature_of_a_site(
    site: Site, headers: dict[str, str]
) -> None:
    site.announce()
    told = PushObjectRequest(node=Node(node_id=SITE), session_id="session 1", object_content=HALF)
    assert site.ask("/v1/fleet/push-object", told, headers)[0] == 401
    mixed = {**signed(KEYS[SITE]), FLEET_HTTP_SIGNATURE_HEADER: "AAAA"}
    assert site.ask("/v1/fleet/push-object", told, mixed)[0] == 401
    assert site.flower.stored == []


def test_a_new_reply_takes_the_place_of_one_that_nobody_fetched(site: Site) -> None:
    site.announce()
    site.announce("next question", name="next")
    assert site.flower.dropped == {"reply"}
    site.ask("/v1/runtime/confirm-message-received", ConfirmMessageReceivedRequest(message_object_id="next"))
    site.announce("question", name="third")
    assert site.flower.dropped == {"reply"}  # the ServerApp has the other


@pytest.mark.parametrize("size", [0, 1, 127, 2**16 - 200, 2**16, 2**21 - 4, 2**21 - 1, 2**21, 5_000_000])
def test_the_size_of_an_object_is_known_without_a_copy(size: int) -> None:
    told = PushObjectRequest(
        node=Node(node_id=2**63),
        run_id=7,
        object_id="0" * 64,
        session_id="1" * 64,
        object_content=bytes(size),
    )
    body = told.SerializeToString()

    async def receive() -> Event:
        return {"type": "http.request", "body": body, "more_body": False}

    found = asyncio.run(_size(Request({"type": "http", "headers": []}, receive), told))
    assert found == size - (2**21 - 4 <= size < 2**21)
