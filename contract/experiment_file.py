"""Reads TOML into the frozen types, or refuses it with key, value and remedy."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from contract.complaints import sentences
from contract.errors import ExperimentError, InputError
from contract.experiment import Experiment

__all__ = ["LARGEST", "Unranged", "parse_experiment", "parse_experiment_json", "parse_toml", "parse_unranged"]

Parsed = TypeVar("Parsed", bound=BaseModel)

LARGEST = 1e12
"""Where the public grid of unknown ranges (`contract.range_grid`) ends, on both sides."""

_EXPERIMENT, _SITE, _SERVER = "an experiment file", "a site.toml", "a server.toml"
_MARKS = {
    _EXPERIMENT: Experiment.model_fields.keys() - {"name", "data"},
    _SITE: {"stated_rows", "card", "policy", "storage", "agent"},
    _SERVER: {"hosts", "gateway_port"},
}
"""The keys that only one kind of file has."""
_TOO_DEEP, _LESS = "its values are nested too deep, or too long", "Give a file with less"
_SWAPPED = "The two may have been given in each other's place"
_LIKE_TOML = re.compile(r"""^\s*(\[\[?[^\[\]]+\]\]?\s*(#.*)?$|["'\w.-]+\s*=(?!=?\s*$))""", re.MULTILINE)
"""A table's heading, or a key with a value: a line of rows, or of a key in PEM form, is neither."""


@dataclass(frozen=True, kw_only=True)
class Unranged:
    """An experiment that is whole but for the ranges of some numeric features: a question to the sites.

    Attributes:
        experiment: with the ends of the public grid (`contract.range_grid`) in the place of those ranges.
        features: the features that state neither `low` nor `high`, in the task's order.
    """

    experiment: Experiment
    features: tuple[str, ...]


def parse_experiment(text: str, *, where: str) -> Experiment:
    """Parse an experiment file.

    Args:
        text: the TOML text.
        where: the file's name, for the error.

    Raises:
        ExperimentError: syntax, an unknown key (the nearest known one is named),
            a value that is missing or out of bounds. All of them at once; and then
            features without any range, which `tidegate ranges` asks the sites for.
    """
    unranged = parse_unranged(text, where=where)
    if unranged.features:
        several = len(unranged.features) > 1
        named = ", ".join(f"'{name}'" for name in unranged.features)
        raise ExperimentError(
            f"feature{'s' if several else ''} {named} state{'' if several else 's'} no low and high",
            where=where,
            remedy=f"State public ranges, or ask the sites for private ones: tidegate ranges {where}",
        )
    return unranged.experiment


def parse_experiment_json(text: str, *, where: str) -> Experiment:
    """Parse an experiment that is written in JSON, with the keys of an experiment file.

    For texts of strangers: the time that this takes grows with their length. That of the TOML parser grows
    with the square of a dotted key's parts, and is hours for 200 KB of them.

    Raises:
        ExperimentError: as with `parse_experiment`.
    """
    try:
        values = from_json(text, allow_inf_nan=False)
    except ValueError as exc:
        raise ExperimentError(
            f"not valid JSON: {exc}",
            where=where,
            remedy="Give JSON; `tidegate run FILE` makes it of a TOML file",
        ) from exc
    if not isinstance(values, dict):
        raise ExperimentError(
            "not a JSON object", where=where, remedy="Give one with the keys of an experiment file"
        )
    return _validated(values, Experiment, where=where, error=ExperimentError)


def parse_unranged(text: str, *, where: str) -> Unranged:
    """Parse an experiment file in which numeric features may lack both `low` and `high`.

    Raises:
        ExperimentError: anything else is wrong, as with `parse_experiment`; one of the two is missing.
    """
    values = _toml(text, Experiment, where=where, error=ExperimentError)
    features = [feature for feature in _features(values) if _has_no_range(feature)]
    for feature in features:
        feature |= {"low": 0.0 if feature.get("transform") == "log1p" else -LARGEST, "high": LARGEST}
    experiment = _validated(values, Experiment, where=where, error=ExperimentError)
    return Unranged(experiment=experiment, features=tuple(str(feature["name"]) for feature in features))


def _features(values: dict[str, Any]) -> list[dict[str, Any]]:
    """The tables of the features, as far as the file has any; what is not one is refused later."""
    task = values.get("task")
    features = task.get("features") if isinstance(task, dict) else None
    return [item for item in features if isinstance(item, dict)] if isinstance(features, list) else []


def _has_no_range(feature: dict[str, Any]) -> bool:
    return feature.get("kind") == "numeric" and "low" not in feature and "high" not in feature


def parse_toml(text: str, kind: type[Parsed], *, where: str, error: type[InputError]) -> Parsed:
    """Parse TOML into the frozen pydantic type `kind`, raising `error` if anything is wrong."""
    return _validated(_toml(text, kind, where=where, error=error), kind, where=where, error=error)


def _toml(text: str, kind: type[BaseModel], *, where: str, error: type[InputError]) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError as exc:
        raise error(_TOO_DEEP, where=where, remedy=_LESS) from exc
    except ValueError as exc:  # TOMLDecodeError, and Python's own of a number with thousands of digits
        if not _LIKE_TOML.search(text):
            raise error(
                "not a TOML file", where=where, remedy=f"Name {_expected(kind)}; this is another kind of file"
            ) from exc
        raise error(
            f"not valid TOML: {exc}", where=where, remedy=f"Correct that line; this must be {_expected(kind)}"
        ) from exc


def _validated(values: dict[str, Any], kind: type[Parsed], *, where: str, error: type[InputError]) -> Parsed:
    """As JSON, in which pydantic can be strict: `private = "no"` is no `false`, nor `epsilon = true` a 1."""
    try:
        return kind.model_validate_json(_as_json(values, where=where, error=error), strict=True)
    except ValidationError as exc:
        if exc.errors(include_url=False)[0]["type"] == "json_invalid":  # the one thing that ours can be
            raise error(_TOO_DEEP, where=where, remedy=_LESS) from exc
        expected, found = _expected(kind), _kind_of_file(values)
        if found not in ("", expected):
            raise error(f"this is {found}, and {expected} is expected", where=where, remedy=_SWAPPED) from exc
        complaints = sentences(exc.errors(include_url=False), kind, values)
        raise error("; ".join(complaints), where=where, remedy="Nothing was run; correct the file") from exc


def _as_json(values: dict[str, Any], *, where: str, error: type[InputError]) -> str:
    try:
        return json.dumps(values, default=_no_date)
    except (RecursionError, ValueError) as exc:  # ValueError: a hexadecimal number with thousands of digits
        raise error(_TOO_DEEP, where=where, remedy=_LESS) from exc


def _no_date(_: object) -> dict[str, None]:
    """What stands for TOML's dates and times, which no key takes."""
    return {"a date": None}


def _expected(kind: type[BaseModel]) -> str:
    """What a file of this type is called."""
    if kind is Experiment:
        return _EXPERIMENT
    return _SERVER if "gateway_port" in kind.model_fields else _SITE


def _kind_of_file(values: dict[str, Any]) -> str:
    """What a file is called whose keys are those of one kind of file alone; empty where they do not tell."""
    named = [name for name, marks in _MARKS.items() if marks & values.keys()]
    return named[0] if len(named) == 1 else ""
