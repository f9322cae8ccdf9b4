"""Which version of a model is in service: the decisions say it, and the registry's alias follows them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from contract.errors import RegistryError
from server.registry.registry import CHAMPION, Registry
from server.state.storage import State
from server.state.submissions import Submissions

__all__ = ["Champion", "champion_of", "follow_decisions", "scientist_of"]


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
    for number in _in_service(model, state):
        results = [
            json.loads(run.result) for run in state.runs(model) if run.model_version == number and run.result
        ]
        return Champion(version=number, windows=tuple(results[-1].get("windows", ())) if results else ())
    raise RegistryError(
        f"model '{model}' has no champion to watch", remedy="Train a first version with `tidegate run`"
    )


def scientist_of(model: str, state: State) -> str:
    """Who submitted the run whose version is in service; empty where no person did.

    A challenger that a schedule trained is of the model that the schedule watched: of whoever submitted that.
    """
    runs = {run.model_version: run.name for run in state.runs(model) if run.job == "train"}
    numbers = _in_service(model, state)
    submitted = Submissions(state.database).of_runs([runs[one] for one in numbers if one in runs])
    people = (submitted[runs[one]].person for one in numbers if runs.get(one) in submitted)
    return next(people, "")


def _in_service(model: str, state: State) -> list[int]:
    """The versions that were put into service, the last first."""
    return [
        int(version[1])
        for decision in reversed(state.decisions(model))
        if decision.kind in ("promote", "rollback")
        and (version := re.fullmatch(r"version (\d+)", decision.subject))
    ]


def follow_decisions(model: str, state: State, registry: Registry) -> None:
    """Point the alias at the version that the decisions put into service.

    Two that are taken at one moment leave it at the later one: whoever has set it looks at the decisions
    again.
    """
    shown: int | None = None
    while (decided := champion_of(model, state).version) != shown:
        registry.set_alias(model, CHAMPION, decided)
        shown = decided
