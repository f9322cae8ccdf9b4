"""`tidegate connect`, `tidegate whoami` and `tidegate disconnect`: a profile for a federation's server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["connect", "disconnect", "whoami"]

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def connect(
    url: Annotated[str, typer.Argument(help="The server's address, such as https://host:8443.")],
    authority: Annotated[
        Path | None, typer.Option(help="The federation's authority (ca.pem), from the operator.")
    ] = None,
    fingerprint: Annotated[
        str, typer.Option(help="The authority's SHA-256, from the operator: nothing is asked then.")
    ] = "",
    token_file: Annotated[Path | None, typer.Option(help="A file with your token.")] = None,
    token: Annotated[
        str, typer.Option(help="Your token. Others on this machine can see it in the process list.")
    ] = "",
    name: Annotated[str, typer.Option(help="Of the profile; otherwise the server's host.")] = "",
    json: Json = False,
) -> None:
    """Connect to a federation's server: `run` and `runs` then speak to it.

    The token is asked for, or read from --token-file or the variable TIDEGATE_TOKEN. It is kept in
    ~/.config/tidegate/profiles, in a file for you alone, and so is the key with which your runs are signed.
    """
    from contract.outside import shown
    from scientist.connecting import make_profile, trusted_authority
    from scientist.connection import require_url
    from scientist.profiles import require_name
    from scientist.settings import read_settings
    from terminal.output import print_json, say

    settings, address = read_settings(), require_url(url)
    if name:
        require_name(name)
    trusted = trusted_authority(address, authority, fingerprint, confirm=_confirm)
    made = make_profile(
        settings,
        address,
        token=lambda: _token(token_file, token or settings.token),
        authority=trusted,
        name=name,
    )
    who, key = made.who, made.key
    if json:
        print_json(
            {"profile": made.name, "file": made.file, **who.model_dump(mode="json"), "signing_key": key}
        )
        return
    until = "" if who.expires is None else f", until {who.expires:%Y-%m-%d %H:%M} UTC"
    say(f"Connected to {address} as '{shown(who.name)}', {who.role}{until}.")
    say(f"The profile '{made.name}' is in {made.file}. `tidegate runs list` asks the server.")
    if key is not None:
        _say_key(key)


def whoami(json: Json = False) -> None:
    """Who you are to the server that you are connected to, and the key that signs your runs."""
    from contract.enrolment import key_fingerprint
    from contract.federation_api import Whoami
    from contract.outside import shown
    from scientist.connection import Connection
    from scientist.profiles import Profiles
    from scientist.settings import read_settings
    from scientist.signing import public_key
    from terminal.output import print_json, say

    profiles = Profiles(read_settings())
    profile, secret = profiles.read(), profiles.signing_key()
    key = None if secret is None else public_key(secret)
    with Connection(profile.url, profile.token, profile.authority) as connection:
        who = connection.get("/v1/whoami", Whoami)
    if json:
        fingerprint = None if key is None else key_fingerprint(key)
        registered = key is not None and who.signing_key == key
        said = {"url": profile.url, **who.model_dump(mode="json"), "signing_key": key}
        print_json({**said, "fingerprint": fingerprint, "registered": registered})
        return
    say(f"You are '{shown(who.name)}', {who.role}, at {profile.url}.")
    if key is None:
        say("You have no key: your runs are not signed. Make one: tidegate connect URL", "yellow")
        return
    _say_key(key)
    if who.signing_key != key:
        say("The server knows another key of yours, or none: connect again.", "yellow")


def disconnect(
    name: Annotated[str, typer.Argument(help="Of the profile; otherwise the active one.")] = "",
    json: Json = False,
) -> None:
    """Forget a profile and its token; the operator revokes the token itself."""
    from scientist.profiles import Profiles
    from scientist.settings import read_settings
    from terminal.output import print_json, say

    removed = Profiles(read_settings()).remove(name)
    if json:
        print_json({"profile": removed})
    else:
        say(f"The profile '{removed}' and its signing key are gone.")
        say("The token is good until the operator revokes it, the key until sites take it out.")


def _say_key(key: str) -> None:
    from contract.enrolment import key_fingerprint
    from contract.outside import shown
    from terminal.output import say

    say(f"Your runs are signed with {key_fingerprint(key)}. A site's administrator who trusts you writes")
    say(f'scientists = {{ NAME = "{shown(key)}" }}')
    say("under [policy] in site.toml. Tell them the key yourself, not through the server.")


def _confirm(address: str, found: str) -> None:
    """Ask whoever sits at the terminal; a script must say it beforehand."""
    import sys

    from contract.errors import InputError
    from scientist.connecting import unknown_authority
    from terminal.output import say

    if not sys.stdin.isatty():
        raise unknown_authority(address, found)
    say(f"The authority of {address} has the SHA-256")
    say(found)
    if not typer.confirm("Is that what the operator told you?"):
        raise InputError(
            "the server is not trusted", where=address, remedy="Nothing was sent. Ask the operator"
        )


def _token(path: Path | None, given: str) -> str:
    import sys

    from contract.errors import InputError
    from scientist.connecting import read_token, require_token

    if path is not None:
        given = read_token(path)
    elif not given:
        if not sys.stdin.isatty():
            raise InputError(
                "no token is given",
                where="--token-file",
                remedy="Give --token-file FILE, or set TIDEGATE_TOKEN",
            )
        given = typer.prompt("Your token", hide_input=True)
    return require_token(given, where="the token" if path is None else str(path))
