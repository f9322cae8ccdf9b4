"""The small federation of the runtime tests."""

from tests.runtimes.conftest import settings, sites, small

__all__ = ["settings", "sites", "small"]
