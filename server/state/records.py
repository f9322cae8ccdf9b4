"""What the state database and the registry give back: frozen values, never rows of a session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Self

from contract.experiment import Experiment
from contract.mandate import Mandate, read_mandate
from contract.windows import Every
from monitoring.schedule import Calendar
from server.state.participation import SiteState

__all__ = [
    "AdmittedSite",
    "ClaimRecord",
    "DecisionKind",
    "DecisionRecord",
    "DriftRecord",
    "Enrolment",
    "EnrolmentState",
    "Invitation",
    "Job",
    "ParticipationRecord",
    "RoundRecord",
    "RunRecord",
    "RunStatus",
    "ScheduleRecord",
    "SiteRecord",
    "VerdictRecord",
    "VersionRecord",
    "WindowCheck",
    "WindowState",
]

Job = Literal["train", "cycle", "ranges"]
RunStatus = Literal["running", "succeeded", "partial", "failed", "stopped", "refused"]
WindowState = Literal["waiting", "checking", "done", "not judged"]
EnrolmentState = Literal["requested", "confirmed", "refused", "revoked"]
DecisionKind = Literal[
    "retrain", "watch", "none", "blocked", "propose", "approve", "refuse", "promote", "rollback", "restore"
]
"""Of the retraining policy: the first four. Of a version: `propose` (the gate's yes where people decide too),
`approve` and `refuse`, `promote` and `rollback` into service, `restore` of an alias that another moved."""


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
class Invitation:
    """That a site of this name may ask to be let in.

    Attributes:
        federation: to which it is invited.
        secret: SHA-256 of the token's secret, which is nowhere.
        expires: until when a first key may use it.
        used: when one did.
    """

    federation: str
    name: str
    secret: str
    made: datetime
    expires: datetime
    used: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Enrolment:
    """What an invited site asked for, and what it was answered.

    Attributes:
        federation: to which it was invited.
        fingerprint: of its key, as `ssh-keygen -l` prints it.
        public_key: one line in OpenSSH form.
        signing_request: for that key (PEM).
        card: what it offers, as JSON; None if it sent none.
        stated_rows: the rows that it states.
        state: how it stands.
        certificate: the newest that was signed (PEM).
        asked: when it asked first.
        answered: when the operator answered.
        renewal_asked: since when it waits for a new certificate; None if it does not.
        rival: fingerprint of another key that came with the same token, and was refused.
    """

    federation: str
    name: str
    fingerprint: str
    public_key: str
    signing_request: str
    card: Mapping[str, Any] | None
    stated_rows: int
    state: EnrolmentState = "requested"
    certificate: str | None = None
    asked: datetime
    answered: datetime | None = None
    renewal_asked: datetime | None = None
    rival: str | None = None


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
        by: `policy`, `review` or `server`, or the name of a person.
        evidence: SHA-256 of the passport that it rests on; None where it rests on none.
    """

    id: int
    time: datetime
    experiment: str
    window: str
    kind: DecisionKind
    subject: str
    by: str
    reason: str
    evidence: str | None = None


@dataclass(frozen=True, kw_only=True)
class VersionRecord:
    """One registered model version, with its passport as `description`."""

    version: int
    run_id: str
    description: str
    tags: Mapping[str, str]
    aliases: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ScheduleRecord:
    """The windows of one experiment, each of which is checked once it has closed.

    Attributes:
        experiment: its name; it has one schedule at most.
        experiment_json: the plan.
        every, first, lag, zone, cron, pace: see `monitoring.schedule.Calendar`.
        paused: nothing of it is checked for now; what closes meanwhile is checked later.
        added: when, from which a pace counts.
        mandate: the standing one that a scientist signed (`contract.mandate`); empty where nobody did.
    """

    experiment: str
    experiment_json: str
    every: Every
    first: str
    lag: int
    zone: str
    cron: str
    pace: float | None
    paused: bool
    added: datetime
    mandate: str = ""

    @classmethod
    def of(
        cls,
        experiment: Experiment,
        *,
        every: Every,
        first: str,
        lag: int = 0,
        zone: str = "UTC",
        cron: str = "",
        pace: float | None = None,
    ) -> Self:
        """A schedule that begins now.

        Raises:
            InputError: it is no calendar (see `monitoring.schedule.Calendar`).
        """
        schedule = cls(
            experiment=experiment.name,
            experiment_json=experiment.model_dump_json(),
            every=every,
            first=first,
            lag=lag,
            zone=zone,
            cron=cron,
            pace=pace,
            paused=False,
            added=datetime.now(UTC),
        )
        schedule.calendar  # noqa: B018 - refuses what is none
        return schedule

    @property
    def calendar(self) -> Calendar:
        """When its windows close."""
        return Calendar(
            every=self.every,
            first=self.first,
            lag=self.lag,
            zone=self.zone,
            cron=self.cron,
            pace=self.pace,
            start=self.added,
        )

    @property
    def signed(self) -> Mandate | None:
        """The mandate, read; None where there is none.

        Raises:
            MessageError: it was changed in the database.
        """
        return read_mandate(self.mandate).mandate if self.mandate else None

    @property
    def plan(self) -> Experiment:
        """The experiment as it was when the schedule was added."""
        return Experiment.model_validate_json(self.experiment_json)


@dataclass(frozen=True, kw_only=True)
class WindowCheck:
    """How far the drift check of one window of an experiment came.

    Attributes:
        state: `waiting` for `due`; `checking`, under a lease; `done`; `not judged`, where all tries failed.
        attempts: how many there were, with the one in progress.
        due: when it may be tried, for the first time or again.
        owner: the process that has or had the lease; empty before the first.
        lease_until: when the lease ends unless it is renewed.
        run: the run that makes it; empty before the first.
        detail: what came of the last try, in a sentence.
        asked_by: who asked for it over the API, and nothing came of it yet; empty where nobody did.
        plan: the experiment that they asked for, as JSON; empty for the schedule's.
        said: what was said of the last try while it went on, sentence by sentence.
    """

    id: int
    experiment: str
    window: str
    state: WindowState
    attempts: int
    due: datetime
    owner: str
    lease_until: datetime | None
    run: str
    detail: str
    asked_by: str = ""
    plan: str = ""
    said: tuple[str, ...] = ()
