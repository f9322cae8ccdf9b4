"""A site's keys: made, read, shown by their fingerprint, and what is signed with them.

The *node key*, `keys/node.key` beside site.toml, is known to the server: it signs the site's requests, and
evidence. The *site key*, `site.key` in the storage folder, signs the ledger, and lives as long as the
ledger does: a node key may be replaced, and the past stays signed.
"""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from contract.envelope import PrivateKey, PublicKey, digest_for, fingerprint, openssh
from contract.errors import InputError, LedgerError
from contract.whole_file import replace_file, written_aside

__all__ = [
    "PrivateKey",
    "PublicKey",
    "Signer",
    "digest_for",
    "fingerprint",
    "make_node_key",
    "openssh",
    "private_pem",
    "read_bytes",
    "read_private_key",
    "read_public_key",
    "replace_secret",
    "site_signer",
    "verifies",
]


class Signer(Protocol):
    """What signs a ledger's entries and its anchor."""

    @property
    def public(self) -> str:
        """The public key, as one line in OpenSSH form."""

    def sign(self, content: bytes) -> bytes:
        """A signature of the content, which `verifies` takes."""


class _KeySigner:
    """Signs with an elliptic-curve key: ECDSA, DER, with the hash that goes with the curve."""

    def __init__(self, key: PrivateKey) -> None:
        self._key = key
        self.public = openssh(key.public_key())

    def sign(self, content: bytes) -> bytes:
        return self._key.sign(content, ec.ECDSA(digest_for(self._key.curve)))


def site_signer(folder: Path) -> Signer:
    """Signs with the site's own key, `site.key` in this storage folder; made on first use.

    Raises:
        LedgerError: the key is gone, though a ledger was signed with it.
        InputError: it cannot be read or made, or is no such key.
    """
    path = folder / "site.key"
    if not path.exists():
        if any(folder.glob("*.anchor")):
            raise LedgerError(
                "the key that signs the ledger is gone; nothing was released",
                where=str(path),
                remedy="Put it back from where it was kept; without it, remove ledger.anchor and run "
                "`tidegate site restore`, which counts the cap as spent",
            )
        _make_site_key(path)
    return _KeySigner(read_private_key(path, remedy="Put it back from where it was kept"))


def _make_site_key(path: Path) -> None:
    """Linked into place: the first of two writers wins."""
    key = _private_openssh(ec.generate_private_key(ec.SECP256R1()))
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with written_aside(path, key) as aside, suppress(FileExistsError):
            path.hardlink_to(aside)
    except OSError as exc:
        raise InputError(
            f"the site's key cannot be kept: {exc.strerror}",
            where=str(path),
            remedy="Make storage.folder writable for this user, on a disk with room",
        ) from exc


@lru_cache(maxsize=16)
def _public_key(line: str) -> PublicKey | None:
    try:
        key = serialization.load_ssh_public_key(line.encode())
    except (ValueError, NotImplementedError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, PublicKey) else None


def verifies(public: str, signature: bytes, content: bytes) -> bool:
    """Whether the signature of the content is that of the public key, a line in OpenSSH form."""
    key = _public_key(public)
    if key is None:
        return False
    try:
        key.verify(signature, content, ec.ECDSA(digest_for(key.curve)))
    except InvalidSignature:
        return False
    return True


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
    replace_file(private, _private_openssh(key))
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    )
    return private, public


def private_pem(key: PrivateKey) -> bytes:
    """A private key in PEM form, as TLS reads it: not OpenSSH's."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _private_openssh(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )


_NODE_KEY = "`tidegate site init` makes one beside site.toml, in keys/node.key; --key names another"


def read_private_key(path: Path, *, remedy: str = _NODE_KEY) -> PrivateKey:
    """A key of the site, in OpenSSH form.

    Raises:
        InputError: there is none, or it is not one that can sign here.
    """
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
    if b"PRIVATE KEY-----" in content:
        raise InputError(
            "a PRIVATE key, which must never leave its site",
            where=str(path),
            remedy="Name the site's node.pub. If this file has left the site, delete it: whoever has it can "
            "sign as that site, so the site must make a new key (`tidegate site init` in another folder)",
        )
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
        if isinstance(exc, PermissionError):
            remedy = "Make the file, and the folders that it is in, readable for this user"
        raise InputError(f"cannot be read: {exc.strerror}", where=str(path), remedy=remedy) from exc


def replace_secret(path: Path, content: bytes) -> None:
    """Write a file that this user alone may read, whole or not at all, in the place of one that is there.

    Raises:
        InputError: it cannot be written.
    """
    try:
        replace_file(path, content)
    except OSError as exc:
        raise InputError(
            f"cannot be written: {exc.strerror}",
            where=str(path),
            remedy="Make its folder writable for this user, on a disk with room",
        ) from exc
