"""Who was admitted, and how far each site came in each exchange of a run.

Stated rows get 64 bits on PostgreSQL; SQLite's integers have them.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make two tables and widen a column."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    rows = sa.BigInteger() if postgresql else sa.Integer()
    if postgresql:
        op.alter_column("sites", "stated_rows", type_=rows, existing_nullable=False)
    op.create_table(
        "admitted_sites",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("federation", sa.String(100), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("node_id", sa.String(32), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("admitted", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint("federation", "name", name="uq_admitted_sites_federation_name"),
    )
    op.create_table(
        "participation",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("run", sa.String(200), nullable=False),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("site", sa.String(200), nullable=False),
        sa.Column("node_id", sa.String(32), nullable=True),
        sa.Column("stated_rows", rows, nullable=True),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.name"], name="fk_participation_run"),
        sa.UniqueConstraint("run", "kind", "round", "site", name="uq_participation_run_kind_round_site"),
    )
