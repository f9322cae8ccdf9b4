"""The key with which a person signs, and what they signed for a run."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add two columns."""
    op.add_column("people", sa.Column("signing_key", sa.String(200), nullable=True))
    op.add_column("submissions", sa.Column("mandate", sa.Text(), nullable=True))
