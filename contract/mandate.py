"""A mandate: what one run may do at the sites, said and signed by the scientist who submits it.

A server passes it on and cannot change it. What is signed is `tidegate-mandate/1`, a line feed and the
mandate's canonical JSON (RFC 8785). A text is read only if it is that form itself, byte for byte: of several
spellings that parsers may take for one value (a key named twice, `1.0` for `1`, an escaped letter) one only
is good.

It names the run, and a site answers each request of a run once: so there is no second run under it. It
names the federation's authority, so it is good for no other server.
"""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from contract.enrolment import key_fingerprint
from contract.errors import InputError, MessageError
from contract.experiment import Delta, Epsilon, Experiment
from contract.names import Digest, PersonName, RunName, WindowName

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = [
    "MOST_MANDATE",
    "Mandate",
    "SignedMandate",
    "authority_digest",
    "make_signing_key",
    "mandate_for",
    "normal_key",
    "public_key_of",
    "read_mandate",
    "read_signing_key",
    "sign_mandate",
]

MOST_MANDATE = 2**18
"""Characters of a signed one: a thousand windows of a hundred letters, and as much again."""
_SIGNED_AS = b"tidegate-mandate/1\n"


def _sorted(names: tuple[str, ...]) -> tuple[str, ...]:
    if list(names) != sorted(set(names)):
        raise ValueError("are not in order, each once")
    return names


class Mandate(BaseModel):
    """What a run may do.

    Attributes:
        authority: SHA-256 of the certificate of the federation's authority.
        scientist: who says so, as the server calls them.
        run: the run's name.
        experiment: the experiment's digest.
        code: the hash of the code that may run.
        private: whether the run carries noise.
        epsilon, delta: what it may spend on a data block of its training rows.
        evaluation_epsilon: and on one of its held-out rows.
        windows: whose rows it may use, in order; empty for all.
        expires: when it ends, by the site's clock.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    version: Literal[1] = 1
    authority: Digest
    scientist: PersonName
    run: RunName
    experiment: Digest
    code: Digest
    private: bool
    epsilon: Epsilon
    delta: Delta
    evaluation_epsilon: Epsilon
    windows: Annotated[tuple[WindowName, ...], Field(max_length=1000), AfterValidator(_sorted)]
    expires: AwareDatetime

    def canonical(self) -> bytes:
        """Its one form, which is signed."""
        import rfc8785

        return rfc8785.dumps(self.model_dump(mode="json"))

    @property
    def digest(self) -> str:
        """SHA-256 of that form: its name in ledgers."""
        return hashlib.sha256(self.canonical()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class SignedMandate:
    """A mandate whose signature is good.

    Attributes:
        key: the public key that it is signed with, a line in OpenSSH form. Whose it is, a site's
            administrator says, and nobody else.
    """

    mandate: Mandate
    key: str

    @property
    def fingerprint(self) -> str:
        """The key's, as `ssh-keygen -l` prints it."""
        return key_fingerprint(self.key)


class _Signed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    mandate: Annotated[str, Field(max_length=MOST_MANDATE)]
    key: Annotated[str, Field(max_length=200)]
    signature: Annotated[str, Field(max_length=100)]


def mandate_for(
    experiment: Experiment,
    *,
    run: str,
    windows: tuple[str, ...],
    code: str,
    authority: str,
    scientist: str,
    expires: datetime,
) -> Mandate:
    """The mandate of one run of an experiment: what the experiment says, and no more."""
    privacy = experiment.privacy
    return Mandate(
        authority=authority,
        scientist=scientist,
        run=run,
        experiment=experiment.digest,
        code=code,
        private=privacy.private,
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        evaluation_epsilon=privacy.evaluation_epsilon,
        windows=tuple(sorted(set(windows))),
        expires=expires,
    )


def sign_mandate(mandate: Mandate, key: Ed25519PrivateKey) -> str:
    """The text that travels: the mandate, the public key and the signature."""
    text = mandate.canonical()
    signature = b64encode(key.sign(_SIGNED_AS + text)).decode()
    return _Signed(mandate=text.decode(), key=public_key_of(key), signature=signature).model_dump_json()


def read_mandate(text: str) -> SignedMandate:
    """Read what `sign_mandate` wrote. Whether the key is to be trusted is another question.

    Raises:
        MessageError: it is not that, is spelled otherwise, or the signature is not the key's.
    """
    from cryptography.exceptions import InvalidSignature

    if len(text) > 2 * MOST_MANDATE:
        raise _no_mandate(f"it has {len(text):,} characters")
    try:
        signed = _Signed.model_validate_json(text)
        written, signature = signed.mandate.encode(), b64decode(signed.signature, validate=True)
        key = _public_key(signed.key)
        mandate = Mandate.model_validate_json(written)
        is_canonical = mandate.canonical() == written and normal_key(signed.key) == signed.key
    except (ValueError, RecursionError, InputError) as exc:
        raise _no_mandate("it has another form") from exc
    if not is_canonical:
        raise _no_mandate("it is not in canonical form")
    try:
        key.verify(signature, _SIGNED_AS + written)
    except InvalidSignature as exc:
        raise _no_mandate("the signature is not the key's, or what it signs was changed") from exc
    return SignedMandate(mandate=mandate, key=signed.key)


def authority_digest(authority: str) -> str:
    """What a mandate calls the authority that is in this text in PEM form.

    Raises:
        InputError: it holds none.
    """
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.x509 import load_pem_x509_certificate

    try:
        return load_pem_x509_certificate(authority.encode()).fingerprint(SHA256()).hex()
    except ValueError as exc:
        raise InputError("this is not the certificate of an authority") from exc


def make_signing_key() -> bytes:
    """A new private key for signing mandates: Ed25519, in OpenSSH form."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def read_signing_key(content: bytes) -> Ed25519PrivateKey:
    """Read what `make_signing_key` made.

    Raises:
        InputError: it is not that.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    try:
        key = load_ssh_private_key(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:  # TypeError: it wants a password
        raise InputError("this is no key to sign with") from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError("this is no key to sign with")
    return key


def public_key_of(key: Ed25519PrivateKey) -> str:
    """Its public key, as one line."""
    return _line(key.public_key())


def normal_key(line: str) -> str:
    """A scientist's public key as one line in OpenSSH form, without a comment.

    Raises:
        InputError: it is none.
    """
    return _line(_public_key(line))


def _line(key: Ed25519PublicKey) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _public_key(line: str) -> Ed25519PublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    try:
        key = load_ssh_public_key(line.encode())
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise _no_key() from exc
    if not isinstance(key, Ed25519PublicKey):
        raise _no_key()
    return key


def _no_key() -> InputError:
    return InputError(
        "this is no scientist's public key",
        remedy="Give the line that `tidegate connect` printed: it begins with ssh-ed25519",
    )


def _no_mandate(why: str) -> MessageError:
    return MessageError(f"the run's mandate is not valid: {why}", where="mandate")
