"""A server that means harm: it sends a site whatever it likes, and reads what comes back.

It makes Flower messages of JSON and bytes by hand, and knows of Tidegate how a message is laid out,
no more. As a program it asks one question and prints what the site let out:

    python -m tests.adversary.hostile_server SITE.TOML KIND EXPERIMENT.json INSTRUCTION.json [TIMES]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from safetensors.numpy import load, save

from tests.adversary import wire

__all__ = ["COMPARE", "DRIFT", "EVALUATE", "KINDS", "RANGES", "TRAIN", "Answer", "HostileServer", "packed"]

TRAIN, EVALUATE, COMPARE = "train", "evaluate", "evaluate.compare"
DRIFT, RANGES = "query.drift", "query.ranges"
KINDS = (TRAIN, EVALUATE, COMPARE, DRIFT, RANGES)

Arrays = Mapping[str, np.ndarray[Any, Any]]

_NOISY = frozenset({"negative", "positive", "gain", "rows", "reference", "current", "counts"})
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
    """

    word: str = ""
    reply: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)

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


class HostileServer:
    """Speaks to one site.

    Args:
        site: its site.toml.
    """

    def __init__(self, site: Path) -> None:
        self.site = site
        self._asked = 0
        wire.assume_identity()

    def ask(
        self,
        kind: str,
        instruction: object = None,
        *,
        experiment: object = None,
        arrays: Arrays | bytes | None = None,
    ) -> Answer:
        """Send one message of hand-made JSON.

        Args:
            kind: the message's type.
            instruction: becomes JSON, whatever it is; a text is sent as it is. None for a valid one.
            experiment: the same, of the run that it belongs to.
            arrays: the model; bytes are sent as they are. None for what goes with the kind.
        """
        said = instruction_for(kind) if instruction is None else instruction
        model = models_for(kind) if arrays is None else arrays
        fields: dict[str, Any] = {
            "instruction": said if isinstance(said, str) else json.dumps(said),
            "arrays": model if isinstance(model, bytes) else packed(model),
        }
        return self.send(kind, RecordDict({"config": ConfigRecord(fields)}), experiment=experiment)

    def send(
        self,
        kind: str,
        records: RecordDict,
        *,
        experiment: object = None,
        run_config: dict[str, Any] | None = None,
    ) -> Answer:
        """Send these records."""
        self._asked += 1
        plan = wire.base_experiment() if experiment is None else experiment
        text = plan if isinstance(plan, str) else json.dumps(plan)
        message = Message(records, dst_node_id=1, message_type=kind, group_id="hostile")
        message.metadata.__dict__["_message_id"] = f"message-{self._asked}"
        context = Context(
            run_id=1,
            node_id=1,
            node_config={"site": str(self.site)},
            state=RecordDict(),
            run_config={"experiment": text} if run_config is None else run_config,
        )
        return read(wire.answer(message, context))


def read(message: Message) -> Answer:
    """What is in a site's message."""
    if message.has_error():
        return Answer(word=message.error.reason or "(no word)")
    written = message.content.config_records["reply"]["reply"]
    assert isinstance(written, bytes)
    arrays = {name.partition("/")[2]: array for name, array in sorted(load(written).items())}
    return Answer(reply=json.loads(arrays.pop("reply.json").tobytes()), arrays=arrays)


def main() -> None:
    site, kind, experiment, instruction, *times = sys.argv[1:]
    server = HostileServer(Path(site))
    asked = json.loads(Path(instruction).read_text())
    for step in range(int(times[0]) if times else 1):
        found = server.ask(kind, {**asked, "step": step + 1}, experiment=Path(experiment).read_text())
        print(json.dumps({"word": found.word, "reply": found.reply}), flush=True)
    sys.stdin.read()  # whoever started this decides how it ends


if __name__ == "__main__":
    main()
