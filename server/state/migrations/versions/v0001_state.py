"""The first tables: sites, runs, rounds, checkpoints, drift, decisions, claims.

A released revision is never edited; the tables are spelled out here and do not
follow later changes of `server.state.tables`.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

REFUSAL = "decisions are append-only"


def upgrade() -> None:
    """Make the tables, and the triggers that keep decisions append-only."""
    _federation()
    _monitoring()
    _decisions()


def _order() -> sa.Column[int]:
    return sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True)


def _moment(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _text(name: str, length: int | None = None, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(length) if length else sa.Text(), nullable=nullable)


def _json(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.JSON(), nullable=False)


def _federation() -> None:
    op.create_table(
        "sites",
        _order(),
        _text("name", 200),
        _text("node_id", 32),
        sa.Column("stated_rows", sa.Integer(), nullable=False),
        _moment("first_seen"),
        _moment("last_seen"),
        sa.UniqueConstraint("name", name="uq_sites_name"),
    )
    op.create_table(
        "runs",
        _order(),
        _text("name", 200),
        _text("experiment", 100),
        _text("experiment_digest", 64),
        _text("experiment_json"),
        _text("job", 20),
        _text("trigger"),
        _text("status", 20),
        _moment("started"),
        _moment("ended", nullable=True),
        _text("error"),
        _text("mlflow_run_id", 64, nullable=True),
        sa.Column("model_version", sa.Integer()),
        sa.Column("result", sa.Text()),
        _text("code_hash", 64),
        sa.UniqueConstraint("name", name="uq_runs_name"),
    )
    op.create_index("ix_runs_experiment", "runs", ["experiment"])
    op.create_table(
        "rounds",
        _order(),
        _text("run", 200),
        sa.Column("round", sa.Integer(), nullable=False),
        _json("cohort"),
        _json("counted"),
        _json("failures"),
        _json("metrics"),
        sa.Column("seconds", sa.Float(), nullable=False),
        _moment("ended"),
        sa.ForeignKeyConstraint(["run"], ["runs.name"], name="fk_rounds_run"),
        sa.UniqueConstraint("run", "round", name="uq_rounds_run_round"),
    )
    op.create_table(
        "checkpoints",
        _order(),
        _text("run", 200),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("blob", sa.LargeBinary(), nullable=False),
        _moment("saved"),
        sa.ForeignKeyConstraint(["run"], ["runs.name"], name="fk_checkpoints_run"),
        sa.UniqueConstraint("run", name="uq_checkpoints_run"),
    )


def _monitoring() -> None:
    op.create_table(
        "drift_summaries",
        _order(),
        _text("experiment", 100),
        _text("window", 200),
        _text("site", 200),
        _json("summary"),
        _moment("saved"),
        sa.UniqueConstraint("experiment", "window", "site", name="uq_drift_summaries_experiment_window_site"),
    )
    op.create_table(
        "verdicts",
        _order(),
        _text("experiment", 100),
        _text("window", 200),
        _json("verdict"),
        sa.Column("alarm", sa.Boolean(), nullable=False),
        _moment("saved"),
        sa.UniqueConstraint("experiment", "window", name="uq_verdicts_experiment_window"),
    )
    op.create_table(
        "claims",
        _order(),
        _text("job", 200),
        _text("slot", 200),
        _text("owner", 200),
        _moment("claimed_at"),
        sa.UniqueConstraint("job", "slot", name="uq_claims_job_slot"),
    )


def _decisions() -> None:
    op.create_table(
        "decisions",
        _order(),
        _moment("time"),
        _text("experiment", 100),
        _text("window", 200),
        _text("kind", 20),
        _text("subject", 200),
        _text("by", 200),
        _text("reason"),
    )
    op.create_index("ix_decisions_experiment", "decisions", ["experiment"])
    if op.get_bind().dialect.name == "postgresql":
        _refuse_changes_on_postgresql()
    else:
        _refuse_changes_on_sqlite()


def _refuse_changes_on_sqlite() -> None:
    for change in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER decisions_refuse_{change.lower()} BEFORE {change} ON decisions "
            f"BEGIN SELECT RAISE(ABORT, '{REFUSAL}'); END"
        )


def _refuse_changes_on_postgresql() -> None:
    op.execute(
        "CREATE FUNCTION refuse_change_of_decisions() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{REFUSAL}'; END $$"
    )
    op.execute(
        "CREATE TRIGGER decisions_refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON decisions "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_decisions()"
    )
