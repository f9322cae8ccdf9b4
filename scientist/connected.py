"""The federation of the active profile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from contract.complaints import sentences
from contract.errors import InputError, TidegateError
from contract.names import ExperimentName, RunName, SiteName, WindowName
from scientist.connection import Connection
from scientist.profiles import Profiles
from scientist.settings import read_settings

__all__ = [
    "connect",
    "is_connected",
    "path_of",
    "request_of",
    "require_experiment",
    "require_window",
    "understood",
]

Asked = TypeVar("Asked", bound=BaseModel)


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


def request_of(kind: type[Asked], given: Mapping[str, Any], *, where: str, remedy: str) -> Asked:
    """What a request asks, checked here as the server will.

    Raises:
        InputError: a value is out of its bounds, in the words of a file's.
    """
    try:
        return kind.model_validate(given)
    except ValidationError as exc:
        words = "; ".join(sentences(exc.errors(include_url=False), kind, dict(given)))
        raise InputError(words, where=where, remedy=remedy) from exc


@contextmanager
def understood(run: str) -> Iterator[None]:
    """For showing a run's result, which is a server's word and may hold anything.

    Raises:
        TidegateError: it is not what a result is.
    """
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as exc:
        raise TidegateError(
            "the server's result of this run is not understood",
            where=f"run '{run}'",
            remedy="Install the server's version of Tidegate; `--json` prints it as it is",
        ) from exc


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
