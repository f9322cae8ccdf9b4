"""Requests are dated by the server's clock, where the site's own is wrong.

Flower signs the time of each request, and refuses one that is five seconds ahead or five minutes behind, in
a word that says nothing of clocks. Every answer says what time it is there (HTTP's `Date`): where that is
more than a few seconds from the time here, the next requests are signed with the server's, and one that was
refused is sent once more. A server gains nothing by a lie: it alone checks the signature.
"""

from __future__ import annotations

import datetime
import logging
import time
from email.utils import parsedate_to_datetime
from typing import Any

__all__ = ["MOST_FOLLOWED", "ServerClock"]

_log = logging.getLogger("tidegate.agent")

_NOTICED = 3.0
"""Seconds: an answer says whole ones, and may have been long on its way."""
MOST_FOLLOWED = 3600.0
"""Seconds: a clock that is further off is not followed."""
_REFUSED = 401


class ServerClock:
    """An interceptor of Flower's client, before the one that signs."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def now(self) -> datetime.datetime:
        """The time there, in place of the function by which Flower dates a request."""
        return datetime.datetime.now(tz=datetime.UTC) - datetime.timedelta(seconds=self._ahead)

    def intercept(self, context: Any, call_next: Any) -> Any:
        """Send a request; once more if it was refused and its date was wrong."""
        unsigned = context.request.headers.copy()
        answer = call_next(context)
        if self._follow(answer.headers.get("date")) and answer.status_code == _REFUSED:
            answer.close()
            context.request.headers = unsigned
            return call_next(context)
        return answer

    def _follow(self, said: str | None) -> bool:
        """Take the server's time; whether that changed anything."""
        try:
            there = None if said is None else parsedate_to_datetime(said).timestamp()
        except (ValueError, OverflowError):
            return False
        if there is None:
            return False
        ahead = time.time() - there - 0.5
        if abs(ahead) > MOST_FOLLOWED or abs(ahead - self._ahead) <= _NOTICED:
            return False
        if abs(ahead) <= _NOTICED:
            self._ahead = 0.0
            _log.info("the clock here agrees with the server's again")
            return True
        self._ahead = ahead
        _log.warning(
            "the clock here is %.0f s %s the server's: set it (NTP does); until then requests are dated by "
            "the server's",
            abs(ahead),
            "ahead of" if ahead > 0 else "behind",
        )
        return True
