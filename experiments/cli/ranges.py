"""`tidegate ranges FILE`: private ranges for a task that has no public ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from terminal.window_option import WindowNames

__all__ = ["ranges"]


def ranges(
    file: Annotated[
        Path, typer.Argument(help="An experiment file; numeric features without low and high are asked for.")
    ],
    epsilon: Annotated[float, typer.Option(help="What the answer may cost each site.")] = 0.1,
    share: Annotated[
        float, typer.Option(help="Of the rows, how many may lie below a range, and above it.")
    ] = 0.01,
    runtime: Annotated[
        str | None,
        typer.Option(
            help="inline, deployment or simulation, on this machine. Without, and without --site: the server "
            "that you are connected to, or else inline."
        ),
    ] = None,
    site: Annotated[
        list[Path] | None,
        typer.Option(help="A site.toml; repeat for each site. Without: the experiment's data set."),
    ] = None,
    window: WindowNames = None,
    write: Annotated[
        Path | None, typer.Option(help="Write a copy of the experiment file with the ranges put in.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="End with one JSON object.")] = False,
) -> None:
    """Ask the sites for noisy counts of the features without a range, charged to their ledgers."""
    from scientist.connected import is_connected

    if runtime is None and not site and is_connected():
        from scientist.cli.ranges import ask_there

        ask_there(file, epsilon=epsilon, share=share, windows=list(window or ()), write=write, json=json)
        return
    from contract.names import name_run
    from experiments.federated_run import Request, named_runtime, run_experiment, sites_for
    from experiments.range_query import check_question
    from server.jobs.job import RangeQuestion
    from server.settings import apply_quiet_environment, read_settings
    from terminal.new_files import require_new
    from terminal.output import quiet_flower
    from terminal.range_files import give_ranges, read_unranged

    apply_quiet_environment()
    quiet_flower()
    engine = named_runtime(runtime or "inline")
    if write is not None:
        require_new(write)
    unranged, settings = read_unranged(file), read_settings()
    experiment = unranged.experiment
    sites = sites_for(experiment, site or [], settings.home)
    question = RangeQuestion(features=unranged.features, epsilon=epsilon, share=share)
    check_question(question, experiment, sites)
    result = run_experiment(
        Request(
            experiment=experiment,
            run=name_run(f"{experiment.name}-ranges"),
            sites=sites,
            settings=settings,
            runtime=engine,
            windows=tuple(window or ()),
            question=question,
        )
    )
    if not give_ranges(result, unranged, file=file, write=write, json=json):
        raise typer.Exit(1)
