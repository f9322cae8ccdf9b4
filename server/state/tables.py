"""The tables of the state database, as the program of this version knows them.

`migrations/` makes them; a test holds the two together. Names (of runs, sites,
experiments) are the keys by which rows refer to each other, so that a person who
opens the database reads it without joins; `id` keeps the order of insertion.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

__all__ = [
    "HEAD",
    "admitted_sites",
    "checkpoints",
    "claims",
    "decisions",
    "drift_summaries",
    "enrolments",
    "invitations",
    "ledger_anchors",
    "metadata",
    "participation",
    "people",
    "rounds",
    "runs",
    "schedules",
    "sites",
    "submissions",
    "verdicts",
    "version_files",
    "window_checks",
]

HEAD = "0011"
"""The newest revision under `migrations/versions`."""

metadata = MetaData(
    naming_convention={
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)


class Moment(TypeDecorator[datetime]):
    """A moment in UTC. SQLite keeps no time zone, so it is put back on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To UTC, so that SQLite compares them as text in the right order."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """With its zone, on every database."""
        if value is None:
            return None
        moment: datetime = value
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _order() -> Column[int]:
    return Column("id", Integer, primary_key=True, autoincrement=True)


def _run() -> Column[str]:
    return Column("run", String(200), ForeignKey("runs.name"), nullable=False)


def _whole(name: str, *, nullable: bool = False) -> Column[int]:
    """A number that may pass PostgreSQL's 32 bits; SQLite has one kind of integer."""
    return Column(name, BigInteger().with_variant(Integer(), "sqlite"), nullable=nullable)


def _rows(*, nullable: bool = False) -> Column[int]:
    return _whole("stated_rows", nullable=nullable)


sites = Table(
    "sites",
    metadata,
    _order(),
    Column("name", String(200), nullable=False, unique=True),
    Column("node_id", String(32), nullable=False),  # Flower's ids fill 64 bits unsigned
    _rows(),
    Column("first_seen", Moment, nullable=False),
    Column("last_seen", Moment, nullable=False),
)

admitted_sites = Table(
    "admitted_sites",
    metadata,
    _order(),
    Column("federation", String(100), nullable=False),
    Column("name", String(200), nullable=False),
    Column("node_id", String(32), nullable=False),
    Column("key", String(64), nullable=False),
    Column("admitted", Moment, nullable=False),
    _rows(nullable=True),
    UniqueConstraint("federation", "name"),
)

ledger_anchors = Table(
    "ledger_anchors",
    metadata,
    _order(),
    Column("federation", String(100), nullable=False),
    Column("site", String(200), nullable=False),
    _whole("entries"),
    Column("head", String(64), nullable=False),
    Column("at", Moment, nullable=False),
    UniqueConstraint("federation", "site"),
)

runs = Table(
    "runs",
    metadata,
    _order(),
    Column("name", String(200), nullable=False, unique=True),
    Column("experiment", String(100), nullable=False, index=True),
    Column("experiment_digest", String(64), nullable=False),
    Column("experiment_json", Text, nullable=False),
    Column("job", String(20), nullable=False),
    Column("trigger", Text, nullable=False),
    Column("status", String(20), nullable=False),
    Column("started", Moment, nullable=False),
    Column("ended", Moment),
    Column("error", Text, nullable=False),
    Column("mlflow_run_id", String(64)),
    Column("model_version", Integer),
    Column("result", Text),
    Column("code_hash", String(64), nullable=False),
)

rounds = Table(
    "rounds",
    metadata,
    _order(),
    _run(),
    Column("round", Integer, nullable=False),
    Column("cohort", JSON, nullable=False),
    Column("counted", JSON, nullable=False),
    Column("failures", JSON, nullable=False),
    Column("metrics", JSON, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("ended", Moment, nullable=False),
    UniqueConstraint("run", "round"),
)

participation = Table(
    "participation",
    metadata,
    _order(),
    _run(),
    Column("kind", String(40), nullable=False),
    Column("round", Integer, nullable=False),
    Column("site", String(200), nullable=False),
    Column("node_id", String(32)),
    _rows(nullable=True),
    Column("state", String(20), nullable=False),
    Column("reason", Text, nullable=False),
    Column("since", Moment, nullable=False),
    UniqueConstraint("run", "kind", "round", "site"),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    _order(),
    _run(),
    Column("round", Integer, nullable=False),
    Column("blob", LargeBinary, nullable=False),
    Column("saved", Moment, nullable=False),
    UniqueConstraint("run"),
)

drift_summaries = Table(
    "drift_summaries",
    metadata,
    _order(),
    Column("experiment", String(100), nullable=False),
    Column("window", String(200), nullable=False),
    Column("site", String(200), nullable=False),
    Column("summary", JSON, nullable=False),
    Column("saved", Moment, nullable=False),
    UniqueConstraint("experiment", "window", "site"),
)

verdicts = Table(
    "verdicts",
    metadata,
    _order(),
    Column("experiment", String(100), nullable=False),
    Column("window", String(200), nullable=False),
    Column("verdict", JSON, nullable=False),
    Column("alarm", Boolean, nullable=False),
    Column("saved", Moment, nullable=False),
    UniqueConstraint("experiment", "window"),
)

decisions = Table(
    "decisions",
    metadata,
    _order(),
    Column("time", Moment, nullable=False),
    Column("experiment", String(100), nullable=False, index=True),
    Column("window", String(200), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("subject", String(200), nullable=False),
    Column("by", String(200), nullable=False),
    Column("reason", Text, nullable=False),
    Column("evidence", String(64)),
)

version_files = Table(
    "version_files",
    metadata,
    _order(),
    Column("model", String(100), nullable=False),
    Column("version", Integer, nullable=False),
    Column("name", String(100), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("text", Text),
    Column("saved", Moment, nullable=False),
    Index("ix_version_files_model_version", "model", "version"),
)

claims = Table(
    "claims",
    metadata,
    _order(),
    Column("job", String(200), nullable=False),
    Column("slot", String(200), nullable=False),
    Column("owner", String(200), nullable=False),
    Column("claimed_at", Moment, nullable=False),
    UniqueConstraint("job", "slot"),
)

schedules = Table(
    "schedules",
    metadata,
    _order(),
    Column("experiment", String(100), nullable=False, unique=True),
    Column("experiment_json", Text, nullable=False),
    Column("every", String(10), nullable=False),
    Column("first", String(20), nullable=False),
    Column("lag", Integer, nullable=False),
    Column("zone", String(100), nullable=False),
    Column("cron", String(100), nullable=False),
    Column("pace", Float),
    Column("paused", Boolean, nullable=False),
    Column("added", Moment, nullable=False),
    Column("mandate", Text),
)

window_checks = Table(
    "window_checks",
    metadata,
    _order(),
    Column("experiment", String(100), nullable=False),
    Column("window", String(200), nullable=False),
    Column("state", String(20), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due", Moment, nullable=False),
    Column("owner", String(200), nullable=False),
    Column("lease_until", Moment),
    Column("run", String(200), nullable=False),
    Column("detail", Text, nullable=False),
    Column("asked_by", String(100)),
    Column("plan", Text),
    Column("said", JSON(none_as_null=True)),
    UniqueConstraint("experiment", "window"),
)

invitations = Table(
    "invitations",
    metadata,
    _order(),
    Column("federation", String(100), nullable=False),
    Column("name", String(200), nullable=False),
    Column("secret", String(64), nullable=False),
    Column("made", Moment, nullable=False),
    Column("expires", Moment, nullable=False),
    Column("used", Moment),
    UniqueConstraint("federation", "name"),
)

enrolments = Table(
    "enrolments",
    metadata,
    _order(),
    Column("federation", String(100), nullable=False),
    Column("name", String(200), nullable=False),
    Column("fingerprint", String(60), nullable=False),
    Column("public_key", Text, nullable=False),
    Column("signing_request", Text, nullable=False),
    Column("card", JSON(none_as_null=True)),
    _rows(),
    Column("state", String(20), nullable=False),
    Column("certificate", Text),
    Column("asked", Moment, nullable=False),
    Column("answered", Moment),
    Column("renewal_asked", Moment),
    Column("rival", String(60)),
    UniqueConstraint("federation", "name"),
)

people = Table(
    "people",
    metadata,
    _order(),
    Column("name", String(100), nullable=False, unique=True),
    Column("role", String(20), nullable=False),
    Column("token_sha256", String(64), nullable=False, unique=True),
    Column("made", Moment, nullable=False),
    Column("expires", Moment),
    Column("revoked", Moment),
    Column("signing_key", String(200)),
)

submissions = Table(
    "submissions",
    metadata,
    _order(),
    Column("federation", String(100), nullable=False),
    Column("run", String(200), nullable=False, unique=True),
    Column("person", String(100), nullable=False),
    Column("experiment_json", Text, nullable=False),
    Column("windows", JSON, nullable=False),
    Column("mandate", Text),
    Column("submitted", Moment, nullable=False),
    Column("state", String(20), nullable=False),
    Column("superlink_run", String(32)),  # Flower's ids fill 64 bits unsigned
    Column("stopped_by", String(100), nullable=False),
    Column("detail", Text, nullable=False),
    Column("ended", Moment),
    Column("question", JSON(none_as_null=True)),
)
