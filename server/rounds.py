"""A federated training run, from its first round to its evaluated model.

    for each round
        1. send the model and the instruction to every connected site
        2. each site evaluates the incoming model (some rounds) and trains it
        3. wait for the quorum; check what came (server/exchange/checks.py); name who is missing
        4. aggregate with Flower's strategy
        5. write the round and the checkpoint in one transaction
    then evaluate the result at every site

A run that was killed goes on from its last checkpoint; sites that already
answered the round give their stored reply, so nothing is charged twice.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from flwr.app import MessageType
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from contract.clipped import ClippedCounts
from contract.experiment import Experiment
from contract.installed_models import needs_of
from contract.messages import Instruction, Reply, arrays_to_record, packed_limit
from contract.models import initial_arrays, model_shapes
from contract.regression import Measured, Scores
from server.exchange.answers import Answers, Patience
from server.exchange.asking import Question, SiteMemory, ask, require
from server.exchange.bounds import ReplySize
from server.exchange.checkpoint import Checkpoint
from server.exchange.checks import check_clipped, check_public, check_scores, check_update
from server.exchange.first_share import begun_anew
from server.exchange.pulls import Pulls
from server.exchange.strategies import aggregate, build_strategy, restore_strategy, strategy_state
from server.exchange.weights import row_weights

__all__ = ["Memory", "RoundReport", "Training", "TrainingResult", "pooled", "pooled_scores", "train"]

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

    def instruction(self, step: int, *, evaluate: bool) -> Instruction:
        """What a site is told in one exchange."""
        return Instruction(
            run=self.run,
            step=step,
            windows=self.windows,
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
    site_metrics: Mapping[str, Measured]
    overall: Measured | None
    epsilon: Mapping[str, float]
    seconds: float
    clipped: Mapping[str, ClippedCounts] = field(default_factory=dict)


class Memory(SiteMemory, Protocol):
    """Where a run is remembered: the state database and the registry behind one face."""

    def load_checkpoint(self, run: str) -> bytes | None:
        """The run's last checkpoint."""
        ...

    def save_round(self, run: str, report: RoundReport, checkpoint: bytes) -> None:
        """Write round and checkpoint in one transaction, then publish the metrics."""
        ...

    def counted(self, run: str) -> dict[str, int]:
        """In how many of the run's rounds each site counted, of all that were asked or should have been."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a run ended with.

    Attributes:
        arrays: the resulting model.
        site_metrics, overall: from the final evaluation.
        replies: each site's last reply since the server began, without its update: what it spent, and how.
        counted: in how many of the rounds each site counted.
        rounds: how many rounds there were.
        failures: who is missing from the final evaluation, and why.
        scores: the final evaluation, by site.
        pulls: where the sites' updates pulled the model.
        share: that of the positive outcome from which training began anew after its first round, if it did.
    """

    arrays: Arrays
    site_metrics: Mapping[str, Measured]
    overall: Measured | None
    replies: Mapping[str, Reply]
    counted: Mapping[str, int]
    rounds: int
    failures: Mapping[str, str] = field(default_factory=dict)
    scores: Mapping[str, Scores] = field(default_factory=dict)
    pulls: Pulls = field(default_factory=Pulls)
    share: float | None = None

    @property
    def complete(self) -> bool:
        """Whether every site that took part, or should have, counted in every round and in the evaluation."""
        return not self.failures and all(times == self.rounds for times in self.counted.values())


def train(training: Training, grid: Grid, memory: Memory, rng: np.random.Generator) -> TrainingResult:
    """Run the rounds that are left, then evaluate the result.

    Raises:
        RoundError: a round did not reach its quorum; the checkpoint stands.
    """
    experiment = training.experiment
    strategy = build_strategy(experiment.strategy)
    checkpoint = _resume(training, memory, strategy, rng)
    last: dict[str, Reply] = {}
    for number in range(checkpoint.round + 1, experiment.strategy.rounds + 1):
        answers = _round(training, number, checkpoint, grid, memory)
        if number == 1 and (anew := _begun_anew(training, checkpoint, answers)):
            strategy, checkpoint = build_strategy(experiment.strategy), anew
        else:
            checkpoint = _aggregate(training, number, checkpoint, strategy, answers)
        memory.save_round(training.run, _report(training, number, answers), checkpoint.to_bytes())
        last |= {site: replace(reply, update=None) for site, reply in answers.replies.items()}
    return _evaluate_result(training, checkpoint, grid, memory, last)


def pooled_scores(scores: Mapping[str, Scores]) -> Scores | None:
    """Counts over the rows of all sites: they are added, and metrics never averaged.

    No site is more than a share of the sum (`server.exchange.weights`).
    """
    weights = row_weights({site: histogram.rows for site, histogram in scores.items()})
    counts = [found.times(weights[site]) for site, found in scores.items()]
    return functools.reduce(operator.add, counts) if counts else None


def pooled(scores: Mapping[str, Scores]) -> Measured | None:
    """Metrics over the rows of all sites, from `pooled_scores`."""
    together = pooled_scores(scores)
    return None if together is None else together.metrics()


def _resume(training: Training, memory: Memory, strategy: FedAvg, rng: np.random.Generator) -> Checkpoint:
    blob = memory.load_checkpoint(training.run)
    if blob is None:
        return Checkpoint(round=0, arrays=training.initial or initial_arrays(training.experiment, rng))
    checkpoint = Checkpoint.from_bytes(blob)
    if checkpoint.round:
        restore_strategy(strategy, checkpoint.strategy, arrays_to_record(checkpoint.arrays))
    return checkpoint


def _round(training: Training, number: int, checkpoint: Checkpoint, grid: Grid, memory: Memory) -> Answers:
    evaluate = training.experiment.strategy.evaluates_in(number)

    counts = training.experiment.counts_clipped_in(number)
    asked = {"update"} | ({"scores"} if evaluate else set()) | ({"clipped"} if counts else set())

    def check(reply: Reply) -> None:
        _check(training, question, memory, reply, asked)
        check_update(reply, training.experiment, checkpoint.arrays)
        if evaluate:
            check_scores(reply, training.experiment)
        if counts:
            check_clipped(reply, training.experiment)

    question = Question(
        kind=MessageType.TRAIN,
        instruction=training.instruction(number, evaluate=evaluate),
        patience=Patience.of(training.experiment.strategy),
        arrays=checkpoint.arrays,
        check=check,
        size=ReplySize(arrays=packed_limit(model_shapes(training.experiment))),
        needs=needs_of(training.experiment.model),
        sites=training.experiment.strategy.sites,
    )
    answers = ask(question, grid, memory)
    require(answers, question)
    return answers


def _check(training: Training, question: Question, memory: Memory, reply: Reply, asked: set[str]) -> None:
    check_public(
        reply,
        training.experiment,
        asked=asked,
        request=question.instruction.request(question.kind),
        stated=memory.stated_rows(training.run),
    )


def _begun_anew(training: Training, checkpoint: Checkpoint, answers: Answers) -> Checkpoint | None:
    """The first round's updates are left out where its counts tell that an outcome is rare."""
    if training.initial is not None:
        return None  # it has learnt how rare an outcome is
    found = begun_anew(training.experiment, checkpoint.arrays, pooled_scores(_scores(answers)))
    if found is None:
        return None
    arrays, share = found
    return Checkpoint(round=1, arrays=arrays, share=share)


def _aggregate(
    training: Training, number: int, checkpoint: Checkpoint, strategy: FedAvg, answers: Answers
) -> Checkpoint:
    arrays = aggregate(strategy, number, checkpoint.arrays, answers.replies)
    rounds = training.experiment.strategy.rounds
    kept = max(1, round(training.experiment.strategy.average_last * rounds))
    averaging = number > rounds - kept
    pulls = Pulls.of_arrays(checkpoint.pulls).with_round(
        number, answers.replies, checkpoint.arrays, training.experiment
    )
    averaged = {
        name: checkpoint.averaged.get(name, 0) + value.astype(np.float64) for name, value in arrays.items()
    }
    return Checkpoint(
        round=number,
        arrays=arrays,
        averaged=averaged if averaging else {},
        averaged_rounds=checkpoint.averaged_rounds + averaging,
        strategy=strategy_state(strategy),
        pulls=pulls.to_arrays(),
        share=checkpoint.share,
    )


def _report(training: Training, number: int, answers: Answers) -> RoundReport:
    scores = _scores(answers)
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
        clipped={site: reply.clipped for site, reply in answers.replies.items() if reply.clipped is not None},
    )


def _evaluate_result(
    training: Training, checkpoint: Checkpoint, grid: Grid, memory: Memory, last: Mapping[str, Reply]
) -> TrainingResult:
    arrays = checkpoint.result()
    rounds = training.experiment.strategy.rounds

    def check(reply: Reply) -> None:
        _check(training, question, memory, reply, {"scores"})
        check_scores(reply, training.experiment)

    question = Question(
        kind=MessageType.EVALUATE,
        instruction=training.instruction(rounds + 1, evaluate=True),
        patience=Patience.of(training.experiment.strategy),
        arrays=arrays,
        check=check,
        needs=needs_of(training.experiment.model),
        sites=training.experiment.strategy.sites,
    )
    answers = ask(question, grid, memory)
    require(answers, question)
    scores = _scores(answers)
    return TrainingResult(
        arrays=arrays,
        site_metrics={site: histogram.metrics() for site, histogram in scores.items()},
        overall=pooled(scores),
        replies={**last, **answers.replies},
        counted=memory.counted(training.run),
        rounds=rounds,
        failures=answers.failures,
        scores=scores,
        pulls=Pulls.of_arrays(checkpoint.pulls),
        share=checkpoint.share,
    )


def _scores(answers: Answers) -> dict[str, Scores]:
    return {site: reply.scores for site, reply in answers.replies.items() if reply.scores is not None}
