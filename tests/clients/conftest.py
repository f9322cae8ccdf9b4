"""The PostgreSQL that holds a site's rows."""

from tests.postgres import postgres

__all__ = ["postgres"]
