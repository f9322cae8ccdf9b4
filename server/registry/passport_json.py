"""The passport for programs: the same facts as its Markdown, as JSON of a stated version.

Its schema is in `docs/passport.schema.json`. A figure that cannot be measured is null, and `not_measurable`
says why. Rows that a site states are a band here too.
"""

from __future__ import annotations

import json
import math
from typing import Any

from pydantic import TypeAdapter

from server.registry.passport import Passport

__all__ = ["SCHEMA", "passport_json", "passport_schema"]

SCHEMA = "tidegate-passport-1"
"""The version: it changes with any key that is renamed or taken away, and not with one that is added."""
_ADAPTER = TypeAdapter(Passport)


def passport_json(passport: Passport) -> str:
    """The passport as JSON, the same text each time."""
    said = {"schema": SCHEMA, "private": passport.private, **json.loads(_ADAPTER.dump_json(passport))}
    return json.dumps(said, indent=1, ensure_ascii=False) + "\n"


def passport_schema() -> dict[str, Any]:
    """Its JSON schema."""
    schema = _with_null(_ADAPTER.json_schema(mode="serialization"))
    schema["properties"] = {
        "schema": {"const": SCHEMA},
        "private": {"type": "boolean", "description": "Whether every site gave a finite guarantee."},
        **schema["properties"],
    }
    schema["required"] = ["schema", "private", *schema["required"]]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _with_null(part: Any) -> Any:
    """A number may be null, where nothing bounds or measures it; and a default that is none in JSON goes."""
    if isinstance(part, list):
        return [_with_null(item) for item in part]
    if not isinstance(part, dict):
        return part
    kept = {key: _with_null(item) for key, item in part.items() if key != "default" or _is_finite(item)}
    return {**kept, "type": ["number", "null"]} if part.get("type") == "number" else kept


def _is_finite(value: object) -> bool:
    return not isinstance(value, float) or math.isfinite(value)
