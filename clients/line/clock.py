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

__all__ = ["MOST_FOLLOWED", "ServerClock", "time_said"]

_log = logging.getLogger("tidegate.agent")

_NOTICED = 3.0
"""Seconds beyond what an answer's own time explains."""
MOST_FOLLOWED = 3600.0
"""Seconds: a clock that is further off is not followed."""
_REFUSED = 401


def time_said(date: str | None) -> float | None:
    """The seconds since 1970 that a header `Date` names; None where it names no time."""
    try:
        return None if date is None else parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None


class ServerClock:
    """An interceptor of Flower's client, before the one that signs."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def now(self) -> datetime.datetime:
        """The time there, in place of the function by which Flower dates a request."""
        return datetime.datetime.now(tz=datetime.UTC) - datetime.timedelta(seconds=self._ahead)

    def intercept(self, context: Any, call_next: Any) -> Any:
        """Send a request; once more if it was refused and its date was wrong."""
        unsigned, began = context.request.headers.copy(), time.time()
        answer = call_next(context)
        if self._follow(answer.headers.get("date"), began) and answer.status_code == _REFUSED:
            answer.close()
            context.request.headers = unsigned
            return call_next(context)
        return answer

    def _follow(self, said: str | None, began: float) -> bool:
        """Take the server's time; whether that changed anything.

        It was that time there at some moment between the request and its answer, which a server may hold for
        seconds, and a second may have passed since.
        """
        there = time_said(said)
        if there is None:
            return False
        least, most = began - there - 1, time.time() - there
        if least - _NOTICED <= self._ahead <= most + _NOTICED:
            return False
        ahead = 0.0 if least - _NOTICED <= 0 <= most + _NOTICED else (least + most) / 2
        if abs(ahead) > MOST_FOLLOWED:
            return False
        if not ahead:
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
