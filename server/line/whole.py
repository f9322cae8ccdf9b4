"""A message with all that it holds in one request of a site (`contract.whole`), made of Flower's own.

Each of them goes the way that it would go alone: signed, held against the site's key, counted and bounded. So
this gives a site nothing that it could not ask for before, only sooner.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse, PushMessagesResponse
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse, PushObjectRequest
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Message

from contract.whole import MOST_SAID, MOST_TOGETHER, PULL, PUSH, RELEASE, join, object_names, split
from server.line.flower import MOST_OBJECTS

__all__ = ["Questions", "answer_whole", "is_whole"]

Ask = Callable[[Request], Awaitable[Response]]
_FLEET = "/v1/fleet/"
_TYPE = "application/protobuf"


class Questions(Protocol):
    """What sites wait for."""

    async def arrival(self, request: Request, name: str) -> None:
        """Wait a while for an object that is not known yet.

        The messages of a round share objects, and one is often whole before what it shares with the others is
        there: for the site to ask for that alone costs it the time there and back.
        """

    def release(self, node: int) -> None:
        """Answer a node's question for a message."""


def is_whole(path: str) -> bool:
    """Whether it is a request of this kind."""
    return path in (PULL, PUSH, RELEASE)


async def answer_whole(
    request: Request, ask: Ask, sizes: Mapping[str, int], questions: Questions
) -> Response:
    """Answer one; where one of those that it is made of is refused, that is the answer.

    Args:
        request: of this kind.
        ask: answers those that it is made of.
        sizes: bytes of the ServerApp's objects; one that is not known here is asked for alone.
        questions: what sites wait for.
    """
    content = await request.body()
    try:
        if request.scope["path"] == PULL:
            (question,) = split(content, most=1)
            return await _pull(request, question, ask, sizes, questions)
        if request.scope["path"] == RELEASE:
            (beat,) = split(content, most=1)
            return await _release(request, beat, ask, questions)
        return await _push(request, split(content, most=MOST_OBJECTS + 2), ask)
    except (ValueError, DecodeError):
        return PlainTextResponse("no request of this kind", 400)


async def _pull(
    request: Request, question: bytes, ask: Ask, sizes: Mapping[str, int], questions: Questions
) -> Response:
    found = await ask(_part(request, "pull-messages", question))
    if found.status_code >= 400:
        return found
    told = PullMessagesResponse.FromString(bytes(found.body))
    parts, room = [bytes(found.body)], MOST_TOGETHER
    for message, tree in zip(told.messages_list, told.message_object_trees, strict=True):
        node = PullMessagesRequest.FromString(question).node
        for name in object_names(tree):
            if name not in sizes:
                await questions.arrival(request, name)
            room -= sizes.get(name, MOST_TOGETHER + 1)
            if room < 0:
                break
            wanted = PullObjectRequest(node=node, run_id=message.metadata.run_id, object_id=name)
            pulled = await ask(_part(request, "pull-object", wanted.SerializeToString()))
            if pulled.status_code >= 400:
                break  # who asks for what is missing is told why
            item = PullObjectResponse.FromString(bytes(pulled.body))
            if not item.object_available:
                break
            parts.append(item.object_content)
    return Response(join(parts), media_type=_TYPE)


async def _push(request: Request, parts: list[bytes], ask: Ask) -> Response:
    announcement, *objects, confirmation = parts
    if max(len(announcement), len(confirmation)) > MOST_SAID:
        raise ValueError("an announcement is short")
    announced = await ask(_part(request, "push-messages", announcement))
    if announced.status_code >= 400:
        return announced
    told = PushMessagesResponse.FromString(bytes(announced.body))
    answers = [bytes(announced.body)]
    for item in map(PushObjectRequest.FromString, objects):
        if item.object_id in told.objects_to_push:
            item.session_id = told.session_id
            pushed = await ask(_part(request, "push-object", item.SerializeToString()))
            if pushed.status_code >= 400:
                return pushed
            answers.append(bytes(pushed.body))
    await ask(_part(request, "confirm-message-received", confirmation))
    return Response(join(answers), media_type=_TYPE)


async def _release(request: Request, beat: bytes, ask: Ask, questions: Questions) -> Response:
    answered = await ask(_part(request, "send-node-heartbeat", beat))
    if answered.status_code < 400:
        questions.release(SendNodeHeartbeatRequest.FromString(beat).node.node_id)
        return Response(join([bytes(answered.body)]), media_type=_TYPE)
    return answered


def _part(request: Request, name: str, content: bytes) -> Request:
    """A request of Flower's own, of who asks for the whole, and as long as nobody hangs up."""
    is_read = False

    async def receive() -> Message:
        nonlocal is_read
        if is_read:
            return await request.receive()
        is_read = True
        return {"type": "http.request", "body": content, "more_body": False}

    path = f"{_FLEET}{name}"
    scope = {**request.scope, "path": path, "raw_path": path.encode()}
    return Request({**scope, "state": dict(request.scope.get("state", {}))}, receive)
