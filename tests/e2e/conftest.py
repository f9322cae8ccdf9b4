"""The one demo that all end-to-end tests look at."""

from tests.e2e.standing_demo import demo

__all__ = ["demo"]
