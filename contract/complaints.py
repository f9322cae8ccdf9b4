"""What pydantic says of a TOML file that is wrong, in words for whoever wrote the file."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from contract.names import IN_WORDS
from contract.words import counted

__all__ = ["sentences"]

_IN_PLAIN_WORDS = {
    "string_type": "a text in quotation marks",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
}

_MEMBERS = ("numeric", "categorical")
"""Of the unions in a file: pydantic puts the name of one into a place, as no author does."""


def sentences(details: list[ErrorDetails], kind: type[BaseModel], values: dict[str, Any]) -> list[str]:
    """A sentence for each fault, which names the key, what it is and what it must be.

    Args:
        details: the faults, as pydantic lists them.
        kind: what the file was read into.
        values: what the file holds.
    """
    return [_sentence(detail, kind, values) for detail in _causes(details)]


def _causes(details: list[ErrorDetails]) -> list[ErrorDetails]:
    """Without what only follows: a list whose one item is wrong is not also too short."""
    details = [one for one in details if one["type"] != "default_factory_not_called"]  # its key is wrong
    return [
        detail
        for detail in details
        if detail["type"] != "too_short"
        or not any(
            other["loc"] != detail["loc"] and other["loc"][: len(detail["loc"])] == detail["loc"]
            for other in details
        )
    ]


def _sentence(  # noqa: PLR0911 - a line a fault
    detail: ErrorDetails, kind: type[BaseModel], values: dict[str, Any]
) -> str:
    location, given, more = detail["loc"], detail["input"], detail.get("ctx", {})
    key, place = _key(location), _place(location, values)
    has = f"{place} = {given!r}" if not isinstance(given, dict | list) else place
    match detail["type"]:
        case "extra_forbidden":
            return f"unknown key {place}{_nearest(location, kind)}"
        case "missing":
            return f"key {place} is missing"
        case "union_tag_not_found":
            return f"key {_place((*location, _tag(more)), values)} is missing: 'numeric' or 'categorical'"
        case "union_tag_invalid":
            kinds = more["expected_tags"].replace(", ", " or ")
            return f"{_place((*location, _tag(more)), values)} = '{more['tag']}': must be {kinds}"
        case "string_pattern_mismatch":
            allowed = IN_WORDS.get(more["pattern"], f"what {more['pattern']} matches")
            return f"{has}: must be {allowed}"
        case "value_error":
            message = detail["msg"].removeprefix("Value error, ")
            return f"{key}{_of_item(location, values)}: {message}" if key else message
        case "too_short":
            least = more["min_length"]
            return f"{has}: must have at least {counted(least, 'item')}"
        case "tuple_type":
            return f"{has}: write a list: {_list_of(location, kind, given)}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{has}: write a table: {_table_of(location, kind, given)}"
        case plain if plain in _IN_PLAIN_WORDS:
            return f"{has}: must be {_IN_PLAIN_WORDS[plain]}"
        case _:
            return f"{has}: {detail['msg'][:1].lower()}{detail['msg'][1:]}"


def _place(location: Sequence[int | str], values: dict[str, Any]) -> str:
    return f"'{_key(location)}'{_of_item(location, values)}"


def _of_item(location: Sequence[int | str], values: dict[str, Any]) -> str:
    """The name of the column or feature that the place is in: nobody counts them from 0."""
    here: Any = values
    name, depth = "", 0
    for number, part in enumerate(location, start=1):
        if part in _MEMBERS:
            continue
        try:
            here = here[part]
        except (KeyError, IndexError, TypeError):
            break
        if isinstance(part, int) and isinstance(here, dict):
            name, depth = str(here.get("name", ""))[:60], number
    inner = [part for part in location[depth:] if part not in _MEMBERS]
    if not name or inner == ["name"]:
        return ""
    return f" (of '{name}')" if inner else f" ('{name}')"


def _list_of(location: Sequence[int | str], kind: type[BaseModel], given: object) -> str:
    """How a list is written: of tables, or with the one value that was given in its place."""
    if _models_at(location, kind):
        return f"[[{_key(location)}]] before each table"
    return f"[{_written(given)}]" if isinstance(given, str | int | float) else '["…"]'


def _table_of(location: Sequence[int | str], kind: type[BaseModel], given: object) -> str:
    """How a table is written: with the keys that it must have, or else with all that it may have."""
    models = _models_at(location, kind)
    if not models:  # of names that the file's author chooses
        return "{ NAME = … }"
    needed = [name for name, field in models[0].model_fields.items() if field.is_required()]
    needed = [name for name in needed if all(name in model.model_fields for model in models)]
    if isinstance(given, str) and needed == ["column"]:
        return f"{{ column = {_written(given)} }}"
    return f"{{ {', '.join(f'{name} = …' for name in needed or models[0].model_fields)} }}"


def _written(value: object) -> str:
    """As TOML writes it."""
    return json.dumps(value, ensure_ascii=False)


def _models_at(location: Sequence[int | str], kind: type[BaseModel]) -> list[type[BaseModel]]:
    """The models of which one is at this place of the file; the one, where the place says which."""
    here: list[type[BaseModel]] = [kind]
    for part in location:
        if part in _MEMBERS:
            here = [model for model in here if part in get_args(model.model_fields["kind"].annotation)]
        elif isinstance(part, str):
            fields = [model.model_fields[part] for model in here if part in model.model_fields]
            here = [model for field in fields for model in _models_in(field.annotation)]
    return here


def _tag(context: dict[str, Any]) -> str:
    """The key that says which kind of table it is."""
    return str(context["discriminator"]).strip("'")


def _key(location: Iterable[int | str]) -> str:
    """`task.features[2].low`, without the name of a union's member."""
    key = ""
    for part in location:
        if isinstance(part, int):
            key += f"[{part}]"
        elif part not in _MEMBERS:
            key += f".{part}" if key else part
    return key


def _nearest(location: tuple[int | str, ...], kind: type[BaseModel]) -> str:
    """The known key that was meant: of this table, or of another one if that is much nearer."""
    known = [name for model in _models_at(location[:-1], kind) for name in model.model_fields]
    name = str(location[-1])
    others = [key for key in _all_keys(kind) if key.rpartition(".")[0] != _key(location[:-1])]
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    nearest = nearest or [key for key in others if key.endswith(f".{name}")]
    nearest = nearest or difflib.get_close_matches(_key(location), others, n=1, cutoff=0.75)
    nearest = nearest or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean '{nearest[0]}'?)" if nearest else f" (known here: {', '.join(sorted(known))})"


def _all_keys(kind: type[BaseModel], before: str = "") -> Iterator[str]:
    """Every key of the file, with its tables' names before it."""
    for name, field in kind.model_fields.items():
        key = before + name
        yield key
        for inner in _models_in(field.annotation):
            yield from _all_keys(inner, f"{key}.")


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
