"""The windows that a person names on the command line."""

from __future__ import annotations

from typing import Annotated

import typer

from contract.windows import expanded

__all__ = ["SignDays", "TrainedOn", "WindowNames"]


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

TrainedOn = Annotated[
    list[str] | None,
    typer.Option(
        "--trained-on",
        callback=_expand,
        help="The first version was trained on this window; A..B as with run. Without: on all rows.",
    ),
]
"""What the model in service was trained on, which checks compare with."""

SignDays = Annotated[
    int,
    typer.Option(min=1, max=366, help="At the server: so long sites take your signature of the schedule."),
]
"""How long a standing mandate holds."""
