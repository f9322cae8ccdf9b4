"""`tidegate schedule …`: which experiments are watched, window by window, and how each stands."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from contract.windows import Every
from terminal.window_option import SignDays, TrainedOn

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="Kept schedules: `tidegate server up` checks each window for drift once it has closed.",
)

Name = Annotated[str, typer.Argument(help="The experiment's name.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def add(  # noqa: PLR0913, PLR0917 - a command's options
    file: Annotated[Path, typer.Argument(help="The experiment file.")],
    every: Annotated[Every, typer.Option(help="How long a window is.")] = "week",
    lag: Annotated[
        str,
        typer.Option(
            help="How long after a window's end its rows are there, such as 2d: at least what each card says."
        ),
    ] = "0d",
    first: Annotated[
        str, typer.Option(help="The first window, such as 2026-W05; otherwise the one that it is now.")
    ] = "",
    zone: Annotated[
        str, typer.Option(help="The time zone in which days begin, such as Europe/Berlin.")
    ] = "UTC",
    cron: Annotated[
        str, typer.Option(help="When checks may begin, such as '0 2 * * *' for 2:00; otherwise at once.")
    ] = "",
    rehearse: Annotated[
        float | None,
        typer.Option(help="Rehearse on the past: one of the closed windows every so many seconds."),
    ] = None,
    trained_on: TrainedOn = None,
    sign_days: SignDays = 90,
    json: Json = False,
) -> None:
    """Keep a schedule: each window is checked once it has closed, and the retraining policy does the rest.

    Give the windows as the sites' cards cut them. It goes on after a restart, and catches up with what closed
    meanwhile. A window whose check failed is tried again four times, later each time, and then not judged.
    At the server of your profile you sign it, for sites that name the scientists whom they trust.
    """
    from server.api.keeping import keep_schedule, schedule_of
    from server.cli.acts import note_act
    from server.cli.here import reading_here, with_all_settings
    from server.settings import read_settings
    from terminal.experiment_files import read_experiment
    from terminal.output import say_recipe
    from terminal.schedule_tables import read_days, say_added

    experiment = with_all_settings(read_experiment(file))
    asked = schedule_of(
        experiment, every=every, first=first, lag=read_days(lag), zone=zone, cron=cron, pace=rehearse
    )
    with reading_here() as reading:
        added = keep_schedule(asked, reading)
    note_act(read_settings().home, f"adds the schedule of {experiment.name}")
    say_recipe(experiment, silent=json)
    say_added(added, json=json)


@app.command()
def sign(
    file: Annotated[Path, typer.Argument(help="The experiment file, as it was when the schedule was added.")],
    first: Annotated[
        str,
        typer.Option(help="The first window that your signature covers; otherwise the present one."),
    ] = "",
    trained_on: TrainedOn = None,
    sign_days: SignDays = 90,
    json: Json = False,
) -> None:
    """Sign a schedule that the server of your profile keeps: its checks, retrainings and comparisons.

    Sites that name scientists answer nothing of an unsigned one. Sign again before it ends.
    """
    from contract.errors import InputError

    raise InputError(
        "one signs at the server of a profile",
        where="schedule sign",
        remedy="Connect: tidegate connect URL",
    )


@app.command()
def unsign(experiment: Name, json: Json = False) -> None:
    """Use the signature of a schedule no more, so that another scientist may sign it.

    For one whose signer is not whom the sites trust, or has left. What has begun with it goes on.
    """
    from server.cli.acts import note_act
    from server.cli.here import reading_here
    from server.settings import read_settings
    from server.state.schedules import Schedules
    from terminal.schedule_tables import say_unsigned

    with reading_here() as reading:
        kept = Schedules(reading.state.database)
        kept.unsign(experiment)
        note_act(read_settings().home, f"unsigns the schedule of {experiment}")
        say_unsigned(reading.schedule(kept.get(experiment)), json=json)


@app.command("list")
def list_schedules(
    experiment: Annotated[str | None, typer.Argument(help="This one alone, with all its windows.")] = None,
    json: Json = False,
) -> None:
    """The schedules, what each waits for, and the windows that are not done."""
    from server.cli.here import pages, reading_here
    from server.state.schedules import Schedules
    from terminal.schedule_tables import show_schedules

    with reading_here() as reading:
        kept = Schedules(reading.state.database)
        found = [reading.schedule(one) for one in ((kept.get(experiment),) if experiment else kept.all())]
        checks = {
            one.experiment: [
                check for part in pages(partial(reading.checks, one.experiment)) for check in part.checks
            ]
            for one in found
        }
    show_schedules(found, checks, whole=experiment is not None, json=json)


@app.command()
def pause(experiment: Name, json: Json = False) -> None:
    """Check no window until `tidegate schedule resume`; what closes meanwhile is checked then."""
    _pause(experiment, paused=True, json=json)


@app.command()
def resume(experiment: Name, json: Json = False) -> None:
    """Go on with a schedule that was paused."""
    _pause(experiment, paused=False, json=json)


@app.command()
def remove(experiment: Name, json: Json = False) -> None:
    """Forget a schedule. Verdicts and decisions stay; a check in progress ends as it would."""
    from server.cli.acts import note_act
    from server.settings import read_settings
    from server.state.schedules import Schedules
    from server.state.storage import open_known_state
    from terminal.schedule_tables import say_removed

    settings = read_settings()
    with open_known_state(settings.state_url) as state:
        Schedules(state.database).remove(experiment)
    note_act(settings.home, f"removes the schedule of {experiment}")
    say_removed(experiment, json=json)


def _pause(experiment: str, *, paused: bool, json: bool) -> None:
    from server.cli.acts import note_act
    from server.cli.here import reading_here
    from server.settings import read_settings
    from server.state.schedules import Schedules
    from terminal.schedule_tables import say_waits

    with reading_here() as reading:
        kept = Schedules(reading.state.database)
        kept.pause(experiment, paused=paused)
        note_act(read_settings().home, f"{'pauses' if paused else 'resumes'} the schedule of {experiment}")
        say_waits(reading.schedule(kept.get(experiment)), json=json)
