"""A site's messages and replies with all that they hold, in one request each (`contract.whole`).

Over a line of 40 ms there and back the message, its objects, word of its arrival, the reply's announcement
and its objects take half a second one after another. A stock SuperLink knows no such request: it is asked for
one after another, as Flower does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from flwr.app import Message

from contract.whole import MOST_TOGETHER, PULL, PUSH, RELEASE, Parts, object_names

__all__ = ["WholeMessages"]

_TRIES, _SECONDS = 4, 30.0
"""That a request is tried while the line is broken, as Flower's own are."""


class WholeMessages:
    """Asks for messages, and sends replies.

    Args:
        client: Flower's, of the Fleet API, connected.
        node_id: the site's.
    """

    def __init__(self, client: Any, node_id: int) -> None:
        from flwr.proto.node_pb2 import Node
        from flwr.supercore.retry import make_simple_http_retry_invoker

        self._client, self._node = client, Node(node_id=node_id)
        self._retry = make_simple_http_retry_invoker()
        self._retry.max_tries, self._retry.max_time = _TRIES, _SECONDS

    def receive(self) -> tuple[Message, Any, dict[str, bytes]] | None:
        """The next message without its content, the tree of its objects, and those that came with it."""
        from flwr.common.serde import message_from_proto
        from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse

        found, *objects = self._ask(PULL, [PullMessagesRequest(node=self._node).SerializeToString()])
        told = PullMessagesResponse.FromString(found)
        if not told.messages_list:
            return None
        tree = told.message_object_trees[0]
        contents = dict(zip(object_names(tree), objects, strict=False))
        return message_from_proto(told.messages_list[0]), tree, contents

    def send(self, envelope: Any, tree: Any, run: int, objects: Mapping[str, bytes]) -> bool:
        """Send a reply, and word that the message has arrived which it answers.

        Args:
            envelope, tree: Flower's messages.
            run: the run's number.
            objects: content by id.

        Returns:
            Whether the server has all of it now. It has not if it is too long to be sent together.
        """
        from flwr.proto.fleet_pb2 import PushMessagesRequest, PushMessagesResponse
        from flwr.proto.message_pb2 import (
            ConfirmMessageReceivedRequest,
            PushObjectRequest,
            PushObjectResponse,
        )

        if sum(map(len, objects.values())) > MOST_TOGETHER:
            return False
        announcement = PushMessagesRequest(
            node=self._node,
            messages_list=[envelope],
            message_object_trees=[tree],
            clientapp_runtime_list=[0.0],
        )
        parts = [
            PushObjectRequest(node=self._node, run_id=run, object_id=name, object_content=content)
            for name, content in objects.items()
        ]
        arrived = ConfirmMessageReceivedRequest(
            node=self._node, run_id=run, message_object_id=envelope.metadata.reply_to_message_id
        )
        messages: list[Any] = [announcement, *parts, arrived]
        sent = [message.SerializeToString() for message in messages]
        first, *stored = self._ask(PUSH, sent)
        wanted = PushMessagesResponse.FromString(first).objects_to_push
        return len(stored) == len(wanted) and all(PushObjectResponse.FromString(one).stored for one in stored)

    def release(self) -> None:
        """Have the question answered that another thread asks in `receive`; tried once."""
        from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL
        from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest

        beat = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL)
        self._ask_once(RELEASE, [beat.SerializeToString()])

    def _ask(self, path: str, parts: Sequence[bytes]) -> list[bytes]:
        return cast("list[bytes]", self._retry.invoke(lambda: self._ask_once(path, parts)))

    def _ask_once(self, path: str, parts: Sequence[bytes]) -> list[bytes]:
        words = path.rpartition("/")[2]
        answer: Any = self._client._unary_unary(
            path=path, rpc_method=f"tidegate/{words}", request=Parts(parts), response_type=Parts
        )
        return cast("list[bytes]", answer.parts)
