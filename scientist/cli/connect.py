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
    from contract.errors import AddressError
    from contract.federation_api import SigningKey, Whoami
    from contract.outside import shown
    from scientist.connection import Connection, require_url
    from scientist.profiles import Profile, Profiles, require_name
    from scientist.settings import read_settings
    from scientist.signing import public_key
    from terminal.output import print_json, say

    settings, address = read_settings(), require_url(url)
    profile_name = require_name(name or _name_of(address))
    trusted = _trusted(address, authority, fingerprint)
    secret, key = _token(token_file, token or settings.token), None
    with Connection(address, secret, trusted) as connection:
        who = connection.get("/v1/whoami", Whoami)
        profile = Profile(url=address, person=who.name, role=who.role, token=secret, authority=trusted)
        if who.role != "reviewer":
            key = public_key(Profiles(settings).make_signing_key(profile_name))
            who = connection.post("/v1/signing-key", Whoami, SigningKey(key=key))
    if key is not None and who.signing_key != key:  # nobody but this machine says which key is this person's
        raise AddressError(
            "the server answers with another key than the one that was made here for you",
            where=address,
            remedy="Trust nothing that it says, and tell no site a key: ask the operator what answers there",
        )
    path = Profiles(settings).save(profile_name, profile)
    if json:
        print_json({"profile": profile_name, "file": path, **who.model_dump(mode="json"), "signing_key": key})
        return
    until = "" if who.expires is None else f", until {who.expires:%Y-%m-%d %H:%M} UTC"
    say(f"Connected to {address} as '{shown(who.name)}', {who.role}{until}.")
    say(f"The profile '{profile_name}' is in {path}. `tidegate runs list` asks the server.")
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


def _name_of(address: str) -> str:
    from urllib.parse import urlsplit

    return (urlsplit(address).hostname or "").replace(":", "-").lstrip("-")


def _trusted(address: str, path: Path | None, fingerprint: str) -> str:
    """The authority to trust: a file's, or the server's own if its fingerprint is the right one.

    Raises:
        InputError: it is not, or nobody says so.
    """
    import hmac

    from contract.errors import InputError
    from contract.transport import read_authority
    from scientist.connection import ask_authority, only_certificate

    if path is not None:
        given = read_authority(path, error=InputError, remedy="Ask the operator for the server's ca.pem")
        authority = given.decode("ascii")
        if not fingerprint:
            return authority
    else:
        authority = ask_authority(address)
    (authority, found), wanted = only_certificate(authority), _digits(fingerprint)
    if not wanted:
        _confirm(address, found)
    elif not hmac.compare_digest(found, wanted):
        raise InputError(
            f"the server's authority has another fingerprint: {found}",
            where="--fingerprint",
            remedy="Nothing was sent. Somebody may stand between you and the server: ask the operator",
        )
    return authority


def _digits(fingerprint: str) -> str:
    """The 64 hexadecimal digits, however they are written; empty for none.

    Raises:
        InputError: it is no fingerprint.

    >>> _digits("AB:" * 31 + "cd") == "ab" * 31 + "cd"
    True
    """
    import re

    from contract.errors import InputError

    digits = re.sub(r"[\s:]", "", fingerprint).lower()
    if fingerprint and re.fullmatch(r"[0-9a-f]{64}", digits, re.ASCII) is None:
        raise InputError("no SHA-256", where="--fingerprint", remedy="Give its 64 hexadecimal digits")
    return digits


def _confirm(address: str, found: str) -> None:
    import sys

    from contract.errors import InputError
    from terminal.output import say

    if not sys.stdin.isatty():
        raise InputError(
            f"this server's authority is not known here: its SHA-256 is {found}",
            where=address,
            remedy="Compare that with what the operator says, and give --fingerprint, or --authority FILE",
        )
    say(f"The authority of {address} has the SHA-256")
    say(found)
    if not typer.confirm("Is that what the operator told you?"):
        raise InputError(
            "the server is not trusted", where=address, remedy="Nothing was sent. Ask the operator"
        )


def _token(path: Path | None, given: str) -> str:
    import re
    import sys

    from contract.errors import InputError

    if path is not None:
        try:
            given = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            words = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
            raise InputError(f"cannot be read: {words}", where=str(path), remedy="Name another") from exc
    elif not given:
        if not sys.stdin.isatty():
            raise InputError(
                "no token is given",
                where="--token-file",
                remedy="Give --token-file FILE, or set TIDEGATE_TOKEN",
            )
        given = typer.prompt("Your token", hide_input=True)
    found = given.strip()
    if re.fullmatch(r"[A-Za-z0-9_-]{20,200}", found, re.ASCII) is None:
        where = "the token" if path is None else str(path)
        remedy = "Give it as `tidegate server person add` printed it"
        raise InputError("this is no token", where=where, remedy=remedy)
    return found
