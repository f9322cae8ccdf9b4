"""What people have a server keep: schedules, questions, and runs that go on."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from datetime import UTC, datetime

from starlette.exceptions import HTTPException

from contract.errors import InputError, RegistryError
from contract.experiment import Experiment, NumericFeature
from contract.experiment_file import parse_experiment_json
from contract.federation_api import (
    MOST_ITEMS,
    NewCheck,
    NewSchedule,
    RangeSubmission,
    Schedule,
    ScheduleAdded,
    SignedSchedule,
    Submitted,
    WindowCheck,
)
from contract.mandate import ranges_question
from contract.windows import Every, example_of
from monitoring.schedule import Calendar
from server.api.reading import Page, Reading
from server.api.signatures import require_signed_schedule, signed_run
from server.api.tellable import require_tellable
from server.jobs.champion import champion_of, scientist_of
from server.jobs.job import RangeQuestion
from server.schedule import signer_is_out
from server.state.people import People, Person
from server.state.records import ScheduleRecord
from server.state.schedules import Schedules

__all__ = [
    "add_schedule",
    "ask_check",
    "ask_ranges",
    "keep_schedule",
    "resume_run",
    "schedule_of",
    "sign_schedule",
]

_log = logging.getLogger("tidegate.api")


def add_schedule(asked: NewSchedule, reading: Reading, person: Person) -> ScheduleAdded:
    """Keep a schedule that a person sent.

    Raises:
        InputError: the experiment or the calendar is wrong, the experiment has a schedule, or what they
            signed is something else.
    """
    experiment = parse_experiment_json(asked.experiment, where="experiment")
    record = schedule_of(experiment, **asked.model_dump(exclude={"experiment", "mandate"}))
    if asked.mandate:
        require_signed_schedule(asked.mandate, record, person, reading.state)
    added = keep_schedule(replace(record, mandate=asked.mandate), reading)
    _log.info("%s adds the schedule of %s", person.name, experiment.name)
    return added


def sign_schedule(experiment: str, asked: SignedSchedule, reading: Reading, person: Person) -> Schedule:
    """Keep a scientist's standing mandate with a schedule.

    Raises:
        InputError: there is no such schedule, or they signed something else.
        HTTPException: it is another scientist's to sign.
    """
    kept = Schedules(reading.state.database)
    schedule = kept.get(experiment)
    if person.role != "operator":
        _require_signer(schedule, reading, person)
    require_signed_schedule(asked.mandate, schedule, person, reading.state)
    kept.sign(experiment, asked.mandate)
    _log.info("%s signs the schedule of %s", person.name, experiment)
    return reading.schedule(kept.get(experiment))


def _require_signer(schedule: ScheduleRecord, reading: Reading, person: Person) -> None:
    """Refuse a scientist whose the schedule is not.

    Sites trust keys, of which the server knows nothing. So the first to sign could be one whom no site
    trusts, and keep out those whom they do. It is for whoever submitted the model in service, as long as they
    may come in; of a model that no person submitted, or before there is one, for the first whose signature
    holds, until an operator unsigns it.

    Raises:
        HTTPException: it is another scientist's.
    """
    owner = scientist_of(schedule.experiment, reading.state)
    if owner == person.name:
        return
    known = People(reading.state.database).named(owner)
    if known is not None and known.may_enter(datetime.now(UTC)):
        words = f"{owner} submitted the model that it watches: they or an operator may sign it"
        raise HTTPException(403, words)
    earlier = schedule.signed
    if earlier is None or earlier.scientist == person.name or earlier.expires <= datetime.now(UTC):
        return
    if not signer_is_out(schedule, reading.state):
        raise HTTPException(
            403,
            f"{earlier.scientist} has signed it: they or an operator may sign it anew, and an operator can "
            f"let you sign it (tidegate schedule unsign {schedule.experiment})",
        )


def ask_check(asked: NewCheck, reading: Reading, person: Person) -> WindowCheck:
    """Have a window checked for drift by whoever works on the schedules.

    What follows a check may put another model into service. So a scientist may not choose the plan or the
    window: these are an operator's.

    Raises:
        InputError: the experiment or the window is wrong, there is no model to watch, the person may not have
            this checked, or another window is being checked.
    """
    experiment = parse_experiment_json(asked.experiment, where="experiment")
    experiment.drift.require_seasons([asked.window])
    try:
        champion_of(experiment.name, reading.state)
    except RegistryError as exc:
        raise InputError(exc.what, where="experiment", remedy=exc.remedy) from exc
    kept, now = Schedules(reading.state.database), datetime.now(UTC)
    if person.role != "operator":
        _require_of_schedule(experiment, asked.window, kept, now)
    found = kept.ask(experiment, asked.window, by=person.name, now=now)
    _log.info("%s asks for a check of %s, window %s", person.name, experiment.name, asked.window)
    return WindowCheck.model_validate(found, from_attributes=True)


def _require_of_schedule(experiment: Experiment, window: str, kept: Schedules, now: datetime) -> None:
    """Refuse what no operator has agreed to.

    Raises:
        InputError: it is no window that has closed of a schedule of this very experiment that is not paused.
    """
    name, others = experiment.name, "any other check is an operator's to ask for"
    schedule = next((one for one in kept.all() if one.experiment == name), None)
    if schedule is None or schedule.plan.digest != experiment.digest:
        what = (
            f"'{name}' has no schedule" if schedule is None else f"the schedule of '{name}' has another plan"
        )
        raise InputError(what, where="experiment", remedy=f"Ask an operator to keep this one: {others}")
    if schedule.paused:
        raise InputError(
            f"the schedule of '{name}' is paused",
            where=f"window '{window}'",
            remedy=f"Ask an operator: {others}",
        )
    known = {one.window: one for one in kept.checks(name)}
    pending = known.get(window)
    if pending is not None and pending.plan and _digest(pending.plan) != experiment.digest:
        raise InputError(
            f"{pending.asked_by} has asked for it with another plan",
            where=f"window '{window}'",
            remedy=f"Wait for that: tidegate schedule list {name}",
        )
    # one that waits outside the calendar is what an operator has asked for, and it may not have closed
    closed = {one for one, _ in schedule.calendar.due(now)}
    closed |= {one.window for one in known.values() if one.state != "waiting"}
    if window not in closed:
        raise InputError(
            f"this is no window of the schedule of '{name}' that has closed",
            where=f"window '{window}'",
            remedy=f"See `tidegate schedule list {name}`: {others}",
        )


def _digest(plan: str) -> str:
    return Experiment.model_validate_json(plan).digest


def schedule_of(
    experiment: Experiment, *, every: Every, first: str, lag: int, zone: str, cron: str, pace: float | None
) -> ScheduleRecord:
    """A schedule that begins now, unsigned; see `NewSchedule`.

    Raises:
        InputError: the calendar is wrong.
    """
    today = Calendar(every=every, first=example_of(every), zone=zone).window_at(datetime.now(UTC))
    return ScheduleRecord.of(
        experiment, every=every, first=first or today, lag=lag, zone=zone, cron=cron, pace=pace
    )


def keep_schedule(schedule: ScheduleRecord, reading: Reading) -> ScheduleAdded:
    """Keep a schedule.

    Raises:
        InputError: the experiment has one.
    """
    Schedules(reading.state.database).add(schedule)
    closed = len(schedule.calendar.due(datetime.now(UTC)))
    return ScheduleAdded(schedule=reading.schedule(schedule), closed=closed)


def ask_ranges(asked: RangeSubmission, reading: Reading, person: Person) -> Submitted:
    """Put a question for ranges into the queue.

    Raises:
        InputError: the experiment is wrong, or has no such features, or not as much ε; or the noise hides
            what is asked for; or something else was signed.
    """
    experiment = parse_experiment_json(asked.experiment, where="experiment")
    numeric = {item.name for item in experiment.task.features if isinstance(item, NumericFeature)}
    unknown = [name for name in asked.features if name not in numeric]
    if unknown or len(set(asked.features)) < len(asked.features):
        raise InputError(
            f"'{unknown[0]}' is no numeric feature of the experiment"
            if unknown
            else "a feature is named twice",
            where="features",
            remedy="Name numeric features, each once",
        )
    if asked.epsilon > experiment.privacy.epsilon:
        raise InputError(
            f"ε = {asked.epsilon:g} is above the experiment's own, {experiment.privacy.epsilon:g}",
            where="epsilon",
            remedy="Give a smaller one, or raise privacy.epsilon in the file: sites refuse what costs more",
        )
    question = RangeQuestion(features=tuple(asked.features), epsilon=asked.epsilon, share=asked.share)
    require_tellable(question, experiment, reading.cards(Page(limit=MOST_ITEMS)).cards)
    signed = ranges_question(asked.features, asked.epsilon) if asked.mandate else None
    added = reading.submissions.add(
        experiment,
        person=person.name,
        federation=reading.federation,
        windows=asked.windows,
        question=asdict(question),
        run=signed_run(asked.mandate, experiment, person, windows=tuple(asked.windows), ranges=signed),
        mandate=asked.mandate,
    )
    _log.info("%s asks for ranges, as run %s", person.name, added.run)
    return Submitted(run=added.run, place=reading.submissions.places(reading.federation).get(added.run, 0))


def resume_run(name: str, reading: Reading, person: Person) -> None:
    """Have a run go on that a person submitted and that ended without a result.

    Raises:
        HTTPException: it goes on already, has its result, or is another federation's.
        InputError: its owner has too many in the queue.
    """
    reading.state.end_dead_runs()
    record, submission = reading.state.run(name), reading.submissions.get(name)
    if submission is not None and submission.federation != reading.federation:
        raise HTTPException(409, "the run is of another federation, which is not at work here")
    if record is not None and record.status in ("succeeded", "partial"):
        raise HTTPException(409, "the run has its result, and nothing is left to do: submit a new one")
    goes_on = record is not None and record.status == "running"
    if goes_on or not reading.submissions.resume(name):
        raise HTTPException(409, "the run goes on: there is nothing to resume")
    _log.info("%s resumes run %s", person.name, name)
