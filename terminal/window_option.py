"""The windows that a person names on the command line."""

from __future__ import annotations

from typing import Annotated

import typer

from contract.windows import expanded

__all__ = ["WindowNames"]


def _expand(names: list[str] | None) -> list[str]:
    return list(expanded(names or ()))


WindowNames = Annotated[
    list[str] | None,
    typer.Option(
        "--window",
        callback=_expand,
        help="Use this window's rows; A..B means every one from A to B. Repeat for more.",
    ),
]
"""Of which windows the rows are used; none is named for all rows."""
