"""How far an honest site can move the model in one round: in public terms alone.

A private step moves the parameters by `learning_rate / expected_rows` times the sum of
clipped gradients and noise. The expected rows are the stated rows times the sampling rate,
so that, with m the rows of the batch, C the clipping norm, z the noise multiplier, r the
rows of a person and d the number of parameters, its length is at most

    learning_rate / expected_rows · ( C · m  +  z · C · r · (√d + √(2u)) )

but for a chance of exp(-u): the length of a normal vector is a 1-Lipschitz function of it
(Boucheron, Lugosi and Massart, 2013, theorem 5.6). `local_steps` of them add up; a FedProx
term pulls back, or, where learning_rate · proximal_mu is above 2, multiplies.

Three things are given generously. A site may hold four times the rows that it states. A
Poisson batch may be as large as Bernstein's inequality lets it be but for exp(-u). And z is
that of the plan without sub-sampling, an upper bound in closed form (Balle and Wang, 2018):
the server has no accountant. With u = 40 an honest site is refused with a chance below 1e-17
a step. The fewer rows a site states the wider its bound, and the less it weighs: what it can
move the weighted mean by is bounded alike for all.

A run that is not private clips nothing, and has no bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from contract.clipped import training_multiplier
from contract.experiment import Experiment

__all__ = [
    "CLIPPING_SLACK",
    "ROWS_OVER_STATED",
    "greatest_normal",
    "l2_norm",
    "noise_variance",
    "update_bound",
    "update_norm",
]

Arrays = Mapping[str, np.ndarray[Any, Any]]

ROWS_OVER_STATED = 4.0
"""How many times the stated rows a site may hold without being taken for a bad one."""

CLIPPING_SLACK = 0.004
"""How much more than the clipping norm, relative to it, a record may change the sum: 257 · 256 · 2⁻²⁴, and a
thousandth of it for all other rounding. The noise covers it."""

_U = 40.0
"""Minus the logarithm of the chance that a bound is passed by chance: 4e-18."""


def update_bound(experiment: Experiment, stated_rows: int, size: int) -> float:
    """The greatest L2 norm of an honest site's update, less the model that it began from.

    Args:
        experiment: gives learning rate, steps, clipping norm, ε and δ.
        stated_rows: the rows that the site states.
        size: number of parameters.

    Returns:
        The bound; infinity for a run that is not private.
    """
    privacy, strategy = experiment.privacy, experiment.strategy
    if not privacy.private:
        return math.inf
    expected = max(1, round(stated_rows * privacy.sampling_rate))
    multiplier = training_multiplier(experiment, strategy.rounds * strategy.local_steps)
    deviation = multiplier * privacy.clipping_norm * privacy.rows_per_person
    noise = deviation * (math.sqrt(size) + math.sqrt(2 * _U))
    signal = privacy.clipping_norm * _most_rows(stated_rows, privacy.sampling_rate)
    step = strategy.learning_rate * (signal + noise) / expected
    return 1.005 * step * _steps(experiment)  # float32, and the noise for rounding


def noise_variance(experiment: Experiment, stated_rows: int) -> float | None:
    """The variance of the noise in each parameter of an honest site's update of one round.

    Args:
        experiment: gives learning rate, clipping norm, ε and δ.
        stated_rows: the rows that the site states.

    Returns:
        0 for a run that is not private and takes all rows. None where it cannot be said: of a sample the
        site's accountant knows the multiplier, or chance alone has a part in the update; and the noise of a
        local step goes through the gradients of the next.
    """
    privacy, strategy = experiment.privacy, experiment.strategy
    if privacy.sampling_rate != 1 or (privacy.private and strategy.local_steps != 1):
        return None
    if not privacy.private:
        return 0.0
    multiplier = training_multiplier(experiment, strategy.rounds)
    sensitivity = privacy.clipping_norm * privacy.rows_per_person * (1 + CLIPPING_SLACK)
    return (strategy.learning_rate / stated_rows * multiplier * sensitivity) ** 2


def update_norm(arrays: Arrays, began_from: Arrays) -> float:
    """The L2 norm of an update: of what lies between the two models, parameter by parameter."""
    return l2_norm(np.subtract(arrays[name], began_from[name], dtype=np.float64) for name in arrays)


def l2_norm(arrays: Iterable[np.ndarray[Any, Any]]) -> float:
    """Of all numbers of the arrays together, in double precision."""
    return math.sqrt(sum(float(np.square(array, dtype=np.float64).sum()) for array in arrays))


def greatest_normal(count: int) -> float:
    """What none of `count` standard normal numbers passes, but for a chance of 2 · exp(-u)."""
    return math.sqrt(2 * (_U + math.log(max(1, count))))


def _most_rows(stated_rows: int, rate: float) -> float:
    rows = ROWS_OVER_STATED * stated_rows
    if rate == 1:
        return rows
    return rows * rate + math.sqrt(2 * _U * rows * rate) + 2 * _U / 3


def _steps(experiment: Experiment) -> float:
    """How many steps' length the round's steps add up to."""
    strategy = experiment.strategy
    growth = abs(1 - strategy.learning_rate * strategy.proximal_mu) if strategy.name == "fedprox" else 1.0
    if growth <= 1:
        return float(strategy.local_steps)
    try:
        return (growth**strategy.local_steps - 1) / (growth - 1)
    except OverflowError:
        return math.inf
