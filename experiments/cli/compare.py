"""`tidegate compare RUN...`: results of runs side by side; and what each site alone would reach."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["compare"]


def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="The runs' names: two or more.")],
    plot: Annotated[
        Path | None, typer.Option(help="Draw the figures with their errors into this .png or .svg.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the results of runs side by side: metrics over all sites with their errors, and ε."""
    from experiments.cli.by_profile import either
    from scientist.cli.runs import compare as compare_there
    from server.cli.compare import compare as compare_here
    from terminal.run_tables import require_plot_name

    if plot is not None:
        require_plot_name(plot)
    either(compare_here, compare_there)(runs=runs, plot=plot, json=json)
