"""A site's part of every exchange, from the message to the reply.

    1. read the instruction, and the experiment that the run carries
    2. take the rows of the windows that it names
    3. state the plans: which mechanism, on which blocks, how often
    4. the gate charges the ledger, runs the mechanism, checks and releases
    5. the reply goes out; a refusal goes out as one word

Five messages are understood: `train`, `evaluate`, `evaluate.compare`,
`query.drift` and `query.ranges`. Nothing else is, and nothing here makes a reply: the gate does.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from clients.gate import Releases
from clients.ledger.chain import Plan
from clients.ledger.plans import (
    compare_plan,
    drift_plan,
    evaluate_plan,
    ranges_plan,
    reference_plan,
    train_plan,
)
from clients.mechanisms.noise import NoNoise, NormalSource, SystemNoise
from clients.rows.table import require_two_classes
from clients.site import Site, open_site
from contract.errors import RefusalCode, SiteConfigError, TidegateError
from contract.experiment import Experiment
from contract.messages import CHALLENGER, Instruction, Reply

if TYPE_CHECKING:
    import pandas as pd

    from contract.releases import Array

__all__ = ["app", "warm_up"]

_log = logging.getLogger("tidegate.site")

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Evaluate the incoming model if asked to, then train it."""
    return _answer(message, context, _train)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the incoming model on held-out rows."""
    return _answer(message, context, _evaluate)


@app.evaluate("compare")
def compare(message: Message, context: Context) -> Message:
    """Compare a challenger with the champion on the same held-out rows."""
    return _answer(message, context, _compare)


@app.query("drift")
def drift(message: Message, context: Context) -> Message:
    """Write the drift report, which stays here, and release noisy counts."""
    return _answer(message, context, _drift)


@app.query("ranges")
def ranges(message: Message, context: Context) -> Message:
    """Release noisy counts of features whose range nobody knows in public."""
    return _answer(message, context, _ranges)


def warm_up() -> None:
    """Import what the first message would wait for: seconds of it."""
    import pandas  # noqa: F401
    import pyarrow  # noqa: F401

    import clients.mechanisms.evaluation
    import clients.mechanisms.training  # noqa: F401


class _Exchange:
    """One message, read: the site, the experiment, the instruction and the noise."""

    def __init__(self, message: Message, context: Context) -> None:
        self.site: Site = open_site(_site_file(context))
        self.experiment = Experiment.model_validate_json(str(context.run_config["experiment"]))
        self.instruction, self.arrays = Instruction.from_records(message.content)
        self.request = self.instruction.request(message.metadata.message_type)
        self.split = self.site.split(self.experiment.task)
        self.private = self.experiment.privacy.private
        self.noise: NormalSource = SystemNoise() if self.private else NoNoise()

    def release(self, plans: list[Plan], compute: Callable[[], Releases]) -> Reply:
        return self.site.gate.release(self.request, self.experiment, plans, compute)

    def rng(self) -> np.random.Generator:
        """Of a run that is not private: repeatable from seed, step and site."""
        seed = self.experiment.privacy.seed or 0
        return np.random.default_rng(
            [seed, self.instruction.step, zlib.crc32(self.site.config.name.encode())]
        )


def _train(exchange: _Exchange) -> Reply:
    from clients.mechanisms.evaluation import evaluate as evaluate_scores
    from clients.mechanisms.training import LocalSteps, train_locally, train_without_privacy

    experiment, instruction = exchange.experiment, exchange.instruction
    rows = exchange.site.table(experiment, instruction.windows, holdout=False)
    if experiment.task.label.one_class == "refuse":
        require_two_classes(rows)
    plan = train_plan(experiment, instruction, exchange.split)
    plans = [plan]
    if instruction.evaluate:
        held_out = exchange.site.table(experiment, instruction.windows, holdout=True)
        evaluation = evaluate_plan(experiment, instruction, exchange.split)
        plans.append(evaluation)

    def compute() -> Releases:
        scores = None
        if instruction.evaluate:
            deviation = evaluation.noise_multiplier * experiment.privacy.rows_per_person
            scores = evaluate_scores(
                exchange.arrays, held_out, experiment, noise_multiplier=deviation, noise=exchange.noise
            )
        if not exchange.private:
            update = train_without_privacy(exchange.arrays, rows, experiment, exchange.rng())
        else:
            steps = LocalSteps(
                experiment=experiment,
                stated_rows=exchange.site.config.stated_rows,
                noise_multiplier=plan.noise_multiplier,
            )
            update = train_locally(exchange.arrays, rows, steps, exchange.noise)
        return Releases(update=update, began_from=exchange.arrays, scores=scores)

    return exchange.release(plans, compute)


def _evaluate(exchange: _Exchange) -> Reply:
    from clients.mechanisms.evaluation import evaluate as evaluate_scores

    experiment, instruction = exchange.experiment, exchange.instruction
    held_out = exchange.site.table(experiment, instruction.windows, holdout=True)
    plan = evaluate_plan(experiment, instruction, exchange.split)
    deviation = plan.noise_multiplier * experiment.privacy.rows_per_person

    def compute() -> Releases:
        return Releases(
            scores=evaluate_scores(
                exchange.arrays, held_out, experiment, noise_multiplier=deviation, noise=exchange.noise
            )
        )

    return exchange.release([plan], compute)


def _compare(exchange: _Exchange) -> Reply:
    from clients.mechanisms.evaluation import compare as compare_models

    experiment, instruction = exchange.experiment, exchange.instruction
    held_out = exchange.site.table(experiment, instruction.windows, holdout=True)
    plan = compare_plan(experiment, instruction, exchange.split)
    champion = {name: array for name, array in exchange.arrays.items() if not name.startswith(CHALLENGER)}
    challenger = {
        name.removeprefix(CHALLENGER): array
        for name, array in exchange.arrays.items()
        if name.startswith(CHALLENGER)
    }

    def compute() -> Releases:
        deviation = plan.noise_multiplier * experiment.privacy.rows_per_person
        scores, challenger_scores, comparison = compare_models(
            champion, challenger, held_out, experiment, noise_multiplier=deviation, noise=exchange.noise
        )
        return Releases(scores=scores, challenger_scores=challenger_scores, comparison=comparison)

    return exchange.release([plan], compute)


def _drift(exchange: _Exchange) -> Reply:
    from clients.mechanisms.drift import drift_deviation, noisy_counts, summarise, write_local_report

    experiment, instruction, site = exchange.experiment, exchange.instruction, exchange.site
    reference_frame = site.frame(experiment, instruction.reference_windows)
    current_frame = site.frame(experiment, instruction.windows)
    plan = drift_plan(experiment, instruction, exchange.split)
    deviation = drift_deviation(experiment, plan.noise_multiplier)
    reference = _reference_counts(exchange, reference_frame)

    def compute() -> Releases:
        current = noisy_counts(current_frame, experiment, deviation, exchange.noise)
        summary = summarise(
            windows=instruction.windows,
            reference_windows=instruction.reference_windows,
            reference=reference,
            current=current,
            deviation=deviation,
        )
        return Releases(drift=summary)

    reply = exchange.release([plan], compute)
    write_local_report(reference_frame, current_frame, experiment, instruction, site.config.storage.reports)
    return reply


def _reference_counts(exchange: _Exchange, frame: pd.DataFrame) -> dict[str, Array]:
    """The reference's noisy counts: released and charged once, then taken from the ledger."""
    from clients.mechanisms.drift import drift_deviation, noisy_counts, summarise

    experiment, windows = exchange.experiment, exchange.instruction.reference_windows
    plan = reference_plan(experiment, windows, exchange.split)
    deviation = drift_deviation(experiment, plan.noise_multiplier)

    def compute() -> Releases:
        counts = noisy_counts(frame, experiment, deviation, exchange.noise)
        summary = summarise(
            windows=windows, reference_windows=windows, reference=counts, current=counts, deviation=deviation
        )
        return Releases(drift=summary)

    released = exchange.site.gate.release(f"{plan.name}/1", experiment, [plan], compute).drift
    assert released is not None  # a drift plan releases a drift summary  # noqa: S101
    return {feature.feature: feature.reference for feature in released.features}


def _ranges(exchange: _Exchange) -> Reply:
    from clients.mechanisms.ranges import noisy_range_counts, ranges_deviation, require_numeric
    from contract.releases import RangeSummary

    experiment, instruction, site = exchange.experiment, exchange.instruction, exchange.site
    require_numeric(experiment.task, instruction.features)
    frame = site.unchecked_frame(experiment, instruction.windows)
    plan = ranges_plan(experiment, instruction, exchange.split)
    deviation = ranges_deviation(experiment, len(instruction.features), plan.noise_multiplier)

    def compute() -> Releases:
        counts = noisy_range_counts(frame, instruction.features, deviation, exchange.noise)
        return Releases(ranges=RangeSummary(features=counts, noise_deviation=deviation))

    return site.gate.release(f"{plan.name}/1", experiment, [plan], compute)


def _answer(message: Message, context: Context, handle: Callable[[_Exchange], Reply]) -> Message:
    """The reply, or a refusal: one word for the server, the whole sentence for the site's own log."""
    try:
        reply = handle(_Exchange(message, context))
    except TidegateError as exc:
        _log.error("refused %s: %s", _request(message), exc)
        return _refusal(message, exc.code)
    except Exception:
        # Its text may hold a data value: it stays in the site's log.
        _log.exception("failed %s", _request(message))
        return _refusal(message, RefusalCode.FAILED)
    return Message(reply.to_records(), reply_to=message)


def _request(message: Message) -> str:
    """Run, kind and round, as the server calls them; without, the kind."""
    return message.metadata.group_id or message.metadata.message_type


def _refusal(message: Message, code: str) -> Message:
    return Message(Error(code=0, reason=code), reply_to=message)


def _site_file(context: Context) -> Path:
    path = context.node_config.get("site")
    if not path:
        raise SiteConfigError(
            "no site.toml is named",
            where="the node's configuration",
            remedy="Start the node with --node-config 'site=\"/path/to/site.toml\"'",
        )
    return Path(str(path))
