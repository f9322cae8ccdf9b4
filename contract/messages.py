"""How an instruction and a reply travel in Flower's records.

An instruction and a reply are each one config record: a JSON text, and the
model's arrays packed into one field of bytes. Flower moves every record, array
and chunk as an object of its own, with a request and a transaction for each: a
packed message is three objects where array records make nine of a linear model.

Facts: safetensors 0.8 writes an array that is not contiguous as if it were, and gives
arrays back in no order.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

import numpy as np
from flwr.app import Array as FlowerArray
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from pydantic import TypeAdapter, with_config
from safetensors.numpy import load, save

from contract.errors import ReleaseError
from contract.releases import (
    READ_WHOLE,
    Comparison,
    DriftSummary,
    ModelUpdate,
    RangeSummary,
    ScoreHistogram,
    Spent,
)

__all__ = [
    "ARRAYS",
    "CHALLENGER",
    "COMPARE",
    "CONFIG",
    "DRIFT_QUERY",
    "HOLD",
    "METRICS",
    "RANGES_QUERY",
    "REPLY",
    "WEIGHT",
    "Instruction",
    "Reply",
    "arrays_from_record",
    "arrays_to_record",
    "pack",
    "packed_limit",
    "unpack",
]

ARRAYS = "arrays"
CONFIG = "config"
METRICS = "metrics"
REPLY = "reply"
STEPS = "steps/"
"""Prefix of what the levels of a quantized update are worth; the levels have none."""
WEIGHT = "num-examples"
CHALLENGER = "challenger/"
"""Prefix of the challenger's arrays in a comparison; the champion's have none."""
COMPARE = "evaluate.compare"
DRIFT_QUERY = "query.drift"
RANGES_QUERY = "query.ranges"
HOLD = 2.0
"""Seconds that the server holds a site's question for a message when there is none.

An agent that is to stop waits for the answer, and a server that is to stop gives it first."""
_TEXT = "reply.json"
_MOST_TEXT = 64 * 2**20
"""No reply's public part is longer: a drift summary of ten thousand features has a tenth of it."""

Float32s = np.ndarray[Any, np.dtype[np.float32]]
Arrays = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """What the server asks of a site, beside the model's arrays.

    Attributes:
        run: the run's name; with the message type and `step` it names the request,
            so that a site can tell a repeated request from a new one.
        step: the round, counted from 1, or the number of the exchange outside rounds.
        windows: the windows whose rows are used; empty for the whole data set.
        reference_windows: for a drift check, the windows compared against.
        rounds: how many rounds the run plans: with the experiment's ε it fixes the noise.
        evaluations: how many evaluations on these held-out rows the run plans.
        evaluate: whether a training exchange also evaluates the incoming model.
        features: the numeric features whose ranges are asked for, in no order.
        epsilon: what that question may cost.
    """

    run: str
    step: int = 0
    windows: tuple[str, ...] = ()
    reference_windows: tuple[str, ...] = ()
    rounds: int = 1
    evaluations: int = 1
    evaluate: bool = False
    features: tuple[str, ...] = ()
    epsilon: float = 0.0

    def request(self, kind: str) -> str:
        """Names the request by run, message type and step: what a reply says that it answers."""
        return f"{self.run}/{kind}/{self.step}"

    def to_records(self, arrays: Arrays | None = None) -> RecordDict:
        """As Flower records, with the model that the instruction is about."""
        fields: dict[str, Any] = {"instruction": json.dumps(asdict(self)), ARRAYS: pack(arrays or {})}
        return RecordDict({CONFIG: ConfigRecord(fields)})

    @classmethod
    def from_records(cls, records: RecordDict) -> tuple[Instruction, dict[str, Float32s]]:
        """Read what `to_records` wrote: the instruction and the arrays.

        Raises:
            ReleaseError: it is not an instruction of this program's version.
        """
        try:
            record = records.config_records[CONFIG]
            values = json.loads(str(record["instruction"]))
            for key in ("windows", "reference_windows", "features"):
                values[key] = tuple(str(name) for name in values[key])
            return cls(**values), unpack(record[ARRAYS])
        except (KeyError, TypeError, ValueError, RecursionError) as exc:
            raise ReleaseError(
                "the server sent an instruction that this version does not understand",
                remedy="Run the same Tidegate version on both sides",
            ) from exc


@with_config(READ_WHOLE)
@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a site sends back: releases, and public facts about itself.

    Attributes:
        site: the site's name, public.
        stated_rows: the number of rows that the administrator stated, public: it
            weighs the site and never comes from counting.
        mechanism: what made the releases, in words, with its parameters.
        spent_in_run, spent_in_total: the most that any data block has paid.
        private: whether every release carries the noise that was accounted.
        update: training's release.
        scores: the evaluation of the incoming model; of the champion in a comparison.
        challenger_scores: in a comparison, the evaluation of the challenger.
        comparison: in a comparison, the paired difference.
        drift: the drift check's release.
        request: the request that it answers, as `Instruction.request` names it, so that a reply
            that comes a second time, or a round late, is not taken for another.
    """

    site: str
    stated_rows: int
    mechanism: str
    spent_in_run: Spent
    spent_in_total: Spent
    private: bool = True
    update: ModelUpdate | None = None
    scores: ScoreHistogram | None = None
    challenger_scores: ScoreHistogram | None = None
    comparison: Comparison | None = None
    drift: DriftSummary | None = None
    ranges: RangeSummary | None = None
    request: str = ""

    def releases(self) -> dict[str, object]:
        """The releases that this reply carries, by name."""
        names = ("update", "scores", "challenger_scores", "comparison", "drift", "ranges")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def to_records(self) -> RecordDict:
        """As Flower records."""
        fields: dict[str, Any] = {"reply": self._public_json(), ARRAYS: pack(self._arrays())}
        return RecordDict({REPLY: ConfigRecord(fields)})

    @classmethod
    def from_records(cls, records: RecordDict, *, most_bytes: int | None = None) -> Reply:
        """Read what `to_records` wrote.

        Args:
            records: the content of a message.
            most_bytes: what the packed arrays may take (see `packed_limit`); longer ones are not unpacked.

        Raises:
            ReleaseError: it is not a reply of this program's version, or is too long.
        """
        try:
            record = records.config_records[REPLY]
            text, packed = record["reply"], record[ARRAYS]
            if not isinstance(text, str) or not isinstance(packed, bytes):
                raise _not_understood()
            if most_bytes is not None and len(packed) > most_bytes:
                raise ReleaseError(
                    f"update refused: it has {len(packed):,} bytes, the model at most {most_bytes:,}"
                )
            if len(text) > _MOST_TEXT:
                raise ReleaseError(f"reply refused: it has {len(text):,} characters")
            return _reply(text, unpack(packed))
        except (KeyError, TypeError, ValueError, RecursionError) as exc:
            raise _not_understood() from exc

    def to_bytes(self) -> bytes:
        """The reply as stored by the ledger."""
        text = np.frombuffer(self._public_json().encode(), dtype=np.uint8)
        return pack({_TEXT: text, **self._arrays()})

    @classmethod
    def from_bytes(cls, stored: bytes) -> Reply:
        """Read what `to_bytes` wrote."""
        arrays = unpack(stored)
        return _reply(arrays.pop(_TEXT).tobytes().decode(), arrays)

    def _arrays(self) -> dict[str, Any]:
        if self.update is None:
            return {}
        return {**self.update.arrays, **{STEPS + name: array for name, array in self.update.steps.items()}}

    def _public_json(self) -> str:
        return json.dumps({key: _plain(value) for key, value in vars(self).items() if key != "update"})


def pack(arrays: Arrays) -> bytes:
    """Named arrays in the safetensors format, each name behind its place; nothing for none."""
    if not arrays:
        return b""
    placed = enumerate(arrays.items())
    return save({f"{place:06}/{name}": np.asarray(array, order="C") for place, (name, array) in placed})


def packed_limit(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """The most bytes that float32 arrays of these names and shapes take when packed.

    Beside its numbers an array has an entry in the header: name, type, shape and place. Quantized
    arrays, of two entries each, take less but for a few bytes.
    """
    entries = (2 * len(json.dumps(name)) + 24 * len(shape) + 256 for name, shape in shapes.items())
    return 128 + sum(entries) + 4 * sum(map(math.prod, shapes.values()))


def unpack(packed: object) -> dict[str, Any]:
    """Read what `pack` wrote: the arrays in their order, which may be written to.

    What these bytes say of their own size is held against their length before room is made for it.

    Raises:
        ValueError: it is not that.
    """
    if not isinstance(packed, bytes):
        raise ValueError("not bytes")  # noqa: TRY004 - one error for every way in which it can be wrong
    if not packed:
        return {}
    try:
        placed = sorted((int(key[:6]), key[7:], array) for key, array in load(packed).items())
    except Exception as exc:  # of several kinds on bytes that were made to harm
        raise ValueError("not packed arrays") from exc
    return {name: array for _, name, array in placed}


def arrays_to_record(arrays: dict[str, Float32s]) -> ArrayRecord:
    """Named float32 arrays as a Flower array record, in their order."""
    return ArrayRecord(
        {name: FlowerArray(np.asarray(value, dtype=np.float32)) for name, value in arrays.items()}
    )


def arrays_from_record(record: ArrayRecord) -> dict[str, Float32s]:
    """Named float32 arrays of a Flower array record, in their order."""
    return {name: array.numpy().astype(np.float32, copy=False) for name, array in record.items()}


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(item) for name, item in vars(value).items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


@functools.cache
def _reader() -> TypeAdapter[Reply]:
    return TypeAdapter(Reply)


def _reply(text: str, arrays: dict[str, Float32s]) -> Reply:
    """Every field checked for its type: what is read may come from anybody."""
    try:
        values = {**json.loads(text), "update": _update(arrays) if arrays else None}
        return _reader().validate_python(values)
    except (TypeError, ValueError, RecursionError) as exc:
        raise _not_understood() from exc


def _update(arrays: dict[str, Any]) -> ModelUpdate:
    steps = {name.removeprefix(STEPS): array for name, array in arrays.items() if name.startswith(STEPS)}
    levels = {name: array for name, array in arrays.items() if not name.startswith(STEPS)}
    return ModelUpdate(arrays=levels, steps=steps)


def _not_understood() -> ReleaseError:
    return ReleaseError(
        "a site sent a reply that this version does not understand",
        remedy="Run the same Tidegate version on both sides",
    )
