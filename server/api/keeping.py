"""What people have a server keep: schedules, questions, and runs that go on."""

from __future__ import annotations

import logging
from dataclasses import asdict
from datetime import UTC, datetime

from starlette.exceptions import HTTPException

from contract.errors import InputError
from contract.experiment import Experiment, NumericFeature
from contract.experiment_file import parse_experiment_json
from contract.federation_api import MOST_ITEMS, NewSchedule, RangeSubmission, ScheduleAdded, Submitted
from contract.windows import Every, example_of
from monitoring.schedule import Calendar
from server.api.reading import Page, Reading
from server.api.tellable import require_tellable
from server.jobs.job import RangeQuestion
from server.state.people import Person
from server.state.records import ScheduleRecord
from server.state.schedules import Schedules

__all__ = ["add_schedule", "ask_ranges", "keep_schedule", "resume_run"]

_log = logging.getLogger("tidegate.api")


def add_schedule(asked: NewSchedule, reading: Reading, person: Person) -> ScheduleAdded:
    """Keep a schedule that a person sent. Errors as with `keep_schedule`.

    Raises:
        InputError: the experiment is wrong.
    """
    experiment = parse_experiment_json(asked.experiment, where="experiment")
    calendar = asked.model_dump(exclude={"experiment"})
    added = keep_schedule(experiment, reading, **calendar)
    _log.info("%s adds the schedule of %s", person.name, experiment.name)
    return added


def keep_schedule(
    experiment: Experiment,
    reading: Reading,
    *,
    every: Every,
    first: str,
    lag: int,
    zone: str,
    cron: str,
    pace: float | None,
) -> ScheduleAdded:
    """Keep a schedule; see `NewSchedule`.

    Raises:
        InputError: the calendar is wrong, or the experiment has a schedule.
    """
    now = datetime.now(UTC)
    today = Calendar(every=every, first=example_of(every), zone=zone).window_at(now)
    record = ScheduleRecord.of(
        experiment, every=every, first=first or today, lag=lag, zone=zone, cron=cron, pace=pace
    )
    Schedules(reading.state.database).add(record)
    return ScheduleAdded(schedule=reading.schedule(record), closed=len(record.calendar.due(now)))


def ask_ranges(asked: RangeSubmission, reading: Reading, person: Person) -> Submitted:
    """Put a question for ranges into the queue.

    Raises:
        InputError: the experiment is wrong, or has no such features, or not as much ε; or the noise hides
            what is asked for.
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
    added = reading.submissions.add(
        experiment,
        person=person.name,
        federation=reading.federation,
        windows=asked.windows,
        question=asdict(question),
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
