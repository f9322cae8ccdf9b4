"""How a site becomes one of a federation: the token that its operator hands over, and what is asked with it.

    site → gateway   POST /v1/enrolment/authority  {}              who the federation's authority is
                     POST /v1/enrolment/join       JoinRequest     let this key in, under the token's name
                     POST /v1/enrolment/collect    CollectRequest  is there an answer yet?
                     POST /v1/enrolment/renew      {}              over mutual TLS: the certificate anew

The token is a secret on its way once: it holds where the gateway is, by which fingerprint its authority is
known, and 128 random bits. The server keeps a hash of these alone. What makes it safe to lose one is that the
operator compares the fingerprint of the site's key with the site's administrator, over the telephone.
"""

from __future__ import annotations

import binascii
import hashlib
import re
import secrets
from base64 import b64decode, b64encode, urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from contract.card import Card
from contract.errors import InputError

__all__ = [
    "ADDRESS",
    "LONGEST_ANSWER",
    "LONGEST_TOKEN",
    "REVOKED",
    "Authority",
    "CollectRequest",
    "Enrolled",
    "JoinRequest",
    "Token",
    "digest_of",
    "is_half_over",
    "key_fingerprint",
]

LONGEST_TOKEN = 200
"""Characters."""
LONGEST_ANSWER = 2**16
"""Bytes of what a gateway answers."""
REVOKED = "the operator has revoked this site"
"""What a gateway says to whoever shows such a site's certificate, and so holds its key; to nobody else."""
ADDRESS = re.compile(r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+\]):\d{1,5}", re.ASCII)
"""host:port."""

_BEGINS = "tidegate_"
_FINGERPRINT, _SECRET, _CHECK = 32, 16, 4
_HEAD = _FINGERPRINT + _SECRET + _CHECK
_COPY = "Copy the whole of what `tidegate server invite` printed: one word that begins with tidegate_"


@dataclass(frozen=True, kw_only=True)
class Token:
    """What an operator hands to a site's administrator.

    Attributes:
        gateway: host:port where the federation's gateway is.
        authority: SHA-256 of the certificate of the federation's authority.
        secret: 32 hexadecimal digits, known to nobody else.
    """

    gateway: str
    authority: bytes
    secret: str

    @classmethod
    def make(cls, gateway: str, authority: bytes) -> Token:
        """One with a new secret."""
        return cls(gateway=gateway, authority=authority, secret=secrets.token_hex(_SECRET))

    @property
    def digest(self) -> str:
        """SHA-256 of the secret, as 64 hexadecimal digits: what the server keeps of it."""
        return digest_of(self.secret)

    def __repr__(self) -> str:
        return f"Token(gateway={self.gateway!r})"  # a secret is in no log

    def written(self) -> str:
        """One word of letters, digits, `-` and `_`.

        Raises:
            InputError: the gateway's name is too long for a token.
        """
        body = self.authority + bytes.fromhex(self.secret) + self.gateway.encode()
        text = _BEGINS + urlsafe_b64encode(_checksum(body) + body).decode().rstrip("=")
        if len(text) > LONGEST_TOKEN:
            raise InputError(
                f"the host's name is too long for a token: {self.gateway}",
                where="hosts",
                remedy="Begin the `hosts` of server.toml with a shorter name or an address",
            )
        return text

    @classmethod
    def read(cls, text: str) -> Token:
        """The token that was written so.

        Raises:
            InputError: it is none, or not the whole of one. The error does not repeat it.
        """
        text = text.strip()
        content = _decoded(text)
        if not text.startswith(_BEGINS) or content is None:
            raise InputError("this is no token", where="TOKEN", remedy=_COPY)
        check, body = content[:_CHECK], content[_CHECK:]
        gateway = body[_FINGERPRINT + _SECRET :].decode("ascii", errors="replace")
        if len(content) <= _HEAD or _checksum(body) != check or not _is_address(gateway):
            raise InputError(
                "the token is not whole, or a letter of it was changed", where="TOKEN", remedy=_COPY
            )
        secret = body[_FINGERPRINT : _FINGERPRINT + _SECRET].hex()
        return cls(gateway=gateway, authority=body[:_FINGERPRINT], secret=secret)


def _is_address(text: str) -> bool:
    return ADDRESS.fullmatch(text) is not None and 0 < int(text.rpartition(":")[2]) < 2**16


def _decoded(text: str) -> bytes | None:
    body = text.removeprefix(_BEGINS)
    if len(text) > LONGEST_TOKEN or re.fullmatch(r"[A-Za-z0-9_-]+", body) is None:
        return None
    try:
        return urlsafe_b64decode(body + "=" * (-len(body) % 4))
    except binascii.Error:
        return None


def _checksum(body: bytes) -> bytes:
    """Tells a slip in copying, and nothing else: what counts is checked with the authority and the secret."""
    return hashlib.sha256(body).digest()[:_CHECK]


def digest_of(secret: str) -> str:
    """SHA-256 of a token's secret. It has 128 random bits, so that nothing slower is needed."""
    return hashlib.sha256(bytes.fromhex(secret)).hexdigest()


def is_half_over(begins: datetime, ends: datetime) -> bool:
    """Whether a certificate has less time before it than behind it, and may be renewed."""
    now = datetime.now(UTC)
    return ends - now < now - begins


def key_fingerprint(openssh: str) -> str:
    """Of a public key that is one line in OpenSSH form, as `ssh-keygen -l` prints it."""
    blob = b64decode(openssh.split()[1])
    return "SHA256:" + b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


_Secret = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
_Pem = Annotated[str, Field(max_length=8000, pattern=r"^[\x20-\x7e\n]*$")]


class Authority(_Strict):
    """What the gateway says of the federation's authority; true only if a token's fingerprint is that.

    Attributes:
        authority: its certificate (PEM).
    """

    authority: _Pem


class CollectRequest(_Strict):
    """Asks whether there is an answer yet.

    Attributes:
        secret: of the token.
    """

    secret: _Secret

    @property
    def digest(self) -> str:
        """SHA-256 of the secret."""
        return digest_of(self.secret)


class JoinRequest(CollectRequest):
    """Asks to be let in.

    Attributes:
        signing_request: for the site's node key, under the site's name (PKCS #10, PEM).
        stated_rows: the rough number of the site's training rows.
        card: what the site offers; None while it has no card, or a draft.
    """

    signing_request: _Pem
    stated_rows: Annotated[int, Field(ge=1, le=10**12)]
    card: Card | None

    @field_validator("card")
    @classmethod
    def _is_no_draft(cls, card: Card | None) -> Card | None:
        if card is not None and card.draft:
            raise ValueError("a draft stays at its site")
        return card


class Enrolled(_Strict):
    """What the gateway answers.

    Attributes:
        state: how the request stands.
        certificate: with which the site comes in (PEM); None unless the operator confirmed.
    """

    state: Literal["waiting", "refused", "confirmed"]
    certificate: _Pem | None = None
