"""A site's question is held until there is a message for it, and never longer than said."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse, PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PushAppMessagesRequest
from starlette.requests import Request
from starlette.responses import Response

from server.long_poll import LongPoll

LONG = 30.0


class SuperLink:
    """Hands each message out once, as Flower's does, behind a `LongPoll`."""

    def __init__(self) -> None:
        self.polls = LongPoll()
        self.waiting: dict[int, list[str]] = {}
        self.asked = 0
        self.status = 200
        self.refuses = False

    async def ask(self, path: str, told: Any, hung_up: asyncio.Event | None = None) -> Response:
        body = [told.SerializeToString()]

        async def receive() -> dict[str, Any]:
            if body:
                return {"type": "http.request", "body": body.pop(), "more_body": False}
            await (hung_up or asyncio.Event()).wait()
            return {"type": "http.disconnect"}

        request = Request({"type": "http", "method": "POST", "path": path, "headers": []}, receive)
        return await self.polls.answer(request, self._handle)

    async def _handle(self, request: Request) -> Response:
        path, body = request.scope["path"], await request.body()
        if path != "/v1/fleet/pull-messages":
            kinds = {"s": PushAppMessagesRequest, "t": PushObjectRequest}
            kind = PushMessagesRequest if "fleet" in path else kinds[path[-1]]
            request.state.protobuf_request = kind.FromString(body)
            if "fleet" in path and self.refuses:
                raise PermissionError("the run is over")
            return Response(b"")
        self.asked += 1
        found = self.waiting.pop(PullMessagesRequest.FromString(body).node.node_id, [])
        messages = [Message(metadata=Metadata(message_id=name)) for name in found]
        return Response(
            PullMessagesResponse(messages_list=messages).SerializeToString(), status_code=self.status
        )

    async def pull(self, node: int, hung_up: asyncio.Event | None = None) -> list[str]:
        told = PullMessagesRequest(node=Node(node_id=node))
        response = await self.ask("/v1/fleet/pull-messages", told, hung_up)
        found = PullMessagesResponse.FromString(bytes(response.body)).messages_list
        return [message.metadata.message_id for message in found]

    async def send(self, node: int, name: str, *parts: str) -> None:
        message = Message(metadata=Metadata(message_id=name, dst_node_id=node))
        await self.ask("/v1/runtime/push-messages", PushAppMessagesRequest(messages_list=[message]))
        self.waiting.setdefault(node, []).append(name)
        for part in parts:
            await self.ask("/v1/runtime/push-object", PushObjectRequest(object_id=part))

    async def reply(self, node: int) -> None:
        message = Message(metadata=Metadata(src_node_id=node))
        await self.ask("/v1/fleet/push-messages", PushMessagesRequest(messages_list=[message]))


def held(monkeypatch: pytest.MonkeyPatch, seconds: float) -> SuperLink:
    monkeypatch.setattr("server.long_poll.HOLD", seconds)
    return SuperLink()


def timed(act: Callable[[], Coroutine[Any, Any, Any]]) -> tuple[Any, float]:
    began = time.monotonic()
    return asyncio.run(act()), time.monotonic() - began


def test_a_held_question_is_answered_when_the_whole_message_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    link = held(monkeypatch, LONG)

    async def act() -> tuple[bool, list[str]]:
        asking = asyncio.ensure_future(link.pull(5))
        await asyncio.sleep(0.05)
        await link.send(5, "m", "config", "records")  # all its parts but the last
        await asyncio.sleep(0.05)
        early = asking.done()
        await link.ask("/v1/runtime/push-object", PushObjectRequest(object_id="m"))
        return early, await asking

    (early, found), seconds = timed(act)
    assert not early
    assert found == ["m"]
    assert link.asked == 2
    assert seconds < 10


def test_a_message_that_waits_already_is_given_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    link = held(monkeypatch, LONG)

    async def act() -> list[str]:
        await link.send(5, "m", "m")
        return await link.pull(5)

    found, seconds = timed(act)
    assert (found, link.asked) == (["m"], 1)
    assert seconds < 10


def test_without_a_message_it_is_answered_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    link = held(monkeypatch, 0.2)

    async def act() -> list[str]:
        asking = asyncio.ensure_future(link.pull(5))
        await asyncio.sleep(0.02)
        await link.send(6, "m", "m")  # another's
        return await asking

    found, seconds = timed(act)
    assert (found, link.asked) == ([], 1)
    assert 0.2 <= seconds < 10


@pytest.mark.parametrize("refused", [False, True])
def test_a_site_at_work_is_told_at_once_that_there_is_no_other(
    monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    link = held(monkeypatch, LONG)

    link.refuses = refused

    async def act() -> tuple[list[str], list[str], list[str]]:
        await link.send(5, "m", "m")
        first, second = await link.pull(5), await link.pull(5)
        with contextlib.suppress(PermissionError):
            await link.reply(5)
        asking = asyncio.ensure_future(link.pull(5))
        await asyncio.sleep(0.05)
        await link.send(5, "n", "n")
        return first, second, await asking

    found, seconds = timed(act)
    assert found == (["m"], [], ["n"])
    assert link.asked == 4
    assert seconds < 10


def test_who_has_hung_up_is_given_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    link = held(monkeypatch, LONG)

    async def act() -> tuple[list[str], list[str]]:
        gone = asyncio.Event()
        asking = asyncio.ensure_future(link.pull(5, gone))
        await asyncio.sleep(0.05)
        gone.set()
        nothing = await asking
        await link.send(5, "m", "m")
        return nothing, await link.pull(5)

    found, seconds = timed(act)
    assert found == ([], ["m"])
    assert seconds < 10


def test_who_is_refused_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    link = held(monkeypatch, LONG)
    link.status = 401
    found, seconds = timed(lambda: link.pull(5))
    assert (found, link.asked) == ([], 1)
    assert seconds < 10


def test_nothing_is_kept_of_what_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    link = held(monkeypatch, 0.01)
    monkeypatch.setattr("server.long_poll._MOST_COMING", 3)

    async def act() -> None:
        for number in range(10):
            await link.pull(number)
            await link.send(number, f"lost-{number}")

    timed(act)
    assert link.polls._asking == {}
    assert list(link.polls._coming) == ["lost-7", "lost-8", "lost-9"]
