"""A state database as an older program made it."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

import server.state.database

__all__ = ["FIRST_REVISION_SITE", "migrate"]

FIRST_REVISION_SITE = (
    "INSERT INTO sites (name, node_id, stated_rows, first_seen, last_seen) "
    "VALUES ('plan-a', '5', 7, '2026-11-24 08:00:00+00', '2026-11-24 09:00:00+00')"
)
"""A row of that time."""


def migrate(connection: Connection, revision: str) -> None:
    """Bring an empty database to a revision."""
    config = Config()
    config.set_main_option("script_location", str(Path(server.state.database.__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
