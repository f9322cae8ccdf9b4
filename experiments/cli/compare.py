"""`tidegate compare RUN...`: results of runs side by side; and what each site alone would reach."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["compare"]


def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="The runs' names: two or more.")],
    against: Annotated[
        str | None,
        typer.Option(
            help="`local`: hold one run against what each of its sites alone reaches, which is charged."
        ),
    ] = None,
    site: Annotated[
        list[Path] | None,
        typer.Option(
            help="With --against local, on this machine: a site.toml; repeat for each. Without: the "
            "experiment's data set."
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="With --against local: do not ask whether it may be charged.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the figures with their errors into this .png or .svg.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the results of runs side by side: metrics over all sites with their errors, and ε."""
    from contract.errors import InputError
    from experiments.cli.by_profile import either
    from scientist.cli.runs import compare as compare_there
    from server.cli.compare import compare as compare_here
    from terminal.run_tables import require_plot_name

    if plot is not None:
        require_plot_name(plot)
    if against is None:
        either(compare_here, compare_there)(runs=runs, plot=plot, json=json)
        return
    if against != "local" or len(runs) != 1 or plot is not None:
        raise InputError(
            "one run is held against its sites, without a plot",
            where="--against",
            remedy="Use: tidegate compare RUN --against local",
        )
    _against_local(runs[0], site or [], yes=yes, json=json)


def _against_local(run: str, files: list[Path], *, yes: bool, json: bool) -> None:
    from experiments.cli.against_local import compare_here, compare_there
    from scientist.connected import is_connected

    if not files and is_connected():
        compare_there(run, yes=yes, json=json)
    else:
        compare_here(run, files=files, yes=yes, json=json)
