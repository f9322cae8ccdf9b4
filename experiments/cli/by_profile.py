"""Commands that ask the federation of the active profile; without a profile, the server that is here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import typer

from scientist.cli import drift, models, schedule, sites

__all__ = ["THERE", "by_profile", "either"]

Command = Callable[..., None]

THERE: Mapping[str, Mapping[str, Command]] = {
    "drift": {"check": drift.check, "list": drift.list_verdicts, "show": drift.show},
    "models": {
        "list": models.list_versions,
        "show": models.show,
        "fetch": models.fetch,
        "predict": models.predict,
        "verify": models.verify,
        "approve": models.approve,
        "refuse": models.refuse,
        "rollback": models.rollback,
        "history": models.history,
    },
    "schedule": {
        "add": schedule.add,
        "list": schedule.list_schedules,
        "pause": schedule.pause,
        "resume": schedule.resume,
        "remove": schedule.remove,
        "sign": schedule.sign,
        "unsign": schedule.unsign,
    },
    "sites": {"list": sites.list_sites, "cards": sites.cards},
}
"""Of each group, the commands that a federation answers. They take what the commands here take."""


def by_profile(group: typer.Typer, there: Mapping[str, Command]) -> typer.Typer:
    """The group, of which these commands speak to the federation of the profile where one is active."""
    commands = {one.name or getattr(one.callback, "__name__", ""): one for one in group.registered_commands}
    for name, ask in there.items():
        here = commands[name].callback
        if here is None:
            raise LookupError(name)
        commands[name].callback = either(here, ask)
    return group


def either(here: Command, there: Command) -> Command:
    """A command that asks the federation of the profile where one is active."""

    @functools.wraps(here)
    def command(**given: Any) -> None:
        from scientist.profiles import Profiles
        from scientist.settings import read_settings
        from terminal.output import errors

        settings = read_settings()
        profile = Profiles(settings).active()
        if profile and (settings.server_home / "state.db").exists():
            words = f"asks the server of the profile '{profile}'; TIDEGATE_PROFILE=- asks the one in"
            errors.print(f"{words} {settings.server_home}", style="dim")
        (there if profile else here)(**given)

    return command
