"""What a message's bytes say of themselves is not believed."""

from __future__ import annotations

import json
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

import contract.messages
from contract.errors import ReleaseError
from contract.experiment import Model
from contract.messages import REPLY, Instruction, Reply, pack, packed_limit, unpack
from contract.models import parameter_shapes
from contract.releases import ModelUpdate, Spent

SPENT = Spent(epsilon=1.0, delta=1e-5, unit="record", method="PLD", block="all/train")
ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)


def reply(**changed: Any) -> Reply:
    values = {"site": "north", "stated_rows": 100, "mechanism": "none", "request": "r/train/1"}
    return Reply(**{**values, "spent_in_run": SPENT, "spent_in_total": SPENT, **changed})  # type: ignore[arg-type]


def told(header: Any, numbers: bytes = b"") -> bytes:
    """A file with this header, whatever it says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + numbers


def entry(shape: list[int], end: int, dtype: str = "F32", begin: int = 0) -> dict[str, Any]:
    return {"000000/w": {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}}


def _twice() -> bytes:
    one = json.dumps(entry([1], 4))[1:-1]
    return told(f"{{{one}, {one.replace('[0, 4]', '[4, 8]')}}}".encode(), bytes(8))


HOSTILE: dict[str, bytes] = {
    "a header of 10 GB and no numbers": told(entry([2_500_000_000], 10_000_000_000)),
    "a negative length": told(entry([-1], 4), bytes(4)),
    "lengths whose product overflows": told(entry([2**32, 2**32], 0)),
    "fewer numbers than it says": told(entry([3], 12), bytes(8)),
    "fewer numbers than its shape": told(entry([3], 8), bytes(8)),
    "more numbers than it says": told(entry([1], 4), bytes(8)),
    "numbers that begin later": told(entry([1], 8, begin=4), bytes(8)),
    "numbers that end before they begin": told(entry([1], 0, begin=4), bytes(4)),
    "objects": told(entry([1], 8, dtype="O"), bytes(8)),
    "a type that numpy has not": told(entry([8], 4, dtype="F4"), bytes(4)),
    "a nest of brackets": told(b"[" * 100_000),
    "a header beyond the end": struct.pack("<Q", 2**62) + b"{}",
    "no place before the name": told({"w": entry([1], 4)["000000/w"]}, bytes(4)),
    "a name twice": _twice(),
    "no safetensors": b"text",
    "half": pack({"w": ARRAY})[:-12],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_bytes_that_are_made_to_harm_are_refused_before_room_is_made(name: str) -> None:
    packed = HOSTILE[name]
    tracemalloc.start()
    with pytest.raises(ValueError, match="not packed arrays"):
        unpack(packed)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(packed) + 1_000_000


def test_arrays_come_back_in_their_order_and_may_be_written_to() -> None:
    arrays = {
        "z": ARRAY,
        "a/b": np.array(7, dtype=np.int64),
        "columns": np.asfortranarray(ARRAY),
        "every other": np.arange(10, dtype=np.float32)[::2],
        "none": np.zeros((0, 3), dtype=np.int8),
        "text": np.frombuffer(b"abc", dtype=np.uint8),
    }
    found = unpack(pack(arrays))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    found["z"][0, 0] = 9
    assert unpack(pack({})) == {}


@given(st.binary(max_size=400))
def test_no_bytes_raise_anything_else(packed: bytes) -> None:
    if packed:
        with pytest.raises(ValueError, match="not packed arrays"):
            unpack(packed)


@given(st.integers(0, len(pack({"w": ARRAY})) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_makes_nothing_larger(place: int, change: int) -> None:
    packed = bytearray(pack({"w": ARRAY}))
    packed[place] ^= change
    try:
        found = unpack(bytes(packed))
    except ValueError:
        return
    assert all(array.nbytes <= len(packed) for array in found.values())


@pytest.mark.parametrize(
    "model", [Model(), Model(kind="mlp", hidden=(64, 7)), Model(kind="cnn", image=(1, 8, 8))]
)
def test_the_limit_leaves_room_for_the_model_and_little_more(model: Model) -> None:
    shapes = parameter_shapes(model, inputs=64, classes=10)
    packed = pack({name: np.ones(shape, dtype=np.float32) for name, shape in shapes.items()})
    assert len(packed) <= packed_limit(shapes) <= len(packed) + 128 + 512 * len(shapes)
    doubles = pack({name: np.ones(shape) for name, shape in shapes.items()})
    assert len(doubles) > packed_limit(shapes) or model.kind == "linear"


def test_an_update_that_is_too_long_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    records = reply(update=ModelUpdate(arrays={"w": np.zeros(1000, dtype=np.float32)})).to_records()
    assert Reply.from_records(records, most_bytes=5000).update is not None
    with pytest.raises(ReleaseError, match=r"update refused: it has 4,\d\d\d bytes, the model at most 500"):
        Reply.from_records(records, most_bytes=500)
    monkeypatch.setattr(contract.messages, "MOST_TEXT", 1000)
    monkeypatch.setattr(contract.messages, "unpack", lambda _: pytest.fail("it was unpacked"))
    with pytest.raises(ReleaseError, match=r"update refused: it has \d,\d\d\d bytes, the model at most 500"):
        Reply.from_records(records, most_bytes=500)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"site":' * 5000, "{}", "null", json.dumps({"site": "north", "stated_rows": 1e999})],
)
def test_a_text_that_is_no_reply_is_refused(text: str) -> None:
    written = pack({"reply.json": np.frombuffer(text.encode(), dtype=np.uint8)})
    records = RecordDict({REPLY: ConfigRecord({"reply": written})})
    with pytest.raises(ReleaseError, match="does not understand"):
        Reply.from_records(records)


def test_a_reply_says_what_it_answers() -> None:
    instruction = Instruction(run="r", step=3)
    assert instruction.request("train") == "r/train/3"
    sent = reply(request=instruction.request("train"))
    assert Reply.from_records(sent.to_records()).request == "r/train/3"
    assert Reply.from_bytes(sent.to_bytes()) == sent
