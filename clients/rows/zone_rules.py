"""The rules of a time zone, which say on which day a time is that states another zone.

They come with the system, or with the package `tzdata`, and an update of it may change them: for years to
come, and for years that are gone.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import zoneinfo
from bisect import bisect_left

__all__ = ["rules_of"]

_FIRST, _LAST = 1900, 2100
_DAY = 86400


def rules_of(zone: str) -> str:
    """A digest of how far the zone is from UTC, and when that changes, from 1900 to 2100.

    It is the same wherever the rules are, however they are packed. Two changes within a day count as one.
    """
    return _digest(zoneinfo.ZoneInfo(zone))


@functools.cache  # and keeps the zone, so that Python deals the rows by these rules and reads no newer ones
def _digest(there: zoneinfo.ZoneInfo) -> str:
    first = datetime.datetime(_FIRST, 1, 1, tzinfo=there)  # of UTC, as `fromutc` wants it
    end = int((datetime.datetime(_LAST, 1, 1, tzinfo=there) - first).total_seconds())

    def offset(second: int) -> datetime.timedelta | None:
        return there.fromutc(first + datetime.timedelta(seconds=second)).utcoffset()

    def first_other(day: int, old: datetime.timedelta | None) -> int:
        return day + bisect_left(range(day, day + _DAY), True, key=lambda second: offset(second) != old)

    old = offset(0)
    changes = [(0, str(old))]
    for day in range(0, end, _DAY):
        new = offset(day + _DAY)
        if new != old:
            changes.append((first_other(day, old), str(new)))
            old = new
    return hashlib.sha256(json.dumps(changes).encode()).hexdigest()
