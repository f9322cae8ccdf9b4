"""The state database: what the server must still know after it was killed.

Every method is one short transaction. A round and its checkpoint are written
together, so that after a kill at any moment the checkpoint is that of the last
round in the table. Decisions are only ever added; triggers in the database refuse
anything else, from this program or another. What sites released and what was
concluded from it is evidence: the first one saved stays.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, TypeVar

from sqlalchemy import Row, Select, Table, select, update
from sqlalchemy.exc import IntegrityError

from contract.errors import StorageError
from contract.experiment import Experiment
from server import tables
from server.database import Database, open_database
from server.records import (
    DecisionKind,
    DecisionRecord,
    DriftRecord,
    Job,
    RoundRecord,
    RunRecord,
    RunStatus,
    SiteRecord,
    VerdictRecord,
)

__all__ = ["State", "name_run", "open_state"]

Record = TypeVar("Record")


def open_state(url: str) -> State:
    """Open the state database and bring its tables up to date.

    Raises:
        StorageError: see `server.database.open_database`.
    """
    return State(open_database(url))


def name_run(experiment: str, *, at: datetime | None = None) -> str:
    """A new run's name: the experiment, the moment in UTC, four random hexadecimal digits."""
    moment = (at or _now()).astimezone(UTC)
    return f"{experiment}-{moment:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


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
        now = _now()
        values = {"node_id": str(node_id), "stated_rows": stated_rows, "last_seen": now}
        with self.database.write() as connection:
            known = connection.execute(update(tables.sites).where(tables.sites.c.name == name).values(values))
            if not known.rowcount:
                connection.execute(tables.sites.insert().values(name=name, first_seen=now, **values))

    def sites(self) -> tuple[SiteRecord, ...]:
        """All sites, in the order in which they first answered."""
        rows = self._rows(select(*_columns(tables.sites, SiteRecord)).order_by(tables.sites.c.id))
        return tuple(SiteRecord(**{**row._mapping, "node_id": int(row.node_id)}) for row in rows)

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

    def save_round(self, run: str, record: RoundRecord, *, checkpoint: bytes) -> None:
        """Add a round and replace the run's checkpoint, both or neither.

        Raises:
            StorageError: the run is unknown, or has this round already: another
                server process is running it.
        """
        now = _now()
        row = {**vars(record), "run": run, "ended": now}
        state = {"round": record.round, "blob": checkpoint, "saved": now}
        table = tables.checkpoints
        try:
            with self.database.write() as connection:
                connection.execute(tables.rounds.insert().values(row))
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

    def rounds(self, run: str) -> tuple[RoundRecord, ...]:
        """The finished rounds of a run, in order."""
        return tuple(
            RoundRecord(**{**vars(found), "cohort": tuple(found.cohort), "counted": tuple(found.counted)})
            for found in self._select(tables.rounds, RoundRecord, run=run)
        )

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

    def record_decision(
        self, experiment: str, *, window: str, kind: DecisionKind, subject: str, by: str, reason: str
    ) -> None:
        """Add a decision. Nothing removes or changes it."""
        values = {"window": window, "kind": kind, "subject": subject, "by": by, "reason": reason}
        with self.database.write() as connection:
            connection.execute(tables.decisions.insert().values(time=_now(), experiment=experiment, **values))

    def decisions(self, experiment: str | None = None) -> tuple[DecisionRecord, ...]:
        """Decisions in the order in which they were taken."""
        return self._select(tables.decisions, DecisionRecord, **_given(experiment=experiment))

    def claim(self, job: str, slot: str, owner: str) -> bool:
        """Take a slot of a job; True for one caller only, over all processes and for ever.

        The uniqueness of (job, slot) in the database decides, so that two schedulers
        never act on the same slot twice.
        """
        return self._insert(tables.claims, {"job": job, "slot": slot, "owner": owner, "claimed_at": _now()})

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

    def _rows(self, wanted: Select[Any]) -> list[Row[Any]]:
        with self.database.read() as connection:
            return list(connection.execute(wanted))


def _columns(table: Table, kind: type[Any]) -> list[Any]:
    return [table.c[field.name] for field in fields(kind)]


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _now() -> datetime:
    return datetime.now(UTC)
