"""Who puts a version into service: the gate alone, or people too.

    1. a model's first version, or a challenger that the gate accepts, is proposed
    2. reviewers approve it, or refuse it, each with a reason
    3. once so many different people have approved it since anybody refused it, it is promoted
    4. the decisions are written down; only then the service account moves the alias `champion`

How many people it takes is the experiment's to say (`retraining.approval`), and the server's may be more
(`approvals` in server.toml). Where it takes none, the gate's word promotes. Whoever had the version trained
does not approve it. Each word rests on the passport that was registered, whose hash is written beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from contract.errors import ChangedError, InputError
from contract.experiment import Experiment
from contract.federation_api import Review
from contract.model_version import sha256
from contract.names import challenger_run
from contract.words import DECIDED
from server.jobs.champion import INTO_SERVICE, champion_number, follow_decisions
from server.jobs.registered import is_ours, registered_hashes
from server.registry.passport import fitted, with_decisions
from server.registry.registry import Registry
from server.state.people import RESERVED, likeness
from server.state.records import DecisionKind, DecisionRecord, RunRecord, VersionRecord
from server.state.storage import State
from server.state.submissions import Submissions
from server.state.versions import RegisteredVersions

__all__ = [
    "ACTS",
    "REVIEW_TAG",
    "ReviewStatus",
    "approvals_needed",
    "approve",
    "enter_gate",
    "history",
    "refuse",
    "require_recordable",
    "review_of",
    "roll_back",
    "show_decisions",
    "shown_passport",
]

REVIEW_TAG = "tidegate.review"
"""Of a version in MLflow: what was decided on it last."""
_PEOPLE = {"policy": 0, "reviewer": 1, "two-reviewers": 2}
_OF_VERSIONS: tuple[DecisionKind, ...] = ("propose", "approve", "refuse", "promote", "rollback", "restore")
_MOST_OF_A_REASON = 10_000


@dataclass(frozen=True, kw_only=True)
class ReviewStatus:
    """How far the review of a version came.

    Attributes:
        needed: how many people must approve it; 0 where the gate's word is enough.
        approved_by: who has, on the passport that it has now and since anybody refused it.
        in_service: whether it is the champion.
        was_in_service: whether it ever was, since anybody refused it.
    """

    needed: int
    approved_by: tuple[str, ...]
    in_service: bool
    was_in_service: bool

    @property
    def missing(self) -> int:
        """How many people more must approve it."""
        return max(0, self.needed - len(self.approved_by))

    def told(self, model: str, version: int) -> Review:
        """What whoever decided is told of it."""
        return Review(
            model=model,
            version=version,
            needed=self.needed,
            approved_by=self.approved_by,
            in_service=self.in_service,
        )


def approvals_needed(experiment: Experiment, state: State, least: int) -> int:
    """How many people must approve a version of this experiment.

    What is in service may have asked for more: whoever checks a window, or trains, with a plan of their own
    lowers no bar.

    Args:
        experiment: the version's own.
        state: says what is in service.
        least: what the server asks for at least.
    """
    champion = champion_number(experiment.name, state)
    plans = [experiment, None if champion is None else _plan_of(experiment.name, champion, state)]
    return max(least, *(_PEOPLE[one.retraining.approval] for one in plans if one is not None))


def enter_gate(
    experiment: Experiment,
    version: int,
    state: State,
    registry: Registry,
    *,
    window: str,
    kind: DecisionKind,
    reason: str,
) -> None:
    """Enter what the gate says of a version; the alias follows.

    Args:
        experiment: the version's.
        version: its passport is registered.
        state: where decisions are kept; what a run that was killed has entered is not entered again.
        registry: MLflow.
        window: that was checked; empty for none.
        kind: `promote`, or `propose` where people decide too, or `refuse`.
        reason: in a sentence.
    """
    name, before = experiment.name, champion_number(experiment.name, state)
    if not any((one.subject, one.kind) == (_subject(version), kind) for one in history(name, state)):
        state.record_decision(
            name,
            window=window,
            kind=kind,
            subject=_subject(version),
            by="policy",
            reason=reason,
            evidence=_evidence(name, version, state),
        )
    _follow(name, version, before, state, registry)


def approve(
    model: str, version: int, state: State, registry: Registry, *, by: str, reason: str, least: int
) -> ReviewStatus:
    """A person's yes. With the last one that is needed the version is promoted.

    Raises:
        InputError: there is no such version, it is in service, or this person may not approve it.
        ChangedError: its files, or the passport that MLflow shows, are not those that were registered.
    """
    before = _require_decidable(model, version, state, registry, by=by, reason=reason, least=least)
    if before.in_service:
        raise InputError(f"version {version} of '{model}' is in service already")
    if _is_among(by, before.approved_by) and before.missing:
        raise InputError(
            f"'{by}' has approved version {version} already",
            remedy=f"{before.needed} different people must: ask another reviewer",
        )
    replaced = champion_number(model, state)
    if not _is_among(by, before.approved_by):  # else the last step was cut off: it is done now
        _enter(model, version, "approve", state, by=by, reason=reason)
    after = review_of(model, version, state, least=least)
    if not after.missing:
        named = " and ".join(after.approved_by)
        _enter(model, version, "promote", state, by="review", reason=f"approved by {named}")
    _follow(model, version, replaced, state, registry)
    return review_of(model, version, state, least=least)


def refuse(
    model: str, version: int, state: State, registry: Registry, *, by: str, reason: str, least: int
) -> ReviewStatus:
    """A person's no: approvals until then count no more.

    Raises:
        InputError: there is no such version, it is in service, or this person may not decide on it.
        ChangedError: its files, or the passport that MLflow shows, are not those that were registered.
    """
    before = _require_decidable(model, version, state, registry, by=by, reason=reason, least=least)
    if before.in_service:
        raise InputError(
            f"version {version} of '{model}' is in service",
            remedy="Go back to another: `tidegate models rollback`",
        )
    _enter(model, version, "refuse", state, by=by, reason=reason)
    show_decisions(model, version, state, registry)
    return review_of(model, version, state, least=least)


def roll_back(
    model: str, version: int, state: State, registry: Registry, *, by: str, reason: str, least: int
) -> ReviewStatus:
    """Go back to a version that was in service before. One person's word is enough, because it cannot wait.

    Raises:
        InputError: there is no such version, it never was in service, or it is.
        ChangedError: its files, or the passport that MLflow shows, are not those that were registered.
    """
    before = _require_decidable(model, version, state, registry, by=by, reason=reason, least=least)
    if before.in_service or not before.was_in_service:
        known = "is in service already" if before.in_service else "was never in service"
        raise InputError(
            f"version {version} of '{model}' {known}",
            remedy="`tidegate models history` says which were; of others: `tidegate models approve`",
        )
    replaced = champion_number(model, state)
    _enter(model, version, "rollback", state, by=by, reason=reason)
    _follow(model, version, replaced, state, registry)
    return review_of(model, version, state, least=least)


ACTS = {"approve": approve, "refuse": refuse, "rollback": roll_back}
"""What a person may say of a version, by the word for it."""


def review_of(model: str, version: int, state: State, *, least: int) -> ReviewStatus:
    """How far the review of a version came."""
    own, evidence = _decided_on(model, version, state), _evidence(model, version, state)
    since = max((place for place, one in enumerate(own) if one.kind == "refuse"), default=-1)
    words = [one for one in own[since + 1 :] if one.kind == "approve" and one.evidence == evidence]
    plan = _plan_of(model, version, state)
    return ReviewStatus(
        needed=max(least, 1) if plan is None else approvals_needed(plan, state, least),
        approved_by=tuple(dict.fromkeys(one.by for one in words)),
        in_service=champion_number(model, state) == version,
        was_in_service=any(one.kind in INTO_SERVICE for one in own[since + 1 :]),
    )


def show_decisions(model: str, version: int, state: State, registry: Registry) -> None:
    """Have MLflow show a version's passport with what was decided on it since, and find it by that."""
    own = _decided_on(model, version, state)
    passport = RegisteredVersions(state.database).passport(model, version)
    if passport is not None:
        registry.describe(model, version, with_decisions(passport, own))
    if not own:
        return
    word = DECIDED[own[-1].kind]
    if champion_number(model, state) == version:
        word = "in service"
    elif own[-1].kind in INTO_SERVICE:
        word = "was in service"
    registry.tag_version(model, version, REVIEW_TAG, word)


def shown_passport(model: str, record: VersionRecord, state: State) -> tuple[str, str]:
    """A version's passport as it was registered, with what was decided since; and what is wrong in MLflow."""
    passport = RegisteredVersions(state.database).passport(model, record.version)
    if passport is None:
        return record.description, "an earlier Tidegate registered this version: nothing holds its passport"
    own = _decided_on(model, record.version, state)
    shown = [with_decisions(passport, own[:number]) for number in range(len(own) + 1)]
    known = {text.strip() for one in shown for text in (one, fitted(one))}
    if record.description.strip() in known:  # a decision may have been cut off before MLflow followed
        return shown[-1].strip(), ""
    changed = "MLflow shows another passport: it was changed there. This is the one that was registered"
    return shown[-1].strip(), changed


def history(model: str, state: State) -> Sequence[DecisionRecord]:
    """What was decided on the versions of a model, in its order."""
    return [
        one for one in state.decisions(model, kinds=_OF_VERSIONS) if re.fullmatch(r"version \d+", one.subject)
    ]


def _decided_on(model: str, version: int, state: State) -> Sequence[DecisionRecord]:
    return [one for one in history(model, state) if one.subject == _subject(version)]


def require_recordable(where: str, text: str, most: int = 200) -> None:
    """Refuse what no database takes: the decision is recorded for ever.

    Raises:
        InputError: it is empty, too long, or holds characters that cannot be shown.
    """
    if not text.strip() or len(text) > most or not text.replace("\n", " ").isprintable():
        raise InputError(
            f"this cannot be recorded: 1 to {most} characters, each of which can be printed",
            where=where,
            remedy="Write it in plain text",
        )


def _require_decidable(
    model: str, version: int, state: State, registry: Registry, *, by: str, reason: str, least: int
) -> ReviewStatus:
    """Refuse a word that cannot count; what MLflow shows must be what was registered, for that was read."""
    require_recordable("by", by)
    if _is_among(by, RESERVED):
        raise InputError(
            f"'{by.strip()}' decides by itself, and nobody in its name",
            where="by",
            remedy="Give a person's name",
        )
    require_recordable("reason", reason, most=_MOST_OF_A_REASON)
    record = next((item for item in registry.versions(model) if item.version == version), None)
    if record is None:
        raise InputError(
            f"there is no version {version} of '{model}'", remedy=f"See `tidegate models list {model}`"
        )
    if not is_ours(model, version, state):
        raise InputError(
            f"no run of this server has made version {version} of '{model}'",
            remedy="It is not this server's to decide on",
        )
    _require_judged(model, version, state)
    if _is_among(by, _trained_for(model, version, state)):
        raise InputError(
            f"'{by}' had version {version} of '{model}' trained",
            remedy="Another person decides on it: ask a reviewer",
        )
    registry.files(model, version, registered_hashes(model, version, state, registry))
    kept = RegisteredVersions(state.database).passport(model, version)
    if kept is not None and shown_passport(model, record, state)[1]:
        told = "the passport that MLflow showed was changed there"
        _enter(model, version, "restore", state, by="server", reason=told)
        show_decisions(model, version, state, registry)
        raise ChangedError(
            f"{told}: nothing was decided",
            where=f"{model} version {version}",
            remedy="The one that was registered was put back: read it, and decide then",
        )
    return review_of(model, version, state, least=least)


def _require_judged(model: str, version: int, state: State) -> None:
    """Refuse a challenger that the gate is about to judge: its passport has no comparison yet."""
    run = _run_of(model, version, state)
    if run is None or _decided_on(model, version, state):
        return
    check = next((one for one in state.runs(model) if challenger_run(one.name) == run.name), None)
    if check is not None and check.status == "running":
        raise InputError(
            f"version {version} of '{model}' is being compared with the champion",
            remedy="Wait until the gate has spoken: `tidegate models history` says so",
        )


def _is_among(by: str, names: Iterable[str]) -> bool:
    """Whether a name is, or could be taken for, one of these."""
    return likeness(by) in {likeness(name) for name in names}


def _trained_for(model: str, version: int, state: State) -> set[str]:
    """Who submitted a version's run; of one that a schedule trained, whoever submitted any of the model."""
    run = _run_of(model, version, state)
    submitted = Submissions(state.database).of_runs([one.name for one in state.runs(model)])
    if run is not None and run.name in submitted:
        return {submitted[run.name].person}
    return {one.person for one in submitted.values()}


def _run_of(model: str, version: int, state: State) -> RunRecord | None:
    found = [run for run in state.runs(model) if run.job == "train" and run.model_version == version]
    return found[-1] if found else None


def _plan_of(model: str, version: int, state: State) -> Experiment | None:
    run = _run_of(model, version, state)
    return None if run is None else Experiment.model_validate_json(run.experiment_json)


def _evidence(model: str, version: int, state: State) -> str | None:
    """The hash of the passport that was registered; None of an earlier Tidegate's version."""
    passport = RegisteredVersions(state.database).passport(model, version)
    return None if passport is None else sha256(passport.encode())


def _enter(model: str, version: int, kind: DecisionKind, state: State, *, by: str, reason: str) -> None:
    state.record_decision(
        model,
        window="",
        kind=kind,
        subject=_subject(version),
        by=by,
        reason=reason,
        evidence=_evidence(model, version, state),
    )


def _follow(model: str, version: int, replaced: int | None, state: State, registry: Registry) -> None:
    """Have MLflow follow a decision on a version; also of the one whose place it took."""
    if champion_number(model, state) == version:
        follow_decisions(model, state, registry)
        if replaced not in (None, version):
            show_decisions(model, replaced, state, registry)
    show_decisions(model, version, state, registry)


def _subject(version: int) -> str:
    return f"version {version}"
