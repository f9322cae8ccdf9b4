"""`connect`: to the federation of a profile, to one by its address, or to sites on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from contract.errors import InputError
from experiments.installation import telling_what_is_missing
from experiments.python.federation import Federation

__all__ = ["connect", "federation_of"]


@telling_what_is_missing
def connect(
    url: str = "",
    *,
    token: str = "",
    fingerprint: str = "",
    authority: str | Path = "",
    profile: str = "",
    sites: Sequence[str | Path] = (),
    data: str = "",
) -> Federation:
    """Connect to a federation.

    Without arguments: to the server of your active profile, as `tidegate connect` made it. With `url`: to
    that server; a profile is made and becomes the active one, with a key that signs your runs. With `sites`
    or `data`: to sites whose folders lie on this machine; nothing is sent anywhere.

    Args:
        url: the server's address, `https://host:port`, from the operator.
        token: yours, from the operator; without, that of the variable `TIDEGATE_TOKEN`. Better not written
            into a notebook.
        fingerprint: the SHA-256 of the server's authority, from the operator.
        authority: in place of a fingerprint, a file with the authority (`ca.pem`).
        profile: the name of one of yours in place of the active one; with `url`, that of the new one.
        sites: the site.toml of each site on this machine.
        data: the name of a public data set that is laid out as sites on this machine: `rand-health`,
            `heart-disease` or `bank-marketing`.

    Raises:
        InputError: there is no profile, the server is not trusted or does not take the token, a library is
            not installed, or the arguments do not go together.
        AddressError: the server cannot be reached.
        SiteConfigError: a site.toml is missing or wrong.

    >>> connect("https://tidegate.example:8443", data="rand-health")
    Traceback (most recent call last):
    contract.errors.InputError: connect(): a server and sites here are both named. Name one of them.
    """
    if [bool(url), bool(sites), bool(data)].count(True) > 1:
        raise InputError(
            "a server and sites here are both named" if url else "sites and data are both named",
            where="connect()",
            remedy="Name one of them",
        )
    if sites or data:
        return _here([Path(one) for one in sites], data)
    return _there(url, token, fingerprint, str(authority), profile)


def federation_of(data: str | None) -> Federation:
    """The federation of the active profile, or else the sites of a data set, as `tidegate run` chooses.

    Raises:
        InputError: there is neither.
    """
    from scientist.connected import is_connected

    if is_connected() or not data:
        return connect()
    return connect(data=data)


def _here(sites: list[Path], data: str) -> Federation:
    from experiments.federated_run import laid_out
    from experiments.python.here import Here, private_files
    from server.settings import read_settings

    settings = read_settings()
    with private_files():
        files = sites or laid_out(data, settings.home)
    return Federation(Here(files, settings))


def _there(url: str, token: str, fingerprint: str, authority: str, profile: str) -> Federation:
    from experiments.python.there import There
    from scientist.connecting import make_profile, require_token, trusted_authority
    from scientist.profiles import Profiles
    from scientist.settings import read_settings

    settings = read_settings()
    if url:
        file = Path(authority) if authority else None
        trusted = trusted_authority(url, file, fingerprint, confirm=_refuse)
        secret = require_token(token or settings.token)
        made = make_profile(settings, url, token=lambda: secret, authority=trusted, name=profile)
        profile = made.name
    profiles = Profiles(replace(settings, profile=profile) if profile else settings)
    if not profiles.active():
        raise InputError(
            "you are not connected to a server",
            where="connect()",
            remedy="Give its address and your token, or name sites on this machine: connect(sites=[…]), "
            "connect(data='rand-health')",
        )
    return Federation(There(profiles.read(), profiles.signing_key()))


def _refuse(address: str, found: str) -> NoReturn:
    raise InputError(
        f"this server's authority is not known here: its SHA-256 is {found}",
        where=address,
        remedy="Compare that with what the operator says, and give fingerprint=, or authority= with a file",
    )
