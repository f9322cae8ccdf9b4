"""`tidegate drift …`: what the drift checks found and what was decided."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Verdicts on windows, and the decisions that followed.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="The experiment file.")],
    window: Annotated[str, typer.Argument(help="The window's name.")],
    json: Json = False,
) -> None:
    """Check one window now, and do what the retraining policy says; also one that was not judged.

    It is checked by the server that runs here, or by that of your profile: there an operator may ask for any
    check, and a scientist for one of a schedule that is kept. Ctrl-C leaves the check to the server; the same
    command waits again.
    """
    import signal
    import threading
    from datetime import UTC, datetime

    from contract.federation_api import WindowCheck
    from server.cli.here import with_all_settings
    from server.federation import running_control
    from server.jobs.champion import champion_of
    from server.schedule import WindowChecks
    from server.settings import apply_quiet_environment, read_settings
    from server.state.schedules import being_checked
    from server.state.storage import open_known_state
    from terminal.drift_tables import check_line, end_check
    from terminal.experiment_files import read_experiment

    apply_quiet_environment()
    experiment, settings, stop = read_experiment(file), read_settings(), threading.Event()
    experiment.drift.require_seasons([window])
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    with open_known_state(settings.state_url) as state:
        champion_of(experiment.name, state)  # says what to do where there is none
        experiment = with_all_settings(experiment)
        checks = WindowChecks(
            state=state,
            control=lambda: running_control(settings),
            stop=stop,
            say=lambda words: check_line(words, json=json),
        )
        checks.schedules.enter(experiment.name, [(window, datetime.now(UTC))])
        came = checks.check(experiment, window)
    if came is None:
        raise being_checked(experiment.name)
    if stop.is_set():
        raise KeyboardInterrupt
    end_check(WindowCheck.model_validate(came, from_attributes=True), json=json)


@app.command("list")
def list_verdicts(
    experiment: Annotated[str, typer.Argument(help="The experiment's name.")], json: Json = False
) -> None:
    """Each window's verdict and decision."""
    from server.cli.here import pages, reading_here
    from terminal.drift_tables import show_verdicts

    with reading_here() as reading:
        verdicts = [
            one for part in pages(lambda page: reading.verdicts(experiment, page)) for one in part.verdicts
        ]
        decisions = [
            one for part in pages(lambda page: reading.decisions(experiment, page)) for one in part.decisions
        ]
    show_verdicts(experiment, verdicts[::-1], decisions[::-1], json=json)


@app.command()
def show(
    experiment: Annotated[str, typer.Argument(help="The experiment's name.")],
    window: Annotated[str, typer.Argument(help="The window's name.")],
    json: Json = False,
) -> None:
    """One window's verdict by site and feature, and which training windows it was compared with."""
    from server.api.reading import Page
    from server.cli.here import reading_here
    from terminal.drift_tables import show_verdict

    with reading_here() as reading:
        found = reading.verdicts(experiment, Page(), window).verdicts
    show_verdict(experiment, window, found[0] if found else None, json=json)
