"""The reference of the files' keys: complete, and of today's types."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from experiments.reference import KINDS, Kind, pages

ROOT = Path(__file__).parents[2]
kinds = pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])


def test_the_pages_are_those_of_todays_types() -> None:
    stale = [name for name, text in pages().items() if (ROOT / "docs" / name).read_text("utf-8") != text]
    assert stale == [], "make them anew: scripts/reference"


@kinds
def test_each_key_has_a_meaning(kind: Kind) -> None:
    missing = [
        f"{name}.{key}"
        for name, part in _objects(_schema(kind), kind)
        for key, value in part["properties"].items()
        if not value.get("description")
    ]
    assert missing == []


@kinds
def test_each_table_has_its_place_on_the_page(kind: Kind) -> None:
    page = pages()[f"{kind.name}.md"]
    for _, part in _objects(_schema(kind), kind):
        for key, value in part["properties"].items():
            rows = [line for line in page.splitlines() if line.startswith(f"| `{key}` |")]
            assert any(value["description"].replace("|", "\\|") in line for line in rows), key


def test_a_key_says_its_type_its_bounds_and_its_default() -> None:
    page = pages()["experiment.md"]
    assert "| `rounds` | whole number, from 1 to 10,000 | `20` | how often the sites train. |" in page
    assert "| `false_alarm_rate` | number, from 1e-06 below 1 | `0.01` |" in page
    assert '| `kind` | `"linear"`, `"mlp"`, `"cnn"`, `"package"` | `"linear"` |' in page
    assert '## `[[task.features]]` with `kind = "numeric"`' in page


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("*.toml")), ids=lambda path: path.name)
def test_an_editor_accepts_the_shipped_files_and_refuses_a_wrong_one(path: Path) -> None:
    schema = json.loads((ROOT / "docs" / "experiment.schema.json").read_text("utf-8"))
    values = tomllib.loads(path.read_text("utf-8"))
    jsonschema.validate(values, schema)
    with pytest.raises(jsonschema.ValidationError, match="roundz"):
        jsonschema.validate(values | {"strategy": {"roundz": 3}}, schema)


def _schema(kind: Kind) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(pages()[f"{kind.name}.schema.json"])
    return schema


def _objects(schema: dict[str, Any], kind: Kind) -> Iterator[tuple[str, dict[str, Any]]]:
    yield kind.root.__name__, schema
    yield from schema.get("$defs", {}).items()
