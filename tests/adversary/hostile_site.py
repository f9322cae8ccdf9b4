"""Sites that mean harm, or are honest, and speak raw records to the real server.

A site is a function from the question it was asked to the records that it sends. The honest ones make
their replies of JSON and bytes by hand, so that what a hostile one changes is what is on the line. As a
program it prints the reply of an honest site to a question, to be changed and sent by whoever likes:

    python -m tests.adversary.hostile_site KIND EXPERIMENT.json INSTRUCTION.json
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from google.protobuf.message import DecodeError
from safetensors.numpy import load

from experiments.audit.hostile_server import DRIFT, TRAIN, packed
from tests.adversary import wire

__all__ = ["ROWS", "HostileGrid", "Question", "drift_reply", "honest", "records", "undecodable"]

Json = dict[str, Any]
Behaviour = Callable[["Question"], "RecordDict | str | None"]
"""What a site sends: records, a word of refusal, or nothing that can be read (None)."""

ROWS = 200


@dataclass(frozen=True)
class Question:
    """What a site was asked, and by what name it is known."""

    site: str
    node: int
    kind: str
    instruction: Json
    model: dict[str, np.ndarray[Any, Any]]

    @property
    def request(self) -> str:
        """As a reply says what it answers."""
        return f"{self.instruction['run']}/{self.kind}/{self.instruction['step']}"


class HostileGrid(Grid):
    """Flower's grid over sites in this process.

    Args:
        sites: how each behaves, by name; its node is its place, counted from 1.
    """

    def __init__(self, sites: Mapping[str, Behaviour]) -> None:
        self.names = dict(enumerate(sites, start=1))
        self._sites = list(sites.values())
        self._waiting: dict[str, Message | None] = {}
        self._sent = 0

    def set_run(self, run: Any) -> None:
        """There is one run only."""

    @property
    def run(self) -> Run:
        """A description of the run, empty but for its id."""
        return Run.create_empty(1)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Every site's node."""
        return list(self.names)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Have each message answered."""
        ids = []
        for message in messages:
            self._sent += 1
            name = f"m{self._sent}"
            message.metadata.__dict__["_message_id"] = name
            self._waiting[name] = self._answer(message)
            ids.append(name)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies; a body that is none raises, as Flower does when it takes one apart."""
        found = [(name, self._waiting[name]) for name in message_ids if name in self._waiting]
        if any(message is None for _, message in found):
            raise DecodeError("Error parsing message")
        for name, _ in found:
            del self._waiting[name]
        return [message for _, message in found if message is not None]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Push and pull at once."""
        del timeout
        return self.pull_messages(self.push_messages(messages))

    def _answer(self, message: Message) -> Message | None:
        node = message.metadata.dst_node_id
        fields = message.content.config_records["config"]
        content = fields["arrays"]
        assert isinstance(content, bytes)
        model = (
            {name.partition("/")[2]: array for name, array in sorted(load(content).items())}
            if content
            else {}
        )
        question = Question(
            site=self.names[node],
            node=node,
            kind=message.metadata.message_type,
            instruction=json.loads(str(fields["instruction"])),
            model=model,
        )
        said = self._sites[node - 1](question)
        if isinstance(said, str):
            return Message(Error(code=0, reason=said), reply_to=message)
        return None if said is None else Message(said, reply_to=message)


def records(reply: Json, arrays: Mapping[str, np.ndarray[Any, Any]] | bytes = b"") -> RecordDict:
    """A reply as it travels; bytes stand in the place of all of it."""
    if isinstance(arrays, bytes) and arrays:
        return RecordDict({"reply": ConfigRecord({"reply": arrays})})
    text = _bytes(json.dumps(reply))
    whole = {"reply.json": text, **(arrays if not isinstance(arrays, bytes) else {})}
    return RecordDict({"reply": ConfigRecord({"reply": packed(whole)})})


def _bytes(text: str) -> np.ndarray[Any, Any]:
    return np.frombuffer(text.encode(), dtype=np.uint8)


def public(question: Question, **more: Any) -> Json:
    """What every reply says: a run that is not private, whose releases are exact."""
    spent = {
        "epsilon": math.inf,
        "delta": 1e-5,
        "unit": "record",
        "method": "not private",
        "block": "all/train",
    }
    said = {
        "site": question.site,
        "stated_rows": ROWS,
        "mechanism": "none",
        "spent_in_run": spent,
        "spent_in_total": spent,
        "private": False,
        "request": question.request,
    }
    return {**said, **more}


def scores(count: float = 5.0) -> Json:
    """A score histogram of 200 rows."""
    return {"negative": [count] * 20, "positive": [count] * 20, "noise_deviation": 0.0, "binary": True}


def honest(question: Question, **more: Any) -> RecordDict:
    """What an honest site sends: the model that it was given, no better; or counts without drift."""
    if question.kind == DRIFT:
        return drift_reply(question, **more)
    said = public(question, scores=scores() if question.instruction.get("evaluate") else None, **more)
    if question.kind == TRAIN:
        return records(said, question.model)
    return records({**said, "scores": scores()})


BASE = [10.0, 12.0, 9.0, 11.0, 8.0, 10.0, 10.0, 10.0, 11.0, 9.0]
"""Rows of a window by level, in ten bins."""
TURNED = [0.0, 0.0, 0.0, 0.0, 0.0, 2.0, 8.0, 20.0, 30.0, 40.0]


def drift_counts(current: list[float] = BASE, **more: Any) -> Json:
    """Exact counts of `level`, `ward` and `ill` over their public bins; those that are not given are 0."""
    rows = {"level": (BASE, current), "ward": ([34.0, 33.0, 33.0],) * 2, "ill": ([60.0, 40.0],) * 2}
    features = [
        {"feature": name, **{key: found + [0.0] * (cells - len(found)) for key, found in _pair(*rows[name])}}
        for name, cells in wire.drift_cells(wire.base_experiment()).items()
    ]
    said = {
        "window": "w2",
        "reference_window": "w1",
        "features": features,
        "reference_deviation": 0.0,
        "current_deviation": 0.0,
        "can_train": True,
    }
    return {**said, **more}


def _pair(reference: list[float], current: list[float]) -> list[tuple[str, list[float]]]:
    return [("reference", reference), ("current", current)]


def drift_reply(question: Question, counts: Json | None = None, **more: Any) -> RecordDict:
    """An honest site's answer to a drift check: nothing has changed there."""
    return records(public(question, drift=drift_counts() if counts is None else counts, **more))


def undecodable(question: Question) -> None:
    """A reply whose body is no protobuf."""
    del question


def main() -> None:
    kind, experiment, instruction = sys.argv[1:]
    shapes = wire.model_shapes(json.loads(Path(experiment).read_text()))
    model = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    question = Question("north", 1, kind, json.loads(Path(instruction).read_text()), model)
    for name, value in honest(question).config_records["reply"].items():
        print(f"{name}: {value!r}")


if __name__ == "__main__":
    main()
