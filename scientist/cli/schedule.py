"""`tidegate schedule …` of the federation of the profile."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contract.federation_api import Schedule
    from contract.windows import Every
    from scientist.connection import Connection

__all__ = ["add", "list_schedules", "pause", "remove", "resume", "sign", "unsign"]


def add(  # noqa: PLR0913 - a command's options
    *,
    file: Path,
    every: Every,
    lag: str,
    first: str,
    zone: str,
    cron: str,
    rehearse: float | None,
    trained_on: list[str] | None,
    sign_days: int,
    json: bool,
) -> None:
    """Sign a schedule and have it kept."""
    from contract.federation_api import NewSchedule, ScheduleAdded
    from scientist.cli.sites import with_all_settings
    from scientist.connected import connect, request_of
    from scientist.signing import active_signer
    from terminal.experiment_files import read_experiment
    from terminal.output import say_recipe
    from terminal.schedule_tables import read_days, say_added

    experiment, first = with_all_settings(read_experiment(file)), first or _window_now(every, zone)
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
        signer = active_signer(sign_days)
        if signer is not None:
            mandate = signer.schedule(
                experiment, every=every, first=first, trained_on=tuple(trained_on or ())
            )
            asked = asked.model_copy(update={"mandate": mandate})
        added = connection.post("/v1/schedules", ScheduleAdded, asked)
    say_recipe(experiment, silent=json)
    say_added(added, json=json)


def sign(*, file: Path, first: str, trained_on: list[str] | None, sign_days: int, json: bool) -> None:
    """Sign a schedule that is kept, in the place of an earlier signature of one's own.

    Which windows it covers, whoever signs says, and not the server: without `first`, those from now on.

    Raises:
        InputError: there is no such schedule, one has no key to sign with, or the server refuses it.
    """
    from typing import cast

    from contract.errors import InputError
    from contract.federation_api import Schedule, SignedSchedule
    from scientist.cli.sites import with_all_settings
    from scientist.connected import connect, path_of
    from scientist.signing import active_signer
    from terminal.experiment_files import read_experiment
    from terminal.schedule_tables import say_signed

    experiment = with_all_settings(read_experiment(file))
    with connect() as connection:
        kept = _kept(connection, experiment.name)
        signer = active_signer(sign_days)
        if signer is None:
            raise InputError(
                "you have no key to sign with",
                where="your profile",
                remedy="Connect again: tidegate connect URL",
            )
        mandate = signer.schedule(
            experiment,
            every=cast("Every", kept.every),
            first=first or _window_now(cast("Every", kept.every), "UTC"),
            trained_on=tuple(trained_on or ()),
        )
        path = f"{path_of('schedules', experiment.name)}/sign"
        signed = connection.post(path, Schedule, SignedSchedule(mandate=mandate))
    say_signed(signed, mandate, json=json)


def unsign(*, experiment: str, json: bool) -> None:
    """Have the server use the signature of a schedule no more, so that another scientist may sign it."""
    from terminal.schedule_tables import say_unsigned

    say_unsigned(_change(experiment, "unsign"), json=json)


def list_schedules(*, experiment: str | None, json: bool) -> None:
    """The schedules, what each waits for, and the windows that are not done."""
    from contract.federation_api import WindowChecks
    from scientist.connected import connect, path_of, require_experiment
    from terminal.schedule_tables import show_schedules

    wanted = None if experiment is None else require_experiment(experiment)
    with connect() as connection:
        found = _all(connection) if wanted is None else [_kept(connection, wanted)]
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


def _all(connection: Connection) -> list[Schedule]:
    from contract.federation_api import Schedules

    return [one for page in connection.pages("/v1/schedules", Schedules) for one in page.schedules]


def _kept(connection: Connection, experiment: str) -> Schedule:
    """The schedule of an experiment.

    Raises:
        InputError: it has none.
    """
    from contract.errors import InputError

    known = {one.experiment: one for one in _all(connection)}
    if experiment not in known:
        raise InputError(
            f"'{experiment}' has no schedule",
            where="NAME",
            remedy=f"There are: {', '.join(known)}" if known else "There is none",
        )
    return known[experiment]


def _window_now(every: Every, zone: str) -> str:
    """The window that it is now.

    Raises:
        InputError: there is no such time zone.
    """
    from datetime import datetime
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    from contract.errors import InputError
    from contract.windows import window_of

    try:
        return window_of(datetime.now(ZoneInfo(zone)).date(), every)
    except (OSError, ValueError, ZoneInfoNotFoundError) as exc:
        raise InputError(
            f"there is no time zone '{zone}'", where="--zone", remedy="Give one like Europe/Berlin"
        ) from exc


def _change(experiment: str, verb: str) -> Schedule:
    from contract.federation_api import Schedule
    from scientist.connected import connect, path_of

    with connect() as connection:
        return connection.post(f"{path_of('schedules', experiment)}/{verb}", Schedule)
