"""Sites that do as a test says, on a grid without processes: for what real sites never do."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict

from contract.experiment import Experiment, Label, NumericFeature, Privacy, Strategy, Task
from contract.messages import (
    CHALLENGER,
    COMPARE,
    DRIFT_QUERY,
    RANGES_QUERY,
    REPLY,
    Instruction,
    Reply,
    pack,
    unpack,
)
from contract.range_grid import CELLS, cells_of
from contract.releases import (
    PLAIN_METHOD,
    SCORE_BINS,
    Comparison,
    DriftSummary,
    FeatureCounts,
    ModelUpdate,
    RangeCounts,
    RangeSummary,
    ScoreHistogram,
    Spent,
)
from experiments.runtimes.inline import InlineGrid

__all__ = [
    "Arrays",
    "Behaviour",
    "FakeFederation",
    "Quiet",
    "honest",
    "honest_reply",
    "plan",
    "text_of",
    "written",
]

Arrays = dict[str, np.ndarray[Any, Any]]
Behaviour = Callable[[Reply, Instruction, Arrays], "Reply | RecordDict | str | None"]
"""What a site makes of its honest reply: another, raw records, the word of an error, or nothing, for ever."""

ALWAYS = range(1, 1_000_000)
ROWS = 200
SPENT = Spent(epsilon=math.inf, delta=1e-5, unit="record", method=PLAIN_METHOD, block="all/train")


def plan(*, features: int = 3, private: bool = False, **strategy: Any) -> Experiment:
    """An experiment of a linear model; ten rounds, and no waiting."""
    keys = {"rounds": 10, "learning_rate": 2.0, "grace": 0.05, "round_timeout": 5.0, "average_last": 0.0}
    return Experiment(
        name="fake",
        task=Task(
            label=Label(column="ill"),
            features=tuple(
                NumericFeature(name=f"x{number}", kind="numeric", low=-1, high=1)
                for number in range(features)
            ),
        ),
        strategy=Strategy(**{**keys, **strategy}),
        privacy=Privacy(private=private),
    )


def honest(reply: Reply, instruction: Instruction, model: Arrays) -> Reply:
    """What a site that does as it should sends."""
    del instruction, model
    return reply


class FakeFederation(InlineGrid):
    """Nodes 1, 2, …: each an honest logistic regression on rows of its own, and a way to behave.

    Args:
        sites: how each site behaves, by name; its node is its place.
        online: the exchanges, counted from 1, at which a site is connected; always if it is not named.
    """

    def __init__(self, sites: Mapping[str, Behaviour], online: Mapping[str, range] | None = None) -> None:
        client: Any = self._answer
        super().__init__(client, [Path(name) for name in sites], {})
        self.names = dict(enumerate(sites, start=1))
        self._behaviours = dict(sites)
        self._online = dict(online or {})
        self._silent: set[str] = set()
        self.exchanges = 0

    def get_node_ids(self) -> list[int]:
        """Who is connected in the exchange that comes next."""
        coming = self.exchanges + 1
        return [node for node, name in self.names.items() if coming in self._online.get(name, ALWAYS)]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Count the exchanges."""
        self.exchanges += 1
        return super().push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies, without those of sites that never answer."""
        return super().pull_messages(name for name in message_ids if name not in self._silent)

    def _answer(self, message: Message, context: Context) -> Message:
        instruction, packed = Instruction.from_records(message.content)
        model = unpack(packed)
        name = self.names[context.node_id]
        said = self._behaviours[name](
            _honest(name, context.node_id, instruction, message.metadata.message_type, model),
            instruction,
            model,
        )
        if said is None:
            self._silent.add(message.metadata.message_id)
            said = "failed"
        if isinstance(said, str):
            return Message(Error(code=0, reason=said), reply_to=message)
        return Message(said.to_records() if isinstance(said, Reply) else said, reply_to=message)


def rows_of(node: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A site's rows: features in [-1, 1], and labels that follow one law at all sites."""
    rng = np.random.default_rng(node)
    features = rng.uniform(-1, 1, (ROWS, 3))
    law = features @ np.array([3.0, -2.0, 1.0]) + 0.5
    return features, (rng.random(ROWS) < 1 / (1 + np.exp(-law))).astype(float)


def honest_reply(site: str, *, kind: str, instruction: Instruction, model: Arrays, node: int = 1) -> Reply:
    """What an honest site answers."""
    return _honest(site, node, instruction, kind, model)


_TEXT = "reply.json"


def text_of(reply: Reply) -> dict[str, Any]:
    """The public part of a reply, as it travels."""
    found: dict[str, Any] = json.loads(unpack(reply.to_bytes())[_TEXT].tobytes())
    return found


def written(text: object, arrays: Mapping[str, np.ndarray[Any, Any]] | None = None) -> RecordDict:
    """A reply as records: any text, and any arrays."""
    letters = np.frombuffer(json.dumps(text).encode(), dtype=np.uint8)
    return RecordDict({REPLY: ConfigRecord({"reply": pack({_TEXT: letters, **(arrays or {})})})})


def _honest(name: str, node: int, instruction: Instruction, kind: str, model: Arrays) -> Reply:
    features, labels = rows_of(node)
    request = "ranges/1" if kind == RANGES_QUERY else instruction.request(kind)
    reply = Reply(
        site=name,
        stated_rows=ROWS,
        mechanism="none",
        spent_in_run=SPENT,
        spent_in_total=SPENT,
        private=False,
        request=request,
    )
    if kind == DRIFT_QUERY:
        return replace(reply, drift=_drift(features, labels, instruction))
    if kind == RANGES_QUERY:
        counts = [np.bincount(cells_of(column), minlength=CELLS).astype(float) for column in features.T]
        asked = [counts[int(feature.removeprefix("x"))] for feature in instruction.features]
        ranges = tuple(
            RangeCounts(feature=feature, counts=found)
            for feature, found in zip(instruction.features, asked, strict=True)
        )
        return replace(reply, ranges=RangeSummary(features=ranges, noise_deviation=0.0))
    if kind == COMPARE:
        other = {name.removeprefix(CHALLENGER): value for name, value in model.items() if CHALLENGER in name}
        gains = _losses(features, labels, model) - _losses(features, labels, other)
        return replace(
            reply,
            scores=_scores(features, labels, model),
            challenger_scores=_scores(features, labels, other),
            comparison=Comparison(
                gain=float(np.clip(gains, -1, 1).sum()),
                squares=float((np.clip(gains, -1, 1) ** 2).sum()),
                rows=float(ROWS),
                noise_deviation=0.0,
            ),
        )
    error = _score(features, model) - labels
    update = {
        "layers.0.weight": (model["layers.0.weight"] - 2.0 * (error @ features / ROWS)).astype(np.float32),
        "layers.0.bias": (model["layers.0.bias"] - 2.0 * error.mean()).astype(np.float32),
    }
    return replace(
        reply,
        update=ModelUpdate(arrays=update) if kind == "train" else None,
        scores=_scores(features, labels, model) if instruction.evaluate else None,
    )


def _score(features: np.ndarray[Any, Any], model: Arrays) -> np.ndarray[Any, Any]:
    scores: np.ndarray[Any, Any] = 1 / (
        1 + np.exp(-(features @ model["layers.0.weight"][0] + model["layers.0.bias"][0]))
    )
    return scores


def _losses(
    features: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], model: Arrays
) -> np.ndarray[Any, Any]:
    score = np.clip(_score(features, model), 1e-9, 1 - 1e-9)
    losses: np.ndarray[Any, Any] = -np.log(np.where(labels == 1, score, 1 - score))
    return losses


def _scores(features: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], model: Arrays) -> ScoreHistogram:
    cells = np.minimum((_score(features, model) * SCORE_BINS).astype(int), SCORE_BINS - 1)
    counts = [np.bincount(cells[labels == label], minlength=SCORE_BINS).astype(float) for label in (0, 1)]
    return ScoreHistogram(negative=counts[0], positive=counts[1], noise_deviation=0.0)


def _drift(
    features: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], instruction: Instruction
) -> DriftSummary:
    """Every other row is of the reference; ten bins over [-1, 1], and one for missing values. A label has two
    cells more than classes: for others, and for missing ones."""
    found = []
    for number, column in enumerate(features.T):
        counts = np.histogram(column[::2], 10, (-1, 1))[0], np.histogram(column[1::2], 10, (-1, 1))[0]
        found.append((f"x{number}", *(np.append(count, 0).astype(float) for count in counts)))
    sides = (np.bincount(side.astype(int), minlength=4).astype(float) for side in (labels[::2], labels[1::2]))
    found.append(("ill", *sides))
    return DriftSummary(
        window="+".join(instruction.windows),
        reference_window="+".join(instruction.reference_windows),
        features=tuple(
            FeatureCounts(feature=feature, reference=before, current=after)
            for feature, before, after in found
        ),
        reference_deviation=0.0,
        current_deviation=0.0,
        can_train=True,
    )


def scaled(reply: Reply, model: Arrays, factor: float) -> Reply:
    """The reply with an update that goes `factor` times as far."""
    if reply.update is None:
        return reply
    arrays = {
        name: (model[name] + factor * (value - model[name])).astype(np.float32)
        for name, value in reply.update.arrays.items()
    }
    return replace(reply, update=ModelUpdate(arrays=arrays))


class Quiet:
    """Stands for MLflow in tests of rounds, which do without it."""
