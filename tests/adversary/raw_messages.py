"""Messages as they lie on the line: objects by their hash, whole, cut short or made up."""

from __future__ import annotations

import functools
import json
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from tests.adversary.wire import assume_identity

__all__ = ["taken_apart"]


@functools.cache  # a message holds the moment it was made: examples are to be the same each time
def taken_apart(number: int, **fields: Any) -> tuple[str, dict[str, bytes]]:
    """A message's id and its objects by id."""
    assume_identity(number)
    said = {"instruction": json.dumps({"run": f"r{number}"}), "arrays": b"", **fields}
    message = Message(
        RecordDict({"config": ConfigRecord(said)}), dst_node_id=1, message_type="train", group_id=f"r{number}"
    )
    message.metadata.__dict__["_message_id"] = message.object_id
    objects = {name: item.deflate() for name, item in get_all_nested_objects(message).items()}
    return message.object_id, objects
