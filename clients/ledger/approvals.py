"""What the administrator approved, declined and revoked, as the ledger's entries tell of it.

An approval is a small ledger of its own: it names an experiment, the code, the windows and an ε, and
everything that is reserved under it counts against that ε, composed as against the cap. So whoever was
approved for one run cannot run twice, or look twice, for the price that was approved. `reserve` entries
name the approval that they rest on, and a third party sees that none was without.

An approval ends when it is revoked, with its date, or when the ledger is restored from a backup: what was
revoked since may be among what was lost. Time is the largest that any entry has named: a clock that is set
back gives nothing its validity back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from clients.ledger.answers import latest_time
from clients.ledger.entries import OF_ALL, Entry
from clients.ledger.plan import Cap, Plan
from clients.ledger.spending import Spending
from contract.epsilon import epsilon_words
from contract.errors import ApprovalError, PolicyError

__all__ = ["Approval", "Approvals", "Asked", "Terms"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What asks to be let in.

    Attributes:
        experiment: its digest.
        code: the hash of the code that is installed.
        windows: whose rows are read, `ALL_ROWS` among them for the whole data set.
    """

    experiment: str
    code: str
    windows: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What an approval covers.

    Attributes:
        experiment, name: the experiment's digest, and what it is called.
        code: the hash of the code that may run.
        epsilon: the most that any data block may pay for all that is done under it; None for an
            experiment that is not private.
        delta: of that ε.
        windows: whose rows may be read; None for any.
        purposes: what for: of `clients.ledger.plan.Purpose`.
        until: when it ends, ISO 8601; None for when it is revoked.
        runs: how many runs; None for as many as ε allows.
    """

    experiment: str
    name: str
    code: str
    epsilon: float | None
    delta: float
    windows: tuple[str, ...] | None
    purposes: tuple[str, ...]
    until: str | None = None
    runs: int | None = None

    def as_body(self) -> dict[str, Any]:
        """As an entry holds it."""
        windows = None if self.windows is None else list(self.windows)
        return {**asdict(self), "windows": windows, "purposes": list(self.purposes)}

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Terms:
        """As an entry held it.

        Raises:
            TypeError: no ledger writes such a one.
        """
        values = {key: value for key, value in body.items() if key not in OF_ALL}
        windows, purposes = values.pop("windows"), tuple(map(str, values.pop("purposes")))
        windows = None if windows is None else tuple(map(str, windows))
        return cls(**values, windows=windows, purposes=purposes)


@dataclass(kw_only=True)
class Approval:
    """One approval and what was done under it.

    Attributes:
        sequence: of its entry, which names it.
        at: when it was given.
        terms: what it covers.
        ended: why it holds no more, beside its date; empty if it does.
        runs: those that used it.
    """

    sequence: int
    at: str
    terms: Terms
    spending: Spending
    ended: str = ""
    runs: set[str] = field(default_factory=set)

    @property
    def spent(self) -> float:
        """ε that the block has paid that paid most under it, with what is promised."""
        blocks = self.spending.by_block(run=None, delta=self.terms.delta, promised=True)
        return max((item.epsilon for item in blocks.values()), default=0.0)


class Approvals:
    """The approvals of a ledger.

    Args:
        site: named in a refusal.
    """

    def __init__(self, *, site: str = "") -> None:
        self._site = site
        self._given: dict[int, Approval] = {}
        self._declined: dict[str, str] = {}
        self._authorised: dict[str, Entry] = {}
        self._newest: datetime | None = None

    def apply(self, entry: Entry) -> None:
        """Take the next entry in.

        Raises:
            InputError, KeyError, TypeError, ValueError: no ledger writes such an entry.
        """
        self._newest = latest_time(entry.body["at"], self._newest)
        if entry.kind == "approve":
            terms = Terms.of(entry.body)
            cap = Cap(epsilon=terms.epsilon or 1.0, delta=terms.delta)
            self._given[entry.sequence] = Approval(
                sequence=entry.sequence,
                at=str(entry.body["at"]),
                terms=terms,
                spending=Spending(cap, site=self._site),
            )
            self._declined.pop(terms.experiment, None)
        elif entry.kind in ("decline", "revoke"):
            digest = str(entry.body["experiment"])
            self._end(digest, "revoked" if entry.kind == "revoke" else "declined")
            self._declined[digest] = str(entry.body["reason"])
        elif entry.kind == "reopen":
            self._declined.pop(str(entry.body["experiment"]), None)
        elif entry.kind == "restore":
            self._end(None, "the ledger was restored")
        else:
            self._apply_plan(entry)

    def _apply_plan(self, entry: Entry) -> None:
        if entry.kind == "authorise":
            self._authorised[entry.plan] = entry
        if entry.kind in ("authorise", "close"):
            for approval in self._given.values():
                if entry.plan in approval.spending.plans:
                    approval.spending.apply(entry)
        elif entry.kind == "reserve" and (number := entry.body.get("approval")) is not None:
            approval = self._given[number]
            if entry.plan not in approval.spending.plans:
                approval.spending.apply(self._authorised[entry.plan])
            approval.spending.apply(entry)
            plan = approval.spending.plans[entry.plan]
            if plan.run != plan.name:
                approval.runs.add(plan.run)

    def _end(self, digest: str | None, why: str) -> None:
        for approval in self._given.values():
            if digest in (None, approval.terms.experiment) and not approval.ended:
                approval.ended = why

    def require_not_declined(self, digest: str) -> None:
        """Refuse an experiment that the administrator declined or revoked, and has not approved since.

        Raises:
            PolicyError: it is such a one.
        """
        if digest in self._declined:
            raise PolicyError(
                f"the administrator has declined or revoked experiment {digest}",
                where=f"site '{self._site}'",
                remedy="If it is to run after all, `tidegate site refuse --undo` lets it ask again",
            )

    def require(self, asked: Asked, plans: Sequence[Plan], at: str, *, more: int = 0) -> int:
        """The number of the approval that covers this.

        Args:
            asked: who asks, on which windows.
            plans: what is to be entered or used; none to ask for the rest alone.
            at: the time.
            more: uses of each plan that are to come, where it has run to its end: 1 before one is entered.

        Raises:
            PolicyError: it was declined or revoked.
            ApprovalError: no approval covers it; it says why the newest does not.
        """
        self.require_not_declined(asked.experiment)
        why = "no experiment of this digest is approved here"
        for approval in reversed(self.of(asked.experiment)):
            uncovered = self._uncovered(approval, asked, plans, at, more)
            if not uncovered:
                return approval.sequence
            if why.startswith("no experiment"):
                why = uncovered
        raise ApprovalError(
            f"experiment {asked.experiment} waits for approval: {why}",
            where=f"site '{self._site}'",
            remedy="See `tidegate site requests`, then `tidegate site approve` or `tidegate site refuse`",
        )

    def of(self, digest: str) -> tuple[Approval, ...]:
        """The approvals of an experiment, in the order in which they were given, ended ones too."""
        return tuple(approval for approval in self.all() if approval.terms.experiment == digest)

    def all(self) -> tuple[Approval, ...]:
        """Every approval, in the order in which they were given."""
        return tuple(self._given.values())

    def declined(self) -> dict[str, str]:
        """The digests that are declined or revoked, with the reason."""
        return dict(self._declined)

    def open_plans(self, digest: str) -> set[str]:
        """Plans that an approval of this experiment lets run."""
        return {name for approval in self.of(digest) for name in approval.spending.open}

    def is_over(self, approval: Approval, at: str) -> bool:
        """Whether it was ended, or its date has passed."""
        return bool(approval.ended) or self._has_passed(approval.terms.until, at)

    def _uncovered(self, approval: Approval, asked: Asked, plans: Sequence[Plan], at: str, more: int) -> str:
        """Why the approval does not cover this; empty where it does."""
        terms = approval.terms
        runs = {plan.run for plan in plans if plan.run != plan.name} | approval.runs
        windows = [] if terms.windows is None else _others(asked.windows, terms.windows)
        purposes = _others({plan.purpose for plan in plans}, terms.purposes)
        faults = {
            f"its approval ended ({approval.ended})": bool(approval.ended),
            f"its approval ended on {terms.until}": self._has_passed(terms.until, at),
            f"other code is installed than the approved {terms.code[:12]}…": terms.code != asked.code,
            f"its approval does not name {', '.join(windows[:5])}": bool(windows),
            f"its approval is not for {', '.join(purposes)}": bool(purposes),
            f"its approval is for {terms.runs} runs, which were made": len(runs) > (terms.runs or len(runs)),
        }
        return next((fault for fault, found in faults.items() if found), "") or _above(approval, plans, more)

    def _has_passed(self, until: str | None, at: str) -> bool:
        if until is None:
            return False
        now = latest_time(at, self._newest)
        return now is None or now >= datetime.fromisoformat(until)


def _others(windows: Collection[str], approved: Collection[str]) -> list[str]:
    return sorted(set(windows).difference(approved))


def _above(approval: Approval, plans: Sequence[Plan], more: int) -> str:
    """That these plans, run to their end or with so many uses more, would pass the approved ε."""
    terms = approval.terms
    if terms.epsilon is None or not plans:
        return ""
    if not all(plan.private for plan in plans):  # of this digest there is none; should there be, it costs ∞
        return "it is not private, and its approval is for what is"
    would = approval.spending.would_spend(plans, more=more)
    most = max((spent.epsilon for spent in would.values()), default=0.0)
    if approval.spending.cap.holds(most):
        return ""
    return f"it would come to ε = {epsilon_words(most)}, above the approved {terms.epsilon:g}"
