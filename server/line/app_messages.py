"""What the ServerApp sends and gets: messages with all that they hold, and replies one after the other.

Flower's grid asks for each object of each message alone, and says of each reply that it has come: of the 32
requests of a round of four sites these were 22. Here what is short goes together, to routes of our SuperLink
(`server.line.whole`) that make Flower's own requests of it:

    POST APP_PUSH   a PushAppMessagesRequest,    its answer, and those to the objects that were wanted
                    a PushObjectRequest each
    POST APP_PULL   a PullAppMessagesRequest     its answer; of the replies that are there and short the name
                                                 of each object, and the object; of those that are long, the
                                                 name of each that is a file, and where that lies

What came is not confirmed here: that removes a reply's objects, and the SuperLink does so as it gives them.
Nothing more can be lost by it, for Flower gives the reply itself once, to the first who asks. Whoever dies
over it asks the same message again, and the site answers from its ledger.

What is long goes as Flower has it, few at a time. But a long object lies in a file of the SuperLink, whose
ServerApp is on the same machine and of the same user: it reads the file, and holds it against the object's
name. Where there is no such file, as in another container, it asks for the object. A stock SuperLink knows
no such routes, and is asked for one after another.
"""

from __future__ import annotations

import copy
import functools
import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from weakref import WeakSet

from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid

from contract.whole import MOST_TOGETHER, Parts, object_names
from server.line.flower import (
    MOST_OBJECTS,
    NO_ANSWER,
    REFUSED,
    TOO_MANY_PARTS,
    UNREADABLE,
    is_simulated,
    objects_in,
)

__all__ = ["APP_PULL", "APP_PUSH", "FILE", "MOST_MESSAGES", "content_size", "pull_messages", "push_messages"]

APP_PULL, APP_PUSH = "/v1/runtime/whole/pull", "/v1/runtime/whole/push"
MOST_MESSAGES = 256
"""That are sent together."""
FILE = "file:"
"""Before the name of an object in whose place its file is named."""
_SIDE_BY_SIDE = 3
"""Long replies that are pulled at a time: what one costs this process and another the SuperLink overlaps."""
_log = logging.getLogger("flwr")


def push_messages(grid: Grid, messages: Sequence[Message]) -> list[str]:
    """What `grid.push_messages` gives: the messages' ids, in their order.

    Raises:
        flwr.supercore.inflatable.inflatable_utils.ObjectPushError: the SuperLink does not store a part.
    """
    client = _client_of(grid)
    contents = {id(message.content): message.content for message in messages}.values()
    size = sum(map(content_size, contents))
    if client is None or size > MOST_TOGETHER:
        return list(grid.push_messages(messages))
    names: list[str] = []
    for first in range(0, len(messages), MOST_MESSAGES):
        sent = _sent(client, grid, messages[first : first + MOST_MESSAGES])
        if sent is None:
            return [*names, *grid.push_messages(messages[len(names) :])]
        names += sent
    return names


def content_size(content: RecordDict) -> int:
    """The bytes of all values of a message that are bytes or texts."""
    values = (value for record in content.config_records.values() for value in record.values())
    return sum(len(value) for value in values if isinstance(value, bytes | str))


def _sent(client: Any, grid: Grid, messages: Sequence[Message]) -> list[str] | None:
    """The ids of messages that were sent together; None where the SuperLink knows no such request."""
    from flwr.proto.message_pb2 import PushObjectResponse
    from flwr.proto.runtime_pb2 import PushAppMessagesResponse
    from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

    letter = _Letter()
    _with_client(grid, letter).push_messages(messages)
    answer = _ask(client, APP_PUSH, letter.parts())
    if answer is None:
        return None
    told = PushAppMessagesResponse.FromString(answer[0])
    wanted = [name for name in letter.names if name in set(told.objects_to_push)]
    for name, part in zip(wanted, answer[1:], strict=True):
        if not PushObjectResponse.FromString(part).stored:
            raise ObjectPushError(name, messages[0].metadata.run_id, told.session_id)
    return list(told.message_ids)


def pull_messages(grid: Grid, message_ids: list[str]) -> Iterator[Message]:
    """What `grid.pull_messages` gives, one after the other, while the next are on their way.

    First those that came whole. Of the others at most three are on their way, or wait to be read: the rest
    stay at the SuperLink, however many sites answer.

    The objects of a reply are a site's own bytes. Where Flower cannot make a message of them, an error with
    the code `UNREADABLE` comes in its place: one for that site, and the others as they are.
    """
    if is_simulated(grid):  # its nodes are of this machine, and are not hostile
        yield from grid.pull_messages(message_ids)
        return
    client = _client_of(grid)
    if client is None:
        for name in message_ids:
            yield from _readable(functools.partial(grid.pull_messages, [name]), name)
        return
    found, contents = _found(client, message_ids)
    single = [
        type(found)(messages_list=[message], message_object_trees=[tree])
        for message, tree in zip(found.messages_list, found.message_object_trees, strict=True)
    ]
    alone = []
    for one in single:
        objects = _objects_of(one.message_object_trees[0], contents)
        if objects is None:
            alone.append(one)
        else:
            yield from _opened(one.messages_list[0].metadata, objects)
    yield from _pulled(grid, alone, contents)


def _pulled(grid: Grid, found: Iterable[Any], contents: dict[str, bytes]) -> Iterator[Message]:
    ahead: deque[Future[list[Message]]] = deque()
    with ThreadPoolExecutor(_SIDE_BY_SIDE) as threads:
        for one in found:
            ahead.append(threads.submit(_pull_one, grid, one, contents))
            if len(ahead) > _SIDE_BY_SIDE:
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()


def _found(client: Any, message_ids: list[str]) -> tuple[Any, dict[str, bytes]]:
    """The answer to the question for replies, and the objects that came with it, by their names."""
    from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse

    question = PullAppMessagesRequest(message_ids=message_ids)
    answer = _ask(client, APP_PULL, [question.SerializeToString()])
    if answer is None:
        return client.PullMessages(question), {}
    names = (name.decode() for name in answer[1::2])
    return PullAppMessagesResponse.FromString(answer[0]), dict(zip(names, answer[2::2], strict=True))


def _objects_of(tree: Any, contents: dict[str, bytes]) -> dict[str, bytes] | None:
    """The objects of a reply, if all of them have come."""
    if not tree.object_id or objects_in(tree) > MOST_OBJECTS:
        return None
    names = set(object_names(tree))
    return {name: contents[name] for name in names} if names <= contents.keys() else None


def _opened(said: Any, objects: dict[str, bytes]) -> list[Message]:
    """A reply of which all is here; or what is in its place."""

    def open_it() -> list[Message]:
        from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

        message = cast(Message, inflate_object_from_contents(said.message_id, objects))
        message.metadata.__dict__["_message_id"] = said.message_id
        message.metadata.__dict__["_reply_to_message_id"] = said.reply_to_message_id
        return [message]

    return _readable(open_it, said.reply_to_message_id)


def _pull_one(grid: Grid, found: Any, contents: dict[str, bytes]) -> list[Message]:
    """One reply, to the message that the SuperLink says, whatever its body says; or what is in its place."""
    from flwr.proto.runtime_pb2 import PullAppMessagesRequest

    tree, name = found.message_object_trees[0], found.messages_list[0].metadata.reply_to_message_id
    if not tree.object_id:
        return [_in_its_place(name, REFUSED, found.messages_list[0].error.reason)]
    if objects_in(tree) > MOST_OBJECTS:
        return [_in_its_place(name, REFUSED, TOO_MANY_PARTS)]
    asked: Any = grid
    answered = _Answered(asked._runtime_client, found, contents)
    pulled = _readable(lambda: _with_client(grid, answered).pull_messages(()), name)
    if any(message.has_error() and message.error.code in NO_ANSWER for message in pulled):
        # A part did not come. If that is because the SuperLink refused it, it says so when asked again.
        again = asked._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=[name]))
        for message, place in zip(again.messages_list, again.message_object_trees, strict=True):
            if not place.object_id and message.metadata.reply_to_message_id == name:
                return [_in_its_place(name, REFUSED, message.error.reason)]
    for message in pulled:
        message.metadata.__dict__["_reply_to_message_id"] = name
    return pulled


def _readable(pull: Callable[[], Iterable[Message]], name: str) -> list[Message]:
    """What is pulled in answer to a message; where it is no message, an error in its place.

    Raises:
        OSError, httpx.HTTPError: the line or the SuperLink is at fault, and no site.
    """
    import httpx

    try:
        return list(pull())
    except (OSError, httpx.HTTPError):
        raise
    except Exception:  # of many kinds, on bytes that were made to harm
        _log.exception("the reply to message %s is none", name)
        return [_in_its_place(name, UNREADABLE, "no message")]


def _in_its_place(name: str, code: int, reason: str) -> Message:
    """An error in answer to a message."""
    from flwr.app import Metadata
    from flwr.app.message import make_message
    from flwr.supercore.constant import SYSTEM_MESSAGE_TYPE

    metadata = Metadata(
        run_id=0,
        message_id="",
        src_node_id=0,
        dst_node_id=0,
        reply_to_message_id=name,
        group_id="",
        created_at=time.time(),
        ttl=0.0,
        message_type=SYSTEM_MESSAGE_TYPE,
    )
    return make_message(metadata=metadata, error=Error(code=code, reason=reason))


def _with_client(grid: Grid, client: Any) -> Grid:
    """The grid, with another client."""
    changed: Any = copy.copy(grid)
    changed._client = client
    return cast(Grid, changed)


class _Answered:
    """A client that knows the answer to its next question for messages, and where some objects lie."""

    def __init__(self, client: Any, found: Any, contents: dict[str, bytes]) -> None:
        self._client, self._found, self._contents = client, found, contents

    def PullMessages(self, _request: Any) -> Any:  # noqa: N802 - Flower's name
        return self._found

    def PullObject(self, request: Any) -> Any:  # noqa: N802 - Flower's name
        content = _read(self._contents.get(FILE + request.object_id, b""), request.object_id)
        if content is None:
            return self._client.PullObject(request)
        return SimpleNamespace(object_found=True, object_available=True, object_content=content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def _read(path: bytes, name: str) -> bytes | None:
    """The object of this name, if it is in that file: there may be none, or another's on another machine."""
    from flwr.supercore.inflatable.inflatable_object import get_object_id

    try:
        content = Path(path.decode()).read_bytes() if path else b""
    except OSError:
        return None
    return content if content and get_object_id(content) == name else None


class _Letter:
    """A client that sends nothing, and keeps what is to be sent.

    Attributes:
        names: the objects', each after those that it is made of.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self._announcement: Any = None
        self._objects: dict[str, Any] = {}

    def PushMessages(self, request: Any) -> Any:  # noqa: N802 - Flower's name
        from flwr.proto.runtime_pb2 import PushAppMessagesResponse

        self._announcement = request
        ids = [message.metadata.message_id for message in request.messages_list]
        # of each message last its own object, with which it is whole
        trees = [reversed(list(object_names(tree))) for tree in request.message_object_trees]
        self.names = list(dict.fromkeys(name for tree in trees for name in tree))
        return PushAppMessagesResponse(message_ids=ids, objects_to_push=self.names)

    def PushObject(self, request: Any) -> Any:  # noqa: N802 - Flower's name
        from flwr.proto.message_pb2 import PushObjectResponse

        self._objects[request.object_id] = request
        return PushObjectResponse(stored=True)

    def parts(self) -> list[bytes]:
        """The announcement, and the objects in the order of `names`."""
        parts = [self._announcement, *(self._objects[name] for name in self.names)]
        return [part.SerializeToString() for part in parts]


class _Answer(Parts):
    """The replies of all sites may be in one."""

    MOST = 2 * MOST_TOGETHER


_stock: WeakSet[Any] = WeakSet()
"""Clients whose SuperLink knows no requests of this kind."""


def _ask(client: Any, path: str, parts: list[bytes]) -> list[bytes] | None:
    """Ask as Flower's client asks everything else; None where the SuperLink is a stock one."""
    import httpx

    if client in _stock or not hasattr(client, "_unary_unary"):
        return None
    try:
        answer = client._unary_unary(
            path=path,
            rpc_method=f"tidegate/{path.rpartition('/')[2]}",
            request=Parts(parts),
            response_type=_Answer,
        )
    except httpx.HTTPStatusError as exc:
        if exc.response.status_code != httpx.codes.NOT_FOUND:
            raise
        _stock.add(client)
        return None
    return cast("list[bytes]", answer.parts)


def _client_of(grid: Grid) -> Any | None:
    """The client of a grid that asks a SuperLink; None of any other grid."""
    module: Any = sys.modules.get("flwr.superlink.grid.http_grid")  # imported by whoever made such a grid
    if module is None or not isinstance(grid, module.HttpGrid):
        return None
    asked: Any = grid
    return asked._runtime_client
