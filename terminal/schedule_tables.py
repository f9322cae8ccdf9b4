"""What `tidegate schedule` shows, of a server that runs here or of another."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from contract.errors import InputError
from contract.federation_api import Schedule, ScheduleAdded, WindowCheck
from contract.mandate import read_mandate
from contract.windows import condensed
from contract.words import counted
from terminal.output import print_json, print_table, say

__all__ = [
    "read_days",
    "say_added",
    "say_removed",
    "say_signed",
    "say_unsigned",
    "say_waits",
    "show_schedules",
]

UNSIGNED = "sites that name scientists take no part. A scientist signs it with `tidegate schedule sign FILE`."


def show_schedules(
    schedules: Sequence[Schedule], checks: Mapping[str, Sequence[WindowCheck]], *, whole: bool, json: bool
) -> None:
    """The schedules, what each waits for, and the windows that are not done; or all windows.

    Args:
        schedules: in the order of their adding.
        checks: the windows that have closed, by experiment.
        whole: show windows that are done too.
        json: print JSON.
    """
    if json:
        print_json(
            [
                {**one.model_dump(), "windows": [check.model_dump() for check in checks[one.experiment]]}
                for one in schedules
            ]
        )
        return
    if not schedules:
        say("Nothing is scheduled: `tidegate schedule add FILE --every week` watches an experiment.")
        return
    print_table(
        ("experiment", "every", "from", "lag", "done", "not judged", "signed", "now"),
        [
            (
                one.experiment,
                one.every if one.pace is None else f"{one.pace:g} s ({one.every})",
                one.first,
                f"{one.lag} d",
                one.windows.get("done", 0),
                one.windows.get("not judged", 0),
                one.signed or "no",
                one.waits,
            )
            for one in schedules
        ],
        unbroken=("every", "from"),
    )
    listed = [
        check for one in schedules for check in checks[one.experiment] if whole or check.state != "done"
    ]
    if listed:
        print_table(
            ("window", "state", "tries", "what came of it"),
            [
                (
                    check.window if whole else f"{check.experiment} {check.window}",
                    check.state,
                    check.attempts,
                    check.detail or "–",
                )
                for check in listed
            ],
            unbroken=("window", "state"),
        )


def say_added(added: ScheduleAdded, *, json: bool) -> None:
    """That a schedule is kept."""
    if json:
        print_json(added.model_dump())
        return
    one = added.schedule
    say(f"'{one.experiment}' is watched, {one.every} by {one.every}, from {one.first} on.")
    say(_signed(one))
    if added.closed:
        say(f"{added.closed} of its windows have closed already and are checked first.")
    say(one.waits)


def say_signed(one: Schedule, mandate: str, *, json: bool) -> None:
    """That a schedule is signed: what was signed is read from the mandate itself, which was made here."""
    if json:
        print_json(one.model_dump())
        return
    signed = read_mandate(mandate).mandate
    if signed.standing is not None:
        covered, trained = signed.standing, ", ".join(condensed(signed.standing.reference)) or "all rows"
        say(
            f"'{one.experiment}' is signed: {covered.first} to {covered.last}, each {covered.every} at most "
            f"{counted(covered.tries, 'time')}, against {trained}; until {signed.expires:%Y-%m-%d}."
        )


def say_unsigned(one: Schedule, *, json: bool) -> None:
    """That a schedule is signed by nobody any more."""
    if json:
        print_json(one.model_dump())
    else:
        say(f"'{one.experiment}': {_signed(one)}")


def _signed(one: Schedule) -> str:
    """Who has signed it, or what follows where nobody has."""
    if one.signed:
        return f"signed {one.signed}"
    return f"Not signed: {UNSIGNED}"


def say_waits(one: Schedule, *, json: bool) -> None:
    """What a schedule waits for, now that it is paused or goes on."""
    if json:
        print_json(one.model_dump())
    else:
        say(f"'{one.experiment}': {one.waits}")


def say_removed(experiment: str, *, json: bool) -> None:
    """That a schedule is kept no more."""
    if json:
        print_json({"experiment": experiment, "state": "removed"})
    else:
        say(f"'{experiment}' is watched no more.")


def read_days(text: str) -> int:
    """A number of whole days.

    Raises:
        InputError: it is none.

    >>> read_days("2d"), read_days("0")
    (2, 0)
    """
    found = re.fullmatch(r"(\d{1,3}) ?d?", text.strip(), re.ASCII)
    if found is None:
        raise InputError(f"'{text[:50]}' is no number of days", where="--lag", remedy="Write it like 2d")
    return int(found[1])
