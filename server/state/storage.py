"""The state database: what the server must still know after it was killed.

Every method is one short transaction. A round and its checkpoint are written
together, so that after a kill at any moment the checkpoint is that of the last
round in the table. Decisions are only ever added; triggers in the database refuse
anything else, from this program or another. What sites released and what was
concluded from it is evidence: the first one saved stays.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, Select, Table, func, select, update
from sqlalchemy.exc import IntegrityError

from contract.errors import ReleaseError, StorageError, TakenOverError
from contract.experiment import Experiment
from server.state import tables
from server.state.database import Database, open_database, require_known
from server.state.owner import is_dead, this_process
from server.state.participation import GO_ON, WAITING, SiteStatus, Step
from server.state.records import (
    AdmittedSite,
    ClaimRecord,
    DecisionKind,
    DecisionRecord,
    DriftRecord,
    Job,
    ParticipationRecord,
    RoundRecord,
    RunRecord,
    RunStatus,
    SiteRecord,
    VerdictRecord,
)

__all__ = ["State", "open_known_state", "open_state"]

Record = TypeVar("Record")

_TURNS = "run "
"""How the claims begin by which processes take over a run."""
_DIED = (
    "the process that did it ended without a word: it was killed, or the machine went down. "
    f"What to do: {GO_ON}"
)


def open_state(url: str) -> State:
    """Open the state database and bring its tables up to date.

    Raises:
        StorageError: see `server.state.database.open_database`.
    """
    return State(open_database(url))


def open_known_state(url: str) -> State:
    """What `open_state` gives, to look at what a server left: where there is none, nothing is made.

    Raises:
        InputError: there is no state database.
        StorageError: see `server.state.database.open_database`.
    """
    remedy = (
        "Go to the operator's folder, or name its place with TIDEGATE_HOME or TIDEGATE_STATE_URL; "
        "to ask a server elsewhere, connect: tidegate connect URL"
    )
    require_known(url, "there is no server here", remedy=remedy)
    return open_state(url)


class State:
    """The server's memory. Safe to use from several threads and processes.

    Every method raises `StorageError` when the database is away, full or locked.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the state stays."""
        self.database.engine.dispose()

    def record_site(self, name: str, *, node_id: int, stated_rows: int) -> None:
        """Note that a site answered just now, with its present node and stated rows."""
        with self.database.write() as connection:
            _write_site(connection, name, node_id, stated_rows, _now())

    def sites(self) -> tuple[SiteRecord, ...]:
        """All sites, in the order in which they first answered."""
        rows = self._rows(select(*_columns(tables.sites, SiteRecord)).order_by(tables.sites.c.id))
        return tuple(SiteRecord(**{**row._mapping, "node_id": int(row.node_id)}) for row in rows)

    def admit_site(
        self, name: str, *, federation: str, node_id: int, key: str, stated_rows: int | None = None
    ) -> None:
        """Note that the operator let the site with this key connect, in the place of an earlier one.

        Args:
            name: the site's.
            federation: to which it is admitted.
            node_id: what the SuperLink calls it.
            key: SHA-256 of its public key.
            stated_rows: what it must state; None for what its first answer states.
        """
        table = tables.admitted_sites
        values = {"node_id": str(node_id), "key": key, "admitted": _now(), "stated_rows": stated_rows}
        with self.database.write() as connection:
            same = (table.c.federation == federation) & (table.c.name == name)
            known = connection.execute(update(table).where(same).values(values))
            if not known.rowcount:
                connection.execute(table.insert().values(federation=federation, name=name, **values))
            _forget_anchor(connection, federation, name)

    def readmit_site(self, name: str, *, federation: str, stated_rows: int | None = None) -> bool:
        """Take the site's word anew of its rows and of where its ledger ends; false if none is admitted.

        Args:
            name: the site's.
            federation: to which it is admitted.
            stated_rows: what it must state from now on; None for what its next answer states.
        """
        table = tables.admitted_sites
        same = (table.c.federation == federation) & (table.c.name == name)
        with self.database.write() as connection:
            known = connection.execute(update(table).where(same).values(stated_rows=stated_rows))
            _forget_anchor(connection, federation, name)
        return bool(known.rowcount)

    def pin_rows(self, stated: Mapping[str, int], *, federation: str) -> None:
        """Hold admitted sites to the rows that they stated in their first answer."""
        table = tables.admitted_sites
        with self.database.write() as connection:
            for name, rows in stated.items():
                free = (table.c.federation == federation) & (table.c.name == name)
                free &= table.c.stated_rows.is_(None)
                connection.execute(update(table).where(free).values(stated_rows=rows))

    def remember_anchor(self, site: str, entries: int, head: str, *, federation: str) -> None:
        """Note where a site's ledger ends. It may only grow.

        Args:
            site: whose ledger.
            entries: how many there are.
            head: hash of the last, 64 hexadecimal digits.
            federation: to which the site is admitted.

        Raises:
            ReleaseError: the ledger has fewer entries than it had, or as many and another end: it was
                replaced by an older copy, and what was spent since is not in it.
        """
        table = tables.ledger_anchors
        same = (table.c.federation == federation) & (table.c.site == site)
        values = {"entries": entries, "head": head, "at": _now()}
        with self.database.write() as connection:
            before = connection.execute(select(table.c.entries, table.c.head).where(same)).one_or_none()
            if before is None:
                connection.execute(table.insert().values(federation=federation, site=site, **values))
                return
            if entries < before.entries:
                raise ReleaseError(
                    f"ledger refused: that of '{site}' is shorter than it was: {entries:,} entries, "
                    f"and {before.entries:,} before"
                )
            if entries == before.entries and head != before.head:
                raise ReleaseError(
                    f"ledger refused: that of '{site}' has {entries:,} entries, as before, and ends otherwise"
                )
            connection.execute(update(table).where(same).values(values))

    def dismiss_site(self, name: str, *, federation: str) -> None:
        """Forget that a site was admitted; what it did stays."""
        table = tables.admitted_sites
        with self.database.write() as connection:
            connection.execute(
                table.delete().where((table.c.federation == federation) & (table.c.name == name))
            )

    def admitted_sites(self, federation: str) -> tuple[AdmittedSite, ...]:
        """The sites that may connect, in the order of their first admission."""
        found = self._select(tables.admitted_sites, AdmittedSite, federation=federation)
        return tuple(replace(site, node_id=int(site.node_id)) for site in found)

    def record_participation(self, step: Step, sites: Mapping[str, SiteStatus]) -> None:
        """Note how far each site came in an exchange; a state that has not changed keeps its moment.

        Sites that stated their rows have answered just now, which is noted too.

        Raises:
            StorageError: the run is unknown, or another server process is running it.
        """
        for last in (False, True):  # one that was taken over from may have written the same step just now
            try:
                with self.database.write() as connection:
                    _write_participation(connection, step, sites, _now())
            except IntegrityError as exc:
                if last:
                    raise StorageError(
                        f"{step} is being written by another, or the run is unknown",
                        where=self.database.where,
                        remedy="See that one server process only runs it",
                    ) from exc
            else:
                return

    def participation(
        self, run: str, *, after: datetime | None = None, limit: int | None = None
    ) -> tuple[ParticipationRecord, ...]:
        """How far each site came in each exchange of a run, in their order.

        Args:
            run: its name.
            after: what changed later than that alone.
            limit: about so many, those that changed first; all that changed in one moment are together.
        """
        table = tables.participation
        here = table.c.run == run
        if after is not None:
            here &= table.c.since > after
        if limit is not None:
            moments = select(table.c.since).where(here).order_by(table.c.since)
            last = self._rows(moments.offset(limit - 1).limit(1))
            here = here & (table.c.since <= last[0].since) if last else here
        return self._participation(here)

    def last_exchange(self, run: str) -> tuple[ParticipationRecord, ...]:
        """How far each site came in the exchange in which a run stands; none before the first."""
        table = tables.participation
        newest = select(table.c.kind, table.c.round).where(table.c.run == run).order_by(table.c.id.desc())
        found = self._rows(newest.limit(1))
        if not found:
            return ()
        last = (table.c.kind == found[0].kind) & (table.c.round == found[0].round)
        return self._participation((table.c.run == run) & last)

    def unapproved(self, run: RunRecord) -> tuple[str, ...]:
        """The sites whose administrators a run that goes on lacks the approval of."""
        if run.status != "running":
            return ()
        return tuple(one.site for one in self.last_exchange(run.name) if one.reason == WAITING)

    def start_run(
        self, name: str, *, experiment: Experiment, job: Job, trigger: str, code_hash: str
    ) -> RunRecord:
        """Add a run with status `running`.

        Raises:
            StorageError: a run of that name exists already.
        """
        record = RunRecord(
            name=name,
            experiment=experiment.name,
            experiment_digest=experiment.digest,
            experiment_json=experiment.model_dump_json(),
            job=job,
            trigger=trigger,
            status="running",
            started=_now(),
            ended=None,
            error="",
            mlflow_run_id=None,
            model_version=None,
            result=None,
            code_hash=code_hash,
        )
        if not self._insert(tables.runs, vars(record)):
            raise StorageError(
                f"there is a run '{name}' already",
                where=self.database.where,
                remedy="Resume it or take a new name",
            )
        return record

    def run(self, name: str) -> RunRecord | None:
        """The run of that name, to resume or to show."""
        found = self._select(tables.runs, RunRecord, name=name)
        return found[0] if found else None

    def runs(self, experiment: str | None = None) -> tuple[RunRecord, ...]:
        """All runs, oldest first."""
        return self._select(tables.runs, RunRecord, **_given(experiment=experiment))

    def resume_run(self, name: str) -> None:
        """Mark a run that ended, or whose process did, as running again."""
        self._update_run(name, {"status": "running", "error": "", "ended": None})

    def last_results(self, most: int) -> tuple[RunRecord, ...]:
        """The runs that ended last with a result, at most so many, newest first."""
        table = tables.runs
        wanted = select(*_columns(table, RunRecord)).where(
            table.c.result.is_not(None), table.c.ended.is_not(None)
        )
        rows = self._rows(wanted.order_by(table.c.ended.desc(), table.c.id.desc()).limit(most))
        return tuple(RunRecord(**row._mapping) for row in rows)

    def end_dead_runs(self, *, also: str = "") -> tuple[str, ...]:
        """Mark as failed the runs whose process has ended without a word; give their names.

        Runs of a process on another machine are left: nothing is known of it here. So are those that the
        queue holds to be going on (`server.run_queue`): their process may have ended with the server, and
        the queue has them go on when it stands again.

        Args:
            also: a run that is looked at though the queue holds it.
        """
        with self.database.read() as connection:
            if not _dead_runs(connection, also):
                return ()
        table, values = tables.runs, {"status": "failed", "error": _DIED, "ended": _now()}
        with self.database.write() as connection:  # and looks again: one may have been taken over meanwhile
            dead = _dead_runs(connection, also)
            connection.execute(update(table).where(table.c.name.in_(dead)).values(values))
        return tuple(dead)

    def died(self, run: str, *, after: int) -> bool:
        """Whether a process took the run over after that turn (`last_turn`), and ended without a word."""
        with self.database.read() as connection:
            return _last_turn(connection, run) > after and run in _dead_runs(connection, run)

    def last_turn(self, run: str) -> int:
        """The number of the last process that took the run over; 0 where none did."""
        with self.database.read() as connection:
            return _last_turn(connection, run)

    def unfinished_runs(self) -> tuple[RunRecord, ...]:
        """Runs still marked `running`: those in progress and those that were killed."""
        return self._select(tables.runs, RunRecord, status="running")

    def link_run(
        self,
        name: str,
        *,
        mlflow_run_id: str | None = None,
        model_version: int | None = None,
        result: str | None = None,
    ) -> None:
        """Note the MLflow run, the model version or the result that belongs to a run."""
        self._update_run(
            name, _given(mlflow_run_id=mlflow_run_id, model_version=model_version, result=result)
        )

    def finish_run(self, name: str, status: RunStatus, *, error: str = "") -> None:
        """Set how a run ended. A run that is resumed later may be finished again."""
        self._update_run(name, {"status": status, "error": error, "ended": _now()})

    def take_over(self, run: str) -> int:
        """Make the caller the one who runs it; whoever ran it before is told when it next writes.

        A server that is started again may bring back the process of a run that somebody has resumed
        meanwhile. Returns the number of this turn, for `save_round` and `require_turn`.
        """
        with self.database.read() as connection:
            turn = _last_turn(connection, run) + 1
        while not self.claim(_TURNS + run, str(turn), this_process()):
            turn += 1
        return turn

    def require_turn(self, run: str, turn: int) -> None:
        """Refuse to go on with a run that another has taken over.

        Raises:
            TakenOverError: it has.
        """
        with self.database.read() as connection:
            self._require_turn(connection, run, turn)

    def _require_turn(self, connection: Connection, run: str, turn: int) -> None:
        if _last_turn(connection, run) > turn:
            raise TakenOverError(
                f"run '{run}' was taken over by a process that was started later, and goes on there",
                where=self.database.where,
                remedy="Follow it with `tidegate server status`",
            )

    def save_round(
        self, run: str, record: RoundRecord, *, checkpoint: bytes, turn: int | None = None
    ) -> None:
        """Add a round and replace the run's checkpoint, both or neither; its sites are now counted.

        Args:
            run: its name.
            record: the round.
            checkpoint: what a process needs to go on from here.
            turn: what `take_over` gave; without, nobody is asked whose turn it is.

        Raises:
            TakenOverError: it is another's turn.
            StorageError: the run is unknown, or has this round already: another
                server process is running it.
        """
        now = _now()
        row = {**vars(record), "run": run, "ended": now}
        state = {"round": record.round, "blob": checkpoint, "saved": now}
        table = tables.checkpoints
        try:
            with self.database.write() as connection:
                if turn is not None:
                    self._require_turn(connection, run, turn)
                connection.execute(tables.rounds.insert().values(row))
                _write_counted(connection, run, record, now)
                replaced = connection.execute(update(table).where(table.c.run == run).values(state))
                if not replaced.rowcount:
                    connection.execute(table.insert().values(run=run, **state))
        except IntegrityError as exc:
            raise StorageError(
                f"round {record.round} of run '{run}' is there already, or the run is unknown",
                where=self.database.where,
                remedy="See that one server process only runs it",
            ) from exc

    def load_checkpoint(self, run: str) -> tuple[int, bytes] | None:
        """The last finished round and the bytes saved with it; None before the first."""
        table = tables.checkpoints
        rows = self._rows(select(table.c.round, table.c.blob).where(table.c.run == run))
        return (int(rows[0].round), bytes(rows[0].blob)) if rows else None

    def rounds(self, run: str, *, after: int = 0, limit: int | None = None) -> tuple[RoundRecord, ...]:
        """The finished rounds of a run, in order; those alone that come after that number, and so many."""
        table = tables.rounds
        here = (table.c.run == run) & (table.c.round > after)
        found = self._rows(
            select(*_columns(table, RoundRecord)).where(here).order_by(table.c.id).limit(limit)
        )
        return tuple(
            RoundRecord(**{**row._mapping, "cohort": tuple(row.cohort), "counted": tuple(row.counted)})
            for row in found
        )

    def count_rounds(self, run: str) -> int:
        """How many rounds of a run have finished."""
        wanted = select(func.count()).where(tables.rounds.c.run == run)
        return int(self._rows(wanted)[0][0])

    def save_drift(self, experiment: str, *, window: str, site: str, summary: Mapping[str, Any]) -> bool:
        """Keep a site's drift summary; False if there was one for that window, which stays."""
        values = {"experiment": experiment, "window": window, "site": site, "summary": dict(summary)}
        return self._insert(tables.drift_summaries, {**values, "saved": _now()})

    def drift(self, experiment: str, window: str | None = None) -> tuple[DriftRecord, ...]:
        """Drift summaries in the order in which they came."""
        return self._select(
            tables.drift_summaries, DriftRecord, **_given(experiment=experiment, window=window)
        )

    def save_verdict(self, experiment: str, *, window: str, verdict: Mapping[str, Any], alarm: bool) -> bool:
        """Keep the verdict on a window; False if there was one, which stays."""
        values = {"experiment": experiment, "window": window, "verdict": dict(verdict), "alarm": alarm}
        return self._insert(tables.verdicts, {**values, "saved": _now()})

    def verdicts(self, experiment: str) -> tuple[VerdictRecord, ...]:
        """Verdicts in the order in which they were formed."""
        return self._select(tables.verdicts, VerdictRecord, experiment=experiment)

    def judged(self) -> tuple[str, ...]:
        """The experiments with a verdict, in the order of their first."""
        table = tables.verdicts
        wanted = select(table.c.experiment).group_by(table.c.experiment).order_by(func.min(table.c.id))
        return tuple(row.experiment for row in self._rows(wanted))

    def record_decision(
        self,
        experiment: str,
        *,
        window: str,
        kind: DecisionKind,
        subject: str,
        by: str,
        reason: str,
        evidence: str | None = None,
    ) -> None:
        """Add a decision. Nothing removes or changes it."""
        values = {"window": window, "kind": kind, "subject": subject, "by": by, "reason": reason}
        values |= _given(evidence=evidence)
        with self.database.write() as connection:
            connection.execute(tables.decisions.insert().values(time=_now(), experiment=experiment, **values))

    def decisions(
        self, experiment: str | None = None, *, kinds: Collection[DecisionKind] = ()
    ) -> tuple[DecisionRecord, ...]:
        """Decisions in the order in which they were taken; of these kinds alone where some are named."""
        table = tables.decisions
        wanted = select(*_columns(table, DecisionRecord)).filter_by(**_given(experiment=experiment))
        if kinds:
            wanted = wanted.where(table.c.kind.in_(kinds))
        return tuple(DecisionRecord(**row._mapping) for row in self._rows(wanted.order_by(table.c.id)))

    def trained_models(self) -> frozenset[str]:
        """The models of which a run here has made a version."""
        table = tables.runs
        wanted = select(table.c.experiment).where(table.c.model_version.is_not(None)).distinct()
        return frozenset(row.experiment for row in self._rows(wanted))

    def claim(self, job: str, slot: str, owner: str) -> bool:
        """Take a slot of a job; True for one caller only, over all processes and for ever.

        The uniqueness of (job, slot) in the database decides, so that two schedulers
        never act on the same slot twice.
        """
        return self._insert(tables.claims, {"job": job, "slot": slot, "owner": owner, "claimed_at": _now()})

    def claims(self, job: str) -> tuple[ClaimRecord, ...]:
        """Every slot of the job that was taken, in the order of the claims."""
        return self._select(tables.claims, ClaimRecord, job=job)

    def _insert(self, table: Table, values: Mapping[str, Any]) -> bool:
        try:
            with self.database.write() as connection:
                connection.execute(table.insert().values(values))
        except IntegrityError:
            return False
        return True

    def _update_run(self, name: str, values: Mapping[str, Any]) -> None:
        with self.database.write() as connection:
            found = connection.execute(update(tables.runs).where(tables.runs.c.name == name).values(values))
        if not found.rowcount:
            raise StorageError(
                f"there is no run '{name}'", where=self.database.where, remedy="Start it first"
            )

    def _select(self, table: Table, kind: type[Record], **equal: Any) -> tuple[Record, ...]:
        wanted = select(*_columns(table, kind)).filter_by(**equal).order_by(table.c.id)
        return tuple(kind(**row._mapping) for row in self._rows(wanted))

    def _participation(self, here: ColumnElement[bool]) -> tuple[ParticipationRecord, ...]:
        table = tables.participation
        found = self._rows(select(*_columns(table, ParticipationRecord)).where(here).order_by(table.c.id))
        return tuple(
            ParticipationRecord(
                **{**row._mapping, "node_id": None if row.node_id is None else int(row.node_id)}
            )
            for row in found
        )

    def _rows(self, wanted: Select[Any]) -> list[Row[Any]]:
        with self.database.read() as connection:
            return list(connection.execute(wanted))


def _dead_runs(connection: Connection, also: str) -> list[str]:
    """The running runs whose last process has ended, or is not named (older programs)."""
    table, claims, queue = tables.runs, tables.claims, tables.submissions
    held = select(queue.c.run).where((queue.c.state != "ended") & (queue.c.run != also))
    wanted = select(table.c.name).where((table.c.status == "running") & table.c.name.not_in(held))
    running = connection.execute(wanted).scalars().all()
    dead = []
    for name in running:
        last = {"job": _TURNS + name, "slot": str(_last_turn(connection, name))}
        owner = connection.execute(select(claims.c.owner).filter_by(**last)).scalar_one_or_none()
        if owner is None or is_dead(owner):
            dead.append(name)
    return dead


def _forget_anchor(connection: Connection, federation: str, site: str) -> None:
    table = tables.ledger_anchors
    connection.execute(table.delete().where((table.c.federation == federation) & (table.c.site == site)))


def _last_turn(connection: Connection, run: str) -> int:
    slots = connection.execute(select(tables.claims.c.slot).where(tables.claims.c.job == _TURNS + run))
    return max((int(slot) for slot in slots.scalars()), default=0)


def _write_site(connection: Connection, name: str, node_id: int, stated_rows: int, now: datetime) -> None:
    table = tables.sites
    values = {"node_id": str(node_id), "stated_rows": stated_rows, "last_seen": now}
    known = connection.execute(update(table).where(table.c.name == name).values(values))
    if not known.rowcount:
        connection.execute(table.insert().values(name=name, first_seen=now, **values))


def _write_participation(
    connection: Connection, step: Step, sites: Mapping[str, SiteStatus], now: datetime
) -> None:
    table = tables.participation
    key = {"run": step.run, "kind": step.kind, "round": step.number}
    here = select(table).filter_by(**key)
    known = {row.site: row for row in connection.execute(here)}
    for site, status in sites.items():
        if status.node is not None and status.stated_rows is not None:
            _write_site(connection, site, status.node, status.stated_rows, now)
        values = _status_values(status)
        before = known.pop(site, None)
        if before is None:
            connection.execute(table.insert().values(site=site, since=now, **key, **values))
        elif any(before._mapping[name] != value for name, value in values.items()):
            same = (before.state, before.reason) == (status.state, status.reason)
            since = before.since if same else now
            connection.execute(update(table).where(table.c.id == before.id).values(since=since, **values))
    for gone in known.values():  # a node that has told its name since
        connection.execute(table.delete().where(table.c.id == gone.id))


def _write_counted(connection: Connection, run: str, record: RoundRecord, now: datetime) -> None:
    table = tables.participation
    here = (table.c.run == run) & (table.c.kind == "train") & (table.c.round == record.round)
    counted = here & table.c.site.in_(record.counted)
    connection.execute(update(table).where(counted).values(state="counted", reason="", since=now))


def _status_values(status: SiteStatus) -> dict[str, Any]:
    return {
        "node_id": None if status.node is None else str(status.node),
        "stated_rows": status.stated_rows,
        "state": status.state,
        "reason": status.reason,
    }


def _columns(table: Table, kind: type[Any]) -> list[Any]:
    return [table.c[field.name] for field in fields(kind)]


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _now() -> datetime:
    return datetime.now(UTC)
