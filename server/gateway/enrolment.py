"""What somebody may ask who wants to become a site.

Nothing yet: an operator admits a site's key by hand (`tidegate server admit`).
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.types import ASGIApp

__all__ = ["enrolment_app"]


def enrolment_app() -> ASGIApp:
    """Answers `/v1/enrolment/…`."""
    return Starlette()
