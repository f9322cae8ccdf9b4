"""What people and a server say to each other over its HTTPS API: JSON in frozen types, each bounded.

The server makes these, and `tidegate connect` and what follows it read them. A name or a sentence in them
comes from outside at either end: whoever shows it passes it through `contract.outside`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from contract.names import PersonName, RunName, WindowName
from contract.roles import Role

__all__ = [
    "MOST_BODY",
    "MOST_ITEMS",
    "MOST_WINDOWS",
    "WAITING",
    "Decision",
    "Decisions",
    "Model",
    "ModelVersion",
    "Models",
    "Participation",
    "ParticipationEvent",
    "Problem",
    "QueueEvent",
    "Round",
    "Run",
    "RunDetail",
    "RunStatus",
    "Runs",
    "Schedule",
    "Schedules",
    "Site",
    "Sites",
    "Submission",
    "Submitted",
    "Verdict",
    "Verdicts",
    "Whoami",
    "has_ended",
]

RunStatus = Literal["queued", "starting", "running", "succeeded", "partial", "failed", "stopped", "refused"]
"""`queued` until others have ended; `starting` until the server's process has begun it."""

MOST_BODY = 2**20
"""Bytes of a request's body."""
MOST_ITEMS = 200
"""Of one page of a list."""
MOST_WINDOWS = 1000
"""Of one submission."""
WAITING = "waiting for approval"
"""Why a site came no further whose administrator has not approved the run yet."""


def has_ended(status: RunStatus) -> bool:
    """Whether nothing more will come of a run unless somebody resumes it."""
    return status not in ("queued", "starting", "running")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Problem(_Frozen):
    """Why a request was refused: see `contract.errors.TidegateError`."""

    what: str
    where: str = ""
    remedy: str = ""


class Whoami(_Frozen):
    """Whose token it is."""

    name: PersonName
    role: Role
    expires: datetime | None
    version: str


class Site(_Frozen):
    """A site of the federation.

    Attributes:
        connected: now; None where that cannot be told.
        stated_rows: as its administrator states them; None before its first answer.
        last_answer: when; None before the first.
    """

    name: str
    admitted: bool
    connected: bool | None
    stated_rows: int | None
    last_answer: datetime | None


class Sites(_Frozen):
    """A page of sites, in the order of their admission."""

    sites: tuple[Site, ...] = Field(max_length=MOST_ITEMS)
    more: bool


class Submission(_Frozen):
    """An experiment that is to be run.

    Attributes:
        experiment: the experiment as JSON, with the keys of an experiment file.
        windows: whose rows are used; none for all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    experiment: Annotated[str, Field(min_length=1, max_length=MOST_BODY)]
    windows: Annotated[list[WindowName], Field(max_length=MOST_WINDOWS)] = Field(default_factory=list)


class Submitted(_Frozen):
    """What became of a submission: the run's name, and its place in the queue, from 1; 0 if it has none."""

    run: RunName
    place: int


class Run(_Frozen):
    """A run in a list.

    Attributes:
        owner: who submitted it; empty where nobody did over the API.
        place: in the queue, from 1; 0 where it is not in it.
        rounds, of: how many are finished, of how many; `of` is 0 where that is not told.
        error: what went wrong, in a sentence.
    """

    name: str
    experiment: str
    job: str
    owner: str
    status: RunStatus
    place: int
    since: datetime
    ended: datetime | None
    rounds: int
    of: int
    model_version: int | None
    error: str


class Runs(_Frozen):
    """A page of runs, newest first."""

    runs: tuple[Run, ...] = Field(max_length=MOST_ITEMS)
    more: bool


class Round(_Frozen):
    """A finished round: who counted, why others did not, and its metrics by site and overall."""

    number: int
    counted: tuple[str, ...]
    failures: dict[str, str]
    metrics: dict[str, Any]
    seconds: float


class Participation(_Frozen):
    """How far a site came in an exchange of a run, why no further, and what to do about it."""

    kind: str
    number: int
    site: str
    state: str
    reason: str
    what_to_do: str
    since: datetime


class RunDetail(_Frozen):
    """A run with what is known of it.

    Attributes:
        rounds: the last of them, at most `MOST_ITEMS`, in their order.
        participation: of the exchange in which it stands.
        result: what it ended with: metrics by site and overall, ε by site; None before.
    """

    run: Run
    trigger: str
    windows: tuple[str, ...]
    rounds: tuple[Round, ...] = Field(max_length=MOST_ITEMS)
    participation: tuple[Participation, ...]
    result: dict[str, Any] | None


class QueueEvent(_Frozen):
    """How a run stands that has not begun."""

    status: RunStatus
    place: int


class ParticipationEvent(_Frozen):
    """What has changed of the sites' progress since the event before."""

    sites: tuple[Participation, ...]


class Schedule(_Frozen):
    """A kept schedule, and how many of its windows stand how."""

    experiment: str
    every: str
    first: str
    lag: int
    zone: str
    cron: str
    paused: bool
    added: datetime
    windows: dict[str, int]


class Schedules(_Frozen):
    """A page of schedules."""

    schedules: tuple[Schedule, ...] = Field(max_length=MOST_ITEMS)
    more: bool


class Verdict(_Frozen):
    """What the server made of the drift summaries of one window."""

    experiment: str
    window: str
    alarm: bool
    saved: datetime
    verdict: dict[str, Any]


class Verdicts(_Frozen):
    """A page of an experiment's verdicts, newest first."""

    verdicts: tuple[Verdict, ...] = Field(max_length=MOST_ITEMS)
    more: bool


class ModelVersion(_Frozen):
    """A registered model version; its passport is in MLflow."""

    version: int
    aliases: tuple[str, ...]
    tags: dict[str, str]


class Model(_Frozen):
    """A registered model with the newest of its versions, at most ten, newest first."""

    name: str
    champion: int | None
    versions: tuple[ModelVersion, ...] = Field(max_length=10)


class Models(_Frozen):
    """A page of models, by name."""

    models: tuple[Model, ...] = Field(max_length=MOST_ITEMS)
    more: bool


class Decision(_Frozen):
    """One decision, by the policy or a person."""

    time: datetime
    experiment: str
    window: str
    kind: str
    subject: str
    by: str
    reason: str


class Decisions(_Frozen):
    """A page of decisions, newest first."""

    decisions: tuple[Decision, ...] = Field(max_length=MOST_ITEMS)
    more: bool
