"""How an instruction and a reply travel in Flower's records.

An instruction is one config record: a JSON text, and the model's arrays packed into
one field of bytes. A reply is one field of bytes: those that the site's ledger keeps.
Flower moves every record, array and chunk as an object of its own, with a request and a
transaction for each: a packed message is three objects where array records make nine of a
linear model.

What arrives is read here and nowhere else, whole, into types with bounds: its size first,
then its content. What is not of this form is refused before anything is done for it.

Facts: safetensors 0.8 writes an array that is not contiguous as if it were, and gives
arrays back in no order.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass, replace
from typing import Annotated, Any

import numpy as np
from flwr.app import Array as FlowerArray
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, with_config
from safetensors.numpy import load, save

from contract.clipped import ClippedCounts
from contract.errors import MessageError, ReleaseError
from contract.experiment import Experiment
from contract.models import model_shapes
from contract.names import ColumnName, RunName, WindowName
from contract.regression import Scores
from contract.releases import (
    READ_WHOLE,
    Comparison,
    DriftSummary,
    ModelUpdate,
    RangeSummary,
    ReferenceCounts,
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
    "MOST_TEXT",
    "RANGES_QUERY",
    "REPLY",
    "WEIGHT",
    "Anchor",
    "Instruction",
    "Reply",
    "arrays_from_record",
    "arrays_to_record",
    "model_arrays",
    "pack",
    "packed_limit",
    "read_experiment_json",
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
HOLD = 20.0
"""Seconds that the server holds a site's question for a message when there is none.

Less than a site waits for an answer. An agent that is to stop has it answered (`contract.whole.RELEASE`), and
a server that is to stop answers it."""
_TEXT = "reply.json"
MOST_TEXT = 64 * 2**20
"""No reply's public part is longer: a drift summary of ten thousand features has a tenth of it."""
_HEADER_OF_TEXT = 256
"""What the text's own entry takes in the header of a packed reply."""
_MOST_INSTRUCTION = 2**20
_MOST_EXPERIMENT = 2**24
_ANCHOR = re.compile(r"(\d{1,15}) ([0-9a-f]{64})", re.ASCII)
_LARGEST_PARAMETER = 1e30
"""No parameter that a site is asked to train or to evaluate is greater: a step from there stays a float32."""

Float32s = np.ndarray[Any, np.dtype[np.float32]]
Arrays = Mapping[str, np.ndarray[Any, Any]]


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) != len(names):
        raise ValueError("names one twice")
    return names


Windows = Annotated[tuple[WindowName, ...], Field(max_length=1000), AfterValidator(_distinct)]
Features = Annotated[tuple[ColumnName, ...], Field(max_length=1000), AfterValidator(_distinct)]


@with_config(ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
@dataclass(frozen=True, kw_only=True)
class Instruction:
    """What the server asks of a site, beside the model's arrays.

    How many rounds and evaluations a run has, the experiment alone says: with its ε they fix the noise.

    Attributes:
        run: the run's name; with the message type and `step` it names the request,
            so that a site can tell a repeated request from a new one.
        step: the round, counted from 1, or the number of the exchange outside rounds.
        windows: the windows whose rows are used; empty for the whole data set.
        reference_windows: for a drift check, the windows compared against.
        evaluate: whether a training exchange also evaluates the incoming model.
        features: the numeric features whose ranges are asked for, in no order.
        epsilon: what that question may cost; 0 without one.
    """

    run: RunName
    step: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    windows: Windows = ()
    reference_windows: Windows = ()
    evaluate: bool = False
    features: Features = ()
    epsilon: Annotated[float, Field(ge=0, le=1e4)] = 0.0

    def request(self, kind: str) -> str:
        """Names the request by run, message type and step: what a reply says that it answers."""
        return f"{self.run}/{kind}/{self.step}"

    def to_records(self, arrays: Arrays | None = None) -> RecordDict:
        """As Flower records, with the model that the instruction is about."""
        fields: dict[str, Any] = {"instruction": json.dumps(asdict(self)), ARRAYS: pack(arrays or {})}
        return RecordDict({CONFIG: ConfigRecord(fields)})

    @classmethod
    def from_records(cls, records: RecordDict) -> tuple[Instruction, bytes]:
        """Read what `to_records` wrote: the instruction, and the arrays still packed (see `model_arrays`).

        Raises:
            MessageError: it is not an instruction of this program's version, or out of bounds.
        """
        if set(records) != {CONFIG} or not isinstance(records[CONFIG], ConfigRecord):
            raise _no_instruction("other records")
        record = records.config_records[CONFIG]
        text, packed = record.get("instruction"), record.get(ARRAYS)
        if (
            set(record) != {"instruction", ARRAYS}
            or not isinstance(text, str)
            or not isinstance(packed, bytes)
        ):
            raise _no_instruction("other fields")
        if len(text) > _MOST_INSTRUCTION:
            raise _no_instruction(f"{len(text):,} characters")
        try:
            return _instruction_reader().validate_json(text), packed
        except (ValueError, RecursionError) as exc:
            raise _no_instruction(_first(exc)) from exc


@with_config(READ_WHOLE)
@dataclass(frozen=True, kw_only=True)
class Anchor:
    """Where a site's ledger ends: for the server to remember, so that what was spent cannot be unsaid.

    Attributes:
        entries: how many there are.
        head: hash of the last, 64 hexadecimal digits.
    """

    entries: int
    head: str


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
        clipped: in some rounds, the counts of clipped gradients.
        scores: the evaluation of the incoming model; of the champion in a comparison.
        challenger_scores: in a comparison, the evaluation of the challenger.
        comparison: in a comparison, the paired difference.
        drift: the drift check's release.
        reference: the counts of a reference, released once for all checks against it.
        request: the request that it answers, as `Instruction.request` names it, so that a reply
            that comes a second time, or a round late, is not taken for another.
        anchor: where the site's ledger ended when the reply was sent. It travels beside the reply, which is
            sent again byte for byte.
    """

    site: str
    stated_rows: int
    mechanism: str
    spent_in_run: Spent
    spent_in_total: Spent
    private: bool = True
    update: ModelUpdate | None = None
    clipped: ClippedCounts | None = None
    scores: Scores | None = None
    challenger_scores: Scores | None = None
    comparison: Comparison | None = None
    drift: DriftSummary | None = None
    reference: ReferenceCounts | None = None
    ranges: RangeSummary | None = None
    request: str = ""
    anchor: Anchor | None = None

    def releases(self) -> dict[str, object]:
        """The releases that this reply carries, by name."""
        evaluations = ("scores", "challenger_scores", "comparison")
        names = ("update", "clipped", *evaluations, "drift", "reference", "ranges")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def to_records(self) -> RecordDict:
        """As Flower records."""
        return self.records_of(self.to_bytes(), self.anchor)

    @staticmethod
    def records_of(written: bytes, anchor: Anchor | None = None) -> RecordDict:
        """What `to_bytes` wrote as Flower records, and beside it where the site's ledger ends now."""
        fields: dict[str, Any] = {"reply": written}
        if anchor is not None:
            fields["anchor"] = f"{anchor.entries} {anchor.head}"
        return RecordDict({REPLY: ConfigRecord(fields)})

    @classmethod
    def from_records(cls, records: RecordDict, *, most_bytes: int | None = None) -> Reply:
        """Read what `to_records` wrote.

        Args:
            records: the content of a message.
            most_bytes: what the packed arrays may take (see `packed_limit`); longer ones are not read.

        Raises:
            ReleaseError: it is not a reply of this program's version, or is too long.
        """
        try:
            record = records.config_records[REPLY]
            written, anchor = record["reply"], _anchor(record.get("anchor"))
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise _not_understood() from exc
        if not isinstance(written, bytes):
            raise _not_understood()
        if most_bytes is not None and len(written) > most_bytes + MOST_TEXT:
            raise ReleaseError(
                f"update refused: it has {len(written):,} bytes, the model at most {most_bytes:,}"
            )
        return replace(cls.from_bytes(written, most_bytes=most_bytes), anchor=anchor)

    def to_bytes(self) -> bytes:
        """The reply as stored by the ledger."""
        text = np.frombuffer(self._public_json().encode(), dtype=np.uint8)
        return pack({_TEXT: text, **self._arrays()})

    @classmethod
    def from_bytes(cls, written: bytes, *, most_bytes: int | None = None) -> Reply:
        """Read what `to_bytes` wrote.

        Raises:
            ReleaseError: it is not that, or its arrays or its text are too long.
        """
        try:
            arrays = unpack(written)
            text = arrays.pop(_TEXT)
            if text.dtype != np.uint8 or text.ndim != 1:
                raise _not_understood()
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise _not_understood() from exc
        if text.size > MOST_TEXT:
            raise ReleaseError(f"reply refused: it has {text.size:,} characters")
        size = len(written) - text.size
        if most_bytes is not None and size > most_bytes + _HEADER_OF_TEXT:
            raise ReleaseError(f"update refused: it has {size:,} bytes, the model at most {most_bytes:,}")
        return _reply(text.tobytes(), arrays)

    def _arrays(self) -> dict[str, Any]:
        if self.update is None:
            return {}
        return {**self.update.arrays, **{STEPS + name: array for name, array in self.update.steps.items()}}

    def _public_json(self) -> str:
        beside = {"update", "anchor"}
        return json.dumps({key: _plain(value) for key, value in vars(self).items() if key not in beside})


def read_experiment_json(text: object) -> Experiment:
    """The experiment that a run carries.

    Raises:
        MessageError: it is none, or a value is out of bounds.
    """
    if not isinstance(text, str) or len(text) > _MOST_EXPERIMENT:
        raise MessageError("the run carries no experiment")
    try:
        return Experiment.model_validate_json(text, strict=True)
    except (ValueError, RecursionError) as exc:
        raise MessageError(f"the run's experiment is not valid ({_first(exc)})") from exc


def model_arrays(
    packed: bytes, experiment: Experiment, *, prefixes: tuple[str, ...] = ("",)
) -> tuple[dict[str, Float32s], ...]:
    """The parameters of the experiment's model that came with an instruction, once for each prefix.

    Raises:
        MessageError: they have other names, types or shapes than the model's, or are not finite.
    """
    shapes = model_shapes(experiment)
    expected = {prefix + name: shape for prefix in prefixes for name, shape in shapes.items()}
    if len(packed) > packed_limit(expected):
        raise _no_instruction(f"{len(packed):,} bytes of arrays")
    try:
        arrays = unpack(packed)
    except ValueError as exc:
        raise _no_instruction("no arrays") from exc
    if {name: array.shape for name, array in arrays.items()} != expected:
        raise _no_instruction("arrays of another model")
    if not all(array.dtype == np.float32 and _is_bounded(array) for array in arrays.values()):
        raise _no_instruction(f"arrays that are not float32 numbers of at most {_LARGEST_PARAMETER:g}")
    return tuple({name: arrays[prefix + name] for name in shapes} for prefix in prefixes)


def _is_bounded(array: np.ndarray[Any, Any]) -> bool:
    return array.size == 0 or float(np.abs(array).max()) <= _LARGEST_PARAMETER  # false for NaN


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
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value


@functools.cache
def _reader() -> TypeAdapter[Reply]:
    return TypeAdapter(Reply)


@functools.cache
def _instruction_reader() -> TypeAdapter[Instruction]:
    return TypeAdapter(Instruction)


def _reply(text: bytes, arrays: dict[str, Float32s]) -> Reply:
    """Every field checked for its type: what is read may come from anybody."""
    try:
        reply = _reader().validate_json(text, strict=True)
        if reply.update is not None or reply.anchor is not None:
            raise _not_understood()
        return replace(reply, update=_update(arrays) if arrays else None)
    except (TypeError, ValueError, RecursionError) as exc:
        raise _not_understood() from exc


def _anchor(text: object) -> Anchor | None:
    if text is None:
        return None
    found = _ANCHOR.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError("no anchor")
    return Anchor(entries=int(found.group(1)), head=found.group(2))


def _update(arrays: dict[str, Any]) -> ModelUpdate:
    steps = {name.removeprefix(STEPS): array for name, array in arrays.items() if name.startswith(STEPS)}
    levels = {name: array for name, array in arrays.items() if not name.startswith(STEPS)}
    return ModelUpdate(arrays=levels, steps=steps)


def _not_understood() -> ReleaseError:
    return ReleaseError(
        "a site sent a reply that this version does not understand",
        remedy="Run the same Tidegate version on both sides",
    )


def _no_instruction(why: str) -> MessageError:
    return MessageError(
        f"the server sent an instruction that this version does not understand ({why})",
        remedy="Run the same Tidegate version on both sides",
    )


def _first(error: Exception) -> str:
    """Where and what the first fault is, without the value: for the site's own log."""
    if not isinstance(error, ValidationError):
        return type(error).__name__
    fault = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, fault['loc']))[:200]}: {fault['msg'][:200]}"
