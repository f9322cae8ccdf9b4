"""KServe's Open Inference Protocol, version 2, over HTTP: as Triton, KServe and MLServer speak it.

A tensor a feature, of shape [n] or [n, 1], in JSON or in the binary extension
(`Inference-Header-Content-Length`), in which clients send without being asked. A missing value is NaN, null,
or the empty text.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from contract.experiment import Experiment, NumericFeature
from inference.desk import Answer
from inference.requests import Complaint, RefusedError, decoded

__all__ = ["BINARY_HEADER", "Inference", "error_of", "metadata", "parsed", "require_outputs", "written"]

BINARY_HEADER = b"inference-header-content-length"
_NUMBERS = {
    "FP64": "<f8",
    "FP32": "<f4",
    "FP16": "<f2",
    "INT64": "<i8",
    "INT32": "<i4",
    "INT16": "<i2",
    "INT8": "i1",
    "UINT64": "<u8",
    "UINT32": "<u4",
    "UINT16": "<u2",
    "UINT8": "u1",
    "BOOL": "?",
}
_TEXTS = "BYTES"
_PLATFORM = "onnxruntime_onnx"


class _Tensor(msgspec.Struct, frozen=True):
    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | None = None
    parameters: dict[str, Any] = {}


class _Wanted(msgspec.Struct, frozen=True):
    name: str
    parameters: dict[str, Any] = {}


class Inference(msgspec.Struct, frozen=True):
    """The body of an inference request."""

    inputs: list[_Tensor]
    id: str = ""
    outputs: list[_Wanted] | None = None
    parameters: dict[str, Any] = {}


_DECODER = msgspec.json.Decoder(Inference)


def metadata(experiment: Experiment, version: int) -> dict[str, Any]:
    """What `/v2/models/MODEL` says: the public schema as tensors."""
    label = experiment.task.label
    outputs: list[dict[str, Any]] = [
        {"name": "prediction", "datatype": _TEXTS if label.classes else "FP64", "shape": [-1, 1]}
    ]
    if label.classes:
        outputs.append({"name": "probabilities", "datatype": "FP64", "shape": [-1, len(label.classes)]})
    return {
        "name": experiment.name,
        "versions": [str(version)],
        "platform": _PLATFORM,
        "inputs": [
            {
                "name": one.name,
                "datatype": "FP64" if isinstance(one, NumericFeature) else _TEXTS,
                "shape": [-1, 1],
            }
            for one in experiment.task.features
        ],
        "outputs": outputs,
    }


def parsed(content: bytes, json_length: int | None) -> tuple[Inference, dict[str, list[Any]], int]:
    """A request, its columns, and how many rows they have.

    Args:
        content: the body.
        json_length: of the part in JSON; None where all of it is.

    Raises:
        RefusedError: it is none.
    """
    length = len(content) if json_length is None else json_length
    if not 0 < length <= len(content):
        raise RefusedError(
            400, Complaint(BINARY_HEADER.decode(), "it is not the length of a part of the body")
        )
    asked = decoded(content[:length], _DECODER)
    columns: dict[str, list[Any]] = {}
    rest = memoryview(content)[length:]
    for tensor in asked.inputs:
        if tensor.name in columns:
            raise RefusedError(422, Complaint(tensor.name, "it is there twice"))
        size = tensor.parameters.get("binary_data_size")
        if size is None:
            columns[tensor.name] = _flat(tensor)
        else:
            if type(size) is not int or not 0 <= size <= len(rest):
                raise RefusedError(422, Complaint(tensor.name, "its bytes are not there"))
            columns[tensor.name] = _binary(tensor, bytes(rest[:size]))
            rest = rest[size:]
    if len(rest):
        raise RefusedError(400, Complaint("the body", "there are more bytes than its tensors have"))
    count = len(next(iter(columns.values()), ()))
    return asked, columns, count


def require_outputs(asked: Inference, classes: Collection[str]) -> None:
    """Refuse a request for what the model does not give, or for the same twice: before anything is computed.

    Raises:
        RefusedError: as said.
    """
    known = ["prediction", "probabilities"] if classes else ["prediction"]
    named = [one.name for one in asked.outputs or ()]
    for name in named:
        if name not in known:
            words = f"the model has no such output: {', '.join(known)}"
            raise RefusedError(422, Complaint(name[:200], words))
    if len(named) > len(set(named)):
        raise RefusedError(422, Complaint("outputs", "one is asked for twice"))


def written(asked: Inference, answer: Answer) -> tuple[bytes, int | None]:
    """The body of an answer, and the length of its part in JSON where there is another one."""
    told = answer.told
    is_text = bool(answer.served.classes)
    found: dict[str, tuple[str, list[int], Any]] = {
        "prediction": (_TEXTS if is_text else "FP64", [len(told.prediction), 1], told.prediction)
    }
    if told.probabilities is not None:
        found["probabilities"] = ("FP64", list(told.probabilities.shape), told.probabilities)
    binary_all = asked.parameters.get("binary_data_output") is True
    wanted = asked.outputs if asked.outputs is not None else [_Wanted(name=name) for name in found]
    outputs, parts = list[dict[str, Any]](), list[bytes]()
    for one in wanted:
        kind, shape, values = found[one.name]
        output: dict[str, Any] = {"name": one.name, "datatype": kind, "shape": shape}
        if one.parameters.get("binary_data", binary_all) is True:
            content = _as_bytes(kind, values)
            output["parameters"] = {"binary_data_size": len(content)}
            parts.append(content)
        else:
            output["data"] = values if isinstance(values, list) else values.ravel().tolist()
        outputs.append(output)
    said = {
        "model_name": answer.served.name,
        "model_version": str(answer.served.version),
        "id": asked.id or answer.id,
        "parameters": {"answer": answer.id},
        "outputs": outputs,
    }
    text = msgspec.json.encode(said)
    return (text + b"".join(parts), len(text)) if parts else (text, None)


def _flat(tensor: _Tensor) -> list[Any]:
    if tensor.data is None:
        raise RefusedError(422, Complaint(tensor.name, "it has no data"))
    data: list[Any] = tensor.data
    if data and all(type(one) is list and len(one) == 1 for one in data):
        data = [one[0] for one in data]
    _require_shape(tensor, len(data))
    if tensor.datatype == _TEXTS:
        return data
    if tensor.datatype not in _NUMBERS:
        raise RefusedError(422, Complaint(tensor.name, f"'{tensor.datatype[:20]}' is no datatype"))
    return data


def _require_shape(tensor: _Tensor, count: int) -> None:
    if tensor.shape not in ([count], [count, 1]):
        raise RefusedError(
            422,
            Complaint(tensor.name, f"its shape is {tensor.shape[:5]}, and it has {count:,} values: [n, 1]"),
        )


def _binary(tensor: _Tensor, content: bytes) -> list[Any]:
    if tensor.datatype == _TEXTS:
        values: list[Any] = _texts_of(tensor, content)
    elif tensor.datatype in _NUMBERS:
        kind = np.dtype(_NUMBERS[tensor.datatype])
        if len(content) % kind.itemsize:
            raise RefusedError(
                422, Complaint(tensor.name, f"its bytes are no whole number of {tensor.datatype}")
            )
        values = np.frombuffer(content, kind).tolist()
    else:
        raise RefusedError(422, Complaint(tensor.name, f"'{tensor.datatype[:20]}' is no datatype"))
    _require_shape(tensor, len(values))
    return values


def _texts_of(tensor: _Tensor, content: bytes) -> list[str]:
    """Each with its length before it, in four bytes."""
    values, place = list[str](), 0
    while place < len(content):
        if place + 4 > len(content):
            raise RefusedError(422, Complaint(tensor.name, "its last text has no whole length"))
        (length,) = struct.unpack_from("<I", content, place)
        place += 4
        if place + length > len(content):
            raise RefusedError(422, Complaint(tensor.name, "a text is longer than its bytes"))
        try:
            values.append(content[place : place + length].decode())
        except UnicodeDecodeError as exc:
            reason = Complaint(tensor.name, "it is no UTF-8", len(values))
            raise RefusedError(422, reason) from exc
        place += length
    return values


def _as_bytes(kind: str, values: Any) -> bytes:
    if kind != _TEXTS:
        numbers: Sequence[float] = (
            [math.nan if one is None else one for one in values] if isinstance(values, list) else values
        )
        return np.ascontiguousarray(numbers, dtype="<f8").tobytes()
    parts = list[bytes]()
    for value in values:
        text = (value or "").encode()
        parts += (struct.pack("<I", len(text)), text)
    return b"".join(parts)


def error_of(complaints: Sequence[Complaint]) -> Mapping[str, Any]:
    """The protocol's error, one sentence, with our list beside it."""
    first = complaints[0]
    where = first.field if first.row is None else f"row {first.row}, {first.field}"
    return {"error": f"{where}: {first.reason}", "errors": complaints}
