"""Reads TOML into the frozen types, or refuses it with key, value and remedy."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from contract.errors import ExperimentError, InputError
from contract.experiment import Experiment
from contract.range_grid import LARGEST

__all__ = ["Unranged", "parse_experiment", "parse_toml", "parse_unranged"]

Parsed = TypeVar("Parsed", bound=BaseModel)


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


def parse_unranged(text: str, *, where: str) -> Unranged:
    """Parse an experiment file in which numeric features may lack both `low` and `high`.

    Raises:
        ExperimentError: anything else is wrong, as with `parse_experiment`; one of the two is missing.
    """
    values = _toml(text, where=where, error=ExperimentError)
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
    return _validated(_toml(text, where=where, error=error), kind, where=where, error=error)


def _toml(text: str, *, where: str, error: type[InputError]) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise error(f"not valid TOML: {exc}", where=where, remedy="Correct that line") from exc


def _validated(values: dict[str, Any], kind: type[Parsed], *, where: str, error: type[InputError]) -> Parsed:
    try:
        return kind.model_validate(values)
    except ValidationError as exc:
        complaints = [_sentence(detail, kind) for detail in exc.errors(include_url=False)]
        raise error("; ".join(complaints), where=where, remedy="Nothing was run; correct the file") from exc


def _sentence(detail: ErrorDetails, kind: type[BaseModel]) -> str:
    place = _key(detail["loc"])
    match detail["type"]:
        case "extra_forbidden":
            return f"unknown key '{place}'{_nearest(detail['loc'], kind)}"
        case "missing":
            return f"key '{place}' is missing"
        case "value_error":
            message = detail["msg"].removeprefix("Value error, ")
            return f"{place}: {message}" if place else message
        case _:
            shown = repr(detail["input"]) if not isinstance(detail["input"], dict | list) else "this"
            return f"'{place}' = {shown}: {detail['msg'][:1].lower()}{detail['msg'][1:]}"


def _key(location: Iterable[int | str]) -> str:
    """`task.features[2].low`, without the name of a union's member."""
    key = ""
    for part in location:
        if isinstance(part, int):
            key += f"[{part}]"
        elif part not in ("numeric", "categorical"):
            key += f".{part}" if key else part
    return key


def _nearest(location: tuple[int | str, ...], kind: type[BaseModel]) -> str:
    known = _known_keys(location[:-1], kind)
    nearest = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
    return f" (did you mean '{nearest[0]}'?)" if nearest else f" (known here: {', '.join(sorted(known))})"


def _known_keys(location: tuple[int | str, ...], kind: type[BaseModel]) -> list[str]:
    here: Any = kind
    for part in location:
        if isinstance(part, str) and part in here.model_fields:
            here = _model_in(here.model_fields[part].annotation, following=location)
    return [field.alias or name for name, field in here.model_fields.items()]


def _model_in(annotation: Any, *, following: tuple[int | str, ...]) -> type[BaseModel]:
    """The pydantic model inside an annotation such as `tuple[Numeric | Categorical, ...]`."""
    candidates: list[type[BaseModel]] = []
    waiting = [annotation]
    while waiting:
        item = waiting.pop()
        if isinstance(item, type) and issubclass(item, BaseModel):
            candidates.append(item)
        waiting.extend(getattr(item, "__args__", ()))
    for candidate in candidates:
        field = candidate.model_fields.get("kind")
        if field is not None and any(part in getattr(field.annotation, "__args__", ()) for part in following):
            return candidate
    return candidates[0]
