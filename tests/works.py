"""A message as an agent receives it: taken apart, and kept in the spool."""

from __future__ import annotations

from flwr.app import Message, RecordDict

from clients.line.packing import Work
from server.line.flower import assume_identity

__all__ = ["make_work"]


def make_work(kind: str = "evaluate", run: int = 5) -> Work:
    """Of a message without content.

    Args:
        kind: the message's type.
        run: the run that it belongs to; this process is its ServerApp from now on.
    """
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

    assume_identity(run)
    message = Message(content=RecordDict(), dst_node_id=1, message_type=kind)
    contents = {name: item.deflate() for name, item in get_all_nested_objects(message).items()}
    return Work(
        run=run,
        message_id=message.object_id,
        contents=contents,
        node_id=1,
        node_config={},
        run_config={},
        made_at=message.metadata.created_at,
        request="north-1/train/3",
    )
