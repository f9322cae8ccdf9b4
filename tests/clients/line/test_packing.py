"""A reply is taken apart exactly as Flower would."""

from __future__ import annotations

import os

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree

from clients.line.packing import pack
from server.line.flower import assume_identity


@pytest.mark.parametrize("kind", ["packed", "arrays", "empty", "error"])
def test_a_reply_has_the_objects_and_the_tree_that_flower_gives_it(kind: str) -> None:
    assume_identity(5)
    asked = Message(content=RecordDict(), dst_node_id=1, message_type="train")
    asked.metadata.__dict__["_message_id"] = "ab" * 32
    contents = {
        "packed": RecordDict({"reply": ConfigRecord({"reply": "{}", "arrays": os.urandom(2**21)})}),
        "arrays": RecordDict(
            {
                "arrays": ArrayRecord({"w": Array(np.arange(6.0)), "b": Array(np.zeros(2))}),
                "metrics": MetricRecord({"loss": 0.5}),
            }
        ),
        "empty": RecordDict(),
    }
    if kind == "error":
        reply = Message(Error(code=0, reason="failed"), reply_to=asked)
    else:
        reply = Message(contents[kind], reply_to=asked)
    packed = pack(reply, to=asked)
    assert packed.objects == {name: item.deflate() for name, item in get_all_nested_objects(reply).items()}
    assert list(packed.objects)[-1] == reply.metadata.message_id
    assert packed.tree == get_object_tree(reply).SerializeToString()
