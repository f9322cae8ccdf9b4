"""Schedules, and who checks which window: a lease that ends by itself when its owner dies.

A window is checked by one process at a time. Whoever takes it has a lease and renews it while the check goes
on. A lease that has ended, or whose owner's process is gone, is anybody's. What a former owner still
writes is refused, because each taking has a number: that of the attempt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, select, update
from sqlalchemy.exc import IntegrityError

from contract.errors import InputError
from server.state import tables
from server.state.database import Database
from server.state.owner import is_dead
from server.state.records import ScheduleRecord, WindowCheck, WindowState

__all__ = ["Schedules"]

_FIELDS = tuple(WindowCheck.__dataclass_fields__)


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

    def pause(self, experiment: str, *, paused: bool) -> None:
        """Check none of its windows until it goes on; a check in progress ends as it would.

        Raises:
            InputError: it has no schedule.
        """
        self._set(experiment, paused=paused)

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

        Args:
            check: as it was taken.
            state: `done`, `not judged`, or `waiting` for another try.
            detail: what came of it, in a sentence.
            due: when the other try may begin.
        """
        return self._change(
            check, state=state, detail=detail, lease_until=None, **({"due": due} if due else {})
        )

    def give_back(self, check: WindowCheck) -> bool:
        """Give a lease back as if it had not been taken: what it was taken for goes on elsewhere."""
        return self._change(check, state="waiting", lease_until=None, attempts=check.attempts - 1)

    def _change(self, check: WindowCheck, **values: Any) -> bool:
        table = tables.window_checks
        mine = (table.c.id == check.id) & (table.c.state == "checking")
        mine &= (table.c.owner == check.owner) & (table.c.attempts == check.attempts)
        with self._database.write() as connection:
            return bool(connection.execute(update(table).where(mine).values(values)).rowcount)


def _is_held(check: WindowCheck, now: datetime) -> bool:
    """Whether somebody checks it now."""
    lasts = check.lease_until is not None and check.lease_until > now
    return check.state == "checking" and lasts and not is_dead(check.owner)


def _is_free(check: WindowCheck, now: datetime) -> bool:
    return check.state == "checking" or (check.state == "waiting" and check.due <= now)


def _changing(check: WindowCheck) -> dict[str, Any]:
    return {name: value for name, value in vars(check).items() if name not in ("id", "experiment", "window")}


def _checks(connection: Connection, experiment: str, *, lock: bool = False) -> tuple[WindowCheck, ...]:
    table = tables.window_checks
    wanted = select(*(table.c[name] for name in _FIELDS)).where(table.c.experiment == experiment)
    wanted = wanted.order_by(table.c.id)
    found: Sequence[Row[Any]] = connection.execute(wanted.with_for_update() if lock else wanted).all()
    return tuple(WindowCheck(**row._mapping) for row in found)


def _unknown(experiment: str, known: Sequence[str]) -> InputError:
    return InputError(
        f"'{experiment}' has no schedule",
        remedy=f"There are: {', '.join(known)}"
        if known
        else "Add one: tidegate schedule add FILE --every week",
    )
