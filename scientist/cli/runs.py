"""`tidegate runs …`: the runs of the server that you are connected to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pathlib import Path

    from contract.experiment import Experiment
    from contract.federation_api import Run, RunDetail
    from scientist.connection import Connection

__all__ = ["app", "compare", "ended_run", "run_there", "watch_run"]

app = typer.Typer(no_args_is_help=True, help="The runs of the server that you are connected to.")

Name = Annotated[str, typer.Argument(help="The run's name.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_runs(
    mine: Annotated[bool, typer.Option("--mine", help="Yours alone.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many at most.")] = 20,
    skip: Annotated[int, typer.Option(min=0, help="Leave out so many of the newest.")] = 0,
    json: Json = False,
) -> None:
    """Runs, newest first, and how each stands."""
    from contract.federation_api import Runs, waiting_words
    from scientist.connected import connect
    from terminal.output import print_json, print_table, say

    with connect() as connection:
        found = connection.get("/v1/runs", Runs, mine=mine, limit=limit, skip=skip)
    if json:
        print_json(found.model_dump(mode="json"))
        return
    if not found.runs:
        say("There is no run: `tidegate run FILE` submits one.")
        return
    print_table(
        ("run", "of", "status", "rounds", "version", "what happened"),
        (
            (
                run.name,
                run.owner or "–",
                _status(run),
                f"{run.rounds} of {run.of}" if run.of else "–",
                run.model_version or "–",
                run.error or waiting_words(run.unapproved),
            )
            for run in found.runs
        ),
        unbroken=("status", "rounds", "version"),
    )
    if any(run.status == "queued" for run in found.runs):
        say("Next is a run of whoever has the fewest going on; of several such, the oldest.")
    if found.more:
        say(f"There are more: --skip {skip + limit}")


@app.command()
def show(name: Name, json: Json = False) -> None:
    """A run: its rounds, who took part, metrics by site and overall, ε, and what went wrong."""
    from contract.federation_api import RunDetail
    from scientist.connected import connect, path_of
    from terminal.output import print_json

    with connect() as connection:
        found = connection.get(path_of("runs", name), RunDetail)
    if json:
        print_json(found.model_dump(mode="json"))
    else:
        _show(found)


@app.command()
def watch(name: Name, json: Json = False) -> None:
    """Follow a run until it ends; Ctrl-C leaves it going."""
    from scientist.connected import connect

    with connect() as connection:
        watch_run(connection, name, json=json)


@app.command()
def stop(name: Name, json: Json = False) -> None:
    """Stop a run of yours, or take it out of the queue. An operator may stop anybody's."""
    from contract.federation_api import RunDetail
    from scientist.connected import connect, path_of
    from terminal.output import print_json, say

    with connect() as connection:
        found = connection.post(f"{path_of('runs', name)}/stop", RunDetail)
    if json:
        print_json(found.model_dump(mode="json"))
    else:
        words = "is out of the queue" if found.run.status == "stopped" else "is being stopped"
        say(f"run '{name}' {words}")


@app.command()
def resume(name: Name, json: Json = False) -> None:
    """Go on with a run of yours that failed or was stopped, from its last finished round, and follow it.

    It keeps its name and its budget: what a site has answered already it is not charged for again. A run that
    has its result cannot be resumed, nor one that goes on. An operator may resume anybody's.
    """
    from contract.federation_api import RunDetail
    from scientist.connected import connect, path_of
    from terminal.output import say

    with connect() as connection:
        found = connection.post(f"{path_of('runs', name)}/resume", RunDetail)
        if not json:
            done = f", after {found.run.rounds} of {found.run.of} rounds" if found.run.of else ""
            say(f"run '{name}' goes on{done}")
        watch_run(connection, name, json=json)


def compare(*, runs: list[str], plot: Path | None, json: bool) -> None:
    """Results of runs side by side."""
    from contract.federation_api import RunDetail
    from scientist.connected import connect, path_of, understood
    from terminal.run_tables import show_results

    with connect() as connection:
        found = [connection.get(path_of("runs", name), RunDetail) for name in runs]
    with understood(", ".join(runs)):
        show_results(found, json=json, plot=plot)


def run_there(
    experiment: Experiment, windows: list[str], *, json: bool, days: int = 14, shown: bool = True
) -> RunDetail:
    """Sign an experiment, submit it to the server of the profile, and follow it.

    Args:
        experiment: the plan.
        windows: whose rows are used; empty for all.
        json: end with one JSON object, and say nothing before.
        days: after which sites no longer take the signature.
        shown: whether what came of it is printed.

    Raises:
        InputError: it is longer than a server takes, or the server refuses it.
    """
    from scientist.connected import connect
    from scientist.federation import submit
    from scientist.signing import UNSIGNED, active_signer
    from terminal.output import say

    with connect() as connection:
        signer = active_signer(days)
        submitted = submit(connection, experiment, windows, signer=signer)
        if not json:
            say(f"run '{submitted.run}' is submitted")
            if signer is None:
                say(UNSIGNED, "yellow")
        if not shown:
            return ended_run(connection, submitted.run, json=json)
        return watch_run(connection, submitted.run, json=json)


def watch_run(connection: Connection, name: str, *, json: bool) -> RunDetail:
    """Say what happens to a run until it ends, then what came of it.

    Raises:
        TidegateError: the run ended without a model.
    """
    from scientist.federation import require_result
    from terminal.output import print_json

    ended = _follow(connection, name, json=json)
    if json:
        print_json(ended.model_dump(mode="json"))
    else:
        _show(ended)
    require_result(ended)
    return ended


def ended_run(connection: Connection, name: str, *, json: bool) -> RunDetail:
    """A run that has ended with a result; what happens until then is said.

    Raises:
        TidegateError: it ended without one.
    """
    from scientist.federation import require_result

    ended = _follow(connection, name, json=json)
    require_result(ended)
    return ended


def _follow(connection: Connection, name: str, *, json: bool) -> RunDetail:
    import sys

    from contract.federation_api import RunDetail
    from contract.outside import shown
    from scientist.connected import path_of
    from scientist.progress import steps_of
    from scientist.watching import follow
    from terminal.output import Steps, say

    path = path_of("runs", name)
    begun = connection.get(path, RunDetail)
    if not json and begun.run.status == "running":  # of what was before the first event nobody says more
        say(f"it goes on: {begun.run.rounds} of {begun.run.of} rounds")
    steps = Steps(begun.run.experiment, begun.run.of, silent=json)

    def cut() -> None:
        if not json:
            print("the line to the server is cut; trying again", file=sys.stderr, flush=True)

    try:
        for step in steps_of(follow(connection, name, cut=cut)):
            if step.round is not None:
                steps.show(step.round, step.words)
            elif not json:
                say(step.words)
    except KeyboardInterrupt:
        steps.close()
        print(shown(f"the run goes on. Come back with: tidegate runs watch {name}"), file=sys.stderr)
        raise
    finally:
        steps.close()
    return connection.get(path, RunDetail)


def _show(found: RunDetail) -> None:
    from contract.federation_api import waiting_words
    from scientist.connected import understood
    from terminal.output import say

    run = found.run
    say(f"run {run.name}, of {run.owner or 'nobody here'}: {_status(run)}")
    with understood(run.name):
        _show_result(found)
    if run.of:
        say(f"{run.rounds} of {run.of} rounds")
    if run.model_version:
        say(f"version {run.model_version} of '{run.experiment}'")
    if told := run.error or waiting_words(run.unapproved):
        say(told, "yellow")


def _show_result(found: RunDetail) -> None:
    from terminal.output import print_table, say
    from terminal.range_files import show_ranges
    from terminal.run_results import say_diagnosis, show_metrics

    run, result = found.run, found.result
    if result is not None and {"metrics", "privacy", "private", "rounds_counted"} <= result.keys():
        show_metrics(result)
        say_diagnosis(result)
        if not result["private"]:
            say("NOT PRIVATE: this run gives no guarantee.", "bold red")
    elif result is not None and run.job == "ranges":
        show_ranges(result, {one["feature"]: (one["low"], one["high"]) for one in _told(result)})
    elif found.participation:
        print_table(
            ("round", "site", "state", "reason"),
            (
                (one.number if one.kind == "train" else one.kind, one.site, one.state, one.reason)
                for one in found.participation
            ),
            unbroken=("round", "state"),
        )


def _told(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [one for one in result["features"] if one["low"] is not None]


def _status(run: Run) -> str:
    return f"{run.status}, place {run.place}" if run.place else run.status
