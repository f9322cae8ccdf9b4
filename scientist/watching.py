"""Follows a run by the server's events, over cuts of the line and restarts of the server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx
from pydantic import BaseModel, ValidationError

from contract.errors import AddressError, InputError, TidegateError
from contract.federation_api import ParticipationEvent, QueueEvent, Round, Run, WindowCheck, WindowChecks
from scientist.connection import Connection

__all__ = ["Event", "follow", "follow_check", "read_events"]

_KINDS: dict[str, type[BaseModel]] = {
    "queue": QueueEvent,
    "round": Round,
    "participation": ParticipationEvent,
    "end": Run,
}
_LONGEST = 16 * 2**20
_LOOK = 0.5
"""Seconds between two looks at a check."""
_PAUSES = (0.2, 1.0, 2.0, 5.0)
"""Seconds before the stream is asked for again, longer each time that nothing came."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """What happened, and the id after which a stream goes on."""

    id: str
    content: BaseModel


def read_events(lines: Iterator[str]) -> Iterator[Event]:
    """The events in the lines of a stream; of kinds that this version knows.

    Raises:
        TidegateError: an event is too long, or not what its kind is.
    """
    kind, name, data = "", "", ""
    for line in lines:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if line == "":
            if kind in _KINDS and data:
                yield Event(id=name, content=_content(kind, data))
            kind, data = "", ""
        elif field == "event":
            kind = value
        elif field == "id":
            name = value
        elif field == "data":
            data += value
            if len(data) > _LONGEST:
                raise TidegateError(
                    "an event of the server is too long",
                    remedy="Ask the operator whether a Tidegate server answers there",
                )


def follow(
    connection: Connection,
    run: str,
    *,
    patience: float = 600.0,
    pause: Callable[[float], None] = time.sleep,
    cut: Callable[[], None] = lambda: None,
) -> Iterator[BaseModel]:
    """What happens to a run until it ends; the last is its `Run`.

    Args:
        connection: to the server.
        run: its name.
        patience: seconds for which the server may be away.
        pause: waits.
        cut: is told that the line was cut, once each time.

    Raises:
        InputError: there is no such run, or the token is good no more.
        AddressError: the server is away for too long.
    """
    last, quiet, since, is_cut = "", 0, time.monotonic(), False
    while True:
        try:
            with connection.stream(f"/v1/runs/{run}/events", after=last) as lines:
                for event in read_events(lines):
                    last, quiet, since, is_cut = event.id or last, 0, time.monotonic(), False
                    yield event.content
                    if isinstance(event.content, Run):
                        return
        except (AddressError, httpx.TransportError) as exc:
            if time.monotonic() - since > patience:
                if isinstance(exc, AddressError):
                    raise
                raise AddressError(
                    "the line to the server is cut again and again",
                    where=f"run '{run}'",
                    remedy=f"The run goes on. Come back with: tidegate runs watch {run}",
                ) from exc
            if not is_cut:
                cut()
            is_cut = True
        pause(_PAUSES[min(quiet, len(_PAUSES) - 1)])
        quiet += 1


def follow_check(
    connection: Connection,
    asked: WindowCheck,
    *,
    say: Callable[[str], None],
    patience: float = 600.0,
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[WindowCheck]:
    """How the check of a window stands, again and again until it has ended; first as it was taken up.

    Args:
        connection: to the server.
        asked: as the server took it up.
        say: is told what the server says of it, sentence by sentence.
        patience: seconds for which the server may be away.
        pause: waits.

    Raises:
        InputError: the token is good no more, or the check was removed with its schedule.
        AddressError: the server is away for too long.
    """
    path, stands, said = f"/v1/schedules/{asked.experiment}/windows", asked, 0
    before = asked.attempts - (asked.state == "checking")
    since, is_cut = time.monotonic(), False
    while True:
        said = said if len(stands.said) >= said else 0  # it was taken up again
        for words in stands.said[said:]:
            say(words)
        said = len(stands.said)
        yield stands
        if stands.state != "checking" and stands.attempts > before:
            return
        pause(_LOOK)
        try:
            found = connection.get(path, WindowChecks, window=asked.window).checks
            since, is_cut = time.monotonic(), False
        except AddressError:
            if time.monotonic() - since > patience:
                raise
            if not is_cut:
                say("the line to the server is cut; trying again")
            is_cut = True
            continue
        if len(found) != 1:
            raise InputError(
                "the server knows no check of it any more",
                where=f"window '{asked.window}'",
                remedy="Its schedule was removed: ask again",
            )
        (stands,) = found


def _content(kind: str, data: str) -> BaseModel:
    try:
        return _KINDS[kind].model_validate_json(data)
    except ValidationError as exc:
        raise TidegateError(
            f"an event '{kind}' of the server is not understood",
            remedy="Install the server's version of Tidegate",
        ) from exc
