"""What the evidence of a run comes to, in one word.

A verdict is taken from evidence with errors (`server.jobs.evidence`), two of which it must pass. Nothing that
noise could have made is said to be a success or a failure:

    converged           the model learnt, and more steps would change next to nothing
    as-far-as-noise     the model learnt; whether more steps would help, noise hides
    not-converged       the data still pulled when the run ended, or its steps were too short to get anywhere
    steps-too-large     the result is no better than a constant, and its steps were larger than is stable, or
                        carried more noise than they are worth
    worse-than-constant the result is worse than a constant, for another reason
    not-shown           the figures leave room for a model that learnt, and for one that did not
    little-learnt       the figures are exact enough to say that next to nothing was learnt
    unconfirmed         all together say that it learnt; without one of the sites the others do not show it
    rests-on-a-site     all together say one of the first two; without one of the sites the others say no
    not-measurable      too little can be told

A model learnt if its scores tell something of the outcome. If they tell nothing, the AUC is .5, and no log
loss is below that of always saying the share of positives (R² is not above 0). Each of the two is asked
whether it is better by two standard errors, which chance alone brings in 2.3 % of runs; so one at least is in
4.6 % at most: a model that learnt nothing is said to have learnt in no more than one run of twenty, as
`tests/server/jobs/test_learnt.py` counts. The first loss is no evidence, for the share of positives alone
lowers it. Nor is a gain over a champion, which may itself be worse than a constant.

One site may say anything. So the same is asked of all sites but each: what stands is said by the others too,
whoever it is that lies. The rate above holds for one liar of three sites or more.
"""

from __future__ import annotations

from typing import Literal

from contract.experiment import Experiment
from server.jobs.evidence import Evidence

__all__ = [
    "ERRORS",
    "GOOD",
    "LITTLE_AUC",
    "LITTLE_SKILL",
    "MUCH_NOISE",
    "Verdict",
    "has_learnt",
    "is_held_back",
    "is_short",
    "is_worse",
    "ranks",
    "verdict_of",
]

Verdict = Literal[
    "converged",
    "as-far-as-noise",
    "not-converged",
    "steps-too-large",
    "worse-than-constant",
    "not-shown",
    "little-learnt",
    "unconfirmed",
    "rests-on-a-site",
    "not-measurable",
]
GOOD: frozenset[Verdict] = frozenset({"converged", "as-far-as-noise"})

ERRORS = 2.0
"""So many standard errors count as a difference."""
_LITTLE = 0.01
"""Of the loss: what is less is next to nothing."""
_SHORT = 0.15
"""Of the movement that the recipe would make: with less, steps were short."""
_AS_AT_THE_START = 0.5
"""Of the squared gradient of the start: with more at the end, little was followed."""
_WORTH = 0.5
"""Of the noise that the recipe takes as worth it: from here on, further steps are not."""
LITTLE_AUC, LITTLE_SKILL = 0.55, 0.02
"""What is not above that surely, is of next to no use: the AUC, and R²."""
MUCH_NOISE, _TOO_MUCH_NOISE = 2.0, 4.0
"""Times that noise."""
_STRONG = 0.05
"""Of the strongest pull."""


def verdict_of(found: Evidence, errors: float = ERRORS) -> Verdict:
    """Of these sites' evidence, where a difference of so many standard errors counts as one."""
    if (failure := _failure(found, errors)) is not None:
        return failure
    if found.skill is None and found.auc is None:
        return "not-measurable"
    if not has_learnt(found, errors):
        return "little-learnt" if _is_little(found, errors) else "not-shown"
    if _is_settled(found, errors):
        return "converged"
    return "not-measurable" if found.late is None else "as-far-as-noise"


def _failure(found: Evidence, errors: float) -> Verdict | None:
    """What surely went wrong."""
    reach = found.reach
    worse = is_worse(found, errors)
    noise, step = (0.0, 0.0) if reach is None else (reach.noise, reach.step)
    oversteps = worse and (step > 1 or noise > MUCH_NOISE)
    pulled = _still_pulled(found, errors) or (is_short(found) and not _is_settled(found, errors))
    if pulled and noise < _WORTH and not oversteps:
        return "not-converged"
    if oversteps or (noise > _TOO_MUCH_NOISE and not _is_better(found, errors)):
        return "steps-too-large"
    return "worse-than-constant" if worse else None


def has_learnt(found: Evidence, errors: float = ERRORS) -> bool:
    """Whether the scores surely tell something of the outcome."""
    return _is_better(found, errors) or ranks(found, errors)


def ranks(found: Evidence, errors: float = ERRORS) -> bool:
    """Whether rows of the one outcome surely have other scores than rows of the other: higher ones."""
    return found.auc is not None and found.auc.low(errors) > 0.5


def _is_little(found: Evidence, errors: float) -> bool:
    """Whether it is sure that next to nothing was learnt; the AUC says it where there is one."""
    if found.auc is not None:
        return found.auc.high(errors) < LITTLE_AUC
    return found.skill is not None and found.skill.high(errors) < LITTLE_SKILL


def _is_better(found: Evidence, errors: float) -> bool:
    return found.skill is not None and found.skill.low(errors) > 0


def is_worse(found: Evidence, errors: float) -> bool:
    """Whether the result is surely worse than a constant."""
    return found.skill is not None and found.skill.high(errors) < 0


def _still_pulled(found: Evidence, errors: float) -> bool:
    """Whether the data surely pulled at the end, by as much as counts."""
    if found.late is None or found.early is None or found.late.low(errors) <= 0:
        return False
    if found.late.low(errors) > _AS_AT_THE_START * found.early.high(errors):
        return True
    return (
        found.more is not None
        and found.loss is not None
        and found.more.low(errors) > _LITTLE * found.loss.value
    )


def is_short(found: Evidence) -> bool:
    """Whether all steps together went a small part of the recipe's way."""
    return found.reach is not None and found.reach.movement < _SHORT


def _is_settled(found: Evidence, errors: float) -> bool:
    """Whether what the data still pulled at the end, at most, would change next to nothing.

    Of a run of short steps, along the way that the recipe would go.
    """
    if found.late is None or found.early is None or found.loss is None:
        return False
    if found.more is None:
        return found.late.high(errors) < _LITTLE * found.early.low(errors)
    longer = 1.0 if found.reach is None else max(1.0, 1 / max(found.reach.movement, 1e-12))
    return longer * found.more.high(errors) < 2 * _LITTLE * found.loss.value


def is_held_back(experiment: Experiment, found: Evidence) -> bool:
    """Whether these sites surely pulled at the end as at the start, and strongly.

    Where sites differ, what is best for all still leaves a pull in those that remain without one: a weak one.
    """
    if found.late is None or found.early is None:
        return False
    strong = (_STRONG * experiment.privacy.clipping_norm) ** 2 if experiment.privacy.private else 0.0
    return found.late.low(3.0) > max(strong, _AS_AT_THE_START * found.early.high(3.0))
