"""The queue of runs that people submit: who submitted what, in which order, and how far it came.

    queued      waits for its turn
    submitting  taken from the queue; whether the SuperLink has it is not known yet
    submitted   the SuperLink has it, under the number `superlink_run`
    yielding    gives its place to another person's run: queued again, once its process has ended
    ended       nothing more is to be done; the run's own record says how it went

The next to begin is a run of whoever has the fewest that go on or are ahead of it; of several such the
oldest. So a person who submits many keeps nobody else waiting for all of them.

Whoever queues alone may have all places. They keep them from nobody: where another person has waited for a
while and has none, whoever has the most, and two at least, gives the place of their newest run. It is queued
again behind those that wait, and goes on from its last finished round later. A person's only run is never
taken from its place: with more people than places, each waits until a run of another has ended.

Whoever's token is revoked has nothing more done: what is queued leaves the queue, what goes on is stopped.
Once they are let in again, they or an operator may resume it.

What a person has submitted is kept for ever once it has begun: sites were asked, and may have been charged.
So one person has so many of these. Of what has ended and never begun the newest are kept (`MOST_QUEUED`), and
those of the last hour, which count for how many a person may submit in one.

A stop is written down here and done by whoever works on the queue (`server.run_queue`): so it is not lost
when the server is stopped between the two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Connection, Select, func, select, union_all, update
from sqlalchemy.exc import IntegrityError

from contract.errors import InputError, StorageError
from contract.experiment import Experiment
from contract.names import name_run
from server.server_file import MOST_KEPT
from server.state import tables
from server.state.database import Database
from server.state.people import require_good
from server.state.records import RunRecord

__all__ = ["MOST_QUEUED", "SubmissionRecord", "SubmissionState", "Submissions"]

SubmissionState = Literal["queued", "submitting", "submitted", "yielding", "ended"]
MOST_QUEUED = 50
"""Runs that one person may have in the queue."""
_MOST_IN_AN_HOUR = 500
"""Of one person: each may have a megabyte."""
_TRIES = 10
_REVOKED, _OVER = "the operator: the token was revoked", "the server: the token is over"
_LONGEST_DETAIL = 2000


@dataclass(frozen=True, kw_only=True)
class SubmissionRecord:
    """A run that a person submitted.

    Attributes:
        federation: whose sites it is for.
        run: its name.
        person: whose it is.
        windows: whose rows are used; empty for all.
        mandate: what that person has signed; empty where they signed nothing.
        superlink_run: the number that the SuperLink gave it; None before.
        stopped_by: who had it stopped; empty if nobody did.
        submitted: when it was put into the queue; the last time, where somebody resumed it.
        detail: why it ended before it began, in a sentence.
        question: for a question about ranges, what is asked (`server.jobs.job.RangeQuestion`); None for a
            training.
    """

    id: int
    federation: str
    run: str
    person: str
    experiment_json: str
    windows: tuple[str, ...]
    mandate: str
    submitted: datetime
    state: SubmissionState
    superlink_run: str | None
    stopped_by: str
    detail: str
    ended: datetime | None
    question: dict[str, Any] | None = None

    def is_resumed(self, record: RunRecord) -> bool:
        """Whether the run is to go on, and what its record says is of the time before.

        A run that nobody had stopped was stopped with its server: it goes on when that stands again.
        """
        was_before = record.ended is not None and record.ended < self.submitted
        with_server = record.status == "stopped" and not self.stopped_by
        return self.state == "yielding" or (self.state != "ended" and (was_before or with_server))


class Submissions:
    """The part of the state database that holds the queue. Safe over threads and processes.

    Every method raises `StorageError` when the database is away, full or locked.

    Args:
        database: of the server.
        most_kept: runs of one person that are kept.
    """

    def __init__(self, database: Database, most_kept: int = MOST_KEPT) -> None:
        self._database, self._most_kept = database, most_kept

    def add(
        self,
        experiment: Experiment,
        *,
        person: str,
        federation: str,
        windows: Sequence[str] = (),
        question: Mapping[str, Any] | None = None,
        run: str = "",
        mandate: str = "",
    ) -> SubmissionRecord:
        """Put a run into the queue, after those of its person, under a name that no run has.

        Args:
            experiment: the plan.
            person: whose run it is.
            federation: whose sites are asked.
            windows: whose rows are used; empty for all.
            question: for a question about ranges; None for a training.
            run: the name that the person has signed; empty where the run may have any.
            mandate: what they signed; empty where they signed nothing.

        Raises:
            InputError: this person has too many in the queue, or has submitted too many of late or in all, or
                has no good token any more; or another run has that name.
        """
        table = tables.submissions
        values = {
            "federation": federation,
            "person": person,
            "experiment_json": experiment.model_dump_json(),
            "windows": list(windows),
            "mandate": mandate or None,
            "state": "queued",
            "stopped_by": "",
            "detail": "",
            "question": None if question is None else dict(question),
        }
        title = experiment.name if question is None else f"{experiment.name}-ranges"
        for name in [run] if run else (name_run(title) for _ in range(_TRIES)):
            try:
                with self._database.write() as connection:
                    require_good(connection, person, whose="whose run it is")
                    _forget_unbegun(connection, person)
                    _require_room(connection, person)
                    _require_few_kept(connection, person, self._most_kept)
                    taken = select(tables.runs.c.name).where(tables.runs.c.name == name)
                    if connection.execute(taken).first() is not None:
                        continue
                    connection.execute(table.insert().values(run=name, submitted=datetime.now(UTC), **values))
            except IntegrityError:
                continue  # another was named so in the same second
            found = self.get(name)
            if found is not None:
                return found
        if run:
            raise InputError("another run has that name", where=f"run '{run}'", remedy="Submit yours again")
        raise StorageError("no free name was found for the run", where=self._database.where)

    def get(self, run: str) -> SubmissionRecord | None:
        """The submission of that run, if a person submitted it."""
        found = self._found(_wanted().where(tables.submissions.c.run == run))
        return found[0] if found else None

    def of_runs(self, runs: Sequence[str]) -> dict[str, SubmissionRecord]:
        """The submissions of these runs, by name; without those that nobody submitted."""
        return {one.run: one for one in self._found(_wanted().where(tables.submissions.c.run.in_(runs)))}

    def active(self, federation: str) -> tuple[SubmissionRecord, ...]:
        """Those that were taken from the queue and have not ended, oldest first."""
        table = tables.submissions
        here = (table.c.federation == federation) & table.c.state.in_(_ACTIVE)
        return self._found(_wanted().where(here))

    def places(self, federation: str) -> dict[str, int]:
        """The place of each run that is queued, from 1."""
        table = tables.submissions
        here = (table.c.federation == federation) & (table.c.state != "ended")
        wanted = select(table.c.run, table.c.person, table.c.state).where(here).order_by(*_ORDER)
        with self._database.read() as connection:
            queued = _in_turn(connection.execute(wanted).all())
        return {row.run: place for place, row in enumerate(queued, start=1)}

    def take(self, federation: str, *, at_once: int) -> SubmissionRecord | None:
        """Take the next from the queue, unless so many go on; None where there is none to take."""
        table = tables.submissions
        here = (table.c.federation == federation) & (table.c.state != "ended")
        with self._database.write() as connection:
            open_ones = connection.execute(_wanted().where(here).with_for_update()).all()
            queued = _in_turn(open_ones)
            if not queued or len(open_ones) - len(queued) >= at_once:
                return None
            first = queued[0]
            connection.execute(update(table).where(table.c.id == first.id).values(state="submitting"))
        return self.get(first.run)

    def give_way(self, federation: str, *, at_once: int, before: datetime) -> SubmissionRecord | None:
        """Have the newest run of whoever has the most give its place to somebody who has none.

        Args:
            federation: whose queue.
            at_once: how many go on at a time.
            before: who has waited since then, or for longer.

        Returns:
            the run, or None where a place is free, one is given already, or nobody has two while another
            waits so long.
        """
        table = tables.submissions
        here = (table.c.federation == federation) & (table.c.state != "ended")
        with self._database.write() as connection:
            open_ones = connection.execute(_wanted().where(here).with_for_update()).all()
            active = [row for row in open_ones if row.state != "queued"]
            have = Counter(row.person for row in active)
            waits = any(
                row.state == "queued" and not have[row.person] and row.submitted <= before
                for row in open_ones
            )
            if len(active) < at_once or not waits or any(row.state == "yielding" for row in active):
                return None
            may = [row for row in active if row.state == "submitted" and have[row.person] > 1]
            if not may:
                return None
            newest = max(may, key=lambda row: (have[row.person], row.submitted, row.id))
            connection.execute(update(table).where(table.c.id == newest.id).values(state="yielding"))
        return self.get(newest.run)

    def requeue(self, taken: SubmissionRecord) -> None:
        """Queue a run again that has given its place, behind those that wait."""
        self._queue(taken, superlink_run=None, submitted=datetime.now(UTC))

    def note_submitted(self, taken: SubmissionRecord, superlink_run: int) -> None:
        """Note that the SuperLink has it."""
        self._change(taken, state="submitted", superlink_run=str(superlink_run))

    def give_back(self, taken: SubmissionRecord) -> None:
        """Put it back where it was in the queue: the SuperLink is away."""
        self._queue(taken)

    def settle(self, taken: SubmissionRecord, detail: str = "") -> None:
        """Note that it has ended, and why where the run's own record cannot say so."""
        self._change(taken, state="ended", detail=detail[:_LONGEST_DETAIL], ended=datetime.now(UTC))

    def stop(self, run: str, *, by: str) -> bool:
        """Take a run out of the queue, or have it stopped; false where it has ended or is not known."""
        table = tables.submissions
        mine, now = table.c.run == run, datetime.now(UTC)
        waiting = {
            "state": "ended",
            "stopped_by": by,
            "ended": now,
            "detail": f"taken out of the queue by {by}",
        }
        goes_on = mine & table.c.state.in_(_ACTIVE)
        with self._database.write() as connection:
            queued = update(table).where(mine & (table.c.state == "queued")).values(waiting)
            if connection.execute(queued).rowcount:
                return True
            asked = update(table).where(goes_on & (table.c.stopped_by == "")).values(stopped_by=by)
            if connection.execute(asked).rowcount:
                return True
            return connection.execute(select(table.c.id).where(goes_on)).first() is not None

    def end_revoked(self) -> tuple[SubmissionRecord, ...]:
        """End what people whose token was revoked have in the queue; the runs as they were.

        What is queued leaves the queue, and what goes on is stopped. Of a token that has ended with its day
        only what is queued does not begin: what goes on was allowed when it began.
        """
        table, people, now = tables.submissions, tables.people, datetime.now(UTC)
        revoked, queued = people.c.revoked.is_not(None), table.c.state == "queued"
        out = revoked | (queued & (people.c.expires <= now))
        open_ones = (table.c.state != "ended") & (table.c.stopped_by == "")
        wanted = _wanted().add_columns(people.c.revoked).join(people, people.c.name == table.c.person)
        with self._database.read() as connection:
            rows = connection.execute(wanted.where(open_ones & out)).all()
        words = {row.run: _OVER if row.revoked is None else _REVOKED for row in rows}
        ended = [run for run, by in words.items() if self.stop(run, by=by)]
        return tuple(self.of_runs(ended).values())

    def resume(self, run: str) -> bool:
        """Put a run that has ended into the queue again; false where it has not, or is not known.

        Raises:
            InputError: its owner has too many in the queue, or has submitted too many of late, or has no good
                token any more.
        """
        table, found = tables.submissions, self.get(run)
        if found is None:
            return False
        anew = {
            "state": "queued",
            "submitted": datetime.now(UTC),
            "superlink_run": None,
            "stopped_by": "",
            "detail": "",
            "ended": None,
        }
        ended = (table.c.run == run) & (table.c.state == "ended")
        with self._database.write() as connection:
            require_good(connection, found.person, whose="whose run it is")
            _require_room(connection, found.person)
            return bool(connection.execute(update(table).where(ended).values(anew)).rowcount)

    def page(self, *, skip: int, limit: int, person: str | None = None) -> list[str]:
        """The names of runs, newest first: those that people submitted, and all others.

        Args:
            skip: how many are left out at the beginning.
            limit: how many at most.
            person: of this one alone.
        """
        ours, runs = tables.submissions, tables.runs
        parts = [select(ours.c.run.label("name"), ours.c.submitted.label("at"))]
        if person is None:
            others = runs.c.name.not_in(select(ours.c.run))
            parts.append(select(runs.c.name, runs.c.started).where(others))
        else:
            parts = [parts[0].where(ours.c.person == person)]
        listed = union_all(*parts).subquery()
        wanted = select(listed.c.name).order_by(listed.c.at.desc(), listed.c.name.desc())
        with self._database.read() as connection:
            return list(connection.execute(wanted.offset(skip).limit(limit)).scalars())

    def _queue(self, taken: SubmissionRecord, **values: Any) -> None:
        """Queue it; one that somebody has stopped meanwhile has ended instead, and does not begin again."""
        table = tables.submissions
        with self._database.write() as connection:
            mine = (table.c.id == taken.id) & (table.c.state != "ended")
            stopped_by = connection.execute(select(table.c.stopped_by).where(mine).with_for_update()).scalar()
            if stopped_by:
                values = {"state": "ended", "detail": f"stopped by {stopped_by}", "ended": datetime.now(UTC)}
            else:
                values["state"] = "queued"
            connection.execute(update(table).where(mine).values(values))

    def _change(self, taken: SubmissionRecord, **values: Any) -> None:
        table = tables.submissions
        goes_on = (table.c.id == taken.id) & (table.c.state != "ended")
        with self._database.write() as connection:
            connection.execute(update(table).where(goes_on).values(values))

    def _found(self, wanted: Select[Any]) -> tuple[SubmissionRecord, ...]:
        with self._database.read() as connection:
            rows = connection.execute(wanted).all()
        return tuple(
            SubmissionRecord(**{**row._mapping, "windows": tuple(row.windows), "mandate": row.mandate or ""})
            for row in rows
        )


_ACTIVE = ("submitting", "submitted", "yielding")
_ORDER = (tables.submissions.c.submitted, tables.submissions.c.id)


def _wanted() -> Select[Any]:
    table = tables.submissions
    return select(*(table.c[name] for name in SubmissionRecord.__dataclass_fields__)).order_by(*_ORDER)


def _in_turn(open_ones: Sequence[Any]) -> list[Any]:
    """Those that are queued, the next one first.

    Args:
        open_ones: the rows of all that have not ended, oldest first.
    """
    before = Counter(row.person for row in open_ones if row.state != "queued")
    turns: list[tuple[int, Any]] = []
    for row in open_ones:
        if row.state == "queued":
            turns.append((before[row.person], row))
            before[row.person] += 1
    return [row for _, row in sorted(turns, key=lambda turn: turn[0])]  # of equals the oldest first


def _forget_unbegun(connection: Connection, person: str) -> None:
    """Forget the older ones of what a person had in the queue and that ended before it began."""
    table = tables.submissions
    began = select(tables.runs.c.name)
    unbegun = (table.c.person == person) & (table.c.state == "ended") & table.c.run.not_in(began)
    unbegun &= table.c.superlink_run.is_(None)
    newest = select(table.c.id).where(unbegun).order_by(table.c.id.desc()).limit(MOST_QUEUED)
    late = table.c.submitted > datetime.now(UTC) - timedelta(hours=1)
    connection.execute(table.delete().where(unbegun & ~late & table.c.id.not_in(newest)))


def _require_few_kept(connection: Connection, person: str, most: int) -> None:
    """Refuse what would fill the disk in the end, however slowly.

    Raises:
        InputError: so many runs of this person are kept.
    """
    own = select(func.count()).where(tables.submissions.c.person == person)
    if connection.execute(own).scalar_one() >= most:
        raise InputError(
            f"{most:,} runs of '{person}' are kept already, and none is ever removed that has begun",
            remedy="Ask the operator to raise runs_kept_per_person in server.toml",
        )


def _require_room(connection: Connection, person: str) -> None:
    """Refuse what would fill the queue for all, or the disk.

    Raises:
        InputError: this person has too many in the queue, or has submitted too many of late.
    """
    table = tables.submissions
    late = (table.c.person == person) & (table.c.submitted > datetime.now(UTC) - timedelta(hours=1))
    if connection.execute(select(func.count()).where(late)).scalar_one() >= _MOST_IN_AN_HOUR:
        raise InputError(
            f"{_MOST_IN_AN_HOUR} runs of yours were submitted in the last hour", remedy="Come back in an hour"
        )
    own = (table.c.person == person) & (table.c.state == "queued")
    waiting = connection.execute(select(func.count()).where(own)).scalar_one()
    if waiting >= MOST_QUEUED:
        raise InputError(
            f"{waiting} of your runs wait in the queue",
            remedy="Wait until some have begun, or stop some: tidegate runs stop NAME",
        )
