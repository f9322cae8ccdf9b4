"""`tidegate server person …`: who may speak to the server over its API."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from contract.roles import Role

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Who may speak to the server: scientists, reviewers, operators.")

Name = Annotated[str, typer.Argument(help="The person's name.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def add(
    name: Name,
    role: Annotated[Role, typer.Option(help="What they may do: read (reviewer), also submit, or all.")],
    days: Annotated[
        int | None, typer.Option(min=1, max=36_500, help="The token ends after so many days.")
    ] = None,
    json: Json = False,
) -> None:
    """Let a person in, and print their token: once, for it is kept nowhere. Hand it over in private."""
    from datetime import UTC, timedelta

    from server.cli.acts import note_act
    from server.line.certificates import authority_fingerprint
    from server.server_file import read_server_file
    from server.settings import read_settings
    from server.state.people import People
    from server.state.storage import open_known_state
    from terminal.output import print_json, say

    settings = read_settings()
    expires = None if days is None else datetime.now(UTC) + timedelta(days=days)
    with open_known_state(settings.state_url) as state:
        token = People(state.database).add(name, role, expires=expires)
    until = "without an end" if expires is None else f"until {expires:%Y-%m-%d %H:%M} UTC"
    note_act(settings.home, f"lets '{name}' in as {role}, {until}")
    authority = settings.home / "certificates" / "ca.pem"
    fingerprint = authority_fingerprint(authority.read_bytes()).hex() if authority.exists() else None
    if json:
        print_json(
            {"name": name, "role": role, "token": token, "expires": expires, "fingerprint": fingerprint}
        )
        return
    say(
        f"'{name}' may come in as {role}{'' if expires is None else f', until {expires:%Y-%m-%d %H:%M} UTC'}."
    )
    say(f"token        {token}")
    if fingerprint is not None:
        say(f"fingerprint  {fingerprint}  (of the server's authority)")
    known = read_server_file(settings.home)
    say(f"They connect with: tidegate connect {'https://HOST:PORT' if known is None else known.api}")


@app.command("list")
def list_people(json: Json = False) -> None:
    """Everybody who ever had a token, and whether it is good."""
    from datetime import UTC

    from server.settings import read_settings
    from server.state.people import People
    from server.state.storage import open_known_state
    from terminal.output import print_json, print_table, say

    with open_known_state(read_settings().state_url) as state:
        people = People(state.database).all()
    now = datetime.now(UTC)
    if json:
        print_json([{**vars(person), "good": person.may_enter(now)} for person in people])
        return
    if not people:
        say("Nobody has a token: `tidegate server person add NAME --role scientist` makes one.")
        return
    print_table(
        ("name", "role", "token", "made", "ends"),
        (
            (
                person.name,
                person.role,
                "good" if person.may_enter(now) else "revoked" if person.revoked else "expired",
                f"{person.made:%Y-%m-%d %H:%M}",
                "–" if person.expires is None else f"{person.expires:%Y-%m-%d %H:%M}",
            )
            for person in people
        ),
        unbroken=("role", "token", "made", "ends"),
    )


@app.command()
def revoke(name: Name, json: Json = False) -> None:
    """Take a person's token back, from their next request on, and end what they have begun.

    Their runs that are queued leave the queue, and those that go on are stopped. A schedule that they signed
    stops at its next window. What they had asked to be checked is not.
    """
    from server.cli.acts import note_revocation
    from server.settings import read_settings
    from server.state.people import People
    from server.state.schedules import Schedules
    from server.state.storage import open_known_state
    from server.state.submissions import Submissions
    from terminal.output import print_json, say

    settings = read_settings()
    with open_known_state(settings.state_url) as state:
        People(state.database).revoke(name)
        note_revocation(settings, f"revokes the token of '{name}'")
        runs = [one for one in Submissions(state.database).end_revoked() if one.person == name]
        schedules = Schedules(state.database)
        checks = schedules.forget_asked_by(name)
        signed = [
            one.experiment
            for one in schedules.all()
            if (mandate := one.signed) is not None and mandate.scientist == name
        ]
    if json:
        print_json(
            {
                "name": name,
                "runs": [one.run for one in runs],
                "schedules": signed,
                "checks": [{"experiment": one.experiment, "window": one.window} for one in checks],
            }
        )
        return
    say(f"'{name}' may come in no more")
    for one in runs:
        begun = "is taken out of the queue" if one.state == "ended" else "is stopped"
        say(f"their run '{one.run}' {begun}; it could be resumed: tidegate runs resume {one.run}", "yellow")
    for experiment in signed:
        say(
            f"they signed the schedule of '{experiment}': it stops at its next window until another", "yellow"
        )
        say("scientist signs it: tidegate schedule sign FILE", "yellow")
    for check in checks:
        say(f"the check of '{check.experiment}', window {check.window}, is not theirs any more", "yellow")
