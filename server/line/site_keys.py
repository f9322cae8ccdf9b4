"""The public key of a site, as the operator has it from the site's administrator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from contract.errors import InputError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

__all__ = ["read_site_key"]

_NAME_IT = "Name the site's node.pub, the file that its administrator gave to the operator"


def read_site_key(path: Path) -> EllipticCurvePublicKey:
    """A site's public key, one line in OpenSSH form.

    Raises:
        InputError: the file cannot be read, is a private key, or is no key with which a site can connect.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    content, where = _content(path), str(path)
    if b"PRIVATE KEY-----" in content:
        raise InputError(
            "a PRIVATE key, which must never leave its site",
            where=where,
            remedy="Name the site's node.pub. If this file has left the site, delete it: whoever has it can "
            "answer as that site, so the site must make a new key (`tidegate site init` in another folder)",
        )
    try:
        key = load_ssh_public_key(content)
    except (ValueError, NotImplementedError, UnsupportedAlgorithm) as exc:
        raise InputError("not a public key in OpenSSH form", where=where, remedy=_NAME_IT) from exc
    if not isinstance(key, EllipticCurvePublicKey):
        raise InputError("not an elliptic-curve key", where=where, remedy=_NAME_IT)
    return key


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as exc:
        raise InputError("no such file", where=str(path), remedy=_NAME_IT) from exc
    except IsADirectoryError as exc:
        raise InputError("a folder, not a file", where=str(path), remedy="Name the node.pub in it") from exc
    except OSError as exc:
        remedy = "Make it readable for this user" if isinstance(exc, PermissionError) else _NAME_IT
        raise InputError(f"cannot be read: {exc.strerror}", where=str(path), remedy=remedy) from exc
