"""What a ledger remembers of its answers: which replies are stored, and how many refusals were entered.

Replies of training and evaluation are large, and go when nobody can still wait for them: a day after
another run has ended their plan, or thirty days after the last of them. Their hashes stay in the chain. A
request whose reply has gone is refused: computed again, it would be a second release at the price of one.
Replies of drift checks and of ranges stay: they are small, and are given again whenever the same is asked.

Refusals are at most `MOST_REFUSALS` in a day, so that nobody can fill a site's disk with them. That a run
waits for approval is entered once: it is asked in each round, and the answer is the same word.

Time is the largest that any entry has named so far: a clock that is set back stops it, and lets nothing
expire or be refused sooner.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from clients.ledger.entries import Entry
from clients.ledger.plan import Plan
from contract.errors import RefusalCode

__all__ = ["MOST_REFUSALS", "Answers", "latest_time"]

MOST_REFUSALS = 200
"""Refusals that are entered within a day."""

_DAY = timedelta(days=1)
_AFTER_CLOSE, _AT_LATEST = _DAY, 30 * _DAY
_EXPIRING = frozenset({"train", "evaluate"})
"""Purposes of plans whose replies go."""


class Answers:
    """Replies and refusals, as the entries tell of them."""

    def __init__(self) -> None:
        self.committed: dict[str, Entry] = {}
        self._expired: dict[str, int] = {}
        self._last_commit: dict[str, tuple[int, datetime | None]] = {}
        self._refusals: deque[datetime | None] = deque(maxlen=MOST_REFUSALS)
        self._waiting: deque[str] = deque(maxlen=MOST_REFUSALS)
        self._newest: datetime | None = None

    def apply(self, entry: Entry) -> None:
        """Take the next entry in."""
        now = latest_time(entry.body["at"], self._newest)
        self._newest = now
        if entry.kind == "commit":
            self.committed[entry.request] = entry
            self._last_commit[entry.plan] = (entry.sequence, now)
        elif entry.kind == "expire":
            self._expired[entry.plan] = entry.sequence
        elif entry.kind == "refuse":
            self._refusals.append(now)
            if entry.body["word"] == RefusalCode.APPROVAL:
                self._waiting.append(entry.request)

    def is_expired(self, request: str) -> bool:
        """Whether the request was answered, and its reply was removed since."""
        entry = self.committed.get(request)
        return entry is not None and entry.sequence < self._expired.get(entry.plan, 0)

    def unfit(self, digests: Mapping[str, str]) -> str:
        """Which stored reply is not the one that was committed, by the SHA-256 of all; empty if each is."""
        left = dict(digests)
        for request, entry in self.committed.items():
            expected = None if self.is_expired(request) else entry.body["sha256"]
            if left.pop(request, None) != expected:
                return f"the stored reply of entry {entry.sequence}"
        return "a stored reply that no entry names" if left else ""

    def is_waiting(self, request: str) -> bool:
        """Whether it is entered already, not long ago, that this request waits for approval."""
        return request in self._waiting

    def may_refuse(self, at: str) -> bool:
        """Whether one more refusal may be entered at that time."""
        if len(self._refusals) < MOST_REFUSALS:
            return True
        oldest, now = self._refusals[0], latest_time(at, self._newest)
        return oldest is not None and now is not None and now - oldest >= _DAY

    def to_expire(self, at: str, plans: dict[str, Plan], still_open: set[str]) -> list[str]:
        """Plans whose replies nobody can still wait for."""
        now = latest_time(at, self._newest)
        return sorted(
            name
            for name, (sequence, last) in self._last_commit.items()
            if plans[name].purpose in _EXPIRING
            and sequence > self._expired.get(name, 0)
            and now is not None
            and last is not None
            and now - last >= (_AT_LATEST if name in still_open else _AFTER_CLOSE)
        )


def latest_time(at: str, newest: datetime | None) -> datetime | None:
    """The latest time that anything has named; None before the first that is a time.

    Args:
        at: what an entry names.
        newest: the latest before it.
    """
    try:
        named = datetime.fromisoformat(at)
    except (TypeError, ValueError):
        return newest
    named = named if named.tzinfo else named.replace(tzinfo=UTC)
    return named if newest is None else max(named, newest)
