"""A site's node key: made, read, shown by its fingerprint."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from contract.errors import InputError

__all__ = [
    "PrivateKey",
    "PublicKey",
    "fingerprint",
    "make_node_key",
    "openssh",
    "read_bytes",
    "read_private_key",
    "read_public_key",
]

PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey


def fingerprint(key: PublicKey) -> str:
    """Of a public key, as `ssh-keygen -l` prints it."""
    blob = base64.b64decode(openssh(key).split()[1])
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def openssh(key: PublicKey) -> str:
    """A public key as one line."""
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def make_node_key(folder: Path) -> tuple[Path, Path]:
    """Make a site's node key in OpenSSH form, or return the one that is there: (private, public).

    It signs every request of the site. Flower signs a SHA-256 digest, whatever the curve: a longer curve
    than P-256 adds no strength to that, and takes longer to check.
    """
    private, public = folder / "node.key", folder / "node.pub"
    if private.exists() and public.exists():
        return private, public
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    _write_secret(
        private,
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        ),
    )
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    )
    return private, public


def read_private_key(path: Path) -> PrivateKey:
    """The site's node key, in OpenSSH form.

    Raises:
        InputError: there is none, or it is not one that can sign here.
    """
    remedy = "`tidegate site init` makes one beside site.toml, in keys/node.key; --key names another"
    content = read_bytes(path, remedy=remedy)
    try:
        key = serialization.load_ssh_private_key(content, None)
    except (ValueError, TypeError, NotImplementedError, UnsupportedAlgorithm) as exc:
        # TypeError: it wants a password. NotImplementedError: a point in compressed form.
        raise InputError(
            "not an OpenSSH private key without a password", where=str(path), remedy=remedy
        ) from exc
    if not isinstance(key, PrivateKey):
        raise InputError("not an elliptic-curve key", where=str(path), remedy=remedy)
    return key


def read_public_key(path: Path) -> PublicKey:
    """A site's public key, in OpenSSH form or PEM.

    Raises:
        InputError: there is none, or it is not one of an elliptic curve.
    """
    remedy = "Name the site's node.pub, the file that its administrator gave to the operator"
    content = read_bytes(path, remedy=remedy)
    try:
        key = (
            serialization.load_pem_public_key(content)
            if b"-----BEGIN" in content
            else serialization.load_ssh_public_key(content)
        )
    except (ValueError, NotImplementedError, UnsupportedAlgorithm) as exc:
        raise InputError("not a public key", where=str(path), remedy=remedy) from exc
    if not isinstance(key, PublicKey):
        raise InputError("not an elliptic-curve key", where=str(path), remedy=remedy)
    return key


def read_bytes(path: Path, *, remedy: str) -> bytes:
    """The whole of a small file.

    Raises:
        InputError: it is missing, a folder or unreadable.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as exc:
        raise InputError("no such file", where=str(path), remedy=remedy) from exc
    except IsADirectoryError as exc:
        raise InputError("a folder, not a file", where=str(path), remedy="Name the file in it") from exc
    except OSError as exc:
        raise InputError(f"cannot be read: {exc.strerror}", where=str(path), remedy=remedy) from exc


def _write_secret(path: Path, content: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
