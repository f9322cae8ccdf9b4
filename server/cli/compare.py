"""`tidegate compare`: results of runs side by side."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["compare"]


def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="The runs' names: two or more.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the results of runs side by side: metrics over all sites, and ε."""
    from contract.errors import InputError
    from server.cli.here import reading_here
    from terminal.run_tables import show_results

    with reading_here() as reading:
        found = {name: reading.run_detail(name) for name in runs}
    unknown = [name for name, one in found.items() if one is None]
    if unknown:
        raise InputError(
            f"there is no run '{unknown[0]}'", where="RUN", remedy="`tidegate server status` lists them"
        )
    show_results([one for one in found.values() if one is not None], json=json)
