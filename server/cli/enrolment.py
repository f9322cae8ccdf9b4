"""`tidegate server init|invite|requests|confirm|refuse|revoke`: who is a site, and who is one no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from server.state.records import Enrolment

__all__ = ["confirm", "init", "invite", "refuse", "requests", "revoke"]

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(help="The site's name.")]
_LONGEST = timedelta(days=90)


def init(
    hosts: Annotated[
        list[str],
        typer.Argument(metavar="HOST...", help="Names and addresses by which others know this machine."),
    ],
    listen: Annotated[
        str, typer.Option(help="The address to listen at; 0.0.0.0 is all of this machine's.")
    ] = "0.0.0.0",  # noqa: S104 - a server that others are to reach
    gateway_port: Annotated[int, typer.Option(help="Where sites come in.")] = 9443,
    api_port: Annotated[int, typer.Option(help="Where people come in.")] = 8443,
    approvals: Annotated[
        int, typer.Option(help="How many reviewers approve a model version before it goes into service.")
    ] = 1,
    json: Json = False,
) -> None:
    """Write server.toml, and make the federation's authority and the server's certificate."""
    from pydantic import ValidationError

    from contract.complaints import sentences
    from contract.errors import InputError
    from server.cli.acts import note_act
    from server.enrolment import make_server
    from server.server_file import ServerFile
    from server.settings import read_settings
    from terminal.output import print_json, say

    given = {"hosts": hosts, "listen": listen, "gateway_port": gateway_port, "api_port": api_port}
    given |= {"approvals": approvals}
    try:
        file = ServerFile.model_validate(given)
    except ValidationError as exc:
        words = "; ".join(sentences(exc.errors(include_url=False), ServerFile, given))
        raise InputError(words, where="server init", remedy="Nothing was made; correct that") from exc
    home = read_settings().home
    path = make_server(home, file)
    note_act(home, f"makes the server for {', '.join(file.hosts)}")
    if json:
        print_json({"file": str(path), "gateway": file.gateway, "api": file.api})
        return
    say(f"made {path}, the federation's authority and a certificate for {', '.join(file.hosts)}")
    say(f"sites will come in at {file.gateway}: that port must be open to them, and no other")
    say("next: `tidegate server up`, and `tidegate server invite NAME` for each site")


def invite(
    name: Name,
    expires: Annotated[str, typer.Option(help="How long the token may be used, such as 7d or 12h.")] = "7d",
    json: Json = False,
) -> None:
    """Print a token with which one site may ask to be let in under this name."""
    from server.cli.acts import note_act
    from server.enrolment import invite as invite_site
    from server.settings import read_settings
    from terminal.output import errors, print_json

    settings = read_settings()
    token, until = invite_site(_site_name(name), settings, _duration(expires))
    note_act(settings.home, f"invites site '{name}', until {until:%Y-%m-%d %H:%M} UTC")
    if json:
        print_json({"name": name, "token": token, "expires": until.isoformat()})
        return
    print(token)
    errors.print(
        f"Give it to the administrator of '{name}', for `tidegate site join`. One key may use it, until "
        f"{until:%Y-%m-%d %H:%M} UTC; then `tidegate server requests` shows that key."
    )


def requests(json: Json = False) -> None:
    """Who waits to be let in: under which name, with which key, stating and offering what."""
    from server.enrolment import note_shown, waiting
    from server.settings import read_settings
    from server.state.storage import open_known_state
    from terminal.output import print_json, say

    settings = read_settings()
    with open_known_state(settings.state_url) as state:
        found = waiting(settings, state)
    note_shown(settings, found, to="program" if json else "person")
    if json:
        print_json([_facts(one) for one in found])
        return
    if not found:
        say("Nobody waits to be let in: `tidegate server invite NAME` makes a token for a site.")
        return
    _show(found)
    say("Have each fingerprint read out by the site's administrator, by telephone, and then:")
    say("tidegate server confirm NAME FINGERPRINT    (or: tidegate server refuse NAME)")


def _show(found: Sequence[Enrolment]) -> None:
    from terminal.output import print_table, say

    print_table(
        ("site", "fingerprint of its key", "stated rows", "card", "since (UTC)"),
        (
            (one.name, one.fingerprint, f"{one.stated_rows:,}", _card_in_words(one.card), _moment(one))
            for one in found
        ),
        unbroken=("fingerprint of its key", "since (UTC)"),
    )
    for one in found:
        if one.rival is not None:
            say(f"'{one.name}': another key came with the same token and was refused: {one.rival}", "red")


def confirm(
    name: Name,
    fingerprint: Annotated[
        str, typer.Argument(help="Of the site's key, as its administrator read it out: SHA256:…")
    ],
    rows: Annotated[
        int | None,
        typer.Option(min=1, help="The rows that the site must state; otherwise those it asked with."),
    ] = None,
    json: Json = False,
) -> None:
    """Let a site in that asked: register its key, pin its rows, and sign its certificate.

    What was not shown to you as it is (`tidegate server requests`) is shown now, and you are asked; without a
    terminal it is not confirmed. With --json counts what a program has read with --json, and without it what
    was printed for you.
    """
    import sys

    from server.cli.acts import note_act
    from server.enrolment import Looker
    from server.enrolment import confirm as confirm_site
    from server.federation import running_control
    from server.settings import read_settings
    from terminal.output import print_json, say

    settings = read_settings()
    more = {} if json or not sys.stdin.isatty() else {"agrees": _agrees}
    by: Looker = "program" if json else "person"
    asked = confirm_site(name, fingerprint, running_control(), settings, rows, by=by, **more)
    facts = f"with {asked.fingerprint}, stating {rows or asked.stated_rows:,} rows"
    note_act(settings.home, f"lets site '{name}' in, {facts}")
    if json:
        print_json({**_facts(asked), "stated_rows": rows or asked.stated_rows, "state": "confirmed"})
        return
    pinned = f"{rows or asked.stated_rows:,} rows"
    say(f"site '{name}' may connect with {asked.fingerprint}, and must state {pinned}")


def _agrees(asked: Enrolment) -> bool:
    """Show it to whoever sits at the terminal, and ask them."""
    from terminal.output import say

    say(f"What '{asked.name}' asks for was not shown to you as it is now:", "yellow")
    _show((asked,))
    return typer.confirm("Let it in?")


def refuse(name: Name, json: Json = False) -> None:
    """Refuse a site that asked to be let in."""
    from server.cli.acts import note_revocation
    from server.enrolment import refuse as refuse_site
    from server.settings import read_settings
    from terminal.output import print_json, say

    settings = read_settings()
    refuse_site(name, settings)
    note_revocation(settings, f"refuses site '{name}'")
    if json:
        print_json({"name": name, "state": "refused"})
    else:
        say(f"'{name}' is refused, and its token is of no use any more")


def revoke(name: Name, json: Json = False) -> None:
    """Let a site connect no more, and renew its certificate no more: its next request is refused."""
    from server.cli.acts import note_revocation
    from server.federation import dismiss, running_control
    from server.settings import read_settings
    from terminal.output import print_json, say

    settings = read_settings()
    dismiss(name, running_control(settings), settings)
    note_revocation(settings, f"revokes site '{name}'")
    if json:
        print_json({"name": name, "state": "revoked"})
    else:
        say(f"site '{name}' may connect no more; to come back it needs a new key and a new invitation")


def _facts(one: Enrolment) -> dict[str, object]:
    return {
        "name": one.name,
        "fingerprint": one.fingerprint,
        "stated_rows": one.stated_rows,
        "card": one.card,
        "since": one.asked.isoformat(),
        "rival": one.rival,
    }


def _moment(one: Enrolment) -> str:
    return f"{one.asked:%Y-%m-%d %H:%M}"


def _card_in_words(content: Mapping[str, Any] | None) -> str:
    from contract.card import Card
    from terminal.site_tables import card_in_words

    return "none yet" if content is None else card_in_words(Card.model_validate(content))


def _site_name(name: str) -> str:
    from pydantic import TypeAdapter, ValidationError

    from contract.errors import InputError
    from contract.names import SiteName

    try:
        return TypeAdapter(SiteName).validate_python(name)
    except ValidationError as exc:
        raise InputError(
            f"a site cannot be named {name!r}",
            where="NAME",
            remedy="Use letters, digits, blanks and . _ - (at most 100), beginning with a letter or a digit",
        ) from exc


def _duration(text: str) -> timedelta:
    """Of some hours or days.

    Raises:
        InputError: it is none.

    >>> _duration("7d"), _duration("12h")
    (datetime.timedelta(days=7), datetime.timedelta(seconds=43200))
    """
    import re

    from contract.errors import InputError

    found = re.fullmatch(r"([1-9]\d{0,3}) ?([dh])", text.strip(), re.ASCII)
    valid = timedelta()
    if found is not None:
        valid = timedelta(**{"days" if found[2] == "d" else "hours": int(found[1])})
    if not timedelta() < valid <= _LONGEST:
        raise InputError(
            f"'{text[:50]}' is no time from 1h to 90d", where="--expires", remedy="Write it like 7d or 12h"
        )
    return valid
