"""Checks of a window that a person asks for over the API, and what is said while a check goes on."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add three columns."""
    op.add_column("window_checks", sa.Column("asked_by", sa.String(100), nullable=True))
    op.add_column("window_checks", sa.Column("plan", sa.Text(), nullable=True))
    op.add_column("window_checks", sa.Column("said", sa.JSON(), nullable=True))
