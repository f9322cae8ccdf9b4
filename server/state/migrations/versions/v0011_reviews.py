"""What was registered of each model version, and on what evidence a decision rests."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

REFUSAL = "registered versions are append-only"


def upgrade() -> None:
    """Add a column, and a table to which lines are only added."""
    op.add_column("decisions", sa.Column("evidence", sa.String(64), nullable=True))
    op.create_table(
        "version_files",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("model", sa.String(100), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("text", sa.Text(), nullable=True),
        sa.Column("saved", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_version_files_model_version", "version_files", ["model", "version"])
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION refuse_change_of_version_files() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{REFUSAL}'; END $$"
        )
        op.execute(
            "CREATE TRIGGER version_files_refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON version_files "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_version_files()"
        )
        return
    for change in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER version_files_refuse_{change.lower()} BEFORE {change} ON version_files "
            f"BEGIN SELECT RAISE(ABORT, '{REFUSAL}'); END"
        )
    for table, refusal in (("version_files", REFUSAL), ("decisions", "decisions are append-only")):
        op.execute(  # INSERT OR REPLACE takes a row away, and SQLite runs no trigger of DELETE for it
            f"CREATE TRIGGER {table}_refuse_replace BEFORE INSERT ON {table} "  # noqa: S608 - our own names
            f"WHEN EXISTS (SELECT 1 FROM {table} WHERE id = NEW.id) "
            f"BEGIN SELECT RAISE(ABORT, '{refusal}'); END"
        )
