"""What happens to a run, as server-sent events (the WHATWG's HTML standard, "Server-sent events").

    queue          how it stands before it begins: only while somebody listens, with no id
    round          one finished round
    participation  the sites whose progress has changed
    end            how the run ended; the stream ends too

The id of an event says what was sent up to it: the number of the last round, and the moment of the last
change of a site's progress, in microseconds since 1970. Both are in the state database, so whoever comes back
with `Last-Event-ID` is sent what came after it, by this process or by another.

A long run is told in parts, and the next is read when its reader has taken the one before: so a stream holds
no more of it than a part, however slow its reader is.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from contract.errors import InputError, StorageError
from contract.federation_api import ParticipationEvent, QueueEvent, Run, has_ended
from server.api.reading import Reading, participation_of, round_of

__all__ = ["Cursor", "Events", "read_cursor"]

_LOOK = 0.2
_HEARTBEAT = 10.0
"""Seconds after which a stream without events says that it lives; and asks whether its reader still may."""
_ROUNDS, _CHANGES = 20, 200
"""How many rounds, and about how many changes of a site's progress, are told at a time."""
_ID = re.compile(r"(\d{1,6})-(\d{1,18})", re.ASCII)
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = 253_402_300_799_000_000
"""The end of the year 9999."""


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """What was sent: rounds up to this one, and changes of progress up to this moment."""

    round: int = 0
    moment: int = 0

    def __str__(self) -> str:
        return f"{self.round}-{self.moment}"


def read_cursor(text: str | None) -> Cursor:
    """The cursor that an event's id holds; the beginning for none.

    Raises:
        InputError: it is no such id.
    """
    if not text:
        return Cursor()
    found = _ID.fullmatch(text)
    if found is None:
        raise InputError("no id of an event", where="Last-Event-ID", remedy="Leave it out to begin anew")
    return Cursor(round=int(found[1]), moment=int(found[2]))


@dataclass(kw_only=True)
class Events:
    """One stream.

    Attributes:
        reading: of the state.
        run: the run's name.
        cursor: where it begins.
        may_read: whether the reader's token is still good.
        is_stopping: whether the server is.
    """

    reading: Reading
    run: str
    cursor: Cursor
    may_read: Callable[[], bool]
    is_stopping: Callable[[], bool]
    _before: QueueEvent | None = None
    _changes: int = 0

    async def stream(self) -> AsyncIterator[bytes]:
        """The events, until the run ends, the token is no good any more, or the server stops."""
        yield b": the events of a run\n\n"
        said = asked = time.monotonic()
        while not self.is_stopping():
            try:
                sent, ended, more = await run_in_threadpool(self._look)
            except StorageError:  # the reader comes back
                return
            if time.monotonic() - asked >= _HEARTBEAT:  # also of a run that is never quiet
                if not await run_in_threadpool(self.may_read):
                    return
                asked = time.monotonic()
            if sent:
                said = time.monotonic()
                yield sent
            if ended:
                return
            if time.monotonic() - said >= _HEARTBEAT:
                said = time.monotonic()
                yield b": still here\n\n"
            if not more:
                await asyncio.sleep(_LOOK)

    def _look(self) -> tuple[bytes, bool, bool]:
        """What is new, whether the run has ended and all is told, and whether more is to be told at once."""
        run = self.reading.run(self.run)  # first: what ends a run is written last
        if run is None:
            return b"", True, False
        rounds, changes = self._rounds(), self._participation()
        parts, more = [*rounds, *changes], len(rounds) == _ROUNDS or self._changes == _CHANGES
        if has_ended(run.status) and not more:
            parts.append(_event("end", run, self.cursor))
            return b"".join(parts), True, False
        return b"".join([*self._queue(run), *parts]), False, more

    def _queue(self, run: Run) -> list[bytes]:
        stands = QueueEvent(status=run.status, place=run.place)
        if stands == self._before:
            return []
        self._before = stands
        return [_event("queue", stands, None)]

    def _rounds(self) -> list[bytes]:
        parts = []
        for record in self.reading.state.rounds(self.run, after=self.cursor.round, limit=_ROUNDS):
            self.cursor = Cursor(round=record.round, moment=self.cursor.moment)
            parts.append(_event("round", round_of(record), self.cursor))
        return parts

    def _participation(self) -> list[bytes]:
        changed = self.reading.state.participation(self.run, after=_at(self.cursor.moment), limit=_CHANGES)
        self._changes = min(len(changed), _CHANGES)
        if not changed:
            return []
        latest = max(_moment(one.since) for one in changed)
        self.cursor = Cursor(round=self.cursor.round, moment=latest)
        sites = tuple(participation_of(one) for one in changed)
        return [_event("participation", ParticipationEvent(sites=sites), self.cursor)]


def _event(kind: str, content: BaseModel, cursor: Cursor | None) -> bytes:
    """An event; JSON on one line has no line end that could begin another field."""
    name = "" if cursor is None else f"id: {cursor}\n"
    return f"event: {kind}\n{name}data: {content.model_dump_json()}\n\n".encode()


def _at(moment: int) -> datetime:
    """The time of a moment; of one that no calendar has, the last that there is."""
    return _BEGINNING + timedelta(microseconds=min(moment, _LAST))


def _moment(at: datetime) -> int:
    since = at - _BEGINNING
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
