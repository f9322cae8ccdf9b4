"""A message with all that it holds in one request, made of Flower's own.

A site's are those of `contract.whole`, the ServerApp's those of `server.line.app_messages`. Each of them goes
the way that it would go alone: signed, held against the site's key, counted and bounded; or with the secret
and the token of a run. So this gives nobody anything that they could not ask for before, only sooner.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse, PushMessagesResponse
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PullAppMessagesResponse, PushAppMessagesResponse
from flwr.superlink.dependencies.linkstate import get_linkstate
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Message

from contract.whole import MOST_SAID, MOST_TOGETHER, PULL, PUSH, RELEASE, join, object_names, split
from server.line.app_messages import APP_PULL, APP_PUSH, FILE, MOST_MESSAGES
from server.line.flower import MOST_OBJECTS, objects_in

__all__ = ["Questions", "answer_whole", "is_whole"]

Ask = Callable[[Request], Awaitable[Response]]
_MOST = 2**21
"""Bytes of a request; a site's may have fewer."""
_TYPE = "application/protobuf"
_SERVER = Node(node_id=SUPERLINK_NODE_ID)


class Sizes(Protocol):
    """Bytes of objects by their ids; one that is not known here is asked for alone."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Of what the ServerApp has sent."""

    @property
    def reply_sizes(self) -> Mapping[str, int]:
        """Of what sites have sent, and may be there."""


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
    return path in (PULL, PUSH, RELEASE, APP_PULL, APP_PUSH)


async def answer_whole(request: Request, ask: Ask, known: Sizes, questions: Questions) -> Response:
    """Answer one; where one of those that it is made of is refused, that is the answer.

    Args:
        request: of this kind.
        ask: answers those that it is made of.
        known: how long objects are.
        questions: what sites wait for.
    """
    content, path = await request.body(), request.scope["path"]
    try:
        if path == PUSH:
            return await _push(request, _parts_of(content, most=MOST_OBJECTS + 2), ask)
        if path == APP_PUSH:
            announcement, *objects = _parts_of(content, most=MOST_OBJECTS + MOST_MESSAGES)
            return await _pushed(request, announcement, objects, ask, PushAppMessagesResponse)
        (question,) = _parts_of(content, most=1)
        if path == APP_PULL:
            return await _pull_replies(request, question, ask, known.reply_sizes)
        if path == RELEASE:
            return await _release(request, question, ask, questions)
        return await _pull(request, question, ask, known.sizes, questions)
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
            content = await _object(request, wanted, ask)
            if content is None:
                break
            parts.append(content)
    return Response(join(parts), media_type=_TYPE)


async def _pull_replies(request: Request, question: bytes, ask: Ask, sizes: Mapping[str, int]) -> Response:
    """The replies, and the objects of those that are there: what else there is, is asked for alone.

    A reply that is given with all its objects is confirmed: it would not be given again. Of a long one the
    files are named, from which the ServerApp of this machine reads; it confirms what it has read.
    """
    found = await ask(_part(request, "pull-messages", question))
    if found.status_code >= 400:
        return found
    told = PullAppMessagesResponse.FromString(bytes(found.body))
    parts, room = [bytes(found.body)], MOST_TOGETHER
    for message, tree in zip(told.messages_list, told.message_object_trees, strict=True):
        if not tree.object_id or objects_in(tree) > MOST_OBJECTS:
            continue  # none, or refused: who asks for it is told why
        names = list(dict.fromkeys(object_names(tree)))
        size = sum(sizes.get(name, MOST_TOGETHER + 1) for name in names)
        run = message.metadata.run_id
        if size <= room and (objects := await _objects(request, run, names, ask)) is not None:
            room -= size
            parts += objects
            arrived = ConfirmMessageReceivedRequest(
                node=_SERVER, run_id=run, message_object_id=message.metadata.message_id
            )
            await ask(_part(request, "confirm-message-received", arrived.SerializeToString()))
        elif size > MOST_TOGETHER:
            parts += _files(request, names)
    return Response(join(parts), media_type=_TYPE)


def _files(request: Request, names: Sequence[str]) -> list[bytes]:
    """Where those of a reply lie that are files, in turns with their names."""
    file_of = getattr(get_linkstate(request).object_store, "file_of", None)
    files = {} if file_of is None else {name: file_of(name) for name in names}
    found = ((FILE + name, str(path)) for name, path in files.items() if path is not None)
    return [word.encode() for pair in found for word in pair]


async def _objects(request: Request, run: int, names: Sequence[str], ask: Ask) -> list[bytes] | None:
    """Name and content of each, in turns; None if one is not there."""
    parts = []
    for name in names:
        wanted = PullObjectRequest(node=_SERVER, run_id=run, object_id=name)
        content = await _object(request, wanted, ask)
        if content is None:
            return None
        parts += [name.encode(), content]
    return parts


async def _object(request: Request, wanted: PullObjectRequest, ask: Ask) -> bytes | None:
    """One that is there; who asks for another alone is told what is wrong with it."""
    pulled = await ask(_part(request, "pull-object", wanted.SerializeToString()))
    if pulled.status_code >= 400:
        return None
    item = PullObjectResponse.FromString(bytes(pulled.body))
    return bytes(item.object_content) if item.object_available else None


async def _push(request: Request, parts: list[bytes], ask: Ask) -> Response:
    announcement, *objects, confirmation = parts
    if max(len(announcement), len(confirmation)) > MOST_SAID:
        raise ValueError("an announcement is short")
    answer = await _pushed(request, announcement, objects, ask, PushMessagesResponse)
    if answer.status_code < 400:
        await ask(_part(request, "confirm-message-received", confirmation))
    return answer


async def _pushed(
    request: Request, announcement: bytes, objects: Sequence[bytes], ask: Ask, kind: Any
) -> Response:
    """What is said of messages, and of each of their objects that is wanted."""
    announced = await ask(_part(request, "push-messages", announcement))
    if announced.status_code >= 400:
        return announced
    told = kind.FromString(bytes(announced.body))
    answers, wanted = [bytes(announced.body)], set(told.objects_to_push)
    for item in map(PushObjectRequest.FromString, objects):
        if item.object_id in wanted:
            item.session_id = told.session_id
            pushed = await ask(_part(request, "push-object", item.SerializeToString()))
            if pushed.status_code >= 400:
                return pushed
            answers.append(bytes(pushed.body))
    return Response(join(answers), media_type=_TYPE)


async def _release(request: Request, beat: bytes, ask: Ask, questions: Questions) -> Response:
    answered = await ask(_part(request, "send-node-heartbeat", beat))
    if answered.status_code < 400:
        questions.release(SendNodeHeartbeatRequest.FromString(beat).node.node_id)
        return Response(join([bytes(answered.body)]), media_type=_TYPE)
    return answered


def _parts_of(content: bytes, *, most: int) -> list[bytes]:
    if len(content) > _MOST:
        raise ValueError("a request of this kind is not long")
    return split(content, most=most)


def _part(request: Request, name: str, content: bytes) -> Request:
    """A request of Flower's own, of who asks for the whole, and as long as nobody hangs up."""
    is_read = False

    async def receive() -> Message:
        nonlocal is_read
        if is_read:
            return await request.receive()
        is_read = True
        return {"type": "http.request", "body": content, "more_body": False}

    path = request.scope["path"].rpartition("whole/")[0] + name
    scope = {**request.scope, "path": path, "raw_path": path.encode()}
    return Request({**scope, "state": dict(request.scope.get("state", {}))}, receive)
