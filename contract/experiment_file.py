"""Reads TOML into the frozen types, or refuses it with key, value and remedy."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from contract.errors import ExperimentError, InputError
from contract.experiment import Experiment
from contract.names import IN_WORDS
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
        complaints = [_sentence(detail, kind) for detail in _causes(exc.errors(include_url=False))]
        raise error("; ".join(complaints), where=where, remedy="Nothing was run; correct the file") from exc


def _causes(details: list[ErrorDetails]) -> list[ErrorDetails]:
    """Without what only follows: a list whose one item is wrong is not also too short."""
    return [
        detail
        for detail in details
        if detail["type"] != "too_short"
        or not any(
            other["loc"] != detail["loc"] and other["loc"][: len(detail["loc"])] == detail["loc"]
            for other in details
        )
    ]


def _sentence(detail: ErrorDetails, kind: type[BaseModel]) -> str:  # noqa: PLR0911 - a line a fault
    place, given, more = _key(detail["loc"]), detail["input"], detail.get("ctx", {})
    match detail["type"]:
        case "extra_forbidden":
            return f"unknown key '{place}'{_nearest(detail['loc'], kind)}"
        case "missing":
            return f"key '{place}' is missing"
        case "union_tag_not_found":
            return f"key '{place}.{_tag(more)}' is missing: 'numeric' or 'categorical'"
        case "union_tag_invalid":
            kinds = more["expected_tags"].replace(", ", " or ")
            return f"'{place}.{_tag(more)}' = '{more['tag']}': must be {kinds}"
        case "string_pattern_mismatch":
            allowed = IN_WORDS.get(more["pattern"], f"what {more['pattern']} matches")
            return f"'{place}' = {given!r}: must be {allowed}"
        case "value_error":
            message = detail["msg"].removeprefix("Value error, ")
            return f"{place}: {message}" if place else message
        case _:
            shown = repr(given) if not isinstance(given, dict | list) else "this"
            return f"'{place}' = {shown}: {detail['msg'][:1].lower()}{detail['msg'][1:]}"


def _tag(context: dict[str, Any]) -> str:
    """The key that says which kind of table it is."""
    return str(context["discriminator"]).strip("'")


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
    """The known key that was meant: of this table, or of another one if that is much nearer."""
    known, name = _known_keys(location[:-1], kind), str(location[-1])
    others = [key for key in _all_keys(kind) if key.rpartition(".")[0] != _key(location[:-1])]
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    nearest = nearest or [key for key in others if key.endswith(f".{name}")]
    nearest = nearest or difflib.get_close_matches(_key(location), others, n=1, cutoff=0.75)
    nearest = nearest or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean '{nearest[0]}'?)" if nearest else f" (known here: {', '.join(sorted(known))})"


def _all_keys(kind: type[BaseModel], before: str = "") -> Iterator[str]:
    """Every key of the file, with its tables' names before it."""
    for name, field in kind.model_fields.items():
        key = before + (field.alias or name)
        yield key
        for inner in _models_in(field.annotation):
            yield from _all_keys(inner, f"{key}.")


def _known_keys(location: tuple[int | str, ...], kind: type[BaseModel]) -> list[str]:
    here: Any = kind
    for part in location:
        if isinstance(part, str) and part in here.model_fields:
            here = _model_in(here.model_fields[part].annotation, following=location)
    return [field.alias or name for name, field in here.model_fields.items()]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The pydantic models inside an annotation such as `tuple[Numeric | Categorical, ...]`."""
    found: list[type[BaseModel]] = []
    waiting = [annotation]
    while waiting:
        item = waiting.pop()
        if isinstance(item, type) and issubclass(item, BaseModel):
            found.append(item)
        waiting.extend(getattr(item, "__args__", ()))
    return found


def _model_in(annotation: Any, *, following: tuple[int | str, ...]) -> type[BaseModel]:
    """The one of them that the rest of the location is in."""
    candidates = _models_in(annotation)
    for candidate in candidates:
        field = candidate.model_fields.get("kind")
        if field is not None and any(part in getattr(field.annotation, "__args__", ()) for part in following):
            return candidate
    return candidates[0]
