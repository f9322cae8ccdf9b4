"""Writes the reference of the files' keys, and their JSON schemas, from the types that read them.

`docs/experiment.md`, `docs/site.md` and `docs/server.md` say of each key its type, default and meaning; the
schema beside each is for editors. Meanings come from the types' docstrings: there is no second text to keep.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docstring_parser
from pydantic import BaseModel

from clients.policy import Allow, Policy
from clients.site_config import Agent, DataSource, Serve, SiteConfig, Storage
from contract import card, experiment
from contract.card import Card, Holdout, Time
from contract.experiment import Experiment
from server.registry.passport_json import passport_schema
from server.server_file import ServerFile

__all__ = ["KINDS", "Kind", "meanings", "pages", "write"]

Schema = Mapping[str, Any]

_TYPES: dict[str, type[BaseModel]] = {
    kind.__name__: kind
    for module in (experiment, card)
    for kind in vars(module).values()
    if inspect.isclass(kind) and issubclass(kind, BaseModel)
} | {kind.__name__: kind for kind in (Allow, Policy, Agent, DataSource, Serve, Storage, Card, Holdout, Time)}


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of file.

    Attributes:
        name: of its page and its schema.
        title: what such a file is called.
        root: the type that it is read into.
        about: what the page says first.
    """

    name: str
    title: str
    root: type[BaseModel]
    about: str


KINDS = (
    Kind(
        name="experiment",
        title="An experiment file",
        root=Experiment,
        about="What a data scientist writes, and `tidegate run` runs. Columns are those of the sites' cards.",
    ),
    Kind(
        name="site",
        title="`site.toml`",
        root=SiteConfig,
        about="What its administrator writes. `tidegate site init` drafts it; paths begin at its folder.",
    ),
    Kind(
        name="server",
        title="`server.toml`",
        root=ServerFile,
        about="What an operator writes for a server that others reach. `tidegate server init` makes it.",
    ),
)

_EDITORS = (
    "An editor with a TOML language server (Taplo; VS Code's *Even Better TOML*) completes and checks the "
    "keys where the file's first line is `#:schema PATH`, with the path or address of "
    "[{name}.schema.json]({name}.schema.json)."
)
_NAMES = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}
_LEFT_OUT = "may be left out"


def pages() -> dict[str, str]:
    """What each file of the reference holds, by its name in `docs/`."""
    written = {}
    for kind in KINDS:
        schema = _with_meanings(kind)
        written[f"{kind.name}.schema.json"] = json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
        written[f"{kind.name}.md"] = _page(kind, schema)
    written["passport.schema.json"] = json.dumps(passport_schema(), indent=1, ensure_ascii=False) + "\n"
    return written


def write(folder: Path) -> None:
    """Write all of it into the folder."""
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")


def meanings(kind: type[BaseModel]) -> dict[str, str]:
    """What the type's docstring says of each of its keys."""
    parsed = docstring_parser.parse(inspect.getdoc(kind) or "", docstring_parser.DocstringStyle.GOOGLE)
    return {
        name.strip(): " ".join((one.description or "").split())
        for one in parsed.params
        for name in one.args[1].split(",")
    }


def _about(kind: type[BaseModel]) -> str:
    """The type's docstring without its list of keys, as one paragraph each."""
    parsed = docstring_parser.parse(inspect.getdoc(kind) or "", docstring_parser.DocstringStyle.GOOGLE)
    texts = (parsed.short_description, parsed.long_description)
    return "\n\n".join(" ".join(text.split()) for text in texts if text)


def _with_meanings(kind: Kind) -> dict[str, Any]:
    """The type's JSON schema, each key with its meaning, for editors."""
    schema = kind.root.model_json_schema()
    for name, part in (*schema.get("$defs", {}).items(), (kind.root.__name__, schema)):
        type_ = kind.root if name == kind.root.__name__ else _TYPES[name]
        part["description"] = _about(type_)
        for key, words in meanings(type_).items():
            part["properties"][key] = {
                **{one: value for one, value in part["properties"][key].items() if one != "title"},
                "description": words,
            }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _page(kind: Kind, schema: dict[str, Any]) -> str:
    lines = [
        f"# {kind.title}: every key",
        "",
        f"{kind.about} A file with an unknown key, or a value out of its bounds, is refused whole.",
        "",
        _EDITORS.format(name=kind.name),
        "",
        "This page is made by `scripts/reference` from the types that read the file.",
    ]
    for heading, part in _tables(schema, schema, ""):
        lines += ["", f"## {heading}" if heading else "## At the top", ""]
        if heading:
            lines += [part["description"], ""]
        lines += ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
        for key, value in part["properties"].items():
            cells = (f"`{key}`", _type(value, schema), _default(key, value, part), value["description"])
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _tables(part: Schema, whole: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    """Each table of the file with its heading, from the top down."""
    yield path, part
    plain = path.strip("[]`").split("]")[0]
    for key, value in part["properties"].items():
        inner = f"{plain}.{key}" if plain else key
        for name, repeated, chosen in _parts(value):
            heading = f"`[[{inner}]]`" if repeated else f"`[{inner}]`"
            which = f' with `kind = "{chosen}"`' if chosen else ""
            yield from _tables(whole["$defs"][name], whole, heading + which)


def _parts(value: Schema) -> Iterator[tuple[str, bool, str]]:
    """The tables that a key's value may be: name of the type, whether there are several, its `kind`."""
    repeated = value.get("type") == "array"
    value = value["items"] if repeated else value
    chosen = value.get("discriminator", {}).get("mapping", {})
    if chosen:
        yield from ((_named(target), repeated, kind) for kind, target in sorted(chosen.items(), reverse=True))
        return
    for one in (value, *value.get("anyOf", ()), *value.get("allOf", ())):
        if isinstance(one, dict) and "$ref" in one:
            yield _named(one["$ref"]), repeated, ""


def _named(reference: str) -> str:
    return reference.rpartition("/")[2]


def _type(value: Schema, whole: Schema) -> str:
    """What may stand there, with its bounds, in words."""
    match value:
        case {"anyOf": choices}:
            words = " or ".join(_type(one, whole) for one in choices if one.get("type") != "null")
        case {"const": only}:
            words = f"`{json.dumps(only)}`"
        case {"enum": some}:
            words = ", ".join(f"`{json.dumps(one)}`" for one in some)
        case {"type": "array"}:
            words = _list(value, whole)
        case {"type": "object", "additionalProperties": inner}:
            words = f"table of {_type(inner, whole)}"
        case {"type": name}:
            words = _NAMES[name] + _bounds(value)
        case _:
            words = "table"
    return words


def _list(value: Schema, whole: Schema) -> str:
    fewest, most = value.get("minItems"), value.get("maxItems")
    items = value["items"] if "items" in value else value["prefixItems"][0]  # a tuple's are alike
    inner = f"list of {_type(items, whole)}"
    if fewest is None and most is None:
        return inner
    count = f"{fewest or 0} or more" if most is None else f"{fewest or 0} to {most:,}"
    return f"{inner} ({str(fewest) if fewest == most else count} of them)"


def _bounds(value: Schema) -> str:
    if "maxLength" in value:
        return f", at most {value['maxLength']:,} characters" if value["maxLength"] > 1 else ", one character"
    signs = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    words = [f"{word} {_number(value[key])}" for key, word in signs.items() if key in value]
    return ", " + " ".join(words) if words else ""


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) and abs(value) < 1e7 else f"{value:g}"


def _default(key: str, value: Schema, part: Schema) -> str:
    if key in part.get("required", ()):
        return "**needed**"
    default = value.get("default")
    if default is None or isinstance(default, dict) or value.get("type") == "object":
        return _LEFT_OUT
    return f"`{json.dumps(default, ensure_ascii=False)}`"


if __name__ == "__main__":
    write(Path(__file__).parents[1] / "docs")
