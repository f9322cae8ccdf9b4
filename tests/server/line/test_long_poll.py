"""A question is held until there is what it asks for, and never longer than said."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse, PushMessagesRequest
from flwr.proto.message_pb2 import (
    Message,
    Metadata,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    AcquireTaskResponse,
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
)
from starlette.requests import Request
from starlette.responses import Response

from server.line.long_poll import LongPoll

LONG = 300.0


class SuperLink:
    """Hands each message out once, as Flower's does, behind a `LongPoll`."""

    def __init__(self) -> None:
        self.polls = LongPoll()
        self.waiting: dict[int, list[str]] = {}
        self.parts: dict[str, bytes] = {}
        self.submitted: list[str] = []
        self.asked = 0
        self.status = 200
        self.refuses = 0

    async def ask(
        self, path: str, told: Any, hung_up: asyncio.Event | None = None, port: int | None = None
    ) -> Response:
        body = [told.SerializeToString()]

        async def receive() -> dict[str, Any]:
            if body:
                return {"type": "http.request", "body": body.pop(), "more_body": False}
            await (hung_up or asyncio.Event()).wait()
            return {"type": "http.disconnect"}

        client = None if port is None else ("127.0.0.1", port)
        scope = {"type": "http", "method": "POST", "path": path, "headers": [], "client": client}
        request = Request(scope, receive)
        return await self.polls.answer(request, self._handle)

    async def _handle(self, request: Request) -> Response:
        path, body = request.scope["path"], await request.body()
        if path in PULLS:
            self.asked += 1
            found = PULLS[path](self, body)
            return Response(found.SerializeToString(), status_code=self.status)
        told = PUSHES[path].FromString(body)
        request.state.protobuf_request = told
        if path == "/v1/fleet/push-messages" and self.refuses:
            return Response(b"", status_code=self.refuses)
        if isinstance(told, PushObjectRequest):
            self.parts[told.object_id] = told.object_content
        return Response(b"")

    def _for_site(self, body: bytes) -> PullMessagesResponse:
        found = self.waiting.pop(PullMessagesRequest.FromString(body).node.node_id, [])
        return PullMessagesResponse(messages_list=messages(found))

    def _for_app(self, body: bytes) -> PullAppMessagesResponse:
        return PullAppMessagesResponse(messages_list=messages(self.waiting.pop(SUPERLINK_NODE_ID, [])))

    def _part(self, body: bytes) -> PullObjectResponse:
        name = PullObjectRequest.FromString(body).object_id
        there = name in self.parts
        return PullObjectResponse(
            object_found=name != "unheard of",
            object_available=there,
            object_content=self.parts[name] if there else b"",
        )

    def _task(self, _: bytes) -> AcquireTaskResponse:
        if not self.submitted:
            return AcquireTaskResponse()
        found = AcquireTaskResponse(token=self.submitted.pop(0))
        found.task.SetInParent()
        return found

    async def start_run(self, hung_up: asyncio.Event | None = None, port: int | None = None) -> str:
        response = await self.ask("/v1/runtime/acquire-task", AcquireTaskRequest(), hung_up, port)
        return str(AcquireTaskResponse.FromString(bytes(response.body)).token)

    def submit(self, *names: str) -> None:
        self.submitted += names
        self.polls.note_control("/v1/control/start-run")

    async def pull(
        self, node: int, hung_up: asyncio.Event | None = None, port: int | None = None
    ) -> list[str]:
        told = PullMessagesRequest(node=Node(node_id=node))
        response = await self.ask("/v1/fleet/pull-messages", told, hung_up, port)
        found = PullMessagesResponse.FromString(bytes(response.body)).messages_list
        return [message.metadata.message_id for message in found]

    async def pull_replies(self) -> list[str]:
        response = await self.ask("/v1/runtime/pull-messages", PullAppMessagesRequest(message_ids=["m"]))
        found = PullAppMessagesResponse.FromString(bytes(response.body)).messages_list
        return [message.metadata.message_id for message in found]

    async def pull_part(self, name: str, side: str = "fleet") -> PullObjectResponse:
        response = await self.ask(f"/v1/{side}/pull-object", PullObjectRequest(object_id=name))
        return PullObjectResponse.FromString(bytes(response.body))

    async def send(self, node: int, name: str, *parts: str) -> None:
        message = Message(metadata=Metadata(message_id=name, dst_node_id=node))
        await self.ask("/v1/runtime/push-messages", PushAppMessagesRequest(messages_list=[message]))
        self.waiting.setdefault(node, []).append(name)
        for part in parts:
            await self.ask("/v1/runtime/push-object", PushObjectRequest(object_id=part))

    async def reply(
        self, node: int, name: str = "", *, as_of: int | None = None, to: int = SUPERLINK_NODE_ID
    ) -> None:
        source = node if as_of is None else as_of
        metadata = Metadata(message_id=name, src_node_id=source, dst_node_id=to)
        told = PushMessagesRequest(node=Node(node_id=node), messages_list=[Message(metadata=metadata)])
        await self.ask("/v1/fleet/push-messages", told)


def messages(names: list[str]) -> list[Message]:
    return [Message(metadata=Metadata(message_id=name)) for name in names]


PULLS = {
    "/v1/fleet/pull-messages": SuperLink._for_site,
    "/v1/runtime/pull-messages": SuperLink._for_app,
    "/v1/fleet/pull-object": SuperLink._part,
    "/v1/runtime/pull-object": SuperLink._part,
    "/v1/runtime/acquire-task": SuperLink._task,
}
PUSHES: dict[str, Any] = {
    "/v1/fleet/push-messages": PushMessagesRequest,
    "/v1/fleet/push-object": PushObjectRequest,
    "/v1/runtime/push-messages": PushAppMessagesRequest,
    "/v1/runtime/push-object": PushObjectRequest,
}


def held(monkeypatch: pytest.MonkeyPatch, seconds: float) -> SuperLink:
    for name in ("HOLD", "_APP_HOLD", "_PART_HOLD", "_RUN_HOLD"):
        monkeypatch.setattr(f"server.line.long_poll.{name}", seconds)
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


def test_a_message_that_is_announced_is_not_asked_for_before_it_is_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Flower would give it without its parts, and a site waits eight seconds for those."""
    link = held(monkeypatch, LONG)

    async def act() -> tuple[int, list[str]]:
        await link.send(5, "m", "config")
        asking = asyncio.ensure_future(link.pull(5))
        await asyncio.sleep(0.05)
        asked = link.asked
        await link.ask("/v1/runtime/push-object", PushObjectRequest(object_id="m"))
        return asked, await asking

    assert timed(act)[0] == (0, ["m"])
    assert link.polls._announced == {}


def test_a_message_that_never_becomes_whole_is_not_waited_for_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever sent it may have died over it, and another run has something for the same site."""
    link = held(monkeypatch, LONG)
    monkeypatch.setattr("server.line.long_poll._ANNOUNCED", 0.05)

    async def act() -> list[str]:
        await link.send(5, "m", "config")
        return await link.pull(5)

    found, seconds = timed(act)
    assert found == ["m"]
    assert seconds >= 0.04


def test_who_hangs_up_over_an_announced_message_is_given_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    link = held(monkeypatch, LONG)

    async def act() -> Response:
        await link.send(5, "m", "config")
        hung_up = asyncio.Event()
        hung_up.set()
        told = PullMessagesRequest(node=Node(node_id=5))
        return await link.ask("/v1/fleet/pull-messages", told, hung_up)

    assert timed(act)[0].status_code == 499
    assert (link.asked, link.waiting) == (0, {5: ["m"]})


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


@pytest.mark.parametrize("refused", [0, 403])
def test_a_site_at_work_is_told_at_once_that_there_is_no_other(
    monkeypatch: pytest.MonkeyPatch, refused: int
) -> None:
    link = held(monkeypatch, LONG)

    link.refuses = refused

    async def act() -> tuple[list[str], list[str], list[str]]:
        await link.send(5, "m", "m")
        first, second = await link.pull(5), await link.pull(5)
        await link.reply(5)
        asking = asyncio.ensure_future(link.pull(5))
        await asyncio.sleep(0.05)
        await link.send(5, "n", "n")
        return first, second, await asking

    found, seconds = timed(act)
    assert found == (["m"], [], ["n"])
    assert link.asked == 4
    assert seconds < 10


@pytest.mark.parametrize(("node", "as_of", "status"), [(6, 5, 0), (6, 5, 403), (5, 5, 401)])
def test_no_site_says_of_another_that_it_has_answered(
    monkeypatch: pytest.MonkeyPatch, node: int, as_of: int, status: int
) -> None:
    """Its next question would be held, as long as for a site that has nothing to do."""
    link = held(monkeypatch, LONG)
    link.refuses = status

    async def act() -> tuple[list[str], list[str]]:
        await link.send(5, "m", "m")
        first = await link.pull(5)
        await link.reply(node, "r", as_of=as_of)
        return first, await link.pull(5)

    found, seconds = timed(act)
    assert (found, seconds < 10) == ((["m"], []), True)


def test_a_reply_of_a_site_wakes_no_other_site(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it says of whom it is for, or under whose message's name it comes."""
    link = held(monkeypatch, LONG)

    async def act() -> tuple[int, list[str]]:
        await link.send(5, "m", "config")  # and not whole yet
        asking = asyncio.ensure_future(link.pull(5))
        await asyncio.sleep(0.05)
        for name in ("r", "m"):
            await link.reply(6, name, to=5)
        await link.ask("/v1/fleet/push-object", PushObjectRequest(object_id="r"))
        await asyncio.sleep(0.05)
        early = link.asked
        await link.ask("/v1/runtime/push-object", PushObjectRequest(object_id="m"))
        return early, await asking

    assert timed(act)[0] == (0, ["m"])


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


def test_the_server_app_hears_of_a_reply_when_the_whole_of_it_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    link = held(monkeypatch, LONG)

    async def act() -> tuple[bool, list[str]]:
        asking = asyncio.ensure_future(link.pull_replies())
        await asyncio.sleep(0.05)
        await link.reply(5, "r")
        link.waiting[SUPERLINK_NODE_ID] = ["r"]
        await link.ask("/v1/fleet/push-object", PushObjectRequest(object_id="records"))
        await asyncio.sleep(0.05)
        early = asking.done()
        await link.ask("/v1/fleet/push-object", PushObjectRequest(object_id="r"))
        return early, await asking

    found, seconds = timed(act)
    assert (found, link.asked) == ((False, ["r"]), 2)
    assert seconds < 10


@pytest.mark.parametrize("side", ["fleet", "runtime"])
def test_a_part_that_is_on_its_way_is_waited_for(side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    link = held(monkeypatch, LONG)

    async def act() -> tuple[bool, bytes]:
        asking = asyncio.ensure_future(link.pull_part("part", side))
        await asyncio.sleep(0.05)
        await link.ask("/v1/runtime/push-object", PushObjectRequest(object_id="other"))
        early = asking.done()
        told = PushObjectRequest(object_id="part", object_content=b"x" * 100)
        await link.ask("/v1/runtime/push-object", told)
        return early, (await asking).object_content

    found, seconds = timed(act)
    assert found == (False, b"x" * 100)
    assert link.asked == 2
    assert seconds < 10


def test_a_part_that_nobody_sends_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    link = held(monkeypatch, LONG)
    found, seconds = timed(lambda: link.pull_part("unheard of"))
    assert not found.object_found
    assert (link.asked, seconds < 10) == (1, True)


def test_a_part_that_does_not_come_is_said_not_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    link = held(monkeypatch, 0.2)
    found, seconds = timed(lambda: link.pull_part("part"))
    assert (found.object_found, found.object_available) == (True, False)
    assert link.asked == 1
    assert seconds >= 0.2


def test_what_arrives_wakes_who_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    superlink = held(monkeypatch, LONG)

    async def act() -> bool:
        waits = asyncio.create_task(superlink.polls.arrival(quiet(), "model"))
        await asyncio.sleep(0.05)
        await superlink.ask("/v1/runtime/push-object", PushObjectRequest(object_id="another"))
        still = not waits.done()
        await superlink.ask("/v1/runtime/push-object", PushObjectRequest(object_id="model"))
        await waits
        return still

    assert asyncio.run(asyncio.wait_for(act(), LONG))
    assert superlink.polls._waiting == {}


def test_what_does_not_arrive_or_is_nobodys_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(held(monkeypatch, 0.05).polls.arrival(quiet(), "model"))
    asyncio.run(held(monkeypatch, LONG).polls.arrival(quiet(hung_up=True), "model"))


def quiet(hung_up: bool = False) -> Request:
    """A request whose body was read."""

    async def receive() -> dict[str, Any]:
        if not hung_up:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    return Request({"type": "http", "method": "POST", "path": "/", "headers": []}, receive)


def test_who_starts_runs_asks_once_and_hears_of_each_that_is_submitted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    link = held(monkeypatch, LONG)

    async def act() -> list[str]:
        first = await link.start_run()  # what was submitted before nobody has said
        asking = asyncio.ensure_future(link.start_run())
        await asyncio.sleep(0.05)
        link.polls.note_control("/v1/control/list-runs")
        await asyncio.sleep(0.05)
        assert (asking.done(), link.asked) == (False, 1)
        link.submit("one", "two")
        return [first, await asking, await link.start_run(), await link.start_run()]

    found, seconds = timed(act)
    assert found == ["", "one", "two", ""]
    assert (link.asked, seconds < 10) == (4, True)


def test_without_a_run_to_start_it_is_asked_after_a_while_unless_it_has_hung_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    link = held(monkeypatch, 0.2)

    async def act() -> None:
        await link.start_run()
        await link.start_run()
        hung_up = asyncio.Event()
        hung_up.set()
        assert await link.start_run(hung_up) == ""

    _, seconds = timed(act)
    assert (link.asked, seconds >= 0.2) == (2, True)


def test_who_may_start_no_run_is_told_and_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    link = held(monkeypatch, LONG)
    link.status = 401

    async def act() -> None:
        await link.start_run()
        await link.start_run()

    _, seconds = timed(act)
    assert (link.asked, seconds < 10) == (2, True)


def test_nothing_is_kept_of_what_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    link = held(monkeypatch, 0.01)
    monkeypatch.setattr("server.line.long_poll._MOST_COMING", 3)

    async def act() -> None:
        for number in range(10):
            await link.pull(number)
            await link.pull_part(f"part-{number}")
            await link.send(number, f"lost-{number}")

    timed(act)
    assert link.polls._waiting == {}
    assert list(link.polls._coming) == ["lost-7", "lost-8", "lost-9"]


def test_nothing_is_said_again_on_its_connection_without_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    link = held(monkeypatch, 0.05)

    async def act() -> tuple[int, int, list[str]]:
        for _ in range(4):
            assert await link.pull(5, port=1) == []
        idle = link.asked
        await link.pull(5, port=2)  # another may be anybody: Flower looks who it is
        elsewhere = link.asked
        asking = asyncio.ensure_future(link.pull(5, port=2))
        await asyncio.sleep(0.01)
        await link.send(5, "m", "m")
        return idle, elsewhere, await asking

    assert timed(act)[0] == (1, 2, ["m"])


def test_what_came_between_two_questions_is_given_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    link = held(monkeypatch, 0.05)

    async def act() -> list[str]:
        await link.pull(5, port=1)
        await link.send(5, "m", "m")
        monkeypatch.setattr("server.line.long_poll.HOLD", LONG)
        return await link.pull(5, port=1)

    found, seconds = timed(act)
    assert (found, seconds < 10) == (["m"], True)


def test_nothing_is_said_again_for_some_time_only(monkeypatch: pytest.MonkeyPatch) -> None:
    link = held(monkeypatch, 0.01)
    monkeypatch.setattr("server.line.long_poll._QUIET", 0.0)

    async def act() -> None:
        for _ in range(3):
            await link.pull(5, port=1)

    timed(act)
    assert link.asked == 3


def test_a_site_that_was_removed_hears_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    link = held(monkeypatch, 0.05)

    async def act() -> Response:
        await link.pull(5, port=1)
        monkeypatch.setattr("server.line.long_poll.HOLD", LONG)
        told = PullMessagesRequest(node=Node(node_id=5))
        asking = asyncio.ensure_future(link.ask("/v1/fleet/pull-messages", told, port=1))
        await asyncio.sleep(0.05)
        assert (asking.done(), link.asked) == (False, 1)
        link.status = 401
        link.polls.note_control("/v1/control/unregister-node")
        return await asking

    response, seconds = timed(act)
    assert (response.status_code, seconds < 10) == (401, True)


@pytest.mark.parametrize("repeated", [False, True])
def test_a_site_that_asks_no_more_is_answered_at_once_and_others_wait(
    monkeypatch: pytest.MonkeyPatch, repeated: bool
) -> None:
    link = held(monkeypatch, LONG)

    async def act() -> list[list[str]]:
        if repeated:
            monkeypatch.setattr("server.line.long_poll.HOLD", 0.01)
            await link.pull(5, port=1)
            monkeypatch.setattr("server.line.long_poll.HOLD", LONG)
        asking, other = (asyncio.ensure_future(link.pull(node, port=node - 4)) for node in (5, 6))
        await asyncio.sleep(0.05)
        link.polls.release(5)
        found = [await asking, await link.pull(5, port=1)]  # and one that had crossed the word
        assert not other.done()
        await link.send(5, "m", "m")  # what comes is not lost by it
        found.append(await link.pull(5, port=1))
        other.cancel()
        return found

    found, seconds = timed(act)
    assert (found, seconds < 10) == ([[], [], ["m"]], True)


def test_who_asked_no_more_and_asks_again_later_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    link = held(monkeypatch, LONG)
    monkeypatch.setattr("server.line.long_poll._ASKS_NO_MORE", 0.0)

    async def act() -> bool:
        link.polls.release(5)
        asking = asyncio.ensure_future(link.pull(5))
        await asyncio.sleep(0.05)
        was_held = not asking.done()
        asking.cancel()
        return was_held

    assert timed(act)[0]


def test_a_superlink_that_ends_holds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    link = held(monkeypatch, LONG)
    monkeypatch.setattr("server.line.long_poll._RUN_HOLD", LONG)

    async def act() -> list[Any]:
        await link.start_run(port=1)
        asking = [link.pull(5), link.pull(6, port=6), link.pull_replies(), link.start_run(port=1)]
        waiting = [asyncio.ensure_future(one) for one in asking]
        await asyncio.sleep(0.05)
        assert not any(one.done() for one in waiting)
        link.polls.end()
        return [*await asyncio.gather(*waiting), await link.pull(7)]

    found, seconds = timed(act)
    assert (found, seconds < 10) == ([[], [], [], "", []], True)


def test_no_run_to_start_is_said_again_and_a_submitted_one_starts_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    link = held(monkeypatch, 0.05)

    async def act() -> tuple[int, str]:
        for _ in range(4):
            assert await link.start_run(port=1) == ""
        idle = link.asked
        monkeypatch.setattr("server.line.long_poll._RUN_HOLD", LONG)
        asking = asyncio.ensure_future(link.start_run(port=1))
        await asyncio.sleep(0.05)
        link.submit("one")
        return idle, await asking

    found, seconds = timed(act)
    assert (found, seconds < 10) == ((1, "one"), True)
