"""What a site said of itself before, to hold it to: the rows at its admission, and where its ledger ended."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column and make a table."""
    whole = sa.BigInteger() if op.get_bind().dialect.name == "postgresql" else sa.Integer()
    op.add_column("admitted_sites", sa.Column("stated_rows", whole, nullable=True))
    op.create_table(
        "ledger_anchors",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("federation", sa.String(100), nullable=False),
        sa.Column("site", sa.String(200), nullable=False),
        sa.Column("entries", whole, nullable=False),
        sa.Column("head", sa.String(64), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint("federation", "site", name="uq_ledger_anchors_federation_site"),
    )
