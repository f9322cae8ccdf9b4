"""`tidegate schedule …` of the federation of the profile."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contract.federation_api import Schedule
    from contract.windows import Every

__all__ = ["add", "list_schedules", "pause", "remove", "resume"]


def add(
    *,
    file: Path,
    every: Every,
    lag: str,
    first: str,
    zone: str,
    cron: str,
    rehearse: float | None,
    json: bool,
) -> None:
    """Keep a schedule."""
    from contract.federation_api import NewSchedule, ScheduleAdded
    from scientist.cli.sites import with_all_settings
    from scientist.connected import connect, request_of
    from terminal.experiment_files import read_experiment
    from terminal.output import say_recipe
    from terminal.schedule_tables import read_days, say_added

    experiment = with_all_settings(read_experiment(file))
    given = {
        "experiment": experiment.model_dump_json(),
        "every": every,
        "first": first,
        "lag": read_days(lag),
        "zone": zone,
        "cron": cron,
        "pace": rehearse,
    }
    asked = request_of(NewSchedule, given, where="schedule add", remedy="Correct that")
    with connect() as connection:
        added = connection.post("/v1/schedules", ScheduleAdded, asked)
    say_recipe(experiment, silent=json)
    say_added(added, json=json)


def list_schedules(*, experiment: str | None, json: bool) -> None:
    """The schedules, what each waits for, and the windows that are not done."""
    from contract.errors import InputError
    from contract.federation_api import Schedules, WindowChecks
    from scientist.connected import connect, path_of, require_experiment
    from terminal.schedule_tables import show_schedules

    wanted = None if experiment is None else require_experiment(experiment)
    with connect() as connection:
        known = [one for page in connection.pages("/v1/schedules", Schedules) for one in page.schedules]
        found = [one for one in known if wanted in (None, one.experiment)]
        if wanted is not None and not found:
            names = ", ".join(one.experiment for one in known)
            raise InputError(
                f"'{wanted}' has no schedule",
                where="NAME",
                remedy=f"There are: {names}" if names else "There is none",
            )
        checks = {
            one.experiment: [
                check
                for page in connection.pages(f"{path_of('schedules', one.experiment)}/windows", WindowChecks)
                for check in page.checks
            ]
            for one in found
        }
    show_schedules(found, checks, whole=wanted is not None, json=json)


def pause(*, experiment: str, json: bool) -> None:
    """Check no window until it is resumed."""
    from terminal.schedule_tables import say_waits

    say_waits(_change(experiment, "pause"), json=json)


def resume(*, experiment: str, json: bool) -> None:
    """Go on with a schedule that was paused."""
    from terminal.schedule_tables import say_waits

    say_waits(_change(experiment, "resume"), json=json)


def remove(*, experiment: str, json: bool) -> None:
    """Forget a schedule."""
    from terminal.schedule_tables import say_removed

    say_removed(_change(experiment, "remove").experiment, json=json)


def _change(experiment: str, verb: str) -> Schedule:
    from contract.federation_api import Schedule
    from scientist.connected import connect, path_of

    with connect() as connection:
        return connection.post(f"{path_of('schedules', experiment)}/{verb}", Schedule)
