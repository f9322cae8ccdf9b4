"""Alembic's entry: migrates over the connection that `server.state.database` holds."""

from alembic import context

from server.state.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
