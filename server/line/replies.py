"""How much a site may send: its replies are bounded where they are announced, and where their parts arrive.

Flower's SuperLink keeps what an admitted site pushes, in memory several times over and then on the disk,
before anything of ours sees it; and a reply is a tree of any number of objects. Here a reply has a few
objects, the bytes of all of them together are limited, and only what was announced is taken:

    a request is announced by its header     its length; of a long one the signature too, before it is read
    a reply is announced by its tree         few objects; it answers a message, in the site's own name
    a part arrives                           it is of a reply of this site, and within that reply's rest

A reply may be as long as the message that it answers, which has the model in it, and a text of 64 MB, but
never longer than `TIDEGATE_LARGEST_REPLY`.
A site has one reply of a run at the server: a new one takes the place of what nobody fetched. Of a reply
that is refused nothing is kept, and the ServerApp is told in its place, so that a round does not wait for it.
What is remembered is lost when the SuperLink ends; a site then announces its reply again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from base64 import b64decode
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from flwr.proto.error_pb2 import Error
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree, PushObjectRequest
from flwr.proto.node_pb2 import Node
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message as Event
from starlette.types import Receive, Scope

from contract.messages import MOST_TEXT
from contract.whole import MOST_SAID, PUSH, object_names
from server.line.arrivals import Arrivals
from server.line.flower import MOST_OBJECTS, REFUSED, TOO_LONG, TOO_MANY_PARTS, objects_in
from server.line.lasting_state import LONG

__all__ = ["Replies", "RequestRefusedError"]

_SITE_ANNOUNCES, _SITE_SENDS = "/v1/fleet/push-messages", "/v1/fleet/push-object"
_SITE_CONFIRMS = "/v1/fleet/confirm-message-received"
_APP_ANNOUNCES, _APP_SENDS = "/v1/runtime/push-messages", "/v1/runtime/push-object"
_APP_PULLS, _APP_CONFIRMS = "/v1/runtime/pull-messages", "/v1/runtime/confirm-message-received"
_SITES = "/v1/fleet/"
_SMALL = 2**20
"""Bytes of a part of a reply that is read whoever sends it, and of a reply that comes in one request."""
_MESSAGES = frozenset({"pull-messages", "push-messages", "confirm-message-received", "send-node-heartbeat"})
_AROUND = 2**16
"""Bytes of a request beside the part in it."""
_SILENCE = 30.0
"""Seconds without a byte of a long request after which it is given up: it takes the room of the next."""
_MOST_KEPT = 100_000
"""Messages, replies and refusals that are remembered; the oldest are forgotten."""

Ask = Callable[[Request], Awaitable[Response]]
_Kept = TypeVar("_Kept")
_log = logging.getLogger("flwr")


class RequestRefusedError(Exception):
    """A request that may not be read.

    Args:
        status: of the answer.
        words: why.
    """

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status, self.words = status, words


@dataclass(frozen=True, kw_only=True)
class _Question:
    """A message of the ServerApp: the node that it is for, and its objects."""

    node: int
    objects: frozenset[str]


@dataclass(kw_only=True)
class _Reply:
    """One that a site announced.

    Attributes:
        node: the site's.
        run: of the message that it answers.
        answers: that message.
        name: the reply's own id, which is that of its last object.
        session: Flower's name of the sending.
        most: bytes that it may have.
        taken: bytes of its parts that are stored or being stored.
    """

    node: int
    run: int
    answers: str
    name: str
    session: str
    most: int
    taken: int = 0


class Replies:
    """Stands before the handlers, inside Flower's authentication, and knows every reply that is open.

    Args:
        largest: bytes of one reply, in all its parts; of most it is less.
    """

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._open: dict[tuple[int, int], _Reply] = {}
        self._sending: dict[str, _Reply] = {}
        self._refused: dict[str, str] = {}
        self._asked: dict[str, _Question] = {}
        self.sizes: dict[str, int] = {}
        """Bytes of each object that the ServerApp has sent, by its id."""
        self.reply_sizes: dict[str, int] = {}
        """Of each object of a reply, as long as it may be there."""
        self._arriving: Counter[int] = Counter()
        self._arrivals = Arrivals()

    @contextlib.asynccontextmanager
    async def admitted(self, scope: Scope, receive: Receive) -> AsyncIterator[Receive]:
        """While the block runs, a request is read, by what is given here, and answered; its length is known.

        Raises:
            RequestRefusedError: it is too long; or long, and nobody's or too much beside the site's others.
        """
        length = int(Request(scope).headers.get("content-length", "0"))
        path = scope["path"]
        most = _SMALL if path in (_SITE_SENDS, PUSH) else MOST_SAID
        if not path.startswith(_SITES) or length <= most:
            yield receive
            return
        if path != _SITE_SENDS:
            raise RequestRefusedError(413, f"this request of a site has {most:,} bytes at most")
        node = await run_in_threadpool(_signer, scope)
        replies = [reply for reply in self._open.values() if reply.node == node]
        most = max((reply.most for reply in replies), default=self._largest) + _AROUND
        if length > most:
            for reply in replies:  # what is not read does not say which it is a part of
                await self._refuse(Request(scope), reply, length)
            raise RequestRefusedError(413, f"a part of this reply has {most - _AROUND:,} bytes at most")
        if node is None:
            raise RequestRefusedError(401, "a long request needs the signature of an admitted site")
        if not replies:
            raise RequestRefusedError(503, "no reply was announced; announce it again")
        if self._arriving[node] + length > most:
            raise RequestRefusedError(503, "the site is sending something long already")
        self._arriving[node] += length
        try:
            yield _patient(receive)
        finally:
            self._arriving[node] -= length
            if not self._arriving[node]:
                del self._arriving[node]

    def is_short(self, path: str, told: Any, size: int) -> bool:
        """Whether a request moves few bytes, and touches nothing but what is in memory.

        Args:
            path: of the request.
            told: what it says.
            size: its bytes.
        """
        kind = path.rpartition("/")[2]
        if kind == "push-object":
            return size < LONG
        if kind == "pull-object":
            size = self.sizes.get(told.object_id, self.reply_sizes.get(told.object_id, LONG))
            return size < LONG
        return kind in _MESSAGES

    async def answer(self, request: Request, handled: Ask) -> Response:
        """What the handler says, or a refusal in its place.

        Args:
            request: authenticated, and read by Flower.
            handled: asks the handler.
        """
        path, told = request.scope["path"], getattr(request.state, "protobuf_request", None)
        if told is None:
            return await handled(request)
        if path.startswith(_SITES):
            handled = _understood(handled, told)
        if path == _SITE_ANNOUNCES:
            return await self._announced(request, told, handled)
        if path == _SITE_SENDS:
            return await self._sent(request, told, handled)
        if path == _SITE_CONFIRMS and not self._is_for(told.message_object_id, told.node.node_id):
            return _no(403, "a site confirms what it was sent")  # for then the message is removed
        asked = list(told.message_ids) if path == _APP_PULLS else []
        if asked:
            told.message_ids[:] = self._arrivals.worth_asking(asked)
        response = await handled(request)
        if response.status_code < 400:
            if path == _APP_ANNOUNCES:
                self._note_questions(told)
            elif path == _APP_SENDS:
                _keep(self.sizes, told.object_id, await _size(request, told))
            elif path == _APP_PULLS:
                self._tell(asked, request.state.protobuf_response)
            elif path == _APP_CONFIRMS:
                self._forget(told.message_object_id)
        return response

    async def _announced(self, request: Request, told: Any, handled: Ask) -> Response:
        if len(told.messages_list) != 1 or len(told.message_object_trees) != 1:
            return _no(400, "a reply is announced alone")
        said, tree, node = told.messages_list[0].metadata, told.message_object_trees[0], told.node.node_id
        if said.src_node_id != node or not said.reply_to_message_id:
            return _no(403, "a site answers what it was asked, in its own name")
        if (words := self._refused.get(said.reply_to_message_id)) is not None:
            return _no(413, words)
        if objects_in(tree) > MOST_OBJECTS or tree.object_id != said.message_id:
            question = self._asked.get(said.reply_to_message_id)
            if question is not None and question.node == node:
                self._note(said.reply_to_message_id, TOO_MANY_PARTS, node)
            return _no(413, TOO_MANY_PARTS)
        response = await handled(request)
        if response.status_code >= 400:
            return response
        if self._is_for(said.reply_to_message_id, node):  # or it could have another's reply given in parts
            self._arrivals.is_whole(said.reply_to_message_id)  # if nothing of it is missing
        if (answered := request.state.protobuf_response).objects_to_push:
            self._arrivals.announced(said.reply_to_message_id)
            for name in answered.objects_to_push:
                self.reply_sizes.pop(name, None)
            await self._open_one(
                request,
                _Reply(
                    node=node,
                    run=said.run_id,
                    answers=said.reply_to_message_id,
                    name=said.message_id,
                    session=answered.session_id,
                    most=self._most(said.reply_to_message_id),
                ),
            )
        return response

    def _is_for(self, message: str, node: int) -> bool:
        """Whether a message is for this node; one of before a restart is nobody's, and ends with its run."""
        question = self._asked.get(message)
        return question is not None and question.node == node

    def _note_questions(self, told: Any) -> None:
        for message, tree in zip(told.messages_list, told.message_object_trees, strict=False):
            objects = frozenset(object_names(tree))
            question = _Question(node=message.metadata.dst_node_id, objects=objects)
            _keep(self._asked, message.metadata.message_id, question)

    def _most(self, answers: str) -> int:
        """Bytes of a reply to this message: the model's and a text's, as `Reply.from_records` has it."""
        question = self._asked.get(answers)
        if question is None:  # it was sent before this SuperLink was started
            return self._largest
        model = sum(self.sizes.get(name, self._largest) for name in question.objects)
        return min(self._largest, model + MOST_TEXT)

    async def _open_one(self, request: Request, reply: _Reply) -> None:
        """Of each site the server has one of a run; announced again, what was sent of it counts."""
        before = self._open.pop((reply.node, reply.run), None)
        if before is not None and before.answers == reply.answers:
            before.name, before.session, reply = reply.name, reply.session, before
        elif before is not None:
            await run_in_threadpool(_drop, request, before.name, before.session)
        _keep(self._open, (reply.node, reply.run), reply)
        _keep(self._sending, reply.session, reply)

    async def _sent(self, request: Request, told: Any, handled: Ask) -> Response:
        reply, size = self._sending.get(told.session_id), await _size(request, told)
        if reply is None or reply.node != told.node.node_id:
            return _no(503, "no reply was announced under this session; announce it again")
        if (words := self._refused.get(reply.answers)) is not None:
            return _no(413, words)
        if reply.taken + size > reply.most:
            await self._refuse(request, reply, reply.taken + size)
            return _no(413, TOO_LONG)
        reply.taken += size  # before it is stored: its other parts may come at the same time
        stored = False
        try:
            response = await handled(request)
            stored = response.status_code < 400 and request.state.protobuf_response.stored
        finally:
            if not stored:
                reply.taken -= size
        if stored:
            _keep(self.reply_sizes, told.object_id, size)
            if told.object_id == reply.name:
                self._arrivals.is_whole(reply.answers)
        return response

    async def _refuse(self, request: Request, reply: _Reply, size: int) -> None:
        self._note(reply.answers, TOO_LONG, reply.node, f" ({size:,} bytes, and {reply.most:,} at most)")
        self._forget(reply.name)
        await run_in_threadpool(_drop, request, reply.name, reply.session)

    def _note(self, answers: str, words: str, node: int, more: str = "") -> None:
        _log.warning("node %d: %s%s", node, words, more)
        self._arrivals.is_whole(answers)
        _keep(self._refused, answers, words)

    def _forget(self, name: str) -> None:
        for place in [place for place, reply in self._open.items() if reply.name == name]:
            del self._open[place]

    def _tell(self, asked: Any, found: Any) -> None:
        """Enter each refusal in the place of the reply that is asked for; such a one has no object."""
        for name in asked:
            if (words := self._refused.get(name)) is not None:
                error = Error(code=REFUSED, reason=words)
                found.messages_list.append(Message(metadata=Metadata(reply_to_message_id=name), error=error))
                found.message_object_trees.append(ObjectTree())


def _understood(handled: Ask, told: Any) -> Ask:
    """A site's request may fit its types and say what cannot be: Flower's handlers end with an error then.

    It may also be about a run of before this SuperLink was started, which nobody has done wrong: that is
    answered as one about a run that is over, which a site gives up without a word of trouble.
    """

    async def ask(request: Request) -> Response:
        try:
            return await handled(request)
        except (KeyError, TypeError, ValueError, OverflowError) as exc:
            if isinstance(exc, KeyError) and not _is_known(request, _run_of(told)):
                return _no(403, "the run is not known here: it is over, or was begun before a restart")
            _log.warning("a request of a site is refused: %s, %s", request.scope["path"], type(exc).__name__)
            return _no(400, "what this request says cannot be")

    return ask


def _run_of(told: Any) -> int:
    """The number of the run that a site's request is about; 0 for none."""
    messages = getattr(told, "messages_list", ())
    return int(messages[0].metadata.run_id if messages else getattr(told, "run_id", 0))


def _is_known(request: Request, run: int) -> bool:
    from flwr.superlink.dependencies.linkstate import get_linkstate

    return bool(get_linkstate(request).get_run_status({run}))


async def _size(request: Request, told: Any) -> int:
    """Bytes of the object that a request brings.

    To ask a protobuf message for its content, or for its size, is to copy it: for 25 MB, .02 and .2 s. Of a
    long one the size is what its request has beside all else (one byte less just below 2 and 256 MB).
    """
    whole = len(await request.body())
    if whole < LONG:
        return len(told.object_content)
    around = PushObjectRequest(
        node=told.node, run_id=told.run_id, object_id=told.object_id, session_id=told.session_id
    )
    rest = whole - int(around.ByteSize())
    return rest - 1 - (rest.bit_length() + 6) // 7  # the field's number, and its length, seven bits a byte


def _keep(kept: dict[Any, _Kept], name: Any, value: _Kept) -> None:
    kept[name] = value
    while len(kept) > _MOST_KEPT:
        del kept[next(iter(kept))]


def _no(status: int, words: str) -> Response:
    return JSONResponse({"detail": words}, status)


def _patient(receive: Receive) -> Receive:
    """As it is, until nothing comes for long: then as if who sends had hung up."""

    async def wait() -> Event:
        try:
            return await asyncio.wait_for(receive(), _SILENCE)
        except TimeoutError:
            return {"type": "http.disconnect"}

    return wait


def _signer(scope: Scope) -> int | None:
    """The node whose key signed the header, by Flower's own check; None for nobody's."""
    from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
    from flwr.superlink.dependencies.linkstate import get_linkstate
    from flwr.superlink.routers.fleet.node_auth import authenticate_node

    request = Request({**scope, "state": {}})
    try:
        key = b64decode(request.headers.get(FLEET_HTTP_PUBLIC_KEY_HEADER, ""), validate=True)
    except ValueError:
        return None
    node = get_linkstate(request).get_node_id_by_public_key(key)
    if node is None:
        return None
    request.state.protobuf_request = PullMessagesRequest(node=Node(node_id=node))
    try:
        authenticate_node(request)
    except HTTPException:
        return None
    return node


def _drop(request: Request, name: str, session: str) -> None:
    """Take a reply and all its parts out of Flower's store, as Flower does where its sending has expired."""
    from flwr.superlink.dependencies.linkstate import get_linkstate

    state: Any = get_linkstate(request)
    state._cleanup_push_session(session, cleanup_messages=True)
    state.object_store.delete(name)  # of one that is whole, whose session is over
    state._on_push_session_expired({name})
