"""What an experiment says of a model that comes as an installed package: name, version and settings."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    WithJsonSchema,
)

from contract.names import EXACT, Digest

__all__ = ["ModelName", "Package", "Settings"]

_MOST_SETTINGS, _MOST_ITEMS = 100, 1000

ModelName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
"""Name of a model in the entry point group `tidegate.models`."""

_Text = Annotated[StrictStr, Field(max_length=200)]
_Setting = StrictBool | StrictInt | StrictFloat | _Text
_SettingName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]


_PLAIN = [{"type": "boolean"}, {"type": "number"}, {"type": "string"}]
_LIST = {"type": "array", "items": {"anyOf": _PLAIN}}


def _as_pairs(given: Any) -> Any:
    """A table as pairs in one order, whichever the file had: two of the same settings have one digest."""
    if not isinstance(given, dict):
        return given
    for value in given.values():
        for one in value if isinstance(value, list | tuple) else (value,):
            if isinstance(one, int) and abs(one) >= EXACT:  # a float would take it, rounded
                raise ValueError(f"{one} is no whole number that every program reads as it is")
    return tuple(
        (name, tuple(value) if isinstance(value, list) else value)
        for name, value in sorted(given.items(), key=lambda item: str(item[0]))
    )


def _each_once(pairs: tuple[tuple[str, object], ...]) -> tuple[tuple[str, object], ...]:
    names = [name for name, _ in pairs]
    if names != sorted(set(names)):
        raise ValueError("write a table: { NAME = … }")
    return pairs


Settings = Annotated[
    tuple[
        tuple[_SettingName, _Setting | Annotated[tuple[_Setting, ...], Field(max_length=_MOST_ITEMS)]],
        ...,
    ],
    Field(max_length=_MOST_SETTINGS),
    BeforeValidator(_as_pairs),
    AfterValidator(_each_once),
    PlainSerializer(dict),
    WithJsonSchema({"type": "object", "additionalProperties": {"anyOf": [*_PLAIN, _LIST]}}),
]
"""A table of settings, frozen: pairs in the order of their names, and a table again in TOML and JSON."""


class Package(BaseModel):
    """What a model package was, where the experiment was made: a site compares it with what is installed.

    Attributes:
        distribution: its name, as pip installs it.
        version: its version.
        sha256: over the name and the content of each of its installed files (`contract.installed_models`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    distribution: Annotated[str, Field(pattern=r"^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?$")]
    version: Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z.!+_-]{0,98}$")]
    sha256: Digest

    def __str__(self) -> str:
        return f"{self.distribution}=={self.version}"

    @property
    def install(self) -> str:
        """The command that installs it."""
        return f"pip install {self}"
