"""Puts a version into service on a person's word."""

from __future__ import annotations

from typing import Literal

from contract.errors import InputError
from server.jobs.champion import follow_decisions
from server.registry.registry import Registry
from server.state.storage import State

__all__ = ["move_champion", "require_recordable"]


def move_champion(
    model: str,
    version: int,
    kind: Literal["promote", "rollback"],
    state: State,
    registry: Registry,
    *,
    by: str,
    reason: str,
) -> None:
    """Make a version the champion. The decision comes first: a kill between the two leaves the truth there.

    Raises:
        InputError: there is no such version, or a name or reason cannot be recorded.
    """
    require_recordable("by", by)
    if by.strip().casefold() == "policy":
        raise InputError(
            "the policy decides by itself, and nobody in its name", where="by", remedy="Give a person's name"
        )
    require_recordable("reason", reason, most=10_000)
    if version not in {item.version for item in registry.versions(model)}:
        raise InputError(
            f"there is no version {version} of '{model}'", remedy=f"See `tidegate models list {model}`"
        )
    state.record_decision(model, window="", kind=kind, subject=f"version {version}", by=by, reason=reason)
    follow_decisions(model, state, registry)


def require_recordable(where: str, text: str, most: int = 200) -> None:
    """Refuse what no database takes: the decision is recorded for ever.

    Raises:
        InputError: it is empty, too long, or holds characters that cannot be shown.
    """
    if not text.strip() or len(text) > most or not text.replace("\n", " ").isprintable():
        raise InputError(
            f"this cannot be recorded: 1 to {most} characters, each of which can be printed",
            where=where,
            remedy="Write it in plain text",
        )
