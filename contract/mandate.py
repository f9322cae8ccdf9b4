"""A mandate: what may be done at the sites, said and signed by a scientist.

A server passes it on and cannot change it. What is signed is `tidegate-mandate/1`, a line feed and the
mandate's canonical JSON (RFC 8785). A text is read only if it is that form itself, byte for byte: of several
spellings that parsers may take for one value (a key named twice, `1.0` for `1`, an escaped letter) one only
is good.

It names the run, and a site answers each request of a run once: so there is no second run under it. It
names the federation's authority, so it is good for no other server.

There are three. That of a training run is of version 1. Of version 2 are that of a question for ranges, and
the *standing* one: it covers each window of a schedule (`contract.standing`), and its run's name begins
those of all its runs. So is any that names a model's package.
"""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from contract.enrolment import key_fingerprint
from contract.errors import InputError, MessageError
from contract.experiment import LEAST_EPSILON, Delta, Epsilon, Experiment
from contract.model_package import Package
from contract.names import ColumnName, Digest, PersonName, RunName, WindowName
from contract.standing import Standing

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = [
    "MOST_MANDATE",
    "Mandate",
    "Ranges",
    "SignedMandate",
    "authority_digest",
    "make_signing_key",
    "mandate_for",
    "normal_key",
    "public_key_of",
    "ranges_question",
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


class Ranges(BaseModel):
    """A question for the ranges of these features, in order, and what the answer may cost."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    features: Annotated[tuple[ColumnName, ...], Field(min_length=1, max_length=1000), AfterValidator(_sorted)]
    epsilon: Epsilon


class Mandate(BaseModel):
    """What may be done.

    Attributes:
        authority: SHA-256 of the certificate of the federation's authority.
        scientist: who says so, as the server calls them.
        run: the run's name; of a standing one, how the names of its runs begin.
        experiment: the experiment's digest.
        code: the hash of the code that may run.
        private: whether the run carries noise.
        epsilon, delta: what a run may spend on a data block of its training rows.
        evaluation_epsilon: and on one of its held-out rows.
        windows: whose rows it may use, in order; empty for all, and where it is a standing one.
        expires: when it ends, by the site's clock.
        standing: what it covers of a schedule; None where it covers one run.
        ranges: the question that it covers, and nothing else; None where it covers trainings.
        package: of the model, where it comes as one: its version and the hash of its files.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    version: Literal[1, 2] = 1
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
    standing: Standing | None = None
    ranges: Ranges | None = None
    package: Package | None = None

    @model_validator(mode="after")
    def _covers_one_thing(self) -> Self:
        if self.standing is not None and (self.ranges is not None or self.windows):
            raise ValueError("a standing mandate covers a schedule alone")
        if self.version != _version(self.standing, self.ranges, self.package):
            raise ValueError("this version says something else")
        return self

    def canonical(self) -> bytes:
        """Its one form, which is signed; what version 1 does not have is left out."""
        import rfc8785

        return rfc8785.dumps(self.model_dump(mode="json", exclude_none=True))

    @property
    def digest(self) -> str:
        """SHA-256 of that form: its name in ledgers."""
        return hashlib.sha256(self.canonical()).hexdigest()


def _version(*later: Standing | Ranges | Package | None) -> Literal[1, 2]:
    """1 where it says nothing that version 1 does not know."""
    return 1 if all(one is None for one in later) else 2


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
    code: str,
    authority: str,
    scientist: str,
    expires: datetime,
    windows: tuple[str, ...] = (),
    covers: Standing | Ranges | None = None,
) -> Mandate:
    """The mandate of one run of an experiment: what the experiment says, and no more.

    Args:
        experiment: the plan.
        run: the run's name, or how those of a schedule's runs begin.
        code: the hash of the code that may run.
        authority: SHA-256 of the certificate of the federation's authority.
        scientist: who signs.
        expires: when it ends.
        windows: whose rows are used; empty for all.
        covers: the schedule or the question; None for a training.
    """
    privacy = experiment.privacy
    standing, ranges = (covers, None) if isinstance(covers, Standing) else (None, covers)
    if standing is not None:
        standing = standing.model_copy(update={"drift_epsilon": experiment.drift.epsilon})
    return Mandate(
        version=_version(standing, ranges, experiment.model.package),
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
        standing=standing,
        ranges=ranges,
        package=experiment.model.package,
    )


def ranges_question(features: Sequence[str], epsilon: float) -> Ranges:
    """A question for ranges as a mandate covers it.

    Raises:
        InputError: no site answers such a one.
    """
    try:
        return Ranges(features=tuple(sorted(features)), epsilon=epsilon)
    except ValidationError as exc:
        raise InputError(
            "no site answers such a question for ranges",
            where="ranges",
            remedy=f"Name each feature once, at an ε of {LEAST_EPSILON:g} or more",
        ) from exc


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
    from cryptography.x509 import InvalidVersion, load_pem_x509_certificate

    try:
        return load_pem_x509_certificate(authority.encode()).fingerprint(SHA256()).hex()
    except (ValueError, InvalidVersion) as exc:
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
