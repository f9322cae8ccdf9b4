"""The inline runtime: the same ServerApp and ClientApp in one process, in seconds.

Flower's `Grid` is a public interface; this one hands each message to the
ClientApp of its site at once and keeps the reply. Replies are made of Flower records,
which hold plain numbers and text alone, as on a line.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from contract.errors import SilentError

__all__ = ["InlineGrid"]


class InlineGrid(Grid):
    """A grid whose nodes are sites in this process.

    Args:
        client_app: answers every message.
        sites: the site.toml of each node.
        run_config: what both sides find in `context.run_config`.
    """

    def __init__(self, client_app: ClientApp, sites: Iterable[Path], run_config: Mapping[str, Any]) -> None:
        self._app = client_app
        self._run_id = int.from_bytes(os.urandom(4))
        self._contexts = {
            node: Context(
                run_id=self._run_id,
                node_id=node,
                node_config={"site": str(path)},
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for node, path in enumerate(sites, start=1)
        }
        self._replies: dict[str, Message] = {}

    @property
    def run_id(self) -> int:
        """The run that messages belong to."""
        return self._run_id

    def set_run(self, run: Any) -> None:
        """There is one run only."""
        del run

    @property
    def run(self) -> Any:
        """A description of the run, empty but for its id."""
        from flwr.supercore.run import Run

        return Run.create_empty(self._run_id)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Every site's node."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Have each message answered, in order."""
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = (
                f"{self._run_id}-{len(self._replies)}-{os.urandom(8).hex()}"
            )
            with suppress(SilentError):
                reply = self._app(message, self._contexts[message.metadata.dst_node_id])
                self._replies[message.metadata.message_id] = reply
            ids.append(message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies to these messages."""
        return [self._replies.pop(message_id) for message_id in message_ids if message_id in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Push and pull at once."""
        del timeout
        return self.pull_messages(self.push_messages(messages))
