"""The federation of the active profile."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError

from contract.errors import InputError
from contract.names import ExperimentName, RunName, SiteName, WindowName
from scientist.connection import Connection
from scientist.profiles import Profiles
from scientist.settings import read_settings

__all__ = ["connect", "is_connected", "path_of", "require_experiment", "require_window"]


def is_connected() -> bool:
    """Whether a profile is active."""
    return bool(Profiles(read_settings()).active())


def connect() -> Connection:
    """A connection to the server of the profile.

    Raises:
        InputError: there is no profile, or it cannot be read.
    """
    profile = Profiles(read_settings()).read()
    return Connection(profile.url, profile.token, profile.authority)


def require_experiment(name: str) -> str:
    """The name, if an experiment can have it.

    Raises:
        InputError: none can.
    """
    return _require(name, ExperimentName, "an experiment", "Give the `name` that is in its file")


def require_window(name: str) -> str:
    """The name, if a window can have it.

    Raises:
        InputError: none can.
    """
    return _require(name, WindowName, "a window", "`tidegate drift list EXPERIMENT` lists them")


def path_of(kind: str, name: str) -> str:
    """The address of a run, a site or what belongs to an experiment.

    Args:
        kind: `runs`, `sites`, `schedules` or `models`.
        name: of it.

    Raises:
        InputError: nothing of that kind can be named so.
    """
    if kind == "runs":
        return f"/v1/runs/{_require(name, RunName, 'a run', '`tidegate runs list` lists them')}"
    if kind == "sites":
        return f"/v1/sites/{_require(name, SiteName, 'a site', '`tidegate sites list` lists them')}"
    return f"/v1/{kind}/{require_experiment(name)}"


def _require(name: str, kind: Any, what: str, remedy: str) -> str:
    try:
        return str(TypeAdapter(kind).validate_python(name))
    except ValidationError as exc:
        raise InputError(f"this cannot be the name of {what}", where="NAME", remedy=remedy) from exc
