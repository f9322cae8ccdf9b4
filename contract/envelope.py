"""A signed statement in a DSSE envelope, which others can check with tools of their own.

DSSE (Dead Simple Signing Envelope, version 1, of the in-toto project) signs the type of what is
signed together with its bytes, so that a statement of one kind cannot pass as one of another:
the signature is over `DSSEv1 <length> <type> <length> <bytes>`. Signatures are ECDSA with the curve's
own hash (SHA-256 with P-256), in DER.
"""

from __future__ import annotations

import base64
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import BaseModel, Field

from contract.enrolment import key_fingerprint
from contract.errors import InputError

__all__ = ["PrivateKey", "PublicKey", "digest_for", "fingerprint", "openssh", "read", "sign", "verify"]

PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey


def digest_for(curve: ec.EllipticCurve) -> hashes.SHA256 | hashes.SHA384 | hashes.SHA512:
    """The hash that goes with a curve in ECDSA."""
    if curve.key_size <= 256:
        return hashes.SHA256()
    return hashes.SHA384() if curve.key_size <= 384 else hashes.SHA512()


def fingerprint(key: PublicKey) -> str:
    """Of a public key, as `ssh-keygen -l` prints it."""
    return key_fingerprint(openssh(key))


def openssh(key: PublicKey) -> str:
    """A public key as one line."""
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def sign(payload_type: str, payload: bytes, key: PrivateKey) -> dict[str, Any]:
    """The envelope, as JSON values.

    Args:
        payload_type: the kind of statement, a media type.
        payload: the statement.
        key: whose word it is.
    """
    signature = key.sign(_signed(payload_type, payload), ec.ECDSA(digest_for(key.curve)))
    return {
        "payloadType": payload_type,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": fingerprint(key.public_key()), "sig": base64.b64encode(signature).decode()}],
    }


def read(envelope: object) -> tuple[str, bytes]:
    """Type and bytes of a statement that nobody has checked yet.

    Raises:
        InputError: it is no envelope.
    """
    payload_type, payload, _ = _parts(envelope)
    return payload_type, payload


def verify(envelope: object, key: PublicKey) -> bytes:
    """The statement in an envelope that this key has signed; `payloadType` is signed with it.

    Raises:
        InputError: it is no envelope, or none of its signatures is the key's.
    """
    payload_type, payload, signatures = _parts(envelope)
    for signature in signatures:
        try:
            key.verify(signature, _signed(payload_type, payload), ec.ECDSA(digest_for(key.curve)))
        except InvalidSignature:
            continue
        return payload
    raise InputError(
        "the signature is not this key's, or what it signs was changed",
        remedy=f"The key's fingerprint is {fingerprint(key)}; ask whoever signed it for theirs",
    )


def _signed(payload_type: str, payload: bytes) -> bytes:
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


class _Signature(BaseModel):
    keyid: str = ""
    sig: str


class _Envelope(BaseModel):
    payloadType: str  # noqa: N815 - DSSE's own name
    payload: str
    signatures: tuple[_Signature, ...] = Field(max_length=16)


def _parts(envelope: object) -> tuple[str, bytes, list[bytes]]:
    try:
        read = _Envelope.model_validate(envelope)
        read.payloadType.encode()
        payload = base64.b64decode(read.payload, validate=True)
        signatures = [base64.b64decode(item.sig, validate=True) for item in read.signatures]
    except ValueError as exc:  # of pydantic, of base64, of a text that is none
        raise InputError(
            "not a DSSE envelope", remedy="Name a file that a site or a server has signed"
        ) from exc
    return read.payloadType, payload, signatures
