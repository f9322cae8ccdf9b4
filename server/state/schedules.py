"""Schedules, and who checks which window: a lease that ends by itself when its owner dies.

A window is checked by one process at a time. Whoever takes it has a lease and renews it while the check goes
on. A lease that has ended, or whose owner's process is gone, is anybody's. What a former owner still
writes is refused, because each taking has a number: that of the attempt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, func, select, update
from sqlalchemy.exc import IntegrityError

from contract.errors import InputError
from contract.experiment import Experiment
from server.state import tables
from server.state.database import Database
from server.state.owner import is_dead
from server.state.people import require_good
from server.state.records import ScheduleRecord, WindowCheck, WindowState

__all__ = ["Schedules", "being_checked"]

_FIELDS = tuple(WindowCheck.__dataclass_fields__)
_MOST_SAID = 50
MOST_ASKED = 20
"""Checks that one person may have wait."""


class Schedules:
    """The part of the state database that says which windows are checked. Safe over threads and processes.

    Every method raises `StorageError` when the database is away, full or locked.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, schedule: ScheduleRecord) -> None:
        """Keep a schedule.

        Raises:
            InputError: the experiment has one.
        """
        try:
            with self._database.write() as connection:
                connection.execute(tables.schedules.insert().values(vars(schedule)))
        except IntegrityError as exc:
            raise InputError(
                f"'{schedule.experiment}' has a schedule",
                remedy=f"Remove it first: tidegate schedule remove {schedule.experiment}",
            ) from exc

    def all(self) -> tuple[ScheduleRecord, ...]:
        """Every schedule, in the order of their adding."""
        names = [column for column in tables.schedules.c if column.name != "id"]
        with self._database.read() as connection:
            found = connection.execute(select(*names).order_by(tables.schedules.c.id))
            return tuple(ScheduleRecord(**{**row._mapping, "mandate": row.mandate or ""}) for row in found)

    def get(self, experiment: str) -> ScheduleRecord:
        """The schedule of an experiment.

        Raises:
            InputError: it has none.
        """
        known = {schedule.experiment: schedule for schedule in self.all()}
        if experiment not in known:
            raise _unknown(experiment, list(known))
        return known[experiment]

    def sign(self, experiment: str, mandate: str) -> None:
        """Keep a standing mandate with a schedule, in the place of an earlier one.

        Raises:
            InputError: it has no schedule.
        """
        self._set(experiment, mandate=mandate)

    def unsign(self, experiment: str) -> None:
        """Use nobody's mandate for a schedule any more, so that any scientist may sign it.

        Raises:
            InputError: it has no schedule.
        """
        self._set(experiment, mandate="")

    def pause(self, experiment: str, *, paused: bool) -> None:
        """Check none of its windows until it goes on; a check in progress ends as it would.

        What people have asked for and waits is the schedule's again, as if nobody had; a window that is none
        of the schedule's, or has not closed, is forgotten.

        Raises:
            InputError: it has no schedule.
        """
        kept, schedules, checks = self.get(experiment), tables.schedules, tables.window_checks
        with self._database.write() as connection:
            same = update(schedules).where(schedules.c.experiment == experiment)
            connection.execute(same.values(paused=paused))
            if paused:
                _forget_asked(connection, checks.c.experiment == experiment, [kept])

    def forget_asked_by(self, person: str) -> tuple[WindowCheck, ...]:
        """Forget the checks that a person has asked for and that wait, as `pause` does; which these were."""
        table = tables.window_checks
        mine, kept = table.c.asked_by == person, self.all()
        with self._database.write() as connection:
            return _forget_asked(connection, mine, kept)

    def _set(self, experiment: str, **values: object) -> None:
        table = tables.schedules
        with self._database.write() as connection:
            changed = update(table).where(table.c.experiment == experiment).values(**values)
            if connection.execute(changed).rowcount:
                return
        self.get(experiment)  # which says that there is none

    def remove(self, experiment: str) -> None:
        """Forget a schedule, and the windows that wait for a check; what became of others stays.

        Raises:
            InputError: it has none.
        """
        self.get(experiment)
        schedules, checks = tables.schedules, tables.window_checks
        waiting = (checks.c.experiment == experiment) & (checks.c.state == "waiting")
        with self._database.write() as connection:
            connection.execute(schedules.delete().where(schedules.c.experiment == experiment))
            connection.execute(checks.delete().where(waiting))

    def enter(self, experiment: str, windows: Sequence[tuple[str, datetime]]) -> None:
        """Enter windows that have closed, with the moment since when; known ones stay as they are."""
        table = tables.window_checks
        known = {check.window for check in self.checks(experiment)}
        for window, due in windows:
            if window in known:
                continue
            values = {"state": "waiting", "attempts": 0, "due": due, "owner": "", "run": "", "detail": ""}
            try:
                with self._database.write() as connection:
                    connection.execute(table.insert().values(experiment=experiment, window=window, **values))
            except IntegrityError:
                continue  # another scheduler has just entered it

    def ask(self, experiment: Experiment, window: str, *, by: str, now: datetime) -> WindowCheck:
        """Have a window checked as soon as may be, also one that is done; one that is being checked goes on.

        Args:
            experiment: what it is checked for.
            window: its name.
            by: the person who asks.
            now: the moment.

        Raises:
            InputError: another window of the experiment is being checked, this person waits for too many, or
                has no good token any more.
        """
        table, name = tables.window_checks, experiment.name
        anew = {"state": "waiting", "due": now, "asked_by": by, "plan": experiment.model_dump_json()}
        mine = (table.c.experiment == name) & (table.c.window == window)
        with self._database.write() as connection:
            require_good(connection, by, whose="who asks")
            known = {one.window: one for one in _checks(connection, name, lock=True)}
            held = next((one for one in known.values() if _is_held(one, now)), None)
            if held is not None:
                if held.window != window:
                    raise being_checked(name)
                return held
            _require_few(connection, by)
            if window in known:
                connection.execute(update(table).where(mine).values(**anew, said=None))
            else:
                new = {
                    "experiment": name,
                    "window": window,
                    "attempts": 0,
                    "owner": "",
                    "run": "",
                    "detail": "",
                }
                connection.execute(table.insert().values(**new, **anew))
            (found,) = (one for one in _checks(connection, name) if one.window == window)
            return found

    def asked(self, now: datetime) -> tuple[WindowCheck, ...]:
        """The windows that people have asked for over the API and that may be checked now.

        Not those of people who were revoked: it is forgotten with that, unless that was killed.
        """
        table, people = tables.window_checks, tables.people
        revoked = select(people.c.name).where(people.c.revoked.is_not(None))
        wanted = _wanted().where(table.c.plan.is_not(None) & table.c.asked_by.not_in(revoked))
        with self._database.read() as connection:
            found = _records(connection.execute(wanted).all())
        return tuple(one for one in found if _is_free(one, now) and not _is_held(one, now))

    def checks(self, experiment: str) -> tuple[WindowCheck, ...]:
        """The windows of an experiment that have closed, in the order in which they were entered."""
        with self._database.read() as connection:
            return _checks(connection, experiment)

    def has_due(self, experiment: str, now: datetime) -> bool:
        """Whether there is a window that `take` would give now; without its lock."""
        known = self.checks(experiment)
        return any(_is_free(one, now) for one in known) and not any(_is_held(one, now) for one in known)

    def take(
        self, experiment: str, *, owner: str, now: datetime, lease: timedelta, window: str | None = None
    ) -> WindowCheck | None:
        """Take the oldest window that may be checked; None where there is none, or another is being checked.

        One window of an experiment is checked at a time, because the policy reads what came before and the
        champion may change. A window that waits for its next try holds up none of the later ones.

        Args:
            experiment: whose windows.
            owner: the calling process (`server.state.owner.this_process`).
            now: the moment.
            lease: for how long it is the caller's unless that renews it.
            window: this one alone, due or not, and also if it is done: a person asks for it.
        """
        table = tables.window_checks
        with self._database.write() as connection:
            # The rows are locked, so that on PostgreSQL too two takers come one after the other.
            known = _checks(connection, experiment, lock=True)
            if any(_is_held(check, now) for check in known):
                return None
            for check in known:
                if check.window == window or (window is None and _is_free(check, now)):
                    taken = replace(
                        check,
                        state="checking",
                        attempts=check.attempts + 1,
                        owner=owner,
                        lease_until=now + lease,
                        said=(),
                    )
                    connection.execute(update(table).where(table.c.id == check.id).values(_changing(taken)))
                    return taken
        return None

    def renew(self, check: WindowCheck, *, until: datetime) -> bool:
        """Keep a lease for longer; false if it is another's by now."""
        return self._change(check, lease_until=until)

    def name_run(self, check: WindowCheck, run: str) -> bool:
        """Note which run makes the check, before it is submitted; false if the lease is another's by now."""
        return self._change(check, run=run)

    def settle(
        self, check: WindowCheck, state: WindowState, detail: str, *, due: datetime | None = None
    ) -> bool:
        """Enter what came of a try, and give the lease back; false if it is another's by now.

        Nobody has asked for it from then on: a try that is to come is the schedule's.

        Args:
            check: as it was taken.
            state: `done`, `not judged`, or `waiting` for another try.
            detail: what came of it, in a sentence.
            due: when the other try may begin.
        """
        ended = {"state": state, "detail": detail, "lease_until": None, "asked_by": None, "plan": None}
        return self._change(check, **ended, **({"due": due} if due else {}))

    def say(self, check: WindowCheck, said: Sequence[str]) -> bool:
        """Keep the last of what was said of a try that goes on; false if it is another's by now."""
        return self._change(check, said=list(said)[-_MOST_SAID:])

    def give_back(self, check: WindowCheck) -> bool:
        """Give a lease back as if it had not been taken: what it was taken for goes on elsewhere."""
        return self._change(check, state="waiting", lease_until=None, attempts=check.attempts - 1)

    def _change(self, check: WindowCheck, **values: Any) -> bool:
        table = tables.window_checks
        mine = (table.c.id == check.id) & (table.c.state == "checking")
        mine &= (table.c.owner == check.owner) & (table.c.attempts == check.attempts)
        with self._database.write() as connection:
            return bool(connection.execute(update(table).where(mine).values(values)).rowcount)


def _forget_asked(
    connection: Connection, which: ColumnElement[bool], kept: Sequence[ScheduleRecord]
) -> tuple[WindowCheck, ...]:
    """Give what people asked for and waits back to the schedules; what is none of theirs is forgotten."""
    table, now = tables.window_checks, datetime.now(UTC)
    which &= (table.c.state == "waiting") & table.c.plan.is_not(None)
    found = _records(connection.execute(_wanted().where(which).with_for_update()).all())
    for one in kept:
        closed = [window for window, _ in one.calendar.due(now)]
        ours = which & (table.c.experiment == one.experiment) & table.c.window.in_(closed)
        connection.execute(update(table).where(ours).values(asked_by=None, plan=None))
    connection.execute(table.delete().where(which))
    return found


def _is_held(check: WindowCheck, now: datetime) -> bool:
    """Whether somebody checks it now."""
    lasts = check.lease_until is not None and check.lease_until > now
    return check.state == "checking" and lasts and not is_dead(check.owner)


def _is_free(check: WindowCheck, now: datetime) -> bool:
    return check.state == "checking" or (check.state == "waiting" and check.due <= now)


def _changing(check: WindowCheck) -> dict[str, Any]:
    """What a taking changes; what was asked stays as it is."""
    kept = ("id", "experiment", "window", "asked_by", "plan")
    return {name: value for name, value in vars(check).items() if name not in kept}


def _wanted() -> Select[Any]:
    table = tables.window_checks
    return select(*(table.c[name] for name in _FIELDS)).order_by(table.c.id)


def _checks(connection: Connection, experiment: str, *, lock: bool = False) -> tuple[WindowCheck, ...]:
    wanted = _wanted().where(tables.window_checks.c.experiment == experiment)
    return _records(connection.execute(wanted.with_for_update() if lock else wanted).all())


def _records(rows: Sequence[Row[Any]]) -> tuple[WindowCheck, ...]:
    return tuple(
        WindowCheck(
            **{
                **row._mapping,
                "asked_by": row.asked_by or "",
                "plan": row.plan or "",
                "said": tuple(row.said or ()),
            }
        )
        for row in rows
    )


def being_checked(experiment: str) -> InputError:
    """What is said to whoever wants a window checked while another is."""
    return InputError(
        f"another window of '{experiment}' is being checked",
        remedy=f"Wait for it: tidegate schedule list {experiment}",
    )


def _require_few(connection: Connection, person: str) -> None:
    """Refuse what would fill the database, and hold up the schedules.

    Raises:
        InputError: so many checks that this person has asked for wait already.
    """
    table = tables.window_checks
    own = (table.c.asked_by == person) & (table.c.state == "waiting")
    if connection.execute(select(func.count()).where(own)).scalar_one() >= MOST_ASKED:
        raise InputError(
            f"{MOST_ASKED} checks that you asked for wait already",
            remedy="Wait until some are made: tidegate schedule list",
        )


def _unknown(experiment: str, known: Sequence[str]) -> InputError:
    return InputError(
        f"'{experiment}' has no schedule",
        remedy=f"There are: {', '.join(known)}"
        if known
        else "Add one: tidegate schedule add FILE --every week",
    )
