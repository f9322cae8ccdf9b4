"""The gate: the only place at a site that makes a reply.

A reply is made in this order, and in no other:

1. a request that was answered before gets the stored bytes again, unless its experiment was
   declined or revoked since;
2. the site's policy is asked, and where it says so the approvals of the administrator; then, of a model
   that comes as a package, whether this very one is installed: no code of it runs before;
3. the plans are authorised against the cap, and one use of each is reserved,
   on disk, before a row is read;
4. the releases are computed; each is a type of the contract, of the expected
   size and finite;
5. the reply and its line in the egress log are committed in one transaction;
6. its bytes go out, those that the ledger keeps.

What is not a type of `contract.releases` has no way through. Whether there is a
reply is settled in the first three steps, which know no row. What the mechanisms
give is total (`clients.mechanisms`): the check of step 4 finds a fault of the program.

A refusal is entered into the ledger too, with its word, and so is in the egress log.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from clients.code import installed_code_hash
from clients.ledger.chain import Asked, Ledger, Plan
from clients.ledger.cost import run_epsilon
from clients.ledger.plans import ALL_ROWS
from clients.policy import NO_MODEL
from clients.site_config import Policy
from contract.clipped import ClippedCounts
from contract.errors import ApprovalError, PolicyError, ReleaseError, SilentError, TidegateError
from contract.experiment import Experiment
from contract.installed_models import require_installed
from contract.messages import Anchor, Reply
from contract.regression import ErrorSums, Scores
from contract.releases import (
    MOST_VALUES,
    Comparison,
    DriftSummary,
    ModelUpdate,
    RangeSummary,
    ReferenceCounts,
    ScoreHistogram,
)

__all__ = ["Gate", "Releases"]

_WITH_A_MODEL = ("train", "clipped", "evaluate")
"""Purposes of the plans whose releases run the model's code."""


@dataclass(frozen=True, kw_only=True)
class Releases:
    """What a mechanism made, before the gate has looked at it."""

    update: ModelUpdate | None = None
    clipped: ClippedCounts | None = None
    scores: Scores | None = None
    challenger_scores: Scores | None = None
    comparison: Comparison | None = None
    drift: DriftSummary | None = None
    reference: ReferenceCounts | None = None
    ranges: RangeSummary | None = None


class Gate:
    """Makes the replies of one site.

    Args:
        site: the site's public name.
        stated_rows: the public number of rows that the administrator stated.
        policy: what the site allows.
        ledger: where every release is charged first.
        file: in which the policy stands, for the administrator who is told what to change.
    """

    def __init__(
        self, *, site: str, stated_rows: int, policy: Policy, ledger: Ledger, file: str = "site.toml"
    ) -> None:
        self._site = site
        self._file = file
        self._stated_rows = stated_rows
        self._policy = policy
        self._ledger = ledger

    def release(
        self,
        request: str,
        experiment: Experiment,
        plans: Sequence[Plan],
        compute: Callable[[], Releases],
        require: Callable[[], None] = lambda: None,
        *,
        windows: tuple[str, ...] = (ALL_ROWS,),
        mandate: str = "",
    ) -> bytes:
        """Make the reply to `request`, or give the stored one: the bytes of a `Reply`.

        Args:
            request: names the request: run, message type and step.
            experiment: whose plan this is.
            plans: what the releases will cost; one use of each is charged.
            compute: reads rows and runs the mechanisms. Called after the charge is on disk.
            require: refuses, before the charge, what this machine cannot compute as stated. It reads no row.
            windows: whose rows are read (`clients.ledger.plans.asked_windows`).
            mandate: the digest of the scientist's mandate that covers it; empty where there is none.

        Raises:
            PolicyError: the policy refuses; nothing was charged.
            ApprovalError: it waits for the administrator's approval; nothing was charged.
            BudgetError: the cap refuses; nothing was charged.
            NotInstalledError: the model's package is not the one that is installed; nothing was charged.
            LedgerError: the ledger cannot be written; no row was read.
            ReleaseError: what was computed is not such as a mechanism makes. The charge stands.
        """
        stored = self.stored(request, experiment)
        if stored is not None:
            return stored
        asked = self._ask_policy(experiment, plans, windows)
        if experiment.model.kind == "package" and any(plan.purpose in _WITH_A_MODEL for plan in plans):
            require_installed(experiment.model)
        require()
        for plan in plans:
            self._ledger.authorise(plan, asked=asked)
        self._ledger.reserve(request, *(plan.name for plan in plans), asked=asked, mandate=mandate)
        try:
            releases = compute()
        except TidegateError as exc:  # of one word, whatever failed
            raise ReleaseError(
                f"failed after the charge: {exc.what}", where=exc.where, remedy=exc.remedy
            ) from exc
        _check(releases)
        reply = self._reply(request, releases, plans, experiment.privacy.delta)
        names = {
            "releases": sorted(reply.releases()),
            "experiment": experiment.digest,
            "private": reply.private,
            **({"mandate": mandate} if mandate else {}),
        }
        return self._ledger.commit(request, plans[0].name, reply.to_bytes(), names)

    def stored(self, request: str, experiment: Experiment) -> bytes | None:
        """The reply to a request that was answered before; None where it was not.

        Raises:
            PolicyError: its experiment was declined or revoked since.
        """
        self._ledger.require_not_declined(experiment.digest)
        stored = self._ledger.stored_reply(request)
        if stored is not None:  # perhaps to another experiment, under which it is asked for now
            self._ledger.require_not_declined(self._ledger.answered(request))
        return stored

    def refuse(self, request: str, word: str) -> None:
        """Enter a refusal into the ledger, and so into the egress log.

        Raises:
            SilentError: there were too many within a day: it gets no answer.
            LedgerError: the ledger cannot be written.
        """
        if not self._ledger.refuse(request, word):
            raise SilentError(
                "too many requests were refused within a day",
                where=f"site '{self._site}'",
                remedy="See `tidegate site egress`, and ask the operator what the server is doing",
            )

    @property
    def anchor(self) -> Anchor:
        """Where the ledger ends now."""
        entries, head = self._ledger.anchor
        return Anchor(entries=entries, head=head)

    def check(
        self, experiment: Experiment, plans: Sequence[Plan], *, windows: tuple[str, ...] = (ALL_ROWS,)
    ) -> None:
        """Refuse what `release` would refuse, and charge nothing.

        Raises:
            PolicyError: the policy refuses.
            ApprovalError: it waits for the administrator's approval.
            BudgetError: the cap refuses.
        """
        self._ask_policy(experiment, plans, windows)
        for plan in plans:
            self._ledger.check(plan)

    def _ask_policy(
        self, experiment: Experiment, plans: Sequence[Plan], windows: tuple[str, ...]
    ) -> Asked | None:
        """What is to rest on an approval; None where the policy alone lets it run."""
        where = f"site '{self._site}'"
        if self._policy.require_private and not all(plan.private for plan in plans):
            raise PolicyError(
                "this site takes part in differentially private runs only",
                where=where,
                remedy="Set privacy.private = true, or for test data policy.require_private = false in "
                f"{self._file}",
            )
        if experiment.privacy.delta > self._policy.delta_cap:
            raise PolicyError(
                f"δ = {experiment.privacy.delta:g} is above this site's limit of {self._policy.delta_cap:g}",
                where=where,
                remedy="Lower privacy.delta in the experiment",
            )
        self._ledger.require_not_declined(experiment.digest)
        rule, asks = self._policy.rule, self._policy.approval == "ask"
        code = installed_code_hash() if asks or rule is not None else ""
        unmet = ""
        if rule is None and experiment.model.kind == "package":  # code that no administrator has named here
            unmet = NO_MODEL.format(experiment.model.package or experiment.model.name)
        if rule is not None:
            epsilon = 0.0 if rule.epsilon is None else run_epsilon(self._ledger, plans)
            unmet = rule.unmet(experiment, code=code, epsilon=epsilon, at=datetime.now(UTC))
        if not unmet and (rule is not None or not asks):
            return None
        asked = Asked(experiment=experiment.digest, code=code, windows=windows)
        try:
            self._ledger.require_approved(asked, plans)
        except ApprovalError as exc:
            if asks:
                raise
            raise PolicyError(unmet, where=where, remedy=self._remedy(experiment)) from exc
        return asked

    def _remedy(self, experiment: Experiment) -> str:
        if experiment.model.kind == "package" and self._policy.approved_experiments is None:
            return (
                "If the site's administrator trusts that package, name it in policy.allow.models in "
                f"{self._file}"
            )
        if self._policy.approved_experiments is not None:
            return (
                "If the site's administrator approves, add the digest to policy.approved_experiments in "
                f"{self._file}"
            )
        return f"If the site's administrator allows it, change policy.allow in {self._file}"

    def _reply(self, request: str, releases: Releases, plans: Sequence[Plan], delta: float) -> Reply:
        return Reply(
            request=request,
            site=self._site,
            stated_rows=self._stated_rows,
            mechanism="; ".join(_mechanism(plan) for plan in self._ledger.plans(plans[0].run)),
            spent_in_run=self._ledger.spent(run=plans[0].run, delta=delta, promised=True),
            spent_in_total=self._ledger.spent(delta=delta, promised=True),
            private=all(plan.private for plan in plans),
            **vars(releases),
        )


def _mechanism(plan: Plan) -> str:
    if not plan.private:
        return f"{plan.purpose}: no mechanism (not private)"
    sampled = f", Poisson sampling rate {plan.sampling_rate:g}" if plan.sampling_rate < 1 else ""
    times = plan.uses * plan.steps
    runs = f" in each of at most {plan.runs} runs" if plan.runs > 1 else ""
    noise = f"noise multiplier {plan.noise_multiplier:.4g}"
    return f"{plan.purpose}: Gaussian, {noise}{sampled}, at most {times} times{runs}"


def _check(releases: Releases) -> None:
    values = {name: value for name, value in vars(releases).items() if value is not None}
    expected: dict[str, tuple[type, ...]] = {
        "update": (ModelUpdate,),
        "clipped": (ClippedCounts,),
        "scores": (ScoreHistogram, ErrorSums),
        "challenger_scores": (ScoreHistogram, ErrorSums),
        "comparison": (Comparison,),
        "drift": (DriftSummary,),
        "reference": (ReferenceCounts,),
        "ranges": (RangeSummary,),
    }
    if not values:
        raise ReleaseError("there is nothing to release")
    for name, value in values.items():
        if type(value) not in expected[name]:
            raise ReleaseError(f"'{name}' is not a release of the contract")
        numbers = _numbers(value)
        if sum(number.size for number in numbers) > MOST_VALUES:
            raise ReleaseError(f"'{name}' is larger than any release may be")
        if not all(np.isfinite(number).all() for number in numbers):
            raise ReleaseError(f"'{name}' holds a number that is not finite")


def _numbers(  # noqa: PLR0911 - a line a release
    release: object,
) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    if isinstance(release, ModelUpdate):
        return [np.asarray(array) for array in (*release.arrays.values(), *release.steps.values())]
    if isinstance(release, ClippedCounts):
        return [np.array([release.cut, release.kept, release.noise_deviation])]
    if isinstance(release, ScoreHistogram):
        return [release.negative, release.positive]
    if isinstance(release, ErrorSums):
        return [release.sums, np.array([release.span])]
    if isinstance(release, Comparison):
        return [np.array([release.gain, release.squares, release.rows])]
    if isinstance(release, RangeSummary):
        return [np.array([release.noise_deviation]), *(feature.counts for feature in release.features)]
    if isinstance(release, ReferenceCounts):
        return [np.array([release.deviation]), *release.counts.values()]
    assert isinstance(release, DriftSummary)  # _check has looked  # noqa: S101
    return [array for feature in release.features for array in (feature.reference, feature.current)]
