"""What the state database and the registry give back: frozen values, never rows of a session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from server.state.participation import SiteState

__all__ = [
    "AdmittedSite",
    "ClaimRecord",
    "DecisionKind",
    "DecisionRecord",
    "DriftRecord",
    "Job",
    "ParticipationRecord",
    "RoundRecord",
    "RunRecord",
    "RunStatus",
    "SiteRecord",
    "VerdictRecord",
    "VersionRecord",
]

Job = Literal["train", "cycle", "ranges"]
RunStatus = Literal["running", "succeeded", "partial", "failed", "stopped", "refused"]
DecisionKind = Literal["retrain", "watch", "none", "blocked", "promote", "refuse", "rollback", "approve"]


@dataclass(frozen=True, kw_only=True)
class SiteRecord:
    """A site that has answered: its Flower node and the rows its administrator stated."""

    name: str
    node_id: int
    stated_rows: int
    first_seen: datetime
    last_seen: datetime


@dataclass(frozen=True, kw_only=True)
class AdmittedSite:
    """A site whose key the operator admitted to a federation, and may connect.

    Attributes:
        federation: which SuperLink: `server.settings.ServerSettings.federation`.
        node_id: what the SuperLink calls it.
        key: SHA-256 of its public key.
        stated_rows: the rows that it must state: as the operator said, or its first answer; None before.
    """

    federation: str
    name: str
    node_id: int
    key: str
    admitted: datetime
    stated_rows: int | None = None


@dataclass(frozen=True, kw_only=True)
class ParticipationRecord:
    """How far one site came in one exchange of a run (`server.state.participation`).

    Attributes:
        kind: the message type: `train` for a round.
        round: its number; that of the exchange beside the rounds.
        reason: why it came no further; empty where it counted, or is still at work.
        since: when it reached that state.
    """

    run: str
    kind: str
    round: int
    site: str
    node_id: int | None
    stated_rows: int | None
    state: SiteState
    reason: str
    since: datetime


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run of an experiment.

    Attributes:
        name: unique, such as `rand-health-20261124-101500-ab12`.
        experiment_json: the plan whose SHA-256 is `experiment_digest`.
        job: `train` is one training, `cycle` a drift check with what follows from it, `ranges` a question.
        trigger: who or what started it, in words.
        status: `partial` when it ended without some site, `refused` when sites or a
            budget did not allow it, `stopped` when a person or the system ended its process.
        error: what went wrong, in one sentence; empty otherwise.
        result: what the run ended with, as JSON, for whoever started it.
    """

    name: str
    experiment: str
    experiment_digest: str
    experiment_json: str
    job: Job
    trigger: str
    status: RunStatus
    started: datetime
    ended: datetime | None
    error: str
    mlflow_run_id: str | None
    model_version: int | None
    result: str | None
    code_hash: str


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """One finished round.

    Attributes:
        cohort: the sites that were asked.
        counted: those whose reply was aggregated.
        failures: why each of the others was not, in the words of `server.state.participation`; those
            that were admitted and not connected too.
        metrics: figures by name, nested as the caller likes; one that is not finite
            reads back as None.
        ended: set by the database's writer.
    """

    round: int
    cohort: tuple[str, ...]
    counted: tuple[str, ...]
    failures: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    ended: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class DriftRecord:
    """The drift summary that one site released for one window."""

    experiment: str
    window: str
    site: str
    summary: Mapping[str, Any]
    saved: datetime


@dataclass(frozen=True, kw_only=True)
class VerdictRecord:
    """What the server made of the summaries of one window."""

    experiment: str
    window: str
    verdict: Mapping[str, Any]
    alarm: bool
    saved: datetime


@dataclass(frozen=True, kw_only=True)
class ClaimRecord:
    """Who took a slot of a job, and when."""

    slot: str
    owner: str
    claimed_at: datetime


@dataclass(frozen=True, kw_only=True)
class DecisionRecord:
    """One decision, for ever.

    Attributes:
        subject: what it is about, such as a model version.
        by: `policy`, or the name of a person.
    """

    id: int
    time: datetime
    experiment: str
    window: str
    kind: DecisionKind
    subject: str
    by: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class VersionRecord:
    """One registered model version, with its passport as `description`."""

    version: int
    run_id: str
    description: str
    tags: Mapping[str, str]
    aliases: tuple[str, ...]
