"""`tidegate server …`: for the federation's operator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli import person
from server.cli.backup import backup
from server.cli.enrolment import confirm, init, invite, refuse, requests, revoke
from server.cli.sites import list_sites
from terminal.interrupts import require_going

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence
    from contextlib import ExitStack

    from server.alias_watch import AliasWatch
    from server.enrolment import Upkeep
    from server.line.certificates import ServerFiles
    from server.line.processes import Processes
    from server.server_file import ServerFile
    from server.settings import ServerSettings
    from server.state.storage import State

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="For the operator: the server, its sites, the drift schedule.")
app.add_typer(person.app, name="person")

_LOOK_SECONDS = 1.0
"""Between two looks at the server's processes, and for runs whose process is gone."""
_TIME_SECONDS = 60.0
"""Between two moments that the state database and the folder remember together."""

Rows = Annotated[
    int | None,
    typer.Option(min=1, help="The rows that the site must state; otherwise those of its next answer."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


app.command()(init)


@app.command()
def up(
    port: Annotated[
        int, typer.Option(help="Port of the SuperLink on this machine; 0 takes a free one.")
    ] = 9092,
    ui_port: Annotated[
        int, typer.Option(help="Port of the MLflow UI where there is no server.toml; 0 takes a free one.")
    ] = 5000,
    health_port: Annotated[
        int | None, typer.Option(help="Answer GET /health on this port of 127.0.0.1; 0 takes a free one.")
    ] = None,
) -> None:
    """Run SuperLink, MLflow UI and the kept schedules in the foreground until Ctrl-C or SIGTERM."""
    import signal
    import threading
    from contextlib import ExitStack

    from server.alias_watch import AliasWatch
    from server.enrolment import Upkeep
    from server.federation import Federation
    from server.line.processes import Processes, alone_in, free_port, require_free
    from server.registry.registry import Registry
    from server.schedule import schedules_beside
    from server.server_file import read_server_file
    from server.settings import apply_quiet_environment, read_settings
    from server.state.backup import restored_words
    from server.state.newest import unseen_words
    from server.state.storage import open_state
    from terminal.health import Health, serve_health
    from terminal.output import say

    apply_quiet_environment()
    settings = read_settings()
    settings.home.mkdir(parents=True, exist_ok=True)
    if words := restored_words(settings.home):
        say(words, "yellow")
    file = read_server_file(settings.home)
    if file is None:
        ui_port = ui_port or free_port()
        require_free(ui_port, "the MLflow UI")
    health, stop = Health("server"), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with (
        alone_in(settings.home),
        open_state(settings.state_url) as state,
        serve_health(health, health_port) as answers_at,
        Processes(logs=settings.home / "logs") as processes,
        ExitStack() as beside,
    ):
        _keep_time(settings, state)
        if words := unseen_words(settings.home):
            say(words, "yellow")
        federation = Federation(
            home=settings.home, settings=settings, processes=processes, port=port, lasting=True, file=file
        )
        federation.start_server()
        ui = federation.start_ui(ui_port if file is None else None, wait=True)
        say(f"SuperLink   {federation.address}")
        if file is not None:
            say(f"gateway     {file.gateway}  (sites come in here)")
        say(f"authority   {federation.files.authority}  (the sites need it)")
        say(f"MLflow UI   {ui}")
        if answers_at is not None:
            say(f"health      http://127.0.0.1:{answers_at}/health")
        require_beside = [] if file is None else _let_people_in(settings, file, federation.files, beside)
        require_beside.append(beside.enter_context(schedules_beside(settings, say=say)))
        command = "admit NAME NODE.PUB" if file is None else "invite NAME"
        say(f"Ctrl-C stops all. Let a site in with: tidegate server {command}")
        health.say("running")
        upkeep = Upkeep(
            state=state, federation=federation.name, home=settings.home, hosts=federation.hosts, say=say
        )
        aliases = AliasWatch(state, Registry(settings.tracking_uri, settings.artifact_root), say)
        _watch_over(processes, require_beside, upkeep, aliases, settings, stop)


def _watch_over(
    processes: Processes,
    require_beside: Sequence[Callable[[], None]],
    upkeep: Upkeep,
    aliases: AliasWatch,
    settings: ServerSettings,
    stop: threading.Event,
) -> None:
    """See that all of a server goes on, and do what falls due, until it is told to stop."""
    import time
    from contextlib import suppress

    from contract.errors import StorageError

    state, kept = upkeep.state, time.monotonic()
    while not stop.wait(_LOOK_SECONDS):
        require_going()
        processes.require_running()
        for require_running in require_beside:
            require_running()
        upkeep.look()
        aliases.look()
        with suppress(StorageError):  # a full disk, say: the next look does it
            if time.monotonic() - kept >= _TIME_SECONDS:
                kept = time.monotonic()
                _keep_time(settings, state)
            for run in state.end_dead_runs():
                upkeep.say(f"run '{run}' failed: its process is gone")


def _keep_time(settings: ServerSettings, state: State) -> None:
    """Have the state database and the folder move on together.

    Raises:
        AddressError: the database has gone back in time.
        StorageError: it is away, or the folder cannot be written.
    """
    from contract.errors import AddressError
    from server.state.newest import note_newest, older_words

    if words := older_words(settings.home, state.database):
        what, remedy = words
        raise AddressError(what, where=state.database.where, remedy=remedy)
    note_newest(settings.home, state.database)


def _let_people_in(
    settings: ServerSettings, file: ServerFile, files: ServerFiles, beside: ExitStack
) -> list[Callable[[], None]]:
    """Work on the queue of runs and serve the API; what tells whether each still does."""
    import threading

    from server.api.serving import serve_api
    from server.run_queue import queue_beside
    from terminal.output import say

    asked = threading.Event()
    queue = beside.enter_context(queue_beside(settings, at_once=file.runs_at_once, say=say, asked=asked))
    api = beside.enter_context(serve_api(settings, file, files, asked=asked))
    say(f"API         {file.api}  (people come in here: tidegate server person add NAME --role scientist)")
    return [queue, api]


app.command()(invite)
app.command()(requests)
app.command()(confirm)
app.command()(refuse)
app.command()(revoke)


@app.command()
def admit(
    name: Annotated[str, typer.Argument(help="The site's name.")],
    public_key: Annotated[Path, typer.Argument(help="The site's public key, from `tidegate site init`.")],
    rows: Rows = None,
) -> None:
    """Let the site with this key connect. Only it may then answer under that name."""
    from server.cli.acts import note_act
    from server.federation import admit as admit_key
    from server.federation import running_control
    from server.settings import read_settings
    from terminal.output import say

    settings = read_settings()
    node = admit_key(name, public_key, running_control(settings), settings, stated_rows=rows)
    note_act(settings.home, f"admits site '{name}' as node {node}")
    say(f"site '{name}' may connect as node {node}")


@app.command()
def readmit(name: Annotated[str, typer.Argument(help="The site's name.")], rows: Rows = None) -> None:
    """Let an admitted site state other rows than before, or go on with an older ledger.

    How many rows a site states, and how long its ledger is, is held over all runs to what it said first.
    """
    from server.cli.acts import note_act
    from server.federation import readmit as readmit_site
    from server.settings import read_settings
    from terminal.output import say

    settings = read_settings()
    readmit_site(name, settings, rows)
    stated = "what its next answer states" if rows is None else f"{rows:,} rows"
    note_act(settings.home, f"readmits site '{name}', held to {stated}")
    say(f"site '{name}' is held to {stated} from now on")


@app.command()
def dismiss(name: Annotated[str, typer.Argument(help="The site's name.")]) -> None:
    """Let a site that has left connect no more; until then every run counts it as missing."""
    from server.cli.acts import note_revocation
    from server.federation import dismiss as dismiss_site
    from server.federation import running_control
    from server.settings import read_settings
    from terminal.output import say

    settings = read_settings()
    dismiss_site(name, running_control(settings), settings)
    note_revocation(settings, f"dismisses site '{name}'")
    say(f"site '{name}' may connect no more")


app.command()(backup)
app.command("sites")(list_sites)


@app.command()
def status(
    run: Annotated[str | None, typer.Option(help="Show this run alone, with all its rounds.")] = None,
    watch: Annotated[bool, typer.Option(help="Refresh until the runs shown have ended, or Ctrl-C.")] = False,
    json: Json = False,
) -> None:
    """Runs, newest last; and how far each site came: enrolled, connected, trained, counted.

    Sites are shown of the runs in progress, or else of the last run, in the round where it stands.
    """
    from server.cli.run_status import read_runs, show_runs, watch_runs
    from server.line.certificates import ending, server_files
    from server.settings import read_settings
    from server.state.storage import open_known_state
    from terminal.output import errors

    settings = read_settings()
    for sentence in ending(server_files(settings.home / "certificates")):
        errors.print(sentence, style="yellow")
    with open_known_state(settings.state_url) as state:
        if watch and not json:
            watch_runs(state, run)
        else:
            show_runs(read_runs(state, run), json=json)
