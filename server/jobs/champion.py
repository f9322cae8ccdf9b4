"""Which version of a model is in service: the decisions say it, and the registry's alias follows them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from contract.errors import RegistryError
from server.registry.registry import CHAMPION, Registry
from server.state.storage import State

__all__ = ["Champion", "champion_of", "follow_decisions"]


@dataclass(frozen=True, kw_only=True)
class Champion:
    """The version in service, and the windows that it was trained on."""

    version: int
    windows: tuple[str, ...]


def champion_of(model: str, state: State) -> Champion:
    """The version that the last promotion or rollback put into service.

    Raises:
        RegistryError: there was none.
    """
    for decision in reversed(state.decisions(model)):
        version = re.fullmatch(r"version (\d+)", decision.subject)
        if decision.kind in ("promote", "rollback") and version:
            number = int(version[1])
            results = [
                json.loads(run.result)
                for run in state.runs(model)
                if run.model_version == number and run.result
            ]
            return Champion(version=number, windows=tuple(results[-1].get("windows", ())) if results else ())
    raise RegistryError(
        f"model '{model}' has no champion to watch", remedy="Train a first version with `tidegate run`"
    )


def follow_decisions(model: str, state: State, registry: Registry) -> None:
    """Point the alias at the version that the decisions put into service.

    Two that are taken at one moment leave it at the later one: whoever has set it looks at the decisions
    again.
    """
    shown: int | None = None
    while (decided := champion_of(model, state).version) != shown:
        registry.set_alias(model, CHAMPION, decided)
        shown = decided
