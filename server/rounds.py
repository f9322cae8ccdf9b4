"""A federated training run, from its first round to its evaluated model.

    for each round
        1. send the model and the instruction to every connected site
        2. each site evaluates the incoming model (some rounds) and trains it
        3. wait for the quorum; check what came; name who is missing
        4. aggregate with Flower's strategy
        5. write the round and the checkpoint in one transaction
    then evaluate the result at every site

A run that was killed goes on from its last checkpoint; sites that already
answered the round give their stored reply, so nothing is charged twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from contract.errors import ReleaseError, RoundError
from contract.experiment import Experiment
from contract.messages import (
    ARRAYS,
    METRICS,
    WEIGHT,
    Instruction,
    Reply,
    arrays_from_record,
    arrays_to_record,
)
from contract.models import initial_arrays, parameter_shapes
from contract.releases import Metrics, ScoreHistogram
from server.checkpoint import Checkpoint
from server.exchange import Answers, Patience, connected_sites, exchange, instruct
from server.strategies import build_strategy, restore_strategy, strategy_state

__all__ = ["Memory", "RoundReport", "Training", "TrainingResult", "pooled", "train"]

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training run.

    Attributes:
        run: its unique name.
        experiment: the plan.
        windows: whose rows are trained on; empty for all.
        initial: the model to start from; None for a fresh one.
    """

    run: str
    experiment: Experiment
    windows: tuple[str, ...] = ()
    initial: Arrays | None = None

    @property
    def patience(self) -> Patience:
        """What the experiment says of waiting."""
        strategy = self.experiment.strategy
        return Patience(quorum=strategy.quorum, deadline=strategy.round_timeout, grace=strategy.grace)

    @property
    def evaluations(self) -> int:
        """How many times each held-out row is used: some rounds and the result."""
        strategy = self.experiment.strategy
        return len(range(1, strategy.rounds + 1, strategy.evaluate_every)) + 1

    def instruction(self, step: int, *, evaluate: bool) -> Instruction:
        """What a site is told in one exchange."""
        return Instruction(
            run=self.run,
            step=step,
            windows=self.windows,
            rounds=self.experiment.strategy.rounds,
            evaluations=self.evaluations,
            evaluate=evaluate,
        )


@dataclass(frozen=True, kw_only=True)
class RoundReport:
    """What one round did, as it is recorded and shown."""

    round: int
    of: int
    asked: tuple[str, ...]
    counted: tuple[str, ...]
    failures: Mapping[str, str]
    site_metrics: Mapping[str, Metrics]
    overall: Metrics | None
    epsilon: Mapping[str, float]
    seconds: float


class Memory(Protocol):
    """Where a run is remembered: the state database and the registry behind one face."""

    def load_checkpoint(self, run: str) -> bytes | None:
        """The run's last checkpoint."""
        ...

    def save_round(self, run: str, report: RoundReport, checkpoint: bytes) -> None:
        """Write round and checkpoint in one transaction, then publish the metrics."""
        ...

    def site_names(self) -> dict[int, str]:
        """The name of each node that was heard of."""
        ...

    def record_answers(self, answers: Answers) -> None:
        """Remember which site answered from which node."""
        ...

    def counted(self, run: str) -> dict[str, int]:
        """In how many of the run's rounds each site counted, of those that were asked."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a run ended with.

    Attributes:
        arrays: the resulting model.
        site_metrics, overall: from the final evaluation.
        replies: each site's last reply: what it spent, and how.
        counted: in how many of the rounds each site counted.
        rounds: how many rounds there were.
        failures: who is missing from the final evaluation, and why.
    """

    arrays: Arrays
    site_metrics: Mapping[str, Metrics]
    overall: Metrics | None
    replies: Mapping[str, Reply]
    counted: Mapping[str, int]
    rounds: int
    failures: Mapping[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every site that took part counted in every round and in the evaluation."""
        return not self.failures and all(times == self.rounds for times in self.counted.values())


def train(training: Training, grid: Grid, memory: Memory, rng: np.random.Generator) -> TrainingResult:
    """Run the rounds that are left, then evaluate the result.

    Raises:
        RoundError: a round did not reach its quorum; the checkpoint stands.
    """
    experiment = training.experiment
    strategy = build_strategy(experiment.strategy)
    checkpoint = _resume(training, memory, strategy, rng)
    for number in range(checkpoint.round + 1, experiment.strategy.rounds + 1):
        answers = _round(training, number, checkpoint, strategy, grid, memory)
        answers.require(experiment.strategy.quorum, f"round {number} of run '{training.run}'")
        checkpoint = _aggregate(training, number, checkpoint, strategy, answers)
        memory.save_round(training.run, _report(training, number, answers), checkpoint.to_bytes())
    return _evaluate_result(training, checkpoint, grid, memory)


def pooled(scores: Mapping[str, ScoreHistogram]) -> Metrics | None:
    """Metrics over the rows of all sites: counts are added, metrics never averaged."""
    histograms = list(scores.values())
    if not histograms:
        return None
    total = histograms[0]
    for histogram in histograms[1:]:
        total = total + histogram
    return total.metrics()


def _send(
    training: Training, grid: Grid, memory: Memory, messages: list[Message], *, updates: bool
) -> Answers:
    """One exchange, whose updates must fit the model; who answered is remembered."""

    def check(reply: Reply) -> None:
        if updates:
            _check_update(reply, training)

    answers = exchange(grid, messages, names=memory.site_names(), patience=training.patience, check=check)
    memory.record_answers(answers)
    return answers


def _resume(training: Training, memory: Memory, strategy: FedAvg, rng: np.random.Generator) -> Checkpoint:
    blob = memory.load_checkpoint(training.run)
    if blob is None:
        return Checkpoint(round=0, arrays=training.initial or initial_arrays(training.experiment, rng))
    checkpoint = Checkpoint.from_bytes(blob)
    if checkpoint.round:
        restore_strategy(strategy, checkpoint.strategy, arrays_to_record(checkpoint.arrays))
    return checkpoint


def _round(
    training: Training, number: int, checkpoint: Checkpoint, strategy: FedAvg, grid: Grid, memory: Memory
) -> Answers:
    connected_sites(grid, training.patience)
    every = training.experiment.strategy.evaluate_every
    instruction = training.instruction(number, evaluate=(number - 1) % every == 0)
    planned = strategy.configure_train(number, arrays_to_record(checkpoint.arrays), ConfigRecord(), grid)
    nodes = sorted(message.metadata.dst_node_id for message in planned)
    messages = instruct(nodes, MessageType.TRAIN, instruction, checkpoint.arrays)
    return _send(training, grid, memory, messages, updates=True)


def _aggregate(
    training: Training, number: int, checkpoint: Checkpoint, strategy: FedAvg, answers: Answers
) -> Checkpoint:
    """Hand the updates to Flower's strategy in the order of the sites' names, so that sums are repeatable."""
    updates = [_update_message(reply) for _, reply in sorted(answers.replies.items())]
    record, _ = strategy.aggregate_train(number, updates)
    if record is None:
        raise RoundError(f"round {number} gave nothing to aggregate")
    arrays = arrays_from_record(ArrayRecord(dict(record.items())))
    rounds = training.experiment.strategy.rounds
    kept = max(1, round(training.experiment.strategy.average_last * rounds))
    averaging = number > rounds - kept
    averaged = {
        name: checkpoint.averaged.get(name, 0) + value.astype(np.float64) for name, value in arrays.items()
    }
    return Checkpoint(
        round=number,
        arrays=arrays,
        averaged=averaged if averaging else {},
        averaged_rounds=checkpoint.averaged_rounds + averaging,
        strategy=strategy_state(strategy),
    )


def _update_message(reply: Reply) -> Message:
    assert reply.update is not None  # _check_update has looked  # noqa: S101
    content = RecordDict(
        {ARRAYS: arrays_to_record(reply.update.arrays), METRICS: MetricRecord({WEIGHT: reply.stated_rows})}
    )
    return Message(content=content, dst_node_id=1, message_type=MessageType.TRAIN)


def _check_update(reply: Reply, training: Training) -> None:
    """Refuse an update that does not fit the model, before it is aggregated."""
    if reply.update is None:
        raise ReleaseError("no update")
    task = training.experiment.task
    shapes = parameter_shapes(training.experiment.model, inputs=task.width, classes=len(task.label.classes))
    found = {name: array.shape for name, array in reply.update.arrays.items()}
    if found != shapes:
        raise ReleaseError("update of the wrong shape")
    if not all(np.isfinite(array).all() for array in reply.update.arrays.values()):
        raise ReleaseError("update that is not finite")
    if reply.stated_rows < 1:
        raise ReleaseError(f"no {WEIGHT}")


def _report(training: Training, number: int, answers: Answers) -> RoundReport:
    scores = {site: reply.scores for site, reply in answers.replies.items() if reply.scores is not None}
    return RoundReport(
        round=number,
        of=training.experiment.strategy.rounds,
        asked=answers.asked,
        counted=tuple(answers.replies),
        failures=answers.failures,
        site_metrics={site: histogram.metrics() for site, histogram in scores.items()},
        overall=pooled(scores),
        epsilon={site: reply.spent_in_run.epsilon for site, reply in answers.replies.items()},
        seconds=answers.seconds,
    )


def _evaluate_result(
    training: Training, checkpoint: Checkpoint, grid: Grid, memory: Memory
) -> TrainingResult:
    arrays = checkpoint.result()
    rounds = training.experiment.strategy.rounds
    nodes = connected_sites(grid, training.patience)
    instruction = training.instruction(rounds + 1, evaluate=True)
    messages = instruct(nodes, MessageType.EVALUATE, instruction, arrays)
    answers = _send(training, grid, memory, messages, updates=False)
    answers.require(training.experiment.strategy.quorum, f"the evaluation of run '{training.run}'")
    scores = {site: reply.scores for site, reply in answers.replies.items() if reply.scores is not None}
    return TrainingResult(
        arrays=arrays,
        site_metrics={site: histogram.metrics() for site, histogram in scores.items()},
        overall=pooled(scores),
        replies=answers.replies,
        counted=memory.counted(training.run),
        rounds=rounds,
        failures=answers.failures,
    )
