"""The one demo that all end-to-end tests look at, and the browser to look with."""

from tests.e2e.browser import browser
from tests.e2e.standing_demo import demo

__all__ = ["browser", "demo"]
