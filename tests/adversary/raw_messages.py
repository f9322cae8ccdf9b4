"""Messages as they lie on the line: objects by their hash, whole, cut short or made up."""

from __future__ import annotations

import functools
import json
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from tests.adversary.wire import assume_identity

__all__ = ["apart", "taken_apart"]


def apart(kind: str, group: str, fields: Any) -> tuple[str, dict[str, bytes]]:
    """A message's id and its objects by id.

    Args:
        kind: the message's type.
        group: names it for people.
        fields: of its one record.
    """
    message = Message(
        RecordDict({"config": ConfigRecord(fields)}), dst_node_id=1, message_type=kind, group_id=group
    )
    message.metadata.__dict__["_message_id"] = message.object_id
    return message.object_id, {name: item.deflate() for name, item in get_all_nested_objects(message).items()}


@functools.cache  # a message holds the moment it was made: examples are to be the same each time
def taken_apart(number: int, **fields: Any) -> tuple[str, dict[str, bytes]]:
    """A message to train of that run, apart."""
    assume_identity(number)
    said = {"instruction": json.dumps({"run": f"r{number}"}), "arrays": b"", **fields}
    return apart("train", f"r{number}", said)
