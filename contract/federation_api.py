"""What people and a server say to each other over its HTTPS API: JSON in frozen types, each bounded.

The server makes these, and `tidegate connect` and what follows it read them. A name or a sentence in them
comes from outside at either end: whoever shows it passes it through `contract.outside`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from contract.card import Card
from contract.mandate import MOST_MANDATE
from contract.names import ColumnName, PersonName, RunName, WindowName
from contract.roles import Role
from contract.windows import Every

__all__ = [
    "MOST_ARRAYS",
    "MOST_BODY",
    "MOST_ITEMS",
    "MOST_WINDOWS",
    "NO_SUCH_PATH",
    "WAITING",
    "Cards",
    "Decision",
    "Decisions",
    "Model",
    "ModelFiles",
    "ModelVersion",
    "Models",
    "NewCheck",
    "NewSchedule",
    "Participation",
    "ParticipationEvent",
    "Problem",
    "QueueEvent",
    "RangeSubmission",
    "Review",
    "ReviewReason",
    "Round",
    "Run",
    "RunDetail",
    "RunStatus",
    "Runs",
    "Schedule",
    "ScheduleAdded",
    "Schedules",
    "SignedSchedule",
    "SigningKey",
    "Site",
    "SiteCard",
    "Sites",
    "Submission",
    "Submitted",
    "Verdict",
    "Verdicts",
    "Version",
    "Versions",
    "Whoami",
    "WindowCheck",
    "WindowChecks",
    "has_ended",
    "waiting_words",
]

RunStatus = Literal["queued", "starting", "running", "succeeded", "partial", "failed", "stopped", "refused"]
"""`queued` until others have ended; `starting` until the server's process has begun it."""

MOST_ARRAYS = 2**25
"""Bytes of a model's arrays that are sent."""
MOST_BODY = 2**20
"""Bytes of a request's body."""
MOST_ITEMS = 200
"""Of one page of a list."""
MOST_WINDOWS = 1000
"""Of one submission."""
NO_SUCH_PATH = "there is nothing here"
"""What a server says of a path that it does not know."""
WAITING = "waiting for approval"
"""Why a site came no further whose administrator has not approved the run yet."""


def has_ended(status: RunStatus) -> bool:
    """Whether nothing more will come of a run unless somebody resumes it."""
    return status not in ("queued", "starting", "running")


def waiting_words(sites: Sequence[str]) -> str:
    """For whose approval a run waits; empty for nobody's.

    >>> waiting_words(["north", "south"])
    'waiting for approval at north, south'
    """
    return f"{WAITING} at {', '.join(sites)}" if sites else ""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Asked(BaseModel):
    """What a person sends."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Problem(_Frozen):
    """Why a request was refused: see `contract.errors.TidegateError`."""

    what: str
    where: str = ""
    remedy: str = ""


class Whoami(_Frozen):
    """Whose token it is, and the public key that they said they sign with."""

    name: PersonName
    role: Role
    expires: datetime | None
    version: str
    signing_key: str | None = None


class SigningKey(_Frozen):
    """The public key with which whoever asks will sign, as one line in OpenSSH form."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    key: Annotated[str, Field(min_length=1, max_length=200)]


class Site(_Frozen):
    """A site of the federation.

    Attributes:
        admitted: whether it may connect.
        connected: now; None where that cannot be told.
        stated_rows: as its administrator states them; None before its first answer.
        admitted_at: since when it may connect; None where it may not.
        first_answer, last_answer: when; None before the first.
    """

    name: str
    admitted: bool
    connected: bool | None
    stated_rows: int | None
    admitted_at: datetime | None = None
    first_answer: datetime | None = None
    last_answer: datetime | None


class Sites(_Frozen):
    """A page of sites, in the order of their admission."""

    sites: tuple[Site, ...] = Field(max_length=MOST_ITEMS)
    more: bool


class SiteCard(_Frozen):
    """What a site offers, as it said when it asked to be let in.

    Attributes:
        stated_rows: the rough number of its rows; None where nobody stated it.
        asked: when it said so; None where it was let in another way.
        card: in public; None where the server was given none.
    """

    site: str
    stated_rows: int | None
    asked: datetime | None
    card: Card | None


class Cards(_Frozen):
    """A page of the cards of the admitted sites, in the order of their admission."""

    cards: tuple[SiteCard, ...] = Field(max_length=MOST_ITEMS)
    more: bool


class Submission(_Asked):
    """An experiment that is to be run.

    Attributes:
        experiment: the experiment as JSON, with the keys of an experiment file.
        windows: whose rows are used; none for all.
        mandate: what whoever submits it has signed for the sites (`contract.mandate`); empty for nothing.
            It names the run.
    """

    experiment: Annotated[str, Field(min_length=1, max_length=MOST_BODY)]
    windows: Annotated[list[WindowName], Field(max_length=MOST_WINDOWS)] = Field(default_factory=list)
    mandate: Annotated[str, Field(max_length=2 * MOST_MANDATE)] = ""


class RangeSubmission(Submission):
    """A question for the ranges of features of an experiment.

    Attributes:
        features: that state no range of their own; the experiment has the ends of the public grid there.
        epsilon: what the answer may cost each site.
        share: of the rows, how many may lie below a range, and above it.
    """

    features: Annotated[list[ColumnName], Field(min_length=1, max_length=1000)]
    epsilon: Annotated[float, Field(gt=0)]
    share: Annotated[float, Field(gt=0, lt=0.5)]


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
        unapproved: the sites whose administrators have not approved it yet, while it goes on. Where the
            quorum needs them, it waits for them.
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
    unapproved: tuple[str, ...] = ()


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
    """A kept schedule.

    Attributes:
        pace: seconds a window, where it rehearses on the past.
        windows: how many of them stand how.
        waits: what it does now, or waits for, in a sentence.
        signed: who has signed it for which windows and until when, in words; empty where nobody has.
    """

    experiment: str
    every: str
    first: str
    lag: int
    zone: str
    cron: str
    pace: float | None = None
    paused: bool
    added: datetime
    windows: dict[str, int]
    waits: str = ""
    signed: str = ""


class NewSchedule(_Asked):
    """A schedule that is to be kept.

    Attributes:
        experiment: the experiment as JSON, with the keys of an experiment file.
        every: how long a window is.
        first: the first window; empty for the one that it is now.
        lag: days after a window's end until its rows are there.
        zone: the time zone in which days begin.
        cron: when checks may begin; empty for at once.
        pace: seconds a window, to rehearse on the past; None for the calendar's own.
        mandate: the standing one that whoever sends it has signed (`contract.mandate`); empty for nothing.
    """

    experiment: Annotated[str, Field(min_length=1, max_length=MOST_BODY)]
    every: Every
    first: Annotated[str, Field(max_length=20)] = ""
    lag: Annotated[int, Field(ge=0, le=366)] = 0
    zone: Annotated[str, Field(min_length=1, max_length=100)] = "UTC"
    cron: Annotated[str, Field(max_length=200)] = ""
    pace: Annotated[float, Field(ge=0.1, le=86_400)] | None = None
    mandate: Annotated[str, Field(max_length=2 * MOST_MANDATE)] = ""


class SignedSchedule(_Asked):
    """A standing mandate for a schedule that is kept already, signed by whoever sends it."""

    mandate: Annotated[str, Field(min_length=1, max_length=2 * MOST_MANDATE)]


class ScheduleAdded(_Frozen):
    """A schedule that is kept from now on, and how many of its windows have closed already."""

    schedule: Schedule
    closed: int


class WindowCheck(_Frozen):
    """How the check of a window that has closed stands.

    Attributes:
        attempts: how often it was tried.
        due: when it may be tried, or tried again.
        run: that makes the check; empty before.
        detail: what came of it, in a sentence.
        said: what was said of the last try while it went on, sentence by sentence.
    """

    experiment: str
    window: str
    state: str
    attempts: int
    due: datetime
    run: str
    detail: str
    said: tuple[str, ...] = ()


class NewCheck(_Asked):
    """A window that is to be checked for drift now.

    Attributes:
        experiment: the experiment as JSON, with the keys of an experiment file.
        window: its name.
    """

    experiment: Annotated[str, Field(min_length=1, max_length=MOST_BODY)]
    window: WindowName


class WindowChecks(_Frozen):
    """A page of the windows of an experiment that have closed, in the order in which they were entered."""

    checks: tuple[WindowCheck, ...] = Field(max_length=MOST_ITEMS)
    more: bool


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


class Version(_Frozen):
    """A registered model version with its passport.

    Attributes:
        run_id: MLflow's name of the run that it came from.
        description: the passport in Markdown, as it was registered, with what was decided since; None in a
            list.
        passport: the same for programs (`docs/passport.schema.json`); None in a list.
        warning: what is wrong with what MLflow shows of it; empty where nothing is, and in a list.
    """

    version: int
    run_id: str
    description: str | None
    passport: dict[str, Any] | None = None
    warning: str = ""
    tags: dict[str, str]
    aliases: tuple[str, ...]


class Versions(_Frozen):
    """A page of the versions of a model, oldest first."""

    versions: tuple[Version, ...] = Field(max_length=MOST_ITEMS)
    more: bool


class ModelFiles(_Frozen):
    """What a prediction by a version depends on; in JSON its bytes are base64.

    Attributes:
        experiment: the file `experiment.json`.
        arrays: the file `arrays.npz`.
        graph: the file `model.onnx`; None of a version that has none, or one too large to send.
        variants: the file `variants.json`, with what was measured of the graph's forms.
        passports: the files `passport.md` and `passport.json`, as they were registered; none of a version
            that an earlier Tidegate registered.
        statement: that these are the version's, signed (`contract.model_statement`); None where the server
            has no key for it, or an earlier Tidegate registered the version.
    """

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    experiment: Annotated[bytes, Field(max_length=2**24)]
    arrays: Annotated[bytes, Field(max_length=MOST_ARRAYS)]
    graph: Annotated[bytes, Field(max_length=MOST_ARRAYS)] | None = None
    variants: str | None = None
    passports: dict[str, str] = {}
    statement: dict[str, Any] | None = None


class ReviewReason(_Asked):
    """Why a version is approved, refused, or put into service again."""

    reason: Annotated[str, Field(min_length=1, max_length=10_000)]


class Review(_Frozen):
    """How far the review of a version came.

    Attributes:
        needed: how many people must approve it.
        approved_by: who has, since anybody refused it.
        in_service: whether it is the champion.
    """

    model: str
    version: int
    needed: int
    approved_by: tuple[str, ...]
    in_service: bool


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
    """One decision, by the policy or a person.

    Attributes:
        evidence: SHA-256 of the passport that it rests on.
    """

    time: datetime
    experiment: str
    window: str
    kind: str
    subject: str
    by: str
    reason: str
    evidence: str | None = None


class Decisions(_Frozen):
    """A page of decisions, newest first."""

    decisions: tuple[Decision, ...] = Field(max_length=MOST_ITEMS)
    more: bool
