"""What the API reads, made of the state database, the SuperLink and the registry."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import ValidationError

from contract.card import Card
from contract.errors import AddressError, InputError, RoundError
from contract.experiment import Experiment
from contract.federation_api import (
    MOST_ARRAYS,
    MOST_ITEMS,
    Cards,
    Decision,
    Decisions,
    Model,
    ModelFiles,
    Models,
    ModelVersion,
    Participation,
    Round,
    Run,
    RunDetail,
    Runs,
    RunStatus,
    Schedule,
    Schedules,
    Site,
    SiteCard,
    Sites,
    Verdict,
    Verdicts,
    Version,
    Versions,
    WindowCheck,
    WindowChecks,
)
from contract.json_values import finite
from contract.model_version import ARRAYS_FILE, EXPERIMENT_FILE, GRAPH_FILE, PASSPORT_DATA, VARIANTS_FILE
from server.jobs.champion import champion_number
from server.jobs.registered import registered_hashes
from server.jobs.review import history, shown_passport
from server.jobs.statements import Signer, no_signer, signed_statement
from server.line.flower import ControlClient
from server.registry.registry import Registry
from server.schedule import waits_for
from server.server_file import MOST_KEPT
from server.state.enrolments import Enrolments
from server.state.participation import advice
from server.state.records import (
    AdmittedSite,
    Enrolment,
    ParticipationRecord,
    RoundRecord,
    RunRecord,
    ScheduleRecord,
    VersionRecord,
)
from server.state.schedules import Schedules as KeptSchedules
from server.state.storage import State
from server.state.submissions import SubmissionRecord, Submissions
from server.state.versions import RegisteredVersions

__all__ = ["Page", "Reading", "participation_of", "round_of", "version_of"]

_CONNECTED_SECONDS = 2.0
"""For how long what the SuperLink said of its connections is said again."""
_VERSIONS = 10

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Page:
    """Which part of a list is wanted."""

    skip: int = 0
    limit: int = 50

    def of(self, items: Sequence[Item]) -> tuple[tuple[Item, ...], bool]:
        """That part, and whether there is more after it."""
        end = self.skip + self.limit
        return tuple(items[self.skip : end]), len(items) > end


@dataclass(kw_only=True)
class Reading:
    """Makes the answers.

    Attributes:
        state: the server's.
        registry: MLflow.
        control: opens a client of the SuperLink.
        federation: the SuperLink's name.
        most_kept: runs of one person that are kept.
        signer: gives the key that signs what is said of model versions.
        lock: held while the registry or the SuperLink is asked.
    """

    state: State
    registry: Registry
    control: Callable[[], ControlClient]
    federation: str
    most_kept: int = MOST_KEPT
    signer: Signer = no_signer
    lock: threading.Lock = field(default_factory=threading.Lock)
    _connected: tuple[float, frozenset[int] | None] = (0.0, None)

    @property
    def submissions(self) -> Submissions:
        """The queue."""
        return Submissions(self.state.database, self.most_kept)

    def sites(self, page: Page) -> Sites:
        """The sites that were admitted, and those that have answered."""
        answered = {site.name: site for site in self.state.sites()}
        admitted = {site.name: site for site in self.state.admitted_sites(self.federation)}
        online = self._online()
        names, more = page.of([*admitted, *(name for name in answered if name not in admitted)])
        found = []
        for name in names:
            here, seen = admitted.get(name), answered.get(name)
            found.append(
                Site(
                    name=name,
                    admitted=here is not None,
                    connected=None if online is None else here is not None and here.node_id in online,
                    stated_rows=(here.stated_rows if here else None) or (seen.stated_rows if seen else None),
                    admitted_at=here.admitted if here else None,
                    first_answer=seen.first_seen if seen else None,
                    last_answer=seen.last_seen if seen else None,
                )
            )
        return Sites(sites=tuple(found), more=more)

    def cards(self, page: Page) -> Cards:
        """What the admitted sites offer, as they said when they asked to be let in."""
        asked = {one.name: one for one in Enrolments(self.state.database, self.federation).all("confirmed")}
        found, more = page.of(self.state.admitted_sites(self.federation))
        return Cards(cards=tuple(_card_of(site, asked.get(site.name)) for site in found), more=more)

    def card(self, name: str) -> SiteCard | None:
        """What a site offers; None if no site of that name is admitted."""
        for site in self.state.admitted_sites(self.federation):
            if site.name == name:
                return _card_of(site, Enrolments(self.state.database, self.federation).get(name))
        return None

    def runs(self, page: Page, person: str | None = None) -> Runs:
        """Runs, newest first; of this person alone, or all."""
        names = self.submissions.page(skip=page.skip, limit=page.limit + 1, person=person)
        shown, more = names[: page.limit], len(names) > page.limit
        places, submitted = self.submissions.places(self.federation), self.submissions.of_runs(shown)
        found = [self._run(self.state.run(name), submitted.get(name), places.get(name, 0)) for name in shown]
        return Runs(runs=tuple(one for one in found if one is not None), more=more)

    def run(self, name: str) -> Run | None:
        """A run; None if there is none of that name."""
        place = self.submissions.places(self.federation).get(name, 0)
        return self._run(self.state.run(name), self.submissions.get(name), place)

    def run_detail(self, name: str) -> RunDetail | None:
        """A run with its rounds and its result; None if there is none of that name."""
        record, submission, run = self.state.run(name), self.submissions.get(name), self.run(name)
        if run is None:
            return None
        last = self.state.last_exchange(name)
        return RunDetail(
            run=run,
            trigger=record.trigger if record is not None else run.owner,
            windows=submission.windows if submission is not None else (),
            rounds=tuple(round_of(one) for one in self.state.rounds(name)[-MOST_ITEMS:]),
            participation=tuple(participation_of(one) for one in last),
            result=json.loads(record.result) if record is not None and record.result else None,
        )

    def _run(self, record: RunRecord | None, submission: SubmissionRecord | None, place: int) -> Run | None:
        if record is None:
            return None if submission is None else _not_begun(submission, place)
        if submission is not None and submission.is_resumed(record):
            rounds = self.state.count_rounds(record.name)
            return _not_begun(submission, place).model_copy(update={"rounds": rounds})
        stopped = submission is not None and submission.stopped_by and record.status == "failed"
        return Run(
            name=record.name,
            experiment=record.experiment,
            job=record.job,
            owner=submission.person if submission is not None else "",
            status="stopped" if stopped else record.status,
            place=0,
            since=record.started,
            ended=record.ended,
            rounds=self.state.count_rounds(record.name),
            of=_rounds_of(record.experiment_json) if record.job == "train" else 0,
            model_version=record.model_version,
            error=record.error or (submission.detail if submission is not None else ""),
            unapproved=self.state.unapproved(record),
        )

    def schedules(self, page: Page) -> Schedules:
        """The kept schedules."""
        found, more = page.of(KeptSchedules(self.state.database).all())
        return Schedules(schedules=tuple(self.schedule(one) for one in found), more=more)

    def schedule(self, one: ScheduleRecord) -> Schedule:
        """A kept schedule."""
        checks = KeptSchedules(self.state.database).checks(one.experiment)
        return Schedule(
            experiment=one.experiment,
            every=one.every,
            first=one.first,
            lag=one.lag,
            zone=one.zone,
            cron=one.cron,
            pace=one.pace,
            paused=one.paused,
            added=one.added,
            windows=_counts([check.state for check in checks]),
            waits=waits_for(one, self.state, datetime.now(UTC)),
            signed=_signed_words(one),
        )

    def checks(self, experiment: str, page: Page, window: str | None = None) -> WindowChecks:
        """The windows of an experiment that have closed or were asked for; or this one alone."""
        known = KeptSchedules(self.state.database).checks(experiment)
        found, more = page.of([one for one in known if window in (None, one.window)])
        return WindowChecks(
            checks=tuple(WindowCheck.model_validate(one, from_attributes=True) for one in found),
            more=more,
        )

    def verdicts(self, experiment: str, page: Page, window: str | None = None) -> Verdicts:
        """An experiment's verdicts, newest first; on this window alone, or all."""
        known = [one for one in self.state.verdicts(experiment) if window in (None, one.window)]
        found, more = page.of(known[::-1])
        return Verdicts(
            verdicts=tuple(Verdict(**{**vars(one), "verdict": finite(dict(one.verdict))}) for one in found),
            more=more,
        )

    def models(self, page: Page) -> Models:
        """The registered models, by name."""
        with self.lock:
            names, more = page.of(self.registry.models())
            known = {name: self.registry.versions(name) for name in names}
        return Models(
            models=tuple(
                Model(
                    name=name,
                    champion=champion_number(name, self.state),
                    versions=tuple(
                        ModelVersion(version=one.version, aliases=one.aliases, tags=dict(one.tags))
                        for one in versions[::-1][:_VERSIONS]
                    ),
                )
                for name, versions in known.items()
            ),
            more=more,
        )

    def versions(self, model: str, page: Page) -> Versions:
        """A model's versions, oldest first, without their passports."""
        with self.lock:
            found, more = page.of(self.registry.versions(model))
        return Versions(versions=tuple(version_of(one, None) for one in found), more=more)

    def version(self, model: str, number: int) -> Version | None:
        """A version with its passport; None if there is none of that number."""
        with self.lock:
            known = self.registry.versions(model)
        return next((shown_version(model, one, self.state) for one in known if one.version == number), None)

    def files(self, model: str, number: int) -> ModelFiles | None:
        """What a prediction by a version depends on; None if there is none of that number.

        Raises:
            InputError: the model is too large for an answer.
        """
        with self.lock:
            if all(one.version != number for one in self.registry.versions(model)):
                return None
            hashes = registered_hashes(model, number, self.state, self.registry)
            found = self.registry.files(model, number, hashes)
        if len(found[ARRAYS_FILE]) > MOST_ARRAYS:
            raise InputError(
                f"the arrays are longer than the {MOST_ARRAYS:,} bytes that are sent",
                where=f"{model} version {number}",
                remedy="Take them from the version's page in MLflow",
            )
        graph = found.get(GRAPH_FILE)
        return ModelFiles(
            experiment=found[EXPERIMENT_FILE],
            arrays=found[ARRAYS_FILE],
            graph=graph if graph is not None and len(graph) <= MOST_ARRAYS else None,
            variants=found[VARIANTS_FILE].decode() if VARIANTS_FILE in found else None,
            passports=RegisteredVersions(self.state.database).passports(model, number),
            statement=signed_statement(model, number, self.state, self.signer),
        )

    def decisions(self, experiment: str | None, page: Page) -> Decisions:
        """Decisions, newest first."""
        found, more = page.of(self.state.decisions(experiment)[::-1])
        return Decisions(
            decisions=tuple(Decision.model_validate(one, from_attributes=True) for one in found),
            more=more,
        )

    def history(self, model: str, page: Page) -> Decisions:
        """What was decided on a model's versions, oldest first."""
        found, more = page.of(history(model, self.state))
        return Decisions(
            decisions=tuple(Decision.model_validate(one, from_attributes=True) for one in found),
            more=more,
        )

    def _online(self) -> frozenset[int] | None:
        """The node ids of the sites that are connected; None where the SuperLink does not say."""
        with self.lock:
            asked, known = self._connected
            if time.monotonic() - asked < _CONNECTED_SECONDS and asked:
                return known
            try:
                with closing(self.control()) as control:
                    known = control.connected()
            except (AddressError, RoundError):
                known = None
            self._connected = time.monotonic(), known
            return known


def _signed_words(schedule: ScheduleRecord) -> str:
    """Who has signed a schedule, for which windows and until when; empty where nobody has."""
    mandate = schedule.signed
    if mandate is None or mandate.standing is None:
        return ""
    span = f"{mandate.standing.first} to {mandate.standing.last}"
    ended = " (over)" if mandate.expires < datetime.now(UTC) else ""
    return f"by {mandate.scientist} for {span}, until {mandate.expires:%Y-%m-%d}{ended}"


def _card_of(site: AdmittedSite, asked: Enrolment | None) -> SiteCard:
    card = None
    if asked is not None and asked.card is not None:
        with suppress(ValidationError):  # of another version of the program
            card = Card.model_validate(dict(asked.card))
    return SiteCard(
        site=site.name,
        stated_rows=site.stated_rows or (asked.stated_rows if asked else None),
        asked=asked.asked if asked else None,
        card=card,
    )


def shown_version(model: str, record: VersionRecord, state: State) -> Version:
    """A version with its passport as it was registered, and what is wrong with MLflow's."""
    passport, warning = shown_passport(model, record, state)
    data = RegisteredVersions(state.database).passports(model, record.version).get(PASSPORT_DATA)
    more = {"warning": warning, "passport": None if data is None else json.loads(data)}
    return version_of(record, passport).model_copy(update=more)


def version_of(record: VersionRecord, description: str | None) -> Version:
    """A version, with its passport or without."""
    return Version(
        version=record.version,
        run_id=record.run_id,
        description=description,
        tags=dict(record.tags),
        aliases=record.aliases,
    )


def round_of(record: RoundRecord) -> Round:
    """A finished round."""
    return Round(
        number=record.round,
        counted=record.counted,
        failures=dict(record.failures),
        metrics=finite(_plain(record.metrics)),
        seconds=record.seconds,
    )


def participation_of(record: ParticipationRecord) -> Participation:
    """How far a site came."""
    return Participation(
        kind=record.kind,
        number=record.round,
        site=record.site,
        state=record.state,
        reason=record.reason,
        what_to_do=advice(record.reason) or "",
        since=record.since,
    )


def _not_begun(submission: SubmissionRecord, place: int) -> Run:
    """A run that has no record, or is to go on: it is queued, or about to begin, or ended before it did."""
    status: RunStatus = "queued" if submission.state in ("queued", "yielding") else "starting"
    if submission.state == "ended":
        status = "stopped" if submission.stopped_by else "failed"
    return Run(
        name=submission.run,
        experiment=Experiment.model_validate_json(submission.experiment_json).name,
        job="train" if submission.question is None else "ranges",
        owner=submission.person,
        status=status,
        place=place if status == "queued" else 0,
        since=submission.submitted,
        ended=submission.ended,
        rounds=0,
        of=_rounds_of(submission.experiment_json) if submission.question is None else 0,
        model_version=None,
        error=submission.detail,
    )


def _rounds_of(experiment: str) -> int:
    return Experiment.model_validate_json(experiment).strategy.rounds


def _counts(states: Sequence[str]) -> dict[str, int]:
    return {state: states.count(state) for state in dict.fromkeys(states)}


def _plain(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return dict(metrics)
