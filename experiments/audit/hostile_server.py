"""A server that means harm: it sends a site whatever it likes, and reads what comes back.

It makes Flower messages of JSON and bytes by hand, and knows of Tidegate how a message is laid out, no
more. The audit attacks with it (`experiments.audit.hostile`), and so do the tests (`tests/adversary`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from safetensors.numpy import load, save

from clients.app import app
from clients.mandates import AUTHORITY
from contract.errors import SilentError
from server.line.flower import assume_identity

__all__ = [
    "CARD_COLUMNS",
    "COMPARE",
    "DRIFT",
    "EVALUATE",
    "KINDS",
    "RANGES",
    "SILENT",
    "TRAIN",
    "Answer",
    "HostileServer",
    "answer",
    "base_experiment",
    "instruction_for",
    "models_for",
    "packed",
    "zero_model",
]

TRAIN, EVALUATE, COMPARE = "train", "evaluate", "evaluate.compare"
DRIFT, RANGES = "query.drift", "query.ranges"
KINDS = (TRAIN, EVALUATE, COMPARE, DRIFT, RANGES)

Json = dict[str, Any]
Arrays = Mapping[str, np.ndarray[Any, Any]]

SILENT = "no answer"

CARD_COLUMNS = """\
[[card.columns]]
name = "level"
kind = "numeric"
low = 0.0
high = 100.0
[[card.columns]]
name = "ward"
kind = "categorical"
categories = ["a", "b", "c"]
[[card.columns]]
name = "ill"
kind = "categorical"
categories = ["0", "1"]
"""
"""What the card of a site must offer for `base_experiment`."""

_NOISY = frozenset(
    {"negative", "positive", "gain", "squares", "rows", "reference", "current", "counts", "cut", "kept"}
)
"""The numbers of a reply that carry noise: what they are may differ, how many there are may not."""
_CHAINED = frozenset({"anchor", "head", "signature"})
"""Hashes over what was released before: they differ as the noise does."""


@dataclass(frozen=True)
class Answer:
    """What a site let out.

    Attributes:
        word: of a refusal; empty for a reply.
        reply: the public part of a reply.
        arrays: the packed part.
        written: both, byte for byte.
    """

    word: str = ""
    reply: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    written: bytes = b""

    @property
    def refused(self) -> bool:
        """Whether nothing but a word came."""
        return bool(self.word)

    @property
    def outcome(self) -> object:
        """All of it but the noisy numbers, of which there is only how many: no row may change this."""
        shapes = [(name, array.shape, str(array.dtype)) for name, array in self.arrays.items()]
        return (self.word, _without_noise(self.reply), shapes)


def _without_noise(value: Any, key: str = "") -> Any:
    if key in _CHAINED:
        return "…"
    if key in _NOISY:
        return len(value) if isinstance(value, list) else type(value).__name__
    if isinstance(value, dict):
        return {name: _without_noise(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_noise(item) for item in value]
    return value


def packed(arrays: Arrays) -> bytes:
    """Arrays as they travel: a safetensors file whose names begin with their place."""
    placed = {
        f"{place:06}/{name}": np.asarray(array, order="C")
        for place, (name, array) in enumerate(arrays.items())
    }
    return save(placed) if placed else b""


def zero_model() -> dict[str, np.ndarray[Any, Any]]:
    """A linear model of the sites' four inputs that gives every row the score of one half."""
    return {
        "layers.0.weight": np.zeros((1, 4), np.float32),
        "layers.0.bias": np.zeros(1, np.float32),
    }


def two_zero_models() -> dict[str, np.ndarray[Any, Any]]:
    """A champion and a challenger."""
    model = zero_model()
    return {**model, **{f"challenger/{name}": value for name, value in model.items()}}


def models_for(kind: str) -> dict[str, np.ndarray[Any, Any]]:
    """What goes with an honest message of that kind."""
    if kind in (DRIFT, RANGES):
        return {}
    return two_zero_models() if kind == COMPARE else zero_model()


def instruction_for(kind: str, run: str = "r", step: int = 1, **more: Any) -> dict[str, Any]:
    """A valid instruction of that kind, with more fields or other values."""
    fields: dict[str, Any] = {"run": run, "step": step, "windows": ["w1"], "reference_windows": []}
    fields |= {"evaluate": False, "features": [], "epsilon": 0.0}
    if kind == DRIFT:
        fields |= {"windows": ["w2"], "reference_windows": ["w1"]}
    if kind == RANGES:
        fields |= {"features": ["level"], "epsilon": 1.0}
    return {**fields, **more}


def base_experiment() -> Json:
    """A valid experiment on the sites here, as JSON says it."""
    level = {"name": "level", "kind": "numeric", "low": 0.0, "high": 100.0}
    ward = {"name": "ward", "kind": "categorical", "categories": ["a", "b", "c"]}
    return {
        "name": "hostile",
        "task": {"label": {"column": "ill"}, "features": [level, ward], "time": "window"},
        "strategy": {"rounds": 1, "evaluate_every": 1},
        "privacy": {"epsilon": 1.0, "delta": 1e-5, "evaluation_epsilon": 1.0},
    }


def answer(message: Message, context: Context) -> Message:
    """The real ClientApp's; an error of its own where the site gives none."""
    try:
        return app(message, context)
    except SilentError:
        return Message(Error(code=0, reason=SILENT), reply_to=message)


class HostileServer:
    """Speaks to one site.

    Args:
        site: its site.toml.
        said: what the site's agent says of the server's authority; None where no agent of ours is between.
    """

    def __init__(self, site: Path, said: str | None = None) -> None:
        self.site, self.said = site, said
        self._asked = 0
        assume_identity(1)

    def ask(
        self,
        kind: str,
        instruction: object = None,
        *,
        experiment: object = None,
        arrays: Arrays | bytes | None = None,
        mandate: str = "",
    ) -> Answer:
        """Send one message of hand-made JSON.

        Args:
            kind: the message's type.
            instruction: becomes JSON, whatever it is; a text is sent as it is. None for a valid one.
            experiment: the same, of the run that it belongs to.
            arrays: the model; bytes are sent as they are. None for what goes with the kind.
            mandate: that comes with it; empty for none.
        """
        said = instruction_for(kind) if instruction is None else instruction
        model = models_for(kind) if arrays is None else arrays
        fields: dict[str, Any] = {
            "instruction": said if isinstance(said, str) else json.dumps(said),
            "arrays": model if isinstance(model, bytes) else packed(model),
        }
        content = RecordDict({"config": ConfigRecord(fields)})
        return self.send(kind, content, experiment=experiment, mandate=mandate)

    def send(
        self,
        kind: str,
        records: RecordDict,
        *,
        experiment: object = None,
        run_config: dict[str, Any] | None = None,
        group: str = "hostile",
        mandate: str = "",
    ) -> Answer:
        """Send these records; `group` is what the message calls itself to people."""
        self._asked += 1
        plan = base_experiment() if experiment is None else experiment
        text = plan if isinstance(plan, str) else json.dumps(plan)
        message = Message(records, dst_node_id=1, message_type=kind, group_id=group)
        message.metadata.__dict__["_message_id"] = f"message-{self._asked}"
        node: dict[str, Any] = {"site": str(self.site)}
        context = Context(
            run_id=1,
            node_id=1,
            node_config=node | ({} if self.said is None else {AUTHORITY: self.said}),
            state=RecordDict(),
            run_config={"experiment": text, "mandate": mandate} if run_config is None else run_config,
        )
        return _read(answer(message, context))


def _read(message: Message) -> Answer:
    """What is in a site's message."""
    if message.has_error():
        return Answer(word=message.error.reason or "(no word)")
    written = message.content.config_records["reply"]["reply"]
    assert isinstance(written, bytes)  # the gate gives bytes  # noqa: S101
    arrays = {name.partition("/")[2]: array for name, array in sorted(load(written).items())}
    reply = json.loads(arrays.pop("reply.json").tobytes())
    return Answer(reply=reply, arrays=arrays, written=written)
