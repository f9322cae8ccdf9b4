"""Which version of a model is in service: the decisions say it, and the registry's alias follows them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from contract.errors import RegistryError
from server.registry.registry import CHAMPION, Registry
from server.state.records import DecisionKind
from server.state.storage import State
from server.state.submissions import Submissions

__all__ = [
    "INTO_SERVICE",
    "Champion",
    "champion_number",
    "champion_of",
    "follow_decisions",
    "has_champion",
    "made_versions",
    "restore_alias",
    "scientist_of",
    "served_versions",
]


INTO_SERVICE: tuple[DecisionKind, ...] = ("promote", "rollback")
"""The decisions that put a version into service."""


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
    for number in served_versions(model, state):
        results = [
            json.loads(run.result) for run in state.runs(model) if run.model_version == number and run.result
        ]
        return Champion(version=number, windows=tuple(results[-1].get("windows", ())) if results else ())
    raise RegistryError(
        f"model '{model}' has no champion to watch",
        remedy="Train a first version with `tidegate run`; one that waits is put into service by "
        "`tidegate models approve`",
    )


def champion_number(model: str, state: State) -> int | None:
    """The version in service by the decisions; None before the first."""
    return next(iter(served_versions(model, state)), None)


def has_champion(model: str, state: State) -> bool:
    """Whether a version was ever put into service."""
    return champion_number(model, state) is not None


def scientist_of(model: str, state: State) -> str:
    """Who submitted the run whose version is in service; empty where no person did.

    A challenger that a schedule trained is of the model that the schedule watched: of whoever submitted that.
    """
    runs = {run.model_version: run.name for run in state.runs(model) if run.job == "train"}
    numbers = served_versions(model, state)
    submitted = Submissions(state.database).of_runs([runs[one] for one in numbers if one in runs])
    people = (submitted[runs[one]].person for one in numbers if runs.get(one) in submitted)
    return next(people, "")


def served_versions(model: str, state: State) -> list[int]:
    """The versions that were put into service, the last first."""
    return [
        int(version[1])
        for decision in reversed(state.decisions(model, kinds=INTO_SERVICE))
        if (version := re.fullmatch(r"version (\d+)", decision.subject))
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


def restore_alias(model: str, found: int | None, state: State, registry: Registry) -> str:
    """Point the alias where the decisions say, if another has moved it; gives what was found, or nothing.

    Only this program moves it, after a decision. Whoever reaches MLflow's database can do so too. Of a model
    of the same name that is another's, because no run here has made that version, nothing is touched.

    Args:
        model: its name.
        found: the version that it points at; None where there is no alias.
        state: has the decisions.
        registry: MLflow.
    """
    served = served_versions(model, state)
    decided = served[0] if served else None
    versions = {one.version for one in registry.versions(model)}
    if found == decided or (decided is None and found not in made_versions(model, state)):
        return ""
    if decided in versions:
        follow_decisions(model, state, registry)
    elif found is None:
        return ""  # nothing can be shown: what is in service is gone from MLflow
    else:
        registry.remove_alias(model, CHAMPION)
    if found is None:
        known = "was taken away"
    elif found in served:
        known = f"still pointed at version {found}, whose place another has taken"
    else:
        known = f"pointed at version {found}, which nobody had decided"
    told = f"the alias '{CHAMPION}' {known}"
    if decided is not None and decided not in versions:
        told += f"; version {decided}, which is in service, is gone from MLflow"
    subject = f"version {found if decided is None else decided}"
    state.record_decision(model, window="", kind="restore", subject=subject, by="server", reason=told)
    return told


def made_versions(model: str, state: State) -> set[int]:
    """The versions that runs of this server have made."""
    return {run.model_version for run in state.runs(model) if run.model_version is not None}
