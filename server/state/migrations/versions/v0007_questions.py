"""Questions about ranges that people submit."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column."""
    op.add_column("submissions", sa.Column("question", sa.JSON(none_as_null=True), nullable=True))
