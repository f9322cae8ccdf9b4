"""What a scientist signed for a schedule."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column."""
    op.add_column("schedules", sa.Column("mandate", sa.Text(), nullable=True))
