"""What people may ask a server over HTTPS, and who may ask what.

Everybody reads. A scientist submits runs, stops and resumes their own, and signs schedules. An operator may
do that with every run, and keeps the schedules. A reviewer puts versions into service: those who train do
not also approve.
"""

from __future__ import annotations

import html
import logging
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse

from contract.enrolment import key_fingerprint
from contract.errors import AddressError, ChangedError, InputError, RegistryError, StorageError, TidegateError
from contract.experiment_file import parse_experiment_json
from contract.federation_api import (
    MOST_ITEMS,
    NO_SUCH_PATH,
    Cards,
    Decisions,
    ModelFiles,
    Models,
    NewCheck,
    NewSchedule,
    Problem,
    RangeSubmission,
    Review,
    ReviewReason,
    RunDetail,
    Runs,
    Schedule,
    ScheduleAdded,
    Schedules,
    SignedSchedule,
    SigningKey,
    SiteCard,
    Sites,
    Submission,
    Submitted,
    Verdicts,
    Version,
    Versions,
    Whoami,
    WindowCheck,
    WindowChecks,
)
from contract.installed_models import require_installed
from contract.mandate import normal_key
from contract.names import ExperimentName, RunName, SiteName, WindowName
from contract.roles import Role
from server.api.door import MLFLOW, PERSON, SESSION, Door, Failures, refusal
from server.api.events import Events, read_cursor
from server.api.keeping import add_schedule, ask_check, ask_ranges, resume_run, sign_schedule
from server.api.mlflow_proxy import MlflowProxy
from server.api.mlflow_rules import ReviewTag
from server.api.page_routes import page_routes
from server.api.reading import Page, Reading
from server.api.session import Sessions
from server.api.signatures import signed_run
from server.jobs import review
from server.state.people import People, Person
from server.state.schedules import Schedules as KeptSchedules

__all__ = ["Api", "make_app"]

Found = TypeVar("Found")
Asked = TypeVar("Asked", bound=BaseModel)

_log = logging.getLogger("tidegate.api")
_MOST_STREAMS, _MOST_OF_A_PERSON = 64, 8
_EVERYBODY: tuple[Role, ...] = ("scientist", "operator", "reviewer")
_SUBMITTERS: tuple[Role, ...] = ("scientist", "operator")
_MOST_CARDS = 50
"""Of a page: each may have 64 KB."""


@dataclass(kw_only=True)
class Api:
    """What the API works with.

    Attributes:
        reading: makes the answers.
        authority: the federation's authority, in PEM form.
        mlflow: the socket at which MLflow listens.
        approvals: how many people must approve a version at least.
        asked: is set when somebody has submitted a run, or wants one stopped: who works on the queue waits.
        stopping: set when the server stops, which ends streams.
        streams: how many each person has open.
        sessions: who is signed in in a browser.
    """

    reading: Reading
    authority: bytes
    mlflow: Path
    approvals: int = 0
    asked: threading.Event = field(default_factory=threading.Event)
    stopping: threading.Event = field(default_factory=threading.Event)
    streams: Counter[str] = field(default_factory=Counter)
    sessions: Sessions = field(init=False)

    def __post_init__(self) -> None:
        self.sessions = Sessions(is_good=self.people.is_good)

    @property
    def people(self) -> People:
        """Who may speak to the server."""
        return People(self.reading.state.database)


def make_app(api: Api) -> Door:
    """The API behind its door."""
    app = FastAPI(
        title="Tidegate",
        version=metadata.version("tidegate"),
        description="The API of a federation's server, for people: `tidegate connect` speaks to it.",
        redirect_slashes=False,
        docs_url=None,  # its pages load from a content delivery network
        redoc_url=None,
    )
    for kind, answer in _REFUSALS.items():
        app.add_exception_handler(kind, answer)
    app.state.api = api
    app.include_router(_router)
    page = _page(app)

    @app.get("/docs", include_in_schema=False)
    def docs() -> Response:
        return HTMLResponse(page)

    @app.get("/authority.pem", include_in_schema=False)
    def authority() -> Response:
        return Response(api.authority, media_type="application/x-pem-file")

    failures = Failures()
    app.include_router(page_routes(api.reading, api.sessions, failures))
    app.add_api_route(MLFLOW, lambda: RedirectResponse(f"{MLFLOW}/", 308), include_in_schema=False)

    def decide(person: Person, word: ReviewTag) -> None:
        if not api.people.is_good(person):  # revoked while the request came
            raise HTTPException(401, "this needs a good token")
        _enter_word(api, person, (word.model, word.version), review.ACTS[word.kind], word.reason)

    app.mount(MLFLOW, MlflowProxy(api.mlflow, decide))
    return Door(app, api.people.with_token, api.sessions, failures)


_router = APIRouter(
    prefix="/v1",
    responses={  # in the place of the library's own, which are never given
        "4XX": {"model": Problem, "description": "Why not, and what to do"},
        "5XX": {"model": Problem, "description": "A part of the server is away"},
    },
)


def _body(kind: type[BaseModel]) -> dict[str, Any]:
    """For the document: what a request holds that is read by `_parsed`."""
    content = {"application/json": {"schema": kind.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}


_EVENTS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}


def _api(request: Request) -> Api:
    api: Api = request.app.state.api
    return api


def _person(request: Request) -> Person:
    person: Person = request.scope[PERSON]
    return person


async def _body_of(request: Request, api: Api, person: Person) -> bytes:
    """What was sent, unless the token was revoked or has ended while it came: that may take half a minute."""
    body = await request.body()
    if not await run_in_threadpool(api.people.is_good, person):
        raise _RefusedError(401, "this needs a good token", remedy="Connect with one: tidegate connect URL")
    return body


def _allowed(*roles: Role) -> Callable[[Request], Person]:
    def allow(request: Request) -> Person:
        person = _person(request)
        if person.role not in roles:
            may = " or ".join(map(_one, roles))
            raise _RefusedError(403, f"{_one(person.role)} may not do this", remedy=f"Ask {may}, who may")
        return person

    return allow


def _one(role: Role) -> str:
    return f"{'an' if role == 'operator' else 'a'} {role}"


class _RefusedError(HTTPException):
    """A refusal that says what to do."""

    def __init__(self, status: int, what: str, *, remedy: str) -> None:
        super().__init__(status, what)
        self.remedy = remedy


def _page_of(
    skip: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
    limit: Annotated[int, Query(ge=1, le=MOST_ITEMS)] = 50,
) -> Page:
    return Page(skip=skip, limit=limit)


_Answers = Annotated[Api, Depends(_api)]
_Paged = Annotated[Page, Depends(_page_of)]
_Reader = Annotated[Person, Depends(_allowed(*_EVERYBODY))]
_Submitter = Annotated[Person, Depends(_allowed(*_SUBMITTERS))]
_Operator = Annotated[Person, Depends(_allowed("operator"))]
_Reviewer = Annotated[Person, Depends(_allowed("reviewer"))]
_Number = Annotated[int, PathParameter(ge=1, le=1_000_000_000)]


@_router.get("/whoami", summary="Whose token this is")
def whoami(person: _Reader) -> Whoami:
    """Name, role, and when the token ends."""
    return Whoami(
        name=person.name,
        role=person.role,
        expires=person.expires,
        version=metadata.version("tidegate"),
        signing_key=person.signing_key,
    )


@_router.post(
    "/signing-key",
    summary="Say which key you sign with",
    response_model=Whoami,
    openapi_extra=_body(SigningKey),
)
async def signing_key(request: Request, api: _Answers, person: _Submitter) -> Whoami:
    """A public key, in the place of an earlier one. Sites trust only keys that their own policy names."""
    body = await _body_of(request, api, person)
    return await run_in_threadpool(_keep_signing_key, api, person, body)


@_router.get("/sites", summary="The federation's sites")
def sites(api: _Answers, page: _Paged, _who: _Reader) -> Sites:
    """Each with its stated rows, and whether it is connected."""
    return api.reading.sites(page)


@_router.get("/sites/{site}/card", summary="A site's card")
def card(site: SiteName, api: _Answers, _who: _Reader) -> SiteCard:
    """What an admitted site offers, as it said in public when it asked to be let in."""
    return _found(api.reading.card(site), "site")


@_router.get("/cards", summary="The cards of the admitted sites")
def cards(api: _Answers, page: _Paged, _who: _Reader) -> Cards:
    """Columns, types, ranges, windows and stated rows; of 50 sites at most at a time."""
    return api.reading.cards(Page(skip=page.skip, limit=min(page.limit, _MOST_CARDS)))


@_router.get("/runs", summary="Runs, newest first")
def runs(api: _Answers, page: _Paged, person: _Reader, mine: Annotated[bool, Query()] = False) -> Runs:
    """All, or those of whoever asks."""
    return api.reading.runs(page, person.name if mine else None)


@_router.post(
    "/runs",
    summary="Submit a run",
    status_code=202,
    response_model=Submitted,
    openapi_extra=_body(Submission),
)
async def submit(request: Request, api: _Answers, person: _Submitter) -> Submitted:
    """An experiment as JSON text, and the windows to train on. It joins the queue."""
    body = await _body_of(request, api, person)
    return await run_in_threadpool(_submit, api, person, body)


@_router.post(
    "/ranges",
    summary="Ask for ranges",
    status_code=202,
    response_model=Submitted,
    openapi_extra=_body(RangeSubmission),
)
async def ranges(request: Request, api: _Answers, person: _Submitter) -> Submitted:
    """A question for the ranges of features, which costs each site ε. It joins the queue as a run."""
    body = await _body_of(request, api, person)
    asked = await run_in_threadpool(_parsed, RangeSubmission, body)
    submitted = await run_in_threadpool(ask_ranges, asked, api.reading, person)
    api.asked.set()
    return submitted


@_router.get("/runs/{name}", summary="A run")
def run(name: str, api: _Answers, _who: _Reader) -> RunDetail:
    """Its rounds, participation, metrics by site and overall, ε, and what went wrong."""
    return _known(name, api.reading.run_detail)


@_router.post("/runs/{name}/stop", summary="Stop a run", status_code=202)
def stop(name: str, api: _Answers, person: _Submitter) -> RunDetail:
    """Whoever submitted it may, and an operator. One that is queued is taken out of the queue."""
    _require_own(name, api, person, "stop")
    if not api.reading.submissions.stop(name, by=person.name):
        raise HTTPException(409, "the run has ended")
    api.asked.set()
    _log.info("%s stops run %s", person.name, name)
    return _known(name, api.reading.run_detail)


@_router.post("/runs/{name}/resume", summary="Resume a run", status_code=202)
def resume(name: str, api: _Answers, person: _Submitter) -> RunDetail:
    """One that failed or was stopped goes on from its checkpoint, under its name and within its budget.

    Whoever submitted it may, and an operator. It joins the queue again, behind what its owner has there.
    """
    _require_own(name, api, person, "resume")
    resume_run(name, api.reading, person)
    api.asked.set()
    return _known(name, api.reading.run_detail)


@_router.get(
    "/runs/{name}/events",
    summary="What happens to a run",
    response_class=StreamingResponse,
    responses=_EVENTS,
)
def events(name: str, request: Request, api: _Answers, person: _Reader) -> Response:
    """Server-sent events: `queue`, `round`, `participation`, `end`. `Last-Event-ID` goes on where it was."""
    _known(name, api.reading.run)
    cursor = read_cursor(request.headers.get("last-event-id"))
    if _has_too_many(api, person.name):
        return refusal(503, "too many streams are open", remedy="Close some, or come back later")
    stream = Events(
        reading=api.reading,
        run=name,
        cursor=cursor,
        may_read=lambda: _may_read(api, person, request.scope.get(SESSION)),
        is_stopping=api.stopping.is_set,
    )
    return StreamingResponse(_counted(stream, person.name, api), media_type="text/event-stream")


@_router.get("/schedules", summary="The kept schedules")
def schedules(api: _Answers, page: _Paged, _who: _Reader) -> Schedules:
    """Which experiments are watched, and how many of their windows stand how."""
    return api.reading.schedules(page)


@_router.get("/schedules/{experiment}/windows", summary="The windows of a schedule")
def windows(
    experiment: ExperimentName,
    api: _Answers,
    page: _Paged,
    _who: _Reader,
    window: WindowName | None = None,
) -> WindowChecks:
    """Those that have closed or were asked for, and how the check of each stands; or one alone."""
    return api.reading.checks(experiment, page, window)


@_router.post(
    "/drift-checks",
    summary="Check a window for drift",
    status_code=202,
    response_model=WindowCheck,
    openapi_extra=_body(NewCheck),
)
async def check(request: Request, api: _Answers, person: _Submitter) -> WindowCheck:
    """Now, and then what the retraining policy says is done.

    An operator may have any window of any experiment checked that has a model in service. A scientist may
    have a window that has closed checked, of a schedule that is kept and not paused.
    """
    body = await _body_of(request, api, person)
    asked = await run_in_threadpool(_parsed, NewCheck, body)
    return await run_in_threadpool(ask_check, asked, api.reading, person)


@_router.post(
    "/schedules",
    summary="Keep a schedule",
    status_code=202,
    response_model=ScheduleAdded,
    openapi_extra=_body(NewSchedule),
)
async def add(request: Request, api: _Answers, person: _Operator) -> ScheduleAdded:
    """An experiment as JSON text, and its calendar. Each window is checked once it has closed."""
    body = await _body_of(request, api, person)
    asked = await run_in_threadpool(_parsed, NewSchedule, body)
    return await run_in_threadpool(add_schedule, asked, api.reading, person)


@_router.post(
    "/schedules/{experiment}/sign",
    summary="Sign a schedule",
    status_code=202,
    response_model=Schedule,
    openapi_extra=_body(SignedSchedule),
)
async def sign(experiment: ExperimentName, request: Request, api: _Answers, person: _Submitter) -> Schedule:
    """A standing mandate goes with each request of a schedule, in the place of one's own earlier one."""
    body = await _body_of(request, api, person)
    asked = await run_in_threadpool(_parsed, SignedSchedule, body)
    return await run_in_threadpool(sign_schedule, experiment, asked, api.reading, person)


@_router.post("/schedules/{experiment}/unsign", summary="Let others sign a schedule", status_code=202)
def unsign(experiment: ExperimentName, api: _Answers, person: _Operator) -> Schedule:
    """The mandate that is kept with it goes with no request any more; what has begun with it goes on."""
    kept = KeptSchedules(api.reading.state.database)
    kept.unsign(experiment)
    _log.info("%s unsigns the schedule of %s", person.name, experiment)
    return api.reading.schedule(kept.get(experiment))


@_router.post("/schedules/{experiment}/pause", summary="Pause a schedule", status_code=202)
def pause(experiment: ExperimentName, api: _Answers, person: _Operator) -> Schedule:
    """No window is checked until it is resumed; what closes meanwhile is checked then."""
    return _set_paused(experiment, api, person, paused=True)


@_router.post("/schedules/{experiment}/resume", summary="Go on with a schedule", status_code=202)
def go_on(experiment: ExperimentName, api: _Answers, person: _Operator) -> Schedule:
    """One that was paused."""
    return _set_paused(experiment, api, person, paused=False)


@_router.post("/schedules/{experiment}/remove", summary="Forget a schedule", status_code=202)
def remove(experiment: ExperimentName, api: _Answers, person: _Operator) -> Schedule:
    """Verdicts and decisions stay; a check in progress ends as it would. The answer is what was kept."""
    kept = KeptSchedules(api.reading.state.database)
    before = api.reading.schedule(kept.get(experiment))
    kept.remove(experiment)
    _log.info("%s removes the schedule of %s", person.name, experiment)
    return before


@_router.get("/verdicts", summary="An experiment's verdicts, newest first")
def verdicts(
    api: _Answers,
    page: _Paged,
    _who: _Reader,
    experiment: ExperimentName,
    window: WindowName | None = None,
) -> Verdicts:
    """What the server made of the drift summaries of each window, or of one."""
    return api.reading.verdicts(experiment, page, window)


@_router.get("/models", summary="The registered models")
def models(api: _Answers, page: _Paged, _who: _Reader) -> Models:
    """Each with its newest versions, and which is in service."""
    return api.reading.models(page)


@_router.get("/models/{model}/versions", summary="A model's versions, oldest first")
def versions(model: ExperimentName, api: _Answers, page: _Paged, _who: _Reader) -> Versions:
    """All of them, without their passports."""
    return api.reading.versions(model, page)


@_router.get("/models/{model}/versions/{version}", summary="A model version")
def version(model: ExperimentName, version: _Number, api: _Answers, _who: _Reader) -> Version:
    """With its passport."""
    return _found(api.reading.version(model, version), "version")


@_router.get("/models/{model}/versions/{version}/files", summary="The files of a model version")
def files(model: ExperimentName, version: _Number, api: _Answers, _who: _Reader) -> ModelFiles:
    """Experiment and arrays: what a prediction depends on. The version's tags have their hashes."""
    return _found(api.reading.files(model, version), "version")


@_router.post(
    "/models/{model}/versions/{version}/approve",
    summary="Approve a version",
    status_code=202,
    response_model=Review,
    openapi_extra=_body(ReviewReason),
)
async def approve(
    model: ExperimentName, version: _Number, request: Request, api: _Answers, person: _Reviewer
) -> Review:
    """Enter the reviewer's yes; with the last one that is needed the version becomes the champion."""
    body = await _body_of(request, api, person)
    return await run_in_threadpool(_decide, api, person, (model, version), review.approve, body)


@_router.post(
    "/models/{model}/versions/{version}/refuse",
    summary="Refuse a version",
    status_code=202,
    response_model=Review,
    openapi_extra=_body(ReviewReason),
)
async def refuse(
    model: ExperimentName, version: _Number, request: Request, api: _Answers, person: _Reviewer
) -> Review:
    """Enter the reviewer's no: approvals until then count no more."""
    body = await _body_of(request, api, person)
    return await run_in_threadpool(_decide, api, person, (model, version), review.refuse, body)


@_router.post(
    "/models/{model}/versions/{version}/rollback",
    summary="Go back to a version",
    status_code=202,
    response_model=Review,
    openapi_extra=_body(ReviewReason),
)
async def rollback(
    model: ExperimentName, version: _Number, request: Request, api: _Answers, person: _Reviewer
) -> Review:
    """A version that was in service is the champion again, with the reviewer's name and reason."""
    body = await _body_of(request, api, person)
    return await run_in_threadpool(_decide, api, person, (model, version), review.roll_back, body)


@_router.get("/models/{model}/history", summary="What was decided on a model's versions, oldest first")
def history(model: ExperimentName, api: _Answers, page: _Paged, _who: _Reader) -> Decisions:
    """Each with who decided, why, and the hash of the passport that it rests on."""
    return api.reading.history(model, page)


@_router.get("/decisions", summary="Decisions, newest first")
def decisions(
    api: _Answers, page: _Paged, _who: _Reader, experiment: ExperimentName | None = None
) -> Decisions:
    """What the policy and people decided."""
    return api.reading.decisions(experiment, page)


def _parsed(kind: type[Asked], body: bytes) -> Asked:
    """What a request holds.

    Raises:
        InputError: it is not that.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as exc:
        raise InputError(_first(exc.errors(include_url=False, include_input=False)), where="body") from exc


def _submit(api: Api, person: Person, body: bytes) -> Submitted:
    asked = _parsed(Submission, body)
    experiment = parse_experiment_json(asked.experiment, where="experiment")
    require_installed(experiment.model, where="the server")
    reading = api.reading
    added = reading.submissions.add(
        experiment,
        person=person.name,
        federation=reading.federation,
        windows=asked.windows,
        run=signed_run(asked.mandate, experiment, person, windows=tuple(asked.windows)),
        mandate=asked.mandate,
    )
    api.asked.set()
    _log.info("%s submits run %s", person.name, added.run)
    place = reading.submissions.places(reading.federation).get(added.run, 0)
    return Submitted(run=added.run, place=place)


def _decide(
    api: Api, person: Person, wanted: tuple[str, int], act: Callable[..., review.ReviewStatus], body: bytes
) -> Review:
    reason = _parsed(ReviewReason, body).reason
    _found(api.reading.version(*wanted), "version")
    return _enter_word(api, person, wanted, act, reason).told(*wanted)


def _enter_word(
    api: Api, person: Person, wanted: tuple[str, int], act: Callable[..., review.ReviewStatus], reason: str
) -> review.ReviewStatus:
    """A person's word on a version."""
    (model, number), reading = wanted, api.reading
    with reading.lock:
        found = act(
            model, number, reading.state, reading.registry, by=person.name, reason=reason, least=api.approvals
        )
    _log.info("%s: %s of %s, version %d", person.name, act.__name__.replace("_", " "), model, number)
    return found


def _set_paused(experiment: str, api: Api, person: Person, *, paused: bool) -> Schedule:
    kept = KeptSchedules(api.reading.state.database)
    kept.pause(experiment, paused=paused)
    _log.info("%s %s the schedule of %s", person.name, "pauses" if paused else "resumes", experiment)
    return api.reading.schedule(kept.get(experiment))


def _require_own(name: str, api: Api, person: Person, verb: str) -> None:
    """Refuse what is for the run's owner, and for operators, alone."""
    _known(name, api.reading.run)
    submission = api.reading.submissions.get(name)
    if submission is None:
        raise HTTPException(409, f"the run was not submitted over the API: {verb} it where it was started")
    if person.role != "operator" and submission.person != person.name:
        raise HTTPException(403, f"the run is {submission.person}'s: they or an operator may {verb} it")


def _found(found: Found | None, what: str) -> Found:
    if found is None:
        raise _RefusedError(404, f"there is no such {what}", remedy=_LISTED[what])
    return found


def _keep_signing_key(api: Api, person: Person, body: bytes) -> Whoami:
    key = normal_key(_parsed(SigningKey, body).key)
    api.people.keep_signing_key(person, key)
    _log.info("%s signs with %s", person.name, key_fingerprint(key))
    return whoami(replace(person, signing_key=key))


def _known(name: str, find: Callable[[str], Found | None]) -> Found:
    found: Found | None = None
    with suppress(ValidationError):
        found = find(TypeAdapter(RunName).validate_python(name))
    return _found(found, "run")


def _may_read(api: Api, person: Person, session: str | None) -> bool:
    """Whether the token or the session that opened a stream is still good."""
    return api.people.is_good(person) if session is None else api.sessions.person(session) is not None


def _has_too_many(api: Api, name: str) -> bool:
    return api.streams.total() >= _MOST_STREAMS or api.streams[name] >= _MOST_OF_A_PERSON


async def _counted(stream: Events, name: str, api: Api) -> AsyncIterator[bytes]:
    if _has_too_many(api, name):  # many were asked for at the same time, before the first was counted
        return
    api.streams[name] += 1
    try:
        async for part in stream.stream():
            yield part
    finally:
        api.streams[name] -= 1


def _explained(_request: Request, error: Exception) -> Response:
    if not isinstance(error, TidegateError):
        raise error
    status = 400 if isinstance(error, InputError) else 500
    if isinstance(error, ChangedError):
        _log.error("%s", error)
        return refusal(409, error.what, where=error.where, remedy=error.remedy)
    if isinstance(error, AddressError | RegistryError | StorageError):
        _log.error("%s", error)  # the words name addresses of the server's own, which are the operator's
        return refusal(503, "a part of the server is away", remedy="Try again, or tell the operator")
    return refusal(status, error.what, where=error.where, remedy=error.remedy)


def _invalid(_request: Request, error: Exception) -> Response:
    return refusal(400, _first(error.errors()) if isinstance(error, RequestValidationError) else "not valid")


def _first(errors: Any) -> str:
    """The first complaints, without what was given."""
    words = [
        f"{'.'.join(str(part)[:50] for part in one['loc'][:6])}: {one['msg'][:200]}" for one in errors[:5]
    ]
    return "; ".join(word.removeprefix(": ") for word in words)


def _plain(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    remedy = error.remedy if isinstance(error, _RefusedError) else ""
    return refusal(error.status_code, _OURS.get(str(error.detail), str(error.detail)), remedy=remedy)


_LISTED = {
    "run": "`tidegate runs list` has all",
    "site": "`tidegate sites list` has all",
    "version": "`tidegate models list MODEL` has all",
}
_OURS = {"Not Found": NO_SUCH_PATH, "Method Not Allowed": "not in this way"}
"""Our words for the library's."""


def _gone(_request: Request, _error: Exception) -> Response:
    return refusal(408, "the request did not come in time")


def _unforeseen(_request: Request, _error: Exception) -> Response:
    refused = refusal(500, "an error that should not be", remedy="Tell the operator: the server's log has it")
    refused.headers["connection"] = "close"  # uvicorn closes it after such an error
    return refused


_REFUSALS: dict[type[Exception], Callable[[Request, Exception], Response]] = {
    TidegateError: _explained,
    RequestValidationError: _invalid,
    HTTPException: _plain,
    ClientDisconnect: _gone,
    Exception: _unforeseen,
}


def _page(app: FastAPI) -> str:
    """What can be asked, as a page that loads nothing."""
    rows = [
        f"<tr><td><code>{method.upper()} {html.escape(path)}</code></td>"
        f"<td>{html.escape(told.get('summary', ''))}. {html.escape(told.get('description', ''))}</td></tr>"
        for path, methods in app.openapi()["paths"].items()
        for method, told in methods.items()
    ]
    head = "<meta charset=utf-8><title>Tidegate's API</title><link rel=stylesheet href=/page.css>"
    intro = (
        "<p>Each request has a header <code>Authorization: Bearer TOKEN</code>. "
        "The types are in <a href=/openapi.json>openapi.json</a>.</p>"
    )
    return f"<!doctype html>{head}<h1>Tidegate's API</h1>{intro}<table>{''.join(rows)}</table>"
