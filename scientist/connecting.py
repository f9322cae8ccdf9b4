"""Makes a profile: whom to trust as a federation's server, who one is there, and with which key one signs."""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from contract.errors import AddressError, InputError
from contract.federation_api import SigningKey, Whoami
from contract.transport import read_authority
from scientist.connection import Connection, ask_authority, only_certificate, require_url
from scientist.profiles import Profile, Profiles, require_name
from scientist.settings import ScientistSettings
from scientist.signing import public_key

__all__ = ["Made", "make_profile", "read_token", "require_token", "trusted_authority", "unknown_authority"]


@dataclass(frozen=True, kw_only=True)
class Made:
    """A profile that was made.

    Attributes:
        name: of the profile.
        file: in which it is.
        profile: itself.
        who: whose token it is, as the server says.
        key: the public key with which they sign; None for a reviewer, who signs nothing.
    """

    name: str
    file: Path
    profile: Profile
    who: Whoami
    key: str | None


def make_profile(
    settings: ScientistSettings, url: str, *, token: Callable[[], str], authority: str, name: str = ""
) -> Made:
    """Ask the server who one is there, make a key to sign with, and keep both in a profile.

    Args:
        settings: name the folder of the profiles.
        url: of the server.
        token: gives one's own.
        authority: signed the server's certificate, in PEM form.
        name: of the profile; otherwise the server's host.

    Raises:
        AddressError: the server cannot be reached, or says that another key is one's own.
        InputError: it does not take the token, or the name is none.
    """
    address = require_url(url)
    profile_name = require_name(name or _name_of(address))
    secret, key = token(), None
    with Connection(address, secret, authority) as connection:
        who = connection.get("/v1/whoami", Whoami)
        profile = Profile(url=address, person=who.name, role=who.role, token=secret, authority=authority)
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
    return Made(name=profile_name, file=path, profile=profile, who=who, key=key)


def trusted_authority(
    url: str, path: Path | None, fingerprint: str, *, confirm: Callable[[str, str], None]
) -> str:
    """The authority to trust: a file's, or the server's own if its fingerprint is the right one.

    Args:
        url: of the server.
        path: a file with the authority.
        fingerprint: its SHA-256; empty where nobody gave one.
        confirm: is asked about an address and the fingerprint that was found there, and raises if that is
            not the right one.

    Raises:
        InputError: it is not, or nobody says so.
    """
    address = require_url(url)
    if path is not None:
        given = read_authority(path, error=InputError, remedy="Ask the operator for the server's ca.pem")
        authority = given.decode("ascii")
        if not fingerprint:
            return authority
    else:
        authority = ask_authority(address)
    (authority, found), wanted = only_certificate(authority), _digits(fingerprint)
    if not wanted:
        confirm(address, found)
    elif not hmac.compare_digest(found, wanted):
        raise InputError(
            f"the server's authority has another fingerprint: {found}",
            where="--fingerprint",
            remedy="Nothing was sent. Somebody may stand between you and the server: ask the operator",
        )
    return authority


def unknown_authority(address: str, found: str) -> InputError:
    """That nobody says whether the authority with that fingerprint is the right one."""
    return InputError(
        f"this server's authority is not known here: its SHA-256 is {found}",
        where=address,
        remedy="Compare that with what the operator says, and give --fingerprint, or --authority FILE",
    )


def read_token(path: Path) -> str:
    """What is in a file with a token.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        words = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
        raise InputError(f"cannot be read: {words}", where=str(path), remedy="Name another") from exc


def require_token(text: str, *, where: str = "the token") -> str:
    """The token in a text.

    Args:
        text: that may have space around it.
        where: it came from.

    Raises:
        InputError: there is none.
    """
    found = text.strip()
    if re.fullmatch(r"[A-Za-z0-9_-]{20,200}", found, re.ASCII) is None:
        raise InputError(
            "this is no token", where=where, remedy="Give it as `tidegate server person add` printed it"
        )
    return found


def _name_of(address: str) -> str:
    return (urlsplit(address).hostname or "").replace(":", "-").lstrip("-")


def _digits(fingerprint: str) -> str:
    """The 64 hexadecimal digits, however they are written; empty for none.

    Raises:
        InputError: it is no fingerprint.

    >>> _digits("AB:" * 31 + "cd") == "ab" * 31 + "cd"
    True
    """
    digits = re.sub(r"[\s:]", "", fingerprint).lower()
    if fingerprint and re.fullmatch(r"[0-9a-f]{64}", digits, re.ASCII) is None:
        raise InputError("no SHA-256", where="--fingerprint", remedy="Give its 64 hexadecimal digits")
    return digits
