"""`tidegate schedule …`: which experiments are watched, window by window, and how each stands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contract.windows import Every

if TYPE_CHECKING:
    from server.state.records import WindowCheck

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="Kept schedules: `tidegate server up` checks each window for drift once it has closed.",
)

Name = Annotated[str, typer.Argument(help="The experiment's name.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def add(
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
) -> None:
    """Keep a schedule: each window is checked once it has closed, and the retraining policy does the rest.

    Give the windows as the sites' cards cut them. It goes on after a restart, and catches up with what closed
    meanwhile. A window whose check failed is tried again four times, later each time, and then not judged.
    """
    from datetime import UTC, datetime

    from contract.windows import example_of
    from monitoring.schedule import Calendar
    from server.schedule import waits_for
    from server.settings import read_settings
    from server.state.records import ScheduleRecord
    from server.state.schedules import Schedules
    from server.state.storage import open_known_state
    from terminal.experiment_files import read_experiment
    from terminal.output import say

    experiment, now = read_experiment(file), datetime.now(UTC)
    today = Calendar(every=every, first=example_of(every), zone=zone).window_at(now)
    record = ScheduleRecord.of(
        experiment, every=every, first=first or today, lag=_days(lag), zone=zone, cron=cron, pace=rehearse
    )
    with open_known_state(read_settings().state_url) as state:
        Schedules(state.database).add(record)
        closed = len(record.calendar.due(now))
        say(f"'{experiment.name}' is watched, {every} by {every}, from {record.first} on.")
        if closed:
            say(f"{closed} of its windows have closed already and are checked first.")
        say(waits_for(record, state, now))


@app.command("list")
def list_schedules(
    experiment: Annotated[str | None, typer.Argument(help="This one alone, with all its windows.")] = None,
    json: Json = False,
) -> None:
    """The schedules, what each waits for, and the windows that are not done."""
    from datetime import UTC, datetime

    from server.schedule import waits_for
    from server.settings import read_settings
    from server.state.schedules import Schedules
    from server.state.storage import open_known_state
    from terminal.output import print_json, print_table, say

    now = datetime.now(UTC)
    with open_known_state(read_settings().state_url) as state:
        schedules = Schedules(state.database)
        found = (schedules.get(experiment),) if experiment else schedules.all()
        checks = {one.experiment: schedules.checks(one.experiment) for one in found}
        waits = {one.experiment: waits_for(one, state, now) for one in found}
    if json:
        print_json(
            [
                {
                    **{name: value for name, value in vars(one).items() if name != "experiment_json"},
                    "waits": waits[one.experiment],
                    "windows": [
                        {name: value for name, value in vars(check).items() if name != "id"}
                        for check in checks[one.experiment]
                    ],
                }
                for one in found
            ]
        )
        return
    if not found:
        say("Nothing is scheduled: `tidegate schedule add FILE --every week` watches an experiment.")
        return
    print_table(
        ("experiment", "every", "from", "lag", "done", "not judged", "now"),
        [
            (
                one.experiment,
                one.every if one.pace is None else f"{one.pace:g} s ({one.every})",
                one.first,
                f"{one.lag} d",
                _count(checks[one.experiment], "done"),
                _count(checks[one.experiment], "not judged"),
                waits[one.experiment],
            )
            for one in found
        ],
        unbroken=("every", "from"),
    )
    shown = [
        check for one in found for check in checks[one.experiment] if experiment or check.state != "done"
    ]
    if shown:
        print_table(
            ("window", "state", "tries", "what came of it"),
            [
                (
                    check.window if experiment else f"{check.experiment} {check.window}",
                    check.state,
                    check.attempts,
                    check.detail or "–",
                )
                for check in shown
            ],
            unbroken=("window", "state"),
        )


@app.command()
def pause(experiment: Name) -> None:
    """Check no window until `tidegate schedule resume`; what closes meanwhile is checked then."""
    _pause(experiment, paused=True)


@app.command()
def resume(experiment: Name) -> None:
    """Go on with a schedule that was paused."""
    _pause(experiment, paused=False)


@app.command()
def remove(experiment: Name) -> None:
    """Forget a schedule. Verdicts and decisions stay; a check in progress ends as it would."""
    from server.settings import read_settings
    from server.state.schedules import Schedules
    from server.state.storage import open_known_state
    from terminal.output import say

    with open_known_state(read_settings().state_url) as state:
        Schedules(state.database).remove(experiment)
    say(f"'{experiment}' is watched no more.")


def _pause(experiment: str, *, paused: bool) -> None:
    from datetime import UTC, datetime

    from server.schedule import waits_for
    from server.settings import read_settings
    from server.state.schedules import Schedules
    from server.state.storage import open_known_state
    from terminal.output import say

    with open_known_state(read_settings().state_url) as state:
        schedules = Schedules(state.database)
        schedules.pause(experiment, paused=paused)
        say(f"'{experiment}': {waits_for(schedules.get(experiment), state, datetime.now(UTC))}")


def _count(checks: tuple[WindowCheck, ...], state: str) -> int:
    return sum(check.state == state for check in checks)


def _days(text: str) -> int:
    """A number of whole days.

    Raises:
        InputError: it is none.

    >>> _days("2d"), _days("0")
    (2, 0)
    """
    import re

    from contract.errors import InputError

    found = re.fullmatch(r"(\d{1,3}) ?d?", text.strip(), re.ASCII)
    if found is None:
        raise InputError(f"'{text[:50]}' is no number of days", where="--lag", remedy="Write it like 2d")
    return int(found[1])
