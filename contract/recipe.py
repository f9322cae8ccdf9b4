"""Settings of training for an experiment that states none, from public facts alone.

What a run may learn is fixed by the noise that ε, δ, the rows and the sites make; what it does learn depends
on the step size, the rounds and the clipping norm. Nobody can try them out on data that nobody sees, and
each trial would be charged. So they are computed from what is public before a run: the features and how they
are scaled, the classes, the model, the rows that each site states, ε and δ. No row is read.

The method is gradient descent on all rows of each site with momentum, the last models averaged. It rests on
two lengths. `L` is the typical length of the gradient of a score by the parameters, so that a row's gradient
of the log loss has the length `L` times the error of its prediction. And with z the noise multiplier of one
step for the whole ε, K sites and N rows in all, a model that has moved by `M` (the steps' sizes, added up)
carries noise that changes a score by about

    M · z · C · √K / N · L

however many steps it took, for the noise of each grows with the square root of their number. That gives:

* the clipping norm C: a little more than the length with which a row of unknown label begins, so that few
  gradients are cut, and those of a rare class not by much;
* the movement M: as far as the noise in a score stays at a stated level;
* the step size: M over the rounds, but never more than a share of what is stable on the log loss, whose
  curvature is L² / 4 at most for two classes;
* the rounds: as many as M needs with that step, within bounds.

The four constants were chosen on three data sets (heart-disease, bank-marketing, online-shoppers) and tried
on others (`tidegate bench utility`). See De et al. (2022) on full batches, and Ganesh et al. (2023) on
why the noise of a linear model hurts less than its number of parameters says.

Where a number is predicted, each row's gradient is cut but those of rows that are nearly right: all others
pull with the same strength, so the model goes towards the median of a row's neighbours, whatever the label's
range and however long its tails. Then the step size times the clipping norm is all that counts. The clipping
norm is `L` times a small error; and the model moves over a fixed length (M times C), enough for all data sets
that were tried, or less where the noise in a score would be above a stated level. Both constants were chosen
in a simulation of eight labels of six data sets at ε of 3, 1 and .3.

Of a package's model nothing is known here but its name, as whoever asks need not have it installed. It is
taken for a network with one hidden layer of 32 units, which no step of it is longer than, for gradients are
cut; a package whose gradients are much shorter learns more slowly. The reason says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contract.clipped import training_multiplier
from contract.epsilon import delta_words
from contract.experiment import CategoricalFeature, Experiment, Model, Privacy, Strategy, Task
from contract.words import counted

__all__ = ["Reach", "asked_rows", "needs_recipe", "reach_of", "recommended", "with_recipe"]

_MOMENTUM = 0.8
_AVERAGE_LAST = 0.3
_FEWEST_ROUNDS, _MOST_ROUNDS = 60, 120
_CLIPPED_AT = 1.2
"""The clipping norm, over the gradient's length at the first model."""
_NOISE_IN_SCORE = {"linear": 2.0, "mlp": 0.5}
"""How much noise in a score, before averaging, is worth the movement; a network multiplies its own."""
_SHARE_OF_STABLE = {"linear": 0.9, "mlp": 0.4}
_NUMBER_MOMENTUM, _NUMBER_ROUNDS = 0.9, 100
_CUT_ABOVE = 0.04
"""The error, in halves of the label's range, above which a row pulls no harder."""
_NUMBER_LENGTH = {"linear": 120.0, "mlp": 60.0}
_NOISE_IN_NUMBER = {"linear": 0.4, "mlp": 0.1}
"""In a score, before averaging, in halves of the label's range."""
_CHOSEN = ("rounds", "learning_rate", "server_momentum", "average_last", "evaluate_every")


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How far the steps of a plan go, beside what the recipe takes as right for the same public facts.

    Attributes:
        movement: the steps' sizes, added up, over those that the recipe would take in its most rounds.
        noise: the same over what brings noise in a score to the level at which it is worth it.
        step: one step, over the greatest that is stable.
    """

    movement: float
    noise: float
    step: float


def needs_recipe(experiment: Experiment) -> bool:
    """Whether the experiment leaves the settings of training to the recipe.

    One that was read from JSON of a whole plan states every key, so what was chosen once is kept.
    """
    is_package = experiment.model.kind == "package" and _has_momentum(experiment)
    return "learning_rate" not in experiment.strategy.model_fields_set and (
        is_package or _is_known(experiment)
    )


def asked_rows(experiment: Experiment, stated_rows: Mapping[str, int | None]) -> list[int]:
    """The rows of the sites that the experiment asks, of those that have stated them."""
    asked = experiment.strategy.sites or stated_rows
    return [rows for site, rows in stated_rows.items() if rows and site in asked]


def _is_known(experiment: Experiment) -> bool:
    """Whether what the recipe takes as right for such an experiment rests on how its model computes."""
    return experiment.model.kind in _NOISE_IN_SCORE and _has_momentum(experiment)


def _has_momentum(experiment: Experiment) -> bool:
    return experiment.strategy.name not in ("fedadam", "fedyogi")


def _like(model: Model) -> str:
    """Which of our own kinds a model is taken for."""
    return "mlp" if model.kind == "package" else model.kind


def recommended(experiment: Experiment, stated_rows: Sequence[int]) -> Experiment | None:
    """The experiment as it would be if it had stated none of the settings that the recipe chooses.

    None where the recipe is not for such an experiment.
    """
    if not stated_rows or not _is_known(experiment):
        return None
    strategy = experiment.strategy.model_dump(exclude={*_CHOSEN, "name", "reason"})
    if experiment.strategy.aggregation != "mean":
        strategy["name"] = experiment.strategy.name
    privacy = experiment.privacy.model_dump(exclude={"clipping_norm"})
    bare = experiment.model_copy(update={"strategy": Strategy(**strategy), "privacy": Privacy(**privacy)})
    return with_recipe(bare, stated_rows)


def reach_of(experiment: Experiment, stated_rows: Sequence[int]) -> Reach | None:
    """How far the plan's steps go; None where the recipe is not for such an experiment.

    Args:
        experiment: with all its settings.
        stated_rows: the public number of rows of each site.
    """
    if not stated_rows or not _is_known(experiment):
        return None
    strategy = experiment.strategy
    momentum = strategy.server_momentum if strategy.name == "fedavgm" else 0.0
    server = strategy.server_learning_rate if strategy.name == "fedavgm" else 1.0
    step = strategy.local_steps * strategy.learning_rate * server
    score = _score_length(experiment)
    stable = _most_stable(experiment, score, momentum) / _SHARE_OF_STABLE[_like(experiment.model)]
    allowed = _movement(experiment, stated_rows, experiment.privacy.clipping_norm, score)
    moved = step * strategy.rounds / (1 - momentum)
    steady = _most_stable(experiment, score, _MOMENTUM) * _MOST_ROUNDS / (1 - _MOMENTUM)
    return Reach(movement=moved / min(allowed, steady), noise=moved / allowed, step=step / stable)


def with_recipe(experiment: Experiment, stated_rows: Sequence[int]) -> Experiment:
    """The experiment with every setting of training as a number.

    Args:
        experiment: what it states is kept.
        stated_rows: the public number of rows of each site.

    Returns:
        The same object where there is nothing to choose, or no site is known.
    """
    if not stated_rows or not needs_recipe(experiment):
        return experiment
    if experiment.task.label.kind == "numeric":
        return _for_a_number(experiment, stated_rows)
    strategy = experiment.strategy
    score = _score_length(experiment)
    clipping = _clipping(experiment.privacy, _CLIPPED_AT * _first_error(experiment.task) * score)
    name = _name(strategy)
    momentum = _momentum(strategy, name, _MOMENTUM)
    stable = _most_stable(experiment, score, momentum)
    movement = _movement(experiment, stated_rows, clipping, score) * (1 - momentum)
    rounds = strategy.rounds
    if "rounds" not in strategy.model_fields_set:
        rounds = min(max(math.ceil(min(movement / stable, _MOST_ROUNDS)), _FEWEST_ROUNDS), _MOST_ROUNDS)
    step = min(stable, movement / rounds)
    limit = "what is stable" if step == stable else "the noise"
    return _chosen(experiment, stated_rows, name, rounds, step, momentum, clipping, limit)


def _for_a_number(experiment: Experiment, stated_rows: Sequence[int]) -> Experiment:
    strategy, kind = experiment.strategy, _like(experiment.model)
    score, name = _score_length(experiment), _name(strategy)
    clipping = _clipping(experiment.privacy, _CUT_ABOVE * score)
    momentum = _momentum(strategy, name, _NUMBER_MOMENTUM)
    rounds = strategy.rounds if "rounds" in strategy.model_fields_set else _NUMBER_ROUNDS
    noise = _noise(experiment, stated_rows, 1.0) * score
    enough = _NUMBER_LENGTH[kind]
    length = min(enough, _NOISE_IN_NUMBER[kind] / noise) if noise else enough
    limit = "what is enough" if length == enough else "the noise"
    step = length / clipping * (1 - momentum) / rounds
    return _chosen(experiment, stated_rows, name, rounds, step, momentum, clipping, limit)


def _chosen(
    experiment: Experiment,
    stated_rows: Sequence[int],
    name: str,
    rounds: int,
    step: float,
    momentum: float,
    clipping: float,
    limit: str,
) -> Experiment:
    strategy, privacy = experiment.strategy, experiment.privacy
    a_step = strategy.local_steps * (strategy.server_learning_rate if name == "fedavgm" else 1.0)
    chosen: dict[str, Any] = {
        "name": name,
        "rounds": rounds,
        "learning_rate": _rounded(min(max(step / a_step, 1e-9), 1e6)),
        "server_momentum": momentum,
        "average_last": _AVERAGE_LAST,
        "evaluate_every": rounds,  # the first model and the result: all evaluations share one ε
    }
    kept = {key: value for key, value in chosen.items() if key not in strategy.model_fields_set}
    if not strategy.reason:
        kept["reason"] = _reason(experiment, stated_rows, {**kept, "clipping_norm": clipping}, limit)
    plan = experiment.model_copy(
        update={
            "strategy": strategy.model_copy(update=kept),
            "privacy": privacy.model_copy(update={"clipping_norm": clipping}),
        }
    )
    return Experiment.model_validate_json(plan.model_dump_json())  # it states all its keys now


def _clipping(privacy: Privacy, wanted: float) -> float:
    """The stated clipping norm, or the wanted one within bounds."""
    if "clipping_norm" in privacy.model_fields_set:
        return privacy.clipping_norm
    return _rounded(min(max(wanted, 1e-3), 1e3))


def _name(strategy: Strategy) -> str:
    if "name" in strategy.model_fields_set or strategy.aggregation != "mean":
        return strategy.name
    return "fedavgm"


def _momentum(strategy: Strategy, name: str, usual: float) -> float:
    if name != "fedavgm":
        return 0.0
    return strategy.server_momentum if "server_momentum" in strategy.model_fields_set else usual


def _score_length(experiment: Experiment) -> float:
    """The typical length of a score's gradient by the parameters, at the first model.

    A category's columns hold a one, and a number, of which only the range is known, counts as the mean square
    of an even spread over it, a third. Through a hidden layer, whose first weights are uniform in
    ±1/√inputs, half of whose units answer, lengths go as these have it on average.
    """
    task = experiment.task
    inputs = sum(
        (len(feature.categories) if task.scaling == "symmetric" else 1.0)
        if isinstance(feature, CategoricalFeature)
        else 1 / 3
        for feature in task.features
    )
    squares, width = [inputs + 1], task.width
    for units in experiment.model.hidden if _like(experiment.model) == "mlp" else ():
        inputs *= units / (3 * width) / 2
        squares = [square / 6 for square in squares] + [inputs + 1]
        width = units
    return math.sqrt(sum(squares))


def _first_error(task: Task) -> float:
    """The length of the error of the first model, which takes all classes as equally likely."""
    classes = len(task.label.classes)
    return 0.5 if classes == 2 else math.sqrt(1 - 1 / classes)


def _most_stable(experiment: Experiment, score: float, momentum: float) -> float:
    """The greatest step to take: heavy-ball descent is stable below 2 (1 + momentum) over the curvature."""
    curvature = score**2 * (0.25 if len(experiment.task.label.classes) == 2 else 0.5)
    return _SHARE_OF_STABLE[_like(experiment.model)] * 2 * (1 + momentum) / curvature


def _movement(experiment: Experiment, stated_rows: Sequence[int], clipping: float, score: float) -> float:
    noise = _noise(experiment, stated_rows, clipping) * score
    return _NOISE_IN_SCORE[_like(experiment.model)] / noise if noise else math.inf


def _noise(experiment: Experiment, stated_rows: Sequence[int], clipping: float) -> float:
    """Its standard deviation in each parameter of the mean of one step that spends the whole ε."""
    privacy = experiment.privacy
    if not privacy.private:
        return 0.0
    noise = training_multiplier(experiment, 1) * clipping * privacy.rows_per_person
    return noise * math.sqrt(len(stated_rows)) / sum(stated_rows)


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _of(stated_rows: Sequence[int]) -> str:
    return f"{counted(sum(stated_rows), 'row')} at {counted(len(stated_rows), 'site')}"


def _reason(experiment: Experiment, stated_rows: Sequence[int], chosen: dict[str, Any], limit: str) -> str:
    task, privacy = experiment.task, experiment.privacy
    values = ", ".join(f"{key} {value}" for key, value in chosen.items())
    promise = (
        f"ε = {privacy.epsilon:g}, δ = {delta_words(privacy.delta)}" if privacy.private else "no privacy"
    )
    label = "a number" if task.label.kind == "numeric" else f"{len(task.label.classes)} classes"
    model = experiment.model
    taken = (
        f" What '{model.name}' computes is not known here: it is taken for an mlp with hidden = [32]."
        if model.kind == "package"
        else ""
    )
    return (
        f"Chosen by the recipe for {counted(task.width, 'input')}, {label} "
        f"and a {model.kind} model with {promise} and {_of(stated_rows)}: {values}. "
        f"The step size is bounded by {limit}.{taken}"
    )
