"""What an experiment would cost a site's data blocks, before anybody approves it.

The figures are the ledger's own (`Ledger.would_spend`), so that what is said to
fit is what would be authorised. Where an experiment does not fit, the least
noise that would is searched for, and said as the ε to write into its file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from clients.ledger.accounting import compose, noise_multiplier
from clients.ledger.chain import Cap, Ledger
from clients.ledger.event import LEAST_NOISE
from clients.ledger.plan import Plan, Split, side_of
from clients.ledger.plans import compare_plan, drift_plan, reference_plan
from clients.ledger.spending import Spending
from contract.experiment import Experiment
from contract.messages import Instruction
from contract.releases import Spent

__all__ = [
    "BlockCost",
    "LaterCost",
    "Room",
    "alone",
    "block_costs",
    "can_pay",
    "first_block_costs",
    "later_costs",
    "room_for",
    "run_epsilon",
]

_MOST_NOISE = 1e4
"""A noise multiplier above which nothing is learned anyway."""
_PRECISION = 1e-3
"""Of the noise multiplier, relative; it is never below what is needed."""


@dataclass(frozen=True, kw_only=True)
class BlockCost:
    """What one data block has promised now, and with the experiment; ε at the cap's δ.

    Attributes:
        now: once the open plans ran to their end.
        then: once the experiment did too, and what was open of other runs has ended; infinite where
            it is not private.
        method: the composition theorem that gives `then`.
        fits: whether the cap allows it; of what is not private, which is for the policy to allow, always.
    """

    block: str
    now: float
    then: float
    method: str
    fits: bool


@dataclass(frozen=True, kw_only=True)
class LaterCost:
    """What an approved experiment may cost one data block beside its run, each time that it is asked.

    Attributes:
        what: in words.
        before: the block's ε without it, and with the run: at the cap's δ.
        then: with it.
    """

    what: str
    block: str
    before: float
    then: float
    fits: bool


@dataclass(frozen=True, kw_only=True)
class Room:
    """The most that a plan of this shape may spend under the cap.

    Attributes:
        noise_multiplier: the least that fits; or with which ε is no more than the cap.
        epsilon: what it gives one run, at the experiment's δ, rounded down; 0 where nothing fits.
            At a δ below the cap's, more than the cap's ε would fit; nobody should be told to ask for that.
        capped: whether it is for that reason that ε is no more.
    """

    noise_multiplier: float
    epsilon: float
    capped: bool = False


def block_costs(ledger: Ledger, plans: Sequence[Plan]) -> tuple[BlockCost, ...]:
    """What the blocks that the plans touch would have paid, by the block's name."""
    return _block_costs(
        ledger.cap, plans, ledger.would_spend(plans), before=ledger.spent_by_block(promised=True)
    )


def first_block_costs(cap: Cap, plans: Sequence[Plan]) -> tuple[BlockCost, ...]:
    """The same of a site whose ledger was never begun."""
    return _block_costs(cap, plans, Spending(cap).would_spend(plans), before={})


def _block_costs(
    cap: Cap, plans: Sequence[Plan], after: Mapping[str, Spent], *, before: Mapping[str, Spent]
) -> tuple[BlockCost, ...]:
    plain = not _are_private(plans)
    return tuple(
        BlockCost(
            block=block,
            now=before[block].epsilon if block in before else 0.0,
            then=spent.epsilon,
            method=spent.method,
            fits=plain or cap.holds(spent.epsilon),
        )
        for block, spent in sorted(after.items())
    )


def _are_private(plans: Sequence[Plan]) -> bool:
    """Whether a cap speaks of them: those that are not are for the policy to allow."""
    return all(plan.private for plan in plans)


def can_pay(ledger: Ledger, plans: Sequence[Plan]) -> bool:
    """Whether the cap allows these plans of one run beside what is spent. Nothing is entered.

    Plans that are not private are for the policy to allow: no cap speaks of them.
    """
    if not _are_private(plans):
        return True
    return all(ledger.cap.holds(spent.epsilon) for spent in ledger.would_spend(plans).values())


def alone(plans: Sequence[Plan], cap: Cap) -> float:
    """ε that these plans cost the block that pays most, were nothing else ever charged; at the cap's δ."""
    spent = Spending(cap).would_spend(plans)
    return max((item.epsilon for item in spent.values()), default=0.0)


def run_epsilon(ledger: Ledger, plans: Sequence[Plan]) -> float:
    """ε that the run of these plans costs the block that pays most, with what it has entered before."""
    entered = [known for run in sorted({plan.run for plan in plans}) for known in ledger.plans(run)]
    return alone([*entered, *plans], ledger.cap)


def later_costs(
    ledger: Ledger, plans: Sequence[Plan], experiment: Experiment, windows: tuple[str, ...], split: Split
) -> tuple[LaterCost, ...]:
    """What drift checks and a comparison of two models would cost after the run: of each side, the block
    that pays most.

    Args:
        ledger: what was spent, and the cap.
        plans: of the run.
        experiment, windows, split: as of `run_plans`.
    """
    run = plans[0].run
    here = Instruction(run=run, windows=windows)
    checked = Instruction(run=run, windows=("(a later window)",) if windows else ())
    references = [reference_plan(experiment, found, split) for found in experiment.drift.references(windows)]
    several = "each reference of drift checks, once" if len(references) > 1 else ""
    check = drift_plan(experiment, checked, split)
    steps: list[tuple[str, list[Plan], list[Plan]]] = [
        (several or "the reference of drift checks, once", [], references),
        ("a drift check", references, [check]),
        ("a comparison of champion and challenger", [], [compare_plan(experiment, here, split)]),
    ]
    return tuple(cost for what, known, new in steps for cost in _later(ledger, what, [*plans, *known], new))


def _later(ledger: Ledger, what: str, before: list[Plan], new: list[Plan]) -> list[LaterCost]:
    now, then = ledger.would_spend(before), ledger.would_spend([*before, *new])
    most: dict[str, LaterCost] = {}
    for block in ledger.would_spend(new):
        spent = then[block].epsilon
        if side_of(block) not in most or spent > most[side_of(block)].then:
            most[side_of(block)] = LaterCost(
                what=what,
                block=block,
                before=now[block].epsilon if block in now else 0.0,
                then=spent,
                fits=ledger.cap.holds(spent),
            )
    return [most[side] for side in sorted(most)]


def room_for(ledger: Ledger, plan: Plan, *, beside: Sequence[Plan] = (), delta: float) -> Room:
    """The largest ε at which the plan fits.

    Args:
        ledger: what was spent, and the cap.
        plan: a private plan; its noise multiplier is what is looked for.
        beside: plans of the same run that fit and are entered before it.
        delta: the experiment's.
    """

    def fits(noise: float) -> bool:
        spent = ledger.would_spend([*beside, replace(plan, noise_multiplier=noise)])
        return all(ledger.cap.holds(item.epsilon) for item in spent.values())

    noise = _least(fits, start=plan.noise_multiplier)
    if noise is None:
        return Room(noise_multiplier=math.inf, epsilon=0.0)
    epsilon, _ = compose(replace(plan, noise_multiplier=noise).events(plan.uses, plan.name), delta)
    most = ledger.cap.epsilon
    capped = epsilon > most
    if capped:
        steps = plan.uses * plan.steps
        noise = max(
            noise,
            noise_multiplier(epsilon=most, delta=delta, sampling_rate=plan.sampling_rate, steps=steps),
        )
        epsilon = most
    return Room(noise_multiplier=noise, epsilon=math.floor(1e3 * epsilon) / 1e3, capped=capped)


def _least(fits: Callable[[float], bool], *, start: float) -> float | None:
    """The least noise multiplier that fits, by bisection of its logarithm; None where none does."""
    low, high = start, start
    while fits(low):
        if low == LEAST_NOISE:
            return low
        high, low = low, max(low / 2, LEAST_NOISE)
    while not fits(high):
        low, high = high, 2 * high
        if high > _MOST_NOISE:
            return None
    while high > (1 + _PRECISION) * low:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high
