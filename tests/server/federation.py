"""Sites that do as a test says, on a grid without processes: for what real sites never do."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context, Error, Message, RecordDict

from contract.experiment import Experiment, Label, NumericFeature, Privacy, Strategy, Task
from contract.messages import Instruction, Reply
from contract.releases import PLAIN_METHOD, SCORE_BINS, ModelUpdate, ScoreHistogram, Spent
from experiments.runtimes.inline import InlineGrid

__all__ = ["Arrays", "Behaviour", "FakeFederation", "Quiet", "honest", "plan"]

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
        instruction, model = Instruction.from_records(message.content)
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


def _honest(name: str, node: int, instruction: Instruction, kind: str, model: Arrays) -> Reply:
    features, labels = rows_of(node)
    score = 1 / (1 + np.exp(-(features @ model["layers.0.weight"][0] + model["layers.0.bias"][0])))
    error = score - labels
    update = {
        "layers.0.weight": (model["layers.0.weight"] - 2.0 * (error @ features / ROWS)).astype(np.float32),
        "layers.0.bias": (model["layers.0.bias"] - 2.0 * error.mean()).astype(np.float32),
    }
    cells = np.minimum((score * SCORE_BINS).astype(int), SCORE_BINS - 1)
    counts = [np.bincount(cells[labels == label], minlength=SCORE_BINS).astype(float) for label in (0, 1)]
    return Reply(
        site=name,
        stated_rows=ROWS,
        mechanism="none",
        spent_in_run=SPENT,
        spent_in_total=SPENT,
        private=False,
        request=instruction.request(kind),
        update=ModelUpdate(arrays=update) if kind == "train" else None,
        scores=ScoreHistogram(negative=counts[0], positive=counts[1], noise_deviation=0.0)
        if instruction.evaluate
        else None,
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
    """Stands for MLflow in tests of rounds; keeps the metrics by step."""

    def __init__(self) -> None:
        self.metrics: dict[int, dict[str, float]] = {}

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], *, step: int) -> None:
        """Keep them."""
        del run_id
        self.metrics.setdefault(step, {}).update(metrics)
