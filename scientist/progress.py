"""A run's events as steps: the rounds that have ended, and what else a person is told, each once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pydantic import BaseModel

from contract.federation_api import WAITING, ParticipationEvent, QueueEvent, Round, waiting_words
from contract.outside import shown

__all__ = ["Step", "missing", "steps_of"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """How far a run is.

    Attributes:
        round: that has ended; None where none has.
        words: what else is to be said; it may hold text from outside.
    """

    round: int | None = None
    words: str = ""

    def __str__(self) -> str:
        """In a line, for `follow(print)`.

        >>> print(Step(round=3, words="(missing north: timeout)"))
        round 3 (missing north: timeout)
        """
        number = "" if self.round is None else f"round {self.round}"
        return shown(f"{number} {self.words}".strip())


def steps_of(events: Iterable[BaseModel]) -> Iterator[Step]:
    """The steps of a run's events; of each site it is said once that the run waits for its approval."""
    waiting: set[str] = set()
    for event in events:
        if isinstance(event, QueueEvent):
            if event.status == "queued":
                yield Step(words=f"queued, at place {event.place}")
            elif event.status == "starting":
                yield Step(words="about to begin")
        elif isinstance(event, Round):
            yield Step(round=event.number, words=missing(event))
        elif isinstance(event, ParticipationEvent):
            for site in sorted({one.site for one in event.sites if one.reason == WAITING} - waiting):
                waiting.add(site)
                yield Step(words=waiting_words([site]))


def missing(ended: Round) -> str:
    """Which sites are missing in a round, and why; empty for none."""
    sites = ", ".join(f"{site}: {reason}" for site, reason in sorted(ended.failures.items()))
    return f"(missing {sites})" if sites else ""
