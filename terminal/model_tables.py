"""What `tidegate models` shows, of a server that runs here or of another."""

from __future__ import annotations

from collections.abc import Sequence
from json import loads

from contract.errors import InputError
from contract.federation_api import Version
from contract.outside import shown
from contract.windows import condensed
from terminal.output import print_json, print_table, say

__all__ = ["no_version", "say_champion", "show_passport", "show_versions"]

_LONGEST = 5000
"""Characters of a passport's line that are shown."""


def show_versions(model: str, versions: Sequence[Version], *, json: bool) -> None:
    """All versions of a model."""
    if json:
        print_json([one.model_dump() for one in versions])
        return
    if not versions:
        say(f"There is no version of '{model}' yet.")
        return
    print_table(
        ("version", "aliases", "run", "windows", "private"),
        (
            (
                one.version,
                ", ".join(one.aliases),
                one.tags.get("tidegate.run", "–"),
                _windows(one.tags.get("tidegate.windows", "–")),
                one.tags.get("tidegate.private", "–"),
            )
            for one in versions
        ),
    )


def show_passport(version: Version, *, json: bool) -> None:
    """The passport of a version."""
    from rich.markdown import Markdown

    from terminal.output import console

    if json:
        print_json(version.model_dump())
        return
    lines = [shown(line, limit=_LONGEST) for line in (version.description or "").splitlines()]
    console.print(Markdown("\n".join(lines), hyperlinks=False))


def say_champion(model: str, version: int, *, kind: str, by: str, json: bool) -> None:
    """That a version is in service from now on."""
    if json:
        print_json({"model": model, "champion": version, "kind": kind, "by": by})
    else:
        say(f"version {version} of '{model}' is the champion ({kind} by {by})")


def no_version(model: str, version: int) -> InputError:
    """That there is no such version."""
    return InputError(
        f"there is no version {version} of '{model}'", remedy=f"See `tidegate models list {model}`"
    )


def _windows(tag: str) -> str:
    """The windows of a version's tag, which is JSON where it is ours."""
    try:
        return ", ".join(condensed([str(window) for window in loads(tag)])) or "all rows"
    except (ValueError, TypeError):
        return tag
