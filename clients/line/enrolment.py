"""How a site becomes one of a federation, and stays one: its certificate, asked for and renewed.

    keys/node.key         the site's, made by `tidegate site init`; it never leaves
    keys/ca.pem           the federation's authority, known by the token's fingerprint before it was had
    keys/site.pem         the site's certificate, with its key: what it shows at the gateway
    keys/federation.json  where the gateway is; written last, so that who has it has all of them

The authority is fetched from whoever answers, and counts only if its fingerprint is that of the token. From
then on the other end is checked in full: its certificate, and its name.
"""

from __future__ import annotations

import datetime
import logging
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from hmac import compare_digest
from pathlib import Path
from typing import Annotated, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clients.keys import (
    PrivateKey,
    digest_for,
    openssh,
    private_pem,
    read_bytes,
    read_private_key,
    replace_secret,
)
from clients.line.reach import in_the_way
from contract.card import Card
from contract.enrolment import (
    LONGEST_ANSWER,
    REVOKED,
    Authority,
    CollectRequest,
    Enrolled,
    JoinRequest,
    Token,
    is_half_over,
)
from contract.errors import AddressError, InputError, SiteConfigError, TidegateError
from contract.names import SiteName
from contract.outside import shown
from contract.transport import PLAIN, AnswerError, body_of, proxy_for

__all__ = [
    "Joined",
    "JoiningSite",
    "NotNowError",
    "RefusedError",
    "joined",
    "renew",
    "renew_on",
    "require_admitted",
]

_SECONDS = 30.0
_RENEWED_EVERY = 6 * 3600.0
"""Seconds between two looks at whether the certificate grows old."""
_PAUSE, _LOOKS = 2.0, 30
"""Between two looks for a renewed certificate, and how many: the next six hours have another chance."""
_LONGEST_REQUEST = 2**16
_PEM = serialization.Encoding.PEM
_INVITED_ANEW = "Ask the operator for a new token, and `tidegate site join` with it"
_REVOKED = (
    "Ask the operator why. To come in again: a new key (move keys/node.key away, then `tidegate site init`), "
    "a new token, and `tidegate site join`"
)
_UNREADABLE = (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.InvalidVersion)
"""What is raised over a certificate that was made to harm; it may be read by then, as far as it was asked."""
_log = logging.getLogger("tidegate.agent")
_Answer = TypeVar("_Answer", bound=BaseModel)


class RefusedError(TidegateError):
    """The operator, or the gateway, refuses this site."""


class NotNowError(TidegateError):
    """The gateway cannot answer just now; another try may well succeed."""


class _Federation(BaseModel):
    """What keys/federation.json holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gateway: Annotated[str, Field(pattern=r"^(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$")]
    name: SiteName


@dataclass(frozen=True, kw_only=True)
class Joined:
    """A site that is one of a federation.

    Attributes:
        gateway: host:port.
        name: under which the site was let in.
        authority: the file with the federation's authority.
        certificate: the file with the site's certificate and key.
    """

    gateway: str
    name: str
    authority: Path
    certificate: Path

    def require(self, name: str) -> Joined:
        """This, if the site was let in under that name.

        Raises:
            SiteConfigError: site.toml has another name by now.
        """
        if name != self.name:
            raise SiteConfigError(
                f"the site is named '{name}', and was let in as '{self.name}'",
                where="site.toml",
                remedy=f"Name it '{self.name}' again, or have the operator invite it under the new name",
            )
        return self

    def require_key(self, key: PrivateKey) -> Joined:
        """This, if its certificate is for that key.

        Raises:
            SiteConfigError: it is for another; or the certificate cannot be read.
        """
        if _openssh_in(self.shows) != openssh(key.public_key()):
            raise SiteConfigError(
                "the certificate is for another key than the site's",
                where=str(self.certificate),
                remedy="Put the key of before back into keys/node.key, or ask the operator for a new token, "
                "and `tidegate site join` with it",
            )
        return self

    @property
    def shows(self) -> x509.Certificate:
        """The site's certificate.

        Raises:
            SiteConfigError: the file cannot be read, or holds none.
        """
        return _read_certificate(self.certificate)

    @property
    def tls(self) -> ssl.SSLContext:
        """How the gateway is asked: it is checked, and sees the site's certificate.

        Raises:
            SiteConfigError: a file cannot be read, or holds no certificate.
        """
        _ = self.shows
        context = ssl.create_default_context(cadata=_pem(_read_certificate(self.authority)))
        try:
            context.load_cert_chain(self.certificate)
        except ssl.SSLError as exc:
            raise SiteConfigError(
                "the certificate and the key in it do not go together",
                where=str(self.certificate),
                remedy=_INVITED_ANEW,
            ) from exc
        return context


def joined(file: Path) -> Joined | None:
    """The federation that the site was let into; None if it was into none.

    Args:
        file: the site's site.toml.

    Raises:
        SiteConfigError: keys/federation.json is not what `tidegate site join` wrote.
    """
    keys = file.parent / "keys"
    path = keys / "federation.json"
    if not path.exists():
        return None
    try:
        said = _Federation.model_validate_json(read_bytes(path, remedy=_INVITED_ANEW))
    except ValidationError as exc:
        raise SiteConfigError(
            "not what `tidegate site join` wrote", where=str(path), remedy=_INVITED_ANEW
        ) from exc
    return Joined(
        gateway=said.gateway, name=said.name, authority=keys / "ca.pem", certificate=keys / "site.pem"
    )


@dataclass(frozen=True, kw_only=True)
class JoiningSite:
    """A site that asks to be let in.

    Attributes:
        token: that the operator gave.
        name: the site's.
        key: its node key.
        stated_rows: as its site.toml says.
        card: what it offers; None while that is a draft, or nothing.
        keys: the folder of its keys.
    """

    token: Token
    name: str
    key: PrivateKey
    stated_rows: int
    card: Card | None
    keys: Path

    def authority(self) -> x509.Certificate:
        """The federation's authority, which only the token's fingerprint makes one.

        Raises:
            AddressError: the gateway cannot be reached, or another than the token's answers there.
            NotNowError: it cannot answer just now.
        """
        stranger = ssl.create_default_context()
        stranger.check_hostname, stranger.verify_mode = False, ssl.CERT_NONE
        said = _ask(self.token.gateway, "authority", "{}", stranger, Authority)
        try:
            found = x509.load_pem_x509_certificate(said.authority.encode("ascii"))
        except _UNREADABLE as exc:
            raise _strange(self.token.gateway) from exc
        if not compare_digest(found.fingerprint(hashes.SHA256()), self.token.authority):
            raise AddressError(
                "who answers there is not the federation that the token is of",
                where=self.token.gateway,
                remedy="Nothing was sent. Somebody may stand between: tell the operator, and try another "
                "network. If the operator has made a new authority since, ask for a new token",
            )
        return found

    def ask(self, authority: x509.Certificate) -> Enrolled:
        """Ask to be let in; a second time does no harm.

        Raises:
            InputError: the card is too long; nothing was sent.
            RefusedError: the token is of no use, or for a site of another name.
            AddressError: the gateway cannot be reached.
            NotNowError: it cannot answer just now.
        """
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, self.name)])
        builder = x509.CertificateSigningRequestBuilder().subject_name(name)
        request = builder.sign(self.key, digest_for(self.key.curve)).public_bytes(_PEM).decode()
        secret, rows = self.token.secret, self.stated_rows
        asked = JoinRequest(secret=secret, signing_request=request, stated_rows=rows, card=self.card)
        text = asked.model_dump_json()
        if len(text.encode()) > _LONGEST_REQUEST:  # who is not known yet is read no further
            raise InputError(
                f"the card is too long: with it the request has {len(text.encode()):,} bytes, and a "
                f"federation reads {_LONGEST_REQUEST:,} of a site that it does not know yet",
                where="card",
                remedy="Shorten meanings, or leave out columns and categories; or join with --without-card: "
                "data scientists then read nothing of it at the server",
            )
        return self._ask("join", text, authority)

    def collect(self, authority: x509.Certificate) -> Enrolled:
        """Whether there is an answer yet.

        Raises:
            RefusedError: the operator has invited the site anew: the token is void.
            AddressError: the gateway cannot be reached.
            NotNowError: it cannot answer just now.
        """
        text = CollectRequest(secret=self.token.secret).model_dump_json()
        return self._ask("collect", text, authority)

    def own(self, authority: x509.Certificate, certificate: str) -> x509.Certificate:
        """What the federation gave, if it is this site's certificate.

        Raises:
            AddressError: the certificate is not for this site, or not of this authority.
        """
        return _own(certificate, authority, self.key, self.name, self.token.gateway)

    def keep(self, authority: x509.Certificate, certificate: x509.Certificate) -> None:
        """Write what the site needs from now on into its folder of keys.

        Args:
            authority: of the federation.
            certificate: that `own` gave.

        Raises:
            InputError: a file cannot be written.
        """
        federation = _Federation(gateway=self.token.gateway, name=self.name)
        replace_secret(self.keys / "ca.pem", authority.public_bytes(_PEM))
        replace_secret(self.keys / "site.pem", _with_key(certificate, self.key))
        replace_secret(self.keys / "federation.json", federation.model_dump_json(indent=1).encode() + b"\n")

    def _ask(self, what: str, text: str, authority: x509.Certificate) -> Enrolled:
        try:
            context = ssl.create_default_context(cadata=_pem(authority))
        except ssl.SSLError as exc:
            raise _strange(self.token.gateway) from exc
        return _ask(self.token.gateway, what, text, context, Enrolled)


def renew(site: Joined, key: PrivateKey, stop: threading.Event) -> bool:
    """Have the site's certificate renewed if half of its time is over; whether another one is there now.

    Args:
        site: whose certificate.
        key: its node key.
        stop: ends the waiting.

    Raises:
        TidegateError: it cannot be; the next try may.
    """
    shows = site.shows
    if not is_half_over(shows.not_valid_before_utc, shows.not_valid_after_utc):
        return False
    for _ in range(_LOOKS):
        answer = _ask(site.gateway, "renew", "{}", site.tls, Enrolled)
        if answer.certificate is not None:
            authority = _read_certificate(site.authority)
            found = _own(answer.certificate, authority, key, site.name, site.gateway)
            if found.serial_number == shows.serial_number:
                return False  # by the server's clock half of its time is not over yet
            replace_secret(site.certificate, _with_key(found, key))
            return True
        if stop.wait(_PAUSE):
            return False
    raise NotNowError(
        "the server has not renewed the site's certificate",
        where=site.gateway,
        remedy="The agent tries again in six hours. Ask the operator whether `tidegate server up` runs",
    )


def require_admitted(site: Joined) -> None:
    """See that the operator has not revoked this site: its gateway is asked, by its certificate.

    Where half of the certificate's time is over, the question has another one made, as the agent's does.

    Raises:
        RefusedError: the operator has, or another key was let in under its name.
        TidegateError: the gateway cannot be asked.
    """
    _ask(site.gateway, "renew", "{}", site.tls, Enrolled)


def renew_on(site: Joined, key: Path, stop: threading.Event, renewed: Callable[[], None]) -> None:
    """Look at once and every six hours whether the certificate must be renewed, until `stop` is set.

    Args:
        site: whose certificate.
        key: the file of its node key.
        stop: ends it.
        renewed: is called when another certificate is there.
    """
    while True:
        try:
            if renew(site, read_private_key(key), stop):
                _log.info("the site's certificate is renewed, until %s", f"{_end(site):%Y-%m-%d}")
                renewed()
        except (TidegateError, OSError) as exc:
            _log.warning("the site's certificate could not be renewed: %s", exc)
        if stop.wait(_RENEWED_EVERY):
            return


def _end(site: Joined) -> datetime.datetime:
    return site.shows.not_valid_after_utc


def _ask(gateway: str, what: str, text: str, tls: ssl.SSLContext, kind: type[_Answer]) -> _Answer:
    import httpx

    url = f"https://{gateway}"
    proxy = proxy_for(url)
    try:
        with (
            httpx.Client(verify=tls, timeout=_SECONDS, proxy=proxy or None, trust_env=False) as client,
            client.stream("POST", f"{url}/v1/enrolment/{what}", content=text, headers=PLAIN) as answer,
        ):
            status, content = answer.status_code, body_of(answer, LONGEST_ANSWER)
    except AnswerError as exc:
        raise _strange(gateway) from exc
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as exc:
        raise in_the_way(exc, gateway, proxy) from exc
    if status in (429, 502, 503, 504):
        raise NotNowError(
            _words(content) or "the server cannot answer just now",
            where=gateway,
            remedy="Try again in a minute; if it lasts, ask the operator",
        )
    if status == 403 and _words(content) == REVOKED:
        raise RefusedError(REVOKED, where=gateway, remedy=_REVOKED)
    if status in (400, 403, 409):
        raise RefusedError(f"the server refuses: {_words(content)}", where=gateway)
    try:
        if status != 200:
            raise _strange(gateway)
        return kind.model_validate_json(content)
    except ValidationError as exc:
        raise _strange(gateway) from exc


def _words(content: bytes) -> str:
    return shown(content.decode("utf-8", errors="replace").strip())


def _strange(gateway: str) -> AddressError:
    return AddressError(
        "what answers there is no gateway of a federation",
        where=gateway,
        remedy="Ask the operator whether that address is right, and the server up",
    )


def _own(
    certificate: str, authority: x509.Certificate, key: PrivateKey, name: str, gateway: str
) -> x509.Certificate:
    """The certificate, if it is for this site.

    Raises:
        AddressError: it is not.
    """
    try:
        found = x509.load_pem_x509_certificate(certificate.encode("ascii"))
        found.verify_directly_issued_by(authority)
        public = _openssh_in(found)
        names = [str(one.value) for one in found.subject]
    except _UNREADABLE as exc:
        raise _strange(gateway) from exc
    if public != openssh(key.public_key()) or names != [name]:
        raise AddressError(
            "the server gave a certificate for another site or key",
            where=gateway,
            remedy="Tell the operator; nothing was written",
        )
    return found


def _openssh_in(certificate: x509.Certificate) -> str:
    shape = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    return certificate.public_key().public_bytes(*shape).decode()


def _with_key(certificate: x509.Certificate, key: PrivateKey) -> bytes:
    return certificate.public_bytes(_PEM) + private_pem(key)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(_PEM).decode("ascii")


def _read_certificate(path: Path) -> x509.Certificate:
    content = read_bytes(path, remedy=_INVITED_ANEW)
    try:
        return x509.load_pem_x509_certificate(content)
    except _UNREADABLE as exc:
        raise SiteConfigError("holds no certificate", where=str(path), remedy=_INVITED_ANEW) from exc
