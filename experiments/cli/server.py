"""`tidegate server …`: for the federation's operator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="For the operator: the server, its sites, the drift schedule.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def up(
    port: Annotated[
        int, typer.Option(help="Port of the SuperLink on this machine; 0 takes a free one.")
    ] = 9092,
    ui_port: Annotated[int, typer.Option(help="Port of the MLflow UI; 0 takes a free one.")] = 5000,
    health_port: Annotated[
        int | None, typer.Option(help="Answer GET /health on this port of 127.0.0.1; 0 takes a free one.")
    ] = None,
) -> None:
    """Run SuperLink and MLflow UI in the foreground until Ctrl-C or SIGTERM."""
    import signal
    import threading

    from clients.health import Health, serve_health
    from experiments.cli.output import console
    from experiments.runtimes.deployment import Federation
    from experiments.runtimes.processes import Processes, free_port, require_free
    from server.registry import Registry
    from server.settings import apply_quiet_environment, read_settings

    apply_quiet_environment()
    settings = read_settings()
    settings.home.mkdir(parents=True, exist_ok=True)
    ui_port = ui_port or free_port()
    require_free(ui_port, "the MLflow UI")
    health, stop = Health("server"), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with (
        serve_health(health, health_port) as answers_at,
        Processes(logs=settings.home / "logs") as processes,
    ):
        federation = Federation(
            home=settings.home, settings=settings, processes=processes, port=port, lasting=True
        )
        federation.start_server()
        Registry(settings.tracking_uri, settings.artifact_root).connect()
        federation.start_ui(ui_port)
        console.print(f"SuperLink   {federation.address}")
        console.print(f"authority   {federation.files.authority}  (the sites need it)")
        console.print(f"MLflow UI   http://127.0.0.1:{ui_port}")
        if answers_at is not None:
            console.print(f"health      http://127.0.0.1:{answers_at}/health")
        console.print("Ctrl-C stops both. Let a site in with: tidegate server admit NAME NODE.PUB")
        health.say("running")
        while not stop.wait(1):
            processes.require_running()


@app.command()
def admit(
    name: Annotated[str, typer.Argument(help="The site's name.")],
    public_key: Annotated[Path, typer.Argument(help="The site's public key, from `tidegate site init`.")],
) -> None:
    """Let the site with this key connect."""
    from experiments.cli.output import console
    from experiments.runtimes.deployment import running_control

    node = running_control().register(public_key, name)
    console.print(f"site '{name}' may connect as node {node}")


@app.command()
def status(json: Json = False) -> None:
    """Runs and how they ended, newest last."""
    from experiments.cli.output import print_json, print_table
    from server.settings import read_settings
    from server.storage import open_state

    with open_state(read_settings().state_url) as state:
        runs = list(state.runs())
        rounds = {run.name: state.rounds(run.name) for run in runs}
    if json:
        print_json([{**vars(run), "experiment_json": None, "rounds": len(rounds[run.name])} for run in runs])
        return
    print_table(
        ("run", "job", "status", "rounds", "sites counted in the last", "version", "error"),
        (
            (
                run.name,
                run.job,
                run.status,
                len(rounds[run.name]),
                ", ".join(rounds[run.name][-1].counted) if rounds[run.name] else "–",
                run.model_version or "–",
                run.error,
            )
            for run in runs
        ),
    )


@app.command()
def sites(json: Json = False) -> None:
    """The sites that have answered."""
    from experiments.cli.output import print_json, print_table
    from server.settings import read_settings
    from server.storage import open_state

    with open_state(read_settings().state_url) as state:
        found = state.sites()
    if json:
        print_json([vars(site) for site in found])
        return
    print_table(
        ("site", "stated rows", "first seen", "last seen"),
        (
            (
                site.name,
                site.stated_rows,
                f"{site.first_seen:%Y-%m-%d %H:%M}",
                f"{site.last_seen:%Y-%m-%d %H:%M}",
            )
            for site in found
        ),
    )


@app.command()
def schedule(
    file: Annotated[Path, typer.Argument(help="The experiment file.")],
    window: Annotated[list[str], typer.Option(help="A window's name; repeat, in their order.")],
    every: Annotated[float, typer.Option(help="Seconds in a window: 604800 for a week.")] = 604800.0,
    first_close: Annotated[
        float, typer.Option(help="When the first window closes, in seconds from now.")
    ] = 0.0,
) -> None:
    """Check each window for drift when it has closed, and do what the retraining policy says."""
    import signal
    import threading

    from experiments.drift_schedule import run_drift_schedule
    from experiments.federated_run import read_experiment
    from server.settings import apply_quiet_environment, read_settings

    apply_quiet_environment()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    run_drift_schedule(
        read_experiment(file),
        windows=tuple(window),
        every=every,
        first_close=first_close,
        settings=read_settings(),
        stop=stop,
    )
