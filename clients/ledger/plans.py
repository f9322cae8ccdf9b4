"""What each kind of exchange may do to which data blocks, worked out from the experiment alone.

Server and site need not agree on anything here: the noise follows from the
experiment's ε and δ and from how often the experiment says that the mechanism
will run; a site charges what it does, and its cap holds whatever the server says.
An instruction chooses the windows and restates nothing.

A block is a window's training or held-out rows. With unit `person` the windows
are one block, for a person has rows in many. `split` names how the site's card deals
records into windows and sides (`clients.site.Site.split`), and whether for good.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

from clients.ledger.accounting import noise_multiplier
from clients.ledger.plan import WHOLE, Plan, Split
from contract.clipped import clipped_epsilon
from contract.errors import MessageError, PolicyError
from contract.experiment import LEAST_EPSILON, Experiment
from contract.messages import DRIFT_QUERY, RANGES_QUERY, Instruction
from contract.names import challenger_run

__all__ = [
    "ALL_ROWS",
    "asked_plans",
    "asked_windows",
    "blocks",
    "clipped_plan",
    "compare_plan",
    "drift_plan",
    "evaluate_plan",
    "ranges_plan",
    "reference_plan",
    "retraining_plans",
    "run_plans",
    "train_plan",
]


ALL_ROWS = "*"
"""Stands among windows for the whole data set; no window is named so."""


def asked_windows(kind: str, instruction: Instruction) -> tuple[str, ...]:
    """The windows whose rows an exchange reads, in order; `ALL_ROWS` for the whole data set."""
    asked = instruction.windows or (ALL_ROWS,)
    if kind == DRIFT_QUERY:
        asked += instruction.reference_windows or (ALL_ROWS,)
    return tuple(sorted(set(asked)))


def asked_plans(kind: str, experiment: Experiment, instruction: Instruction, split: Split) -> list[Plan]:
    """All that an exchange belongs to, which is approved as one.

    A run's training, its evaluations, and the comparison of what it gave; or a drift check with its
    reference; or a question for ranges.
    """
    if kind == DRIFT_QUERY:
        reference = reference_plan(experiment, instruction.reference_windows, split)
        return [reference, drift_plan(experiment, instruction, split)]
    if kind == RANGES_QUERY:
        return [ranges_plan(experiment, instruction, split)]
    plans = run_plans(instruction.run, experiment, instruction.windows, split)
    return [*plans, compare_plan(experiment, instruction, split)]


def blocks(experiment: Experiment, windows: tuple[str, ...], split: Split, *sides: str) -> tuple[str, ...]:
    """The data blocks of these windows on these sides, `train`, `holdout` or both.

    Always both where a record may change its side: what it paid on one then follows it to the other.
    """
    if not split.lasting:
        sides = ("train", "holdout")
    if experiment.privacy.unit == "person" or not windows:
        return tuple(f"{WHOLE}/{side}" for side in sides)
    return tuple(f"{window}/{side}" for window in windows for side in sides)


def train_plan(experiment: Experiment, instruction: Instruction, split: Split) -> Plan:
    """All rounds of a run on the training rows of its windows.

    Its noise keeps it within the experiment's ε together with the counts of clipped gradients.
    """
    privacy, steps = experiment.privacy, experiment.strategy.local_steps
    counted = clipped_plan(experiment, instruction, split)
    beside = counted.uses / counted.noise_multiplier**2 if counted is not None else 0.0
    return Plan(
        name=f"{instruction.run}/train",
        run=instruction.run,
        purpose="train",
        blocks=blocks(experiment, instruction.windows, split, "train"),
        noise_multiplier=_noise(
            experiment,
            privacy.epsilon,
            privacy.sampling_rate,
            experiment.strategy.rounds * steps,
            beside=beside,
        ),
        sampling_rate=privacy.sampling_rate,
        uses=experiment.strategy.rounds,
        steps=steps,
        unit=privacy.unit,
        split=split.name,
        allowance=f"{experiment.name}/{experiment.digest[:16]}/train",
        runs=privacy.runs,
    )


def clipped_plan(experiment: Experiment, instruction: Instruction, split: Split) -> Plan | None:
    """All counts of clipped gradients of a run, on the training rows of its windows; None without any."""
    counts = experiment.clipped_counts
    if not counts:
        return None
    return Plan(
        name=f"{instruction.run}/clipped",
        run=instruction.run,
        purpose="clipped",
        blocks=blocks(experiment, instruction.windows, split, "train"),
        noise_multiplier=_noise(experiment, clipped_epsilon(experiment.privacy), 1.0, counts),
        uses=counts,
        unit=experiment.privacy.unit,
        split=split.name,
    )


def run_plans(run: str, experiment: Experiment, windows: tuple[str, ...], split: Split) -> list[Plan]:
    """Training, evaluation and counts of clipped gradients, as a run enters them into a site's ledger.

    In that order: the training that a block's first release foresaw composes exactly.
    """
    instruction = Instruction(run=run, windows=windows)
    counted = clipped_plan(experiment, instruction, split)
    return [
        train_plan(experiment, instruction, split),
        evaluate_plan(experiment, instruction, split),
        *([] if counted is None else [counted]),
    ]


def retraining_plans(experiment: Experiment, instruction: Instruction, split: Split) -> list[Plan]:
    """What a training on the windows of a drift check would take, with its comparison to the champion."""
    retraining = replace(instruction, run=challenger_run(instruction.run))
    plans = run_plans(retraining.run, experiment, instruction.windows, split)
    return [*plans, compare_plan(experiment, retraining, split)]


def evaluate_plan(experiment: Experiment, instruction: Instruction, split: Split) -> Plan:
    """All evaluations of a run on the held-out rows of its windows."""
    return _evaluation(experiment, instruction, "evaluate", split, experiment.strategy.evaluations)


def compare_plan(experiment: Experiment, instruction: Instruction, split: Split) -> Plan:
    """The comparison of two models on the held-out rows of its windows."""
    return _evaluation(experiment, instruction, "compare", split, 1)


def drift_plan(experiment: Experiment, instruction: Instruction, split: Split) -> Plan:
    """One drift check, on all rows of the current windows."""
    return Plan(
        name=f"{instruction.run}/drift/{instruction.step}",
        run=instruction.run,
        purpose="drift",
        blocks=blocks(experiment, instruction.windows, split, "train", "holdout"),
        noise_multiplier=_noise(experiment, experiment.drift.epsilon, 1.0, 1),
        uses=1,
        unit=experiment.privacy.unit,
        split=split.name,
    )


def reference_plan(experiment: Experiment, windows: tuple[str, ...], split: Split) -> Plan:
    """The counts of a reference, released once for all checks against it."""
    named = hashlib.sha256(json.dumps([windows, split.name]).encode()).hexdigest()[:16]
    name = f"{experiment.name}/{experiment.digest[:16]}/reference/{named}"
    return Plan(
        name=name,
        run=name,
        purpose="drift",
        blocks=blocks(experiment, windows, split, "train", "holdout"),
        noise_multiplier=_noise(experiment, experiment.drift.epsilon, 1.0, 1),
        uses=1,
        unit=experiment.privacy.unit,
        split=split.name,
    )


def ranges_plan(experiment: Experiment, instruction: Instruction, split: Split) -> Plan:
    """The counts that ranges are told from, on all rows of the windows.

    The plan is named by what is asked, and by nothing else of the experiment: who asks the same again,
    from whatever file, is given the stored counts.

    The instruction says what it costs, and the experiment how much that may be: who approved an
    experiment approved no more.

    Raises:
        MessageError: it costs nothing.
        PolicyError: it costs more than the experiment's ε.
    """
    if not instruction.epsilon >= LEAST_EPSILON:
        raise MessageError(f"ε = {instruction.epsilon:g} is below {LEAST_EPSILON:g}", where="query.ranges")
    privacy = experiment.privacy
    if instruction.epsilon > privacy.epsilon:
        raise PolicyError(
            f"a question for ranges costs ε = {instruction.epsilon:g}, more than the experiment's "
            f"privacy.epsilon = {privacy.epsilon:g}",
            where="query.ranges",
            remedy="Ask at a smaller ε, or raise privacy.epsilon in the experiment",
        )
    windows = tuple(sorted(set(instruction.windows)))
    mechanism = [instruction.epsilon, privacy.delta, privacy.private, privacy.unit, privacy.rows_per_person]
    asked = [sorted(instruction.features), windows, mechanism, split.name]
    named = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
    name = f"{experiment.name}/ranges/{named}"
    return Plan(
        name=name,
        run=name,
        purpose="ranges",
        blocks=blocks(experiment, windows, split, "train", "holdout"),
        noise_multiplier=_noise(experiment, instruction.epsilon, 1.0, 1),
        uses=1,
        unit=privacy.unit,
        split=split.name,
    )


def _evaluation(
    experiment: Experiment, instruction: Instruction, kind: str, split: Split, times: int
) -> Plan:
    privacy = experiment.privacy
    return Plan(
        name=f"{instruction.run}/{kind}",
        run=instruction.run,
        purpose="evaluate",
        blocks=blocks(experiment, instruction.windows, split, "holdout"),
        noise_multiplier=_noise(experiment, privacy.evaluation_epsilon, 1.0, times),
        uses=times,
        unit=privacy.unit,
        split=split.name,
    )


def _noise(
    experiment: Experiment, epsilon: float, sampling_rate: float, steps: int, *, beside: float = 0.0
) -> float:
    if not experiment.privacy.private:
        return 0.0
    delta = experiment.privacy.delta
    return noise_multiplier(
        epsilon=epsilon, delta=delta, sampling_rate=sampling_rate, steps=steps, beside=beside
    )
