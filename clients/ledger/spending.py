"""What each data block has spent, worked out from the ledger's entries; and what it may still spend.

Pure: entries go in, figures come out, nothing is read or written. Site and third party get the
same figures from the same entries.

A *plan* fixes a mechanism, the blocks that it touches and how often it may run;
an *allowance* fixes it for several runs to come, on any block. Of the training that
was allowed when a block had its first release, the whole allowance counts on that
block from then on, and composes exactly (`clients.ledger.accounting`); sub-sampled training
that was not foreseen then composes in a Rényi filter, with everything else.
A *block* is the rows of one time window, training or held-out; each pays for
what touched it and for nothing else. A plan on the whole data set touches every
window. A record's window and side follow from the plan's `split`; of plans with
another split nobody can say which records they share, so they count on every block.

After a ledger was *restored* from a backup, nobody knows what its lost entries had spent. So every
block of that time counts as having spent the cap, for ever: those that the backup names, the whole
data set, and every window, or if the administrator named the windows that had rows then, those; and all
that the card deals otherwise than it did then.

What is guaranteed is the cap: plans are chosen from what earlier ones released, and a privacy filter
bounds what it may come to. The running sum is what was counted so far. Where a cap was lowered below what
a block has spent already, the bound is the larger cap that was in force then. No entry keeps it, so that no
guaranteed ε is stated of such a block.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from clients.ledger.accounting import compose
from clients.ledger.entries import OF_ALL, Entry
from clients.ledger.event import Event
from clients.ledger.plan import WHOLE, Cap, Plan, Unit, places
from contract.epsilon import delta_words, epsilon_words
from contract.errors import BudgetError
from contract.releases import PLAIN_METHOD, Spent

__all__ = ["RESTORED", "Spending"]

RESTORED = "the cap, entered when the ledger was restored"
"""What stands in place of a theorem's name where it is not known what was spent."""


@dataclass(frozen=True, kw_only=True)
class _Restored:
    """What a restored ledger cannot know the spending of; `windows` is None where that is every window.

    Of another split than the one whose windows were named, any window may hold their records: all count.
    """

    windows: frozenset[str] | None
    split: str | None
    known: frozenset[tuple[str, str]]

    def covers(self, split: str, block: str) -> bool:
        window = block.rpartition("/")[0] or block
        return (
            self.windows is None
            or window == WHOLE
            or window in self.windows
            or self.split not in (None, split)
            or (split, block) in self.known
        )


class Spending:
    """The plans of a ledger and their uses, and what they come to.

    Args:
        cap: the site's limit on every block.
        site: named in a refusal.
    """

    def __init__(self, cap: Cap, *, site: str = "") -> None:
        self.cap = cap
        self._site = site
        self.plans: dict[str, Plan] = {}
        self._uses: dict[str, int] = {}
        self.open: set[str] = set()
        self._trainings: list[tuple[int, Plan]] = []
        self._first_use: dict[str, int] = {}
        self._restored: list[_Restored] = []
        self._seen = 0

    def apply(self, entry: Entry) -> None:
        """Take the next entry in.

        Raises:
            InputError, KeyError, TypeError, ValueError: no ledger writes such an entry.
        """
        if entry.kind == "authorise":
            self._authorise(entry)
        elif entry.kind == "reserve":
            self._uses[entry.plan] += 1
            self._first_use.setdefault(entry.plan, entry.sequence)
        elif entry.kind in ("close", "commit", "expire"):
            self.plans[entry.plan]  # of a plan that is there
            if entry.kind == "close":
                self.open.discard(entry.plan)
        elif entry.kind == "restore":
            windows = entry.body["windows"]
            self._restored.append(
                _Restored(
                    windows=None if windows is None else frozenset(map(str, windows)),
                    split=entry.body.get("split"),
                    known=frozenset(places(self.plans.values())),
                )
            )
        self._seen = entry.sequence

    def _authorise(self, entry: Entry) -> None:
        values = {key: value for key, value in entry.body.items() if key not in OF_ALL}
        plan = Plan(**{**values, "blocks": tuple(values["blocks"])})
        if plan.name != entry.plan or self.plans.setdefault(entry.plan, plan) != plan:
            raise ValueError("a plan was entered with other parameters")
        self._uses.setdefault(entry.plan, 0)
        self.open.add(entry.plan)
        if plan.purpose == "train":
            self._trainings.append((entry.sequence, plan))

    # -- admission -----------------------------------------------------------------

    def of_other_runs(self, plan: Plan) -> set[str]:
        """Open plans that end when this one is entered."""
        return {name for name in self.open if self.plans[name].run != plan.run}

    def admit_plan(self, plan: Plan) -> None:
        """Refuse a plan that is to be entered.

        Raises:
            BudgetError: some block would pass the cap.
        """
        whole = max(plan.uses, self._uses.get(plan.name, 0))
        self._admit(plan, {plan.name: whole}, closing=self.of_other_runs(plan), entering=[plan])

    def admit_uses(self, names: Sequence[str]) -> None:
        """Refuse one more use of each of these plans, with all that is promised beside them.

        Raises:
            BudgetError: some block would pass the cap.
        """
        totals = {
            name: max(self._uses[name] + more, self.plans[name].uses if name in self.open else 0)
            for name, more in Counter(names).items()
        }
        for name in totals:
            self._admit(self.plans[name], totals)

    def _admit(
        self,
        plan: Plan,
        totals: Mapping[str, int],
        closing: Iterable[str] = (),
        entering: Sequence[Plan] = (),
    ) -> None:
        """Refuse so many uses of these plans if any block that `plan` touches would pass the cap."""
        known = {**self.plans, plan.name: plan}
        for split, block in places(known.values()):
            if not plan.touches(split, block):
                continue
            if self._is_restored(split, block):
                raise BudgetError(
                    f"what data block '{block}' has spent is not known since the ledger was restored: "
                    "it counts as having spent the cap",
                    where=f"site '{self._site}'",
                    remedy=_advice_after_restore(plan),
                )
            uses = self._uses_on(split, block, known, totals, closing)
            epsilon, _ = self._counted(split, block, known, uses, entering)
            if not self.cap.holds(epsilon):
                raise BudgetError(
                    f"{plan.purpose} would bring data block '{block}' to ε = {epsilon_words(epsilon)}, "
                    f"above the site's cap of {self.cap.epsilon:g} at δ = {delta_words(self.cap.delta)}",
                    where=f"site '{self._site}'",
                    remedy=self._advice(plan, uses, known),
                )

    def _advice(self, plan: Plan, uses: Mapping[str, int], known: Mapping[str, Plan]) -> str:
        """What helps: newer rows do only where they are a block that nothing has touched yet."""
        less = "Lower the experiment's epsilon, or raise the site's cap"
        if plan.unit == "person":
            return f"{less}; newer rows do not help, for a person's rows in all windows are one data block"
        others = [known[name] for name, used in uses.items() if used and name != plan.name]
        if not others:
            return less
        if any(other.whole or other.split != plan.split for other in others):
            return f"{less}; newer rows do not help, for what ran on all rows counts on every window"
        return f"Train on a newer window, which has a budget of its own. Or: {less[0].lower()}{less[1:]}"

    def would_spend(self, plans: Sequence[Plan], *, more: int = 0) -> dict[str, Spent]:
        """What each block that these plans touch would have paid once they ran to their end.

        Args:
            plans: of one run, or of several beside each other.
            more: uses of each that are to come, where it has run to its end or beyond.
        """
        totals = {plan.name: max(plan.uses, self._uses.get(plan.name, 0) + more) for plan in plans}
        closing = {name for plan in plans for name in self.of_other_runs(plan)}
        known = {**self.plans, **{plan.name: plan for plan in plans}}
        totalled: list[Spent] = []
        for split, block in places(known.values()):
            if not any(plan.touches(split, block) for plan in plans):
                continue
            uses = self._uses_on(split, block, known, totals, closing)
            used = [known[name] for name, times in uses.items() if times]
            epsilon, method = self._counted(split, block, known, uses, plans)
            if self._is_restored(split, block):
                epsilon, method = math.inf, RESTORED
            elif not all(plan.private for plan in used):
                epsilon, method = math.inf, PLAIN_METHOD
            totalled.append(self._spent(epsilon, self.cap.delta, _unit(used), method, block))
        return _most(totalled)

    # -- statements ------------------------------------------------------------------

    def by_block(self, *, run: str | None, delta: float, promised: bool) -> dict[str, Spent]:
        """What was counted so far of each block: by one run, or in the ledger's whole life.

        Args:
            run: count this run alone.
            delta: of the statement.
            promised: count the open plans as if they had run to their end.
        """
        plans = [plan for plan in self.plans.values() if run is None or plan.run == run]
        found = [self._spent_on(*place, plans, delta, promised, run) for place in places(plans)]
        if self._restored and run is None:  # of the lost entries nobody knows which blocks they named
            lost = [f"{WHOLE}/{side}" for side in ("train", "holdout")]
            found += [self._spent(self.cap.epsilon, delta, "record", RESTORED, block) for block in lost]
        return _most(found)

    def nothing(self, delta: float) -> Spent:
        """The statement of a ledger in which nothing was entered."""
        epsilon, method = compose([], delta)
        return self._spent(epsilon, delta, "record", method, "")

    def _spent_on(
        self, split: str, block: str, plans: list[Plan], delta: float, promised: bool, run: str | None
    ) -> Spent:
        touching = [plan for plan in plans if plan.touches(split, block)]
        uses = {
            plan.name: max(self._uses[plan.name], plan.uses if promised and plan.name in self.open else 0)
            for plan in touching
        }
        # a person's rows lie in many windows: whatever looked at records of one has looked at a person's
        whole = block.rpartition("/")[0] == WHOLE
        unit = _unit(
            plan for plan in plans if plan.touches(split, block) or (whole and plan.covers(split, block))
        )
        if any(uses[plan.name] and not plan.private for plan in touching):
            return self._spent(math.inf, delta, unit, PLAIN_METHOD, block)
        trainings = [(entered, plan) for entered, plan in self._trainings if run in (None, plan.run)]
        allowed = self._allowance(split, block, uses, trainings)
        whole_runs = 0 if not promised or allowed is None else allowed.runs if run is None else 1
        events = _events(touching, uses, allowed, whole=whole_runs)
        epsilon, method = compose(events, delta, cap=self.cap.epsilon)
        if run is None and self._is_restored(split, block) and epsilon < self.cap.epsilon:
            epsilon, unit, method = self.cap.epsilon, "record", RESTORED
        return self._spent(epsilon, delta, unit, method, block, capped=self._within_the_cap(epsilon, events))

    def _within_the_cap(self, epsilon: float, events: Sequence[Event]) -> bool:
        """Whether it is within today's cap, at the cap's δ: a statement at a smaller δ may be above it."""
        if self.cap.holds(epsilon):
            return True
        return self.cap.holds(compose(events, self.cap.delta, cap=self.cap.epsilon)[0])

    def _spent(
        self,
        epsilon: float,
        delta: float,
        unit: Unit,
        method: str,
        block: str,
        *,
        capped: bool = True,
    ) -> Spent:
        private = method != PLAIN_METHOD and capped
        return Spent(
            epsilon=epsilon,
            delta=delta,
            unit=unit,
            method=method,
            block=block,
            guaranteed=self.cap.epsilon if private else math.inf,
            guaranteed_delta=self.cap.delta,
        )

    # -- inside ----------------------------------------------------------------------

    def _is_restored(self, split: str, block: str) -> bool:
        return any(restored.covers(split, block) for restored in self._restored)

    def _uses_on(
        self,
        split: str,
        block: str,
        known: Mapping[str, Plan],
        totals: Mapping[str, int],
        closing: Iterable[str],
    ) -> dict[str, int]:
        """How often each plan that touches the block will have run: as in `totals`, or promised, or used."""
        still_open = self.open.difference(closing)
        uses = {}
        for name, plan in known.items():
            if plan.touches(split, block):
                promised = plan.uses if name in still_open else 0
                uses[name] = totals[name] if name in totals else max(self._uses[name], promised)
        return uses

    def _counted(
        self,
        split: str,
        block: str,
        known: Mapping[str, Plan],
        uses: Mapping[str, int],
        entering: Iterable[Plan],
    ) -> tuple[float, str]:
        """ε of so many uses as it counts against the cap, and the theorem that gives it."""
        new = [(self._seen + 1, plan) for plan in entering if plan.purpose == "train"]
        allowed = self._allowance(split, block, uses, [*self._trainings, *new])
        whole = 0 if allowed is None else allowed.runs
        events = _events([known[name] for name in uses], uses, allowed, whole=whole)
        return compose(events, self.cap.delta, cap=self.cap.epsilon)

    def _allowance(
        self, split: str, block: str, touching: Iterable[str], trainings: list[tuple[int, Plan]]
    ) -> Plan | None:
        """The sub-sampled training that was in force when one of the plans first touched the block."""
        first = min((self._first_use[name] for name in touching if name in self._first_use), default=math.inf)
        in_force = [plan for entered, plan in trainings if entered < first][-1:]
        return next((plan for plan in in_force if plan.sampled and plan.covers(split, block)), None)


def _advice_after_restore(plan: Plan) -> str:
    if plan.unit == "person":
        return "A person's rows are in every window: nothing more can be released to such an experiment"
    return "Train on windows that have come since"


def _events(plans: list[Plan], uses: Mapping[str, int], allowed: Plan | None, *, whole: int) -> list[Event]:
    """What so many uses of the plans cost a block that all of them touch.

    The runs of what was `allowed` in advance are one plan; `whole` of them count to their end at least.
    """
    runs = [plan for plan in plans if allowed is not None and plan.foreseen == allowed.foreseen]
    beyond = any(uses[plan.name] > plan.uses for plan in runs)
    if allowed is None or beyond or len(runs) > allowed.runs:
        return [event for plan in plans for event in plan.events(uses[plan.name])]
    used = max(whole * allowed.uses, sum(uses[plan.name] for plan in runs))
    rest = [plan for plan in plans if plan not in runs]
    return [
        *allowed.events(used, allowed.foreseen),
        *(event for plan in rest for event in plan.events(uses[plan.name])),
    ]


def _unit(plans: Iterable[Plan]) -> Unit:
    """One run that bounds records alone leaves no bound for a person's rows together."""
    return "person" if all(plan.unit == "person" for plan in plans) else "record"


def _most(spent: Iterable[Spent]) -> dict[str, Spent]:
    """The greatest ε of each block, which several splits may name."""
    most: dict[str, Spent] = {}
    for item in spent:
        if item.block not in most or item.epsilon > most[item.block].epsilon:
            most[item.block] = item
    return most
