"""The certificates of a federation: its authority's, the server's, and those of its sites.

Made with the `cryptography` library. The authority is the federation's own, made once and kept: its key stays
in the operator's folder, and signs there alone. An organisation with its own authority puts its files in the
place of these.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from contract.errors import AddressError
from contract.model_statement import MODELS_NAME
from contract.whole_file import replace_file

__all__ = [
    "SITE_VALID",
    "ServerFiles",
    "authority_fingerprint",
    "ending",
    "make_server_files",
    "models_signer",
    "require_pair",
    "server_files",
    "sign_site",
]

_AUTHORITY_VALID = timedelta(days=3650)
_SERVER_VALID = timedelta(days=365)
_MODELS_VALID = timedelta(days=365)
SITE_VALID = timedelta(days=180)
"""Of a site's certificate, which its agent renews when half of that is over."""
_RENEWED_BEFORE = timedelta(days=60)
"""Its end, by which the server's certificate is made anew."""
_WARNED_BEFORE = timedelta(days=30)
"""The end of a certificate that nothing here renews."""


@dataclass(frozen=True, kw_only=True)
class ServerFiles:
    """Paths of PEM files.

    Attributes:
        authority: what everybody checks certificates against.
        authority_key: signs them; not there where an organisation's own authority does.
        certificate: what the server shows.
        key: of that certificate.
        models: the certificate of the key that signs statements of model versions.
        models_key: that key.
    """

    authority: Path
    authority_key: Path
    certificate: Path
    key: Path
    models: Path
    models_key: Path


def server_files(folder: Path) -> ServerFiles:
    """Where the certificates in this folder are; nothing is read or made."""
    return ServerFiles(
        authority=folder / "ca.pem",
        authority_key=folder / "ca.key",
        certificate=folder / "server.pem",
        key=folder / "server.key",
        models=folder / "models.pem",
        models_key=folder / "models.key",
    )


def make_server_files(folder: Path, hosts: Sequence[str], now: datetime | None = None) -> ServerFiles:
    """Make what is missing: the authority, and a server certificate for these hosts.

    A certificate that ends within two months, or is for other hosts, is made anew where the authority's key
    is there: it is written over the old one, and a server that runs shows it from then on.

    Raises:
        AddressError: what is there is no certificate, or the authority's key cannot be read.
    """
    now = now or datetime.now(UTC)
    files = server_files(folder)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not files.authority.exists():
        _make_authority(files, now)
    _read(files.authority, remedy="Put the federation's authority (ca.pem) back from the backup")
    is_there = files.certificate.exists() and files.key.exists()
    if not is_there or (files.authority_key.exists() and _is_to_renew(files.certificate, hosts, now)):
        _make_certificate(files, hosts, now)
    if files.authority_key.exists() and (_ends_soon(files.models, now) or not _is_pair(files)):
        _make_models_key(files, now)
    return files


def _is_pair(files: ServerFiles) -> bool:
    """Whether the key that signs models is that of its certificate."""
    try:
        models_signer(files)
    except AddressError:
        return False
    return True


def models_signer(files: ServerFiles) -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    """The key that signs statements of model versions, and its certificate in PEM form.

    Raises:
        AddressError: they are not there, or are none.
    """
    remedy = (
        "`tidegate server up` makes it with models.pem; where an authority of your own signs, have it sign "
        f"one for code signing, of an elliptic curve and for the name '{MODELS_NAME}'"
    )
    try:
        key = serialization.load_pem_private_key(files.models_key.read_bytes(), None)
        certificate = files.models.read_bytes()
        public = x509.load_pem_x509_certificate(certificate).public_key()
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as exc:
        words = exc.strerror if isinstance(exc, OSError) else "there is none in it without a password"
        raise AddressError(
            f"the key that signs models cannot be read: {words}", where=str(files.models_key), remedy=remedy
        ) from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != public:
        raise AddressError(
            "the key that signs models is not that of models.pem", where=str(files.models_key), remedy=remedy
        )
    return key, certificate


def require_pair(files: ServerFiles) -> None:
    """See that the server can show its certificate.

    Raises:
        AddressError: the key is not that certificate's, or one of the two is none.
    """
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.certificate, files.key)
    except ssl.SSLError as exc:
        raise AddressError(
            f"this is not the key of the certificate in {files.certificate.name}",
            where=str(files.key),
            remedy="Put both back from the backup, or remove both: `tidegate server up` then makes them anew",
        ) from exc


def authority_fingerprint(authority: bytes) -> bytes:
    """The SHA-256 of an authority's certificate, by which a site knows it before it has it.

    Args:
        authority: in PEM form.
    """
    return x509.load_pem_x509_certificate(authority).fingerprint(hashes.SHA256())


def sign_site(
    files: ServerFiles, name: str, key: ec.EllipticCurvePublicKey, now: datetime | None = None
) -> bytes:
    """A certificate with which the site of that name may come in, in PEM form.

    Raises:
        AddressError: the authority's key is not here.
    """
    issuer, issuer_key = _authority(files)
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    now = now or datetime.now(UTC)
    return _signed(_builder(name, key, SITE_VALID, now), usage, issuer, issuer_key)


def ending(files: ServerFiles, now: datetime | None = None) -> tuple[str, ...]:
    """A sentence for each certificate that ends within a month and that nothing here renews."""
    now = now or datetime.now(UTC)
    kept = {"the federation's authority": files.authority}
    if not files.authority_key.exists():  # an organisation's own authority signs
        kept["the server's certificate"] = files.certificate
        kept["the certificate of the key that signs models"] = files.models
    said = []
    for what, path in kept.items():
        if path.exists():
            end = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
            if end - now < _WARNED_BEFORE:
                words = "has ended" if end <= now else "ends"
                said.append(f"{what} ({path}) {words} on {end:%Y-%m-%d}, and nothing here renews it")
    return tuple(said)


def _authority(files: ServerFiles) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        key = serialization.load_pem_private_key(files.authority_key.read_bytes(), None)
        authority = x509.load_pem_x509_certificate(files.authority.read_bytes())
    except (OSError, ValueError) as exc:
        words = exc.strerror if isinstance(exc, OSError) else "there is none in it"
        raise AddressError(
            f"the key of the federation's authority cannot be read: {words}",
            where=str(files.authority_key),
            remedy="Put it back from the backup. Without it no site can be let in, and all that were need "
            "new certificates: remove the folder's files, and `tidegate server up` makes a new authority",
        ) from exc
    return authority, cast(ec.EllipticCurvePrivateKey, key)


def _make_authority(files: ServerFiles, now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    builder = _builder("Tidegate federation authority", key.public_key(), _AUTHORITY_VALID, now)
    authority = (
        builder.issuer_name(_name("Tidegate federation authority"))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )
    _write_key(files.authority_key, key)
    replace_file(files.authority, authority.public_bytes(serialization.Encoding.PEM))


def _make_certificate(files: ServerFiles, hosts: Sequence[str], now: datetime) -> None:
    """A key of its own each time, in the same file: who reads the two in between tries again."""
    issuer, issuer_key = _authority(files)
    key = ec.generate_private_key(ec.SECP384R1())
    builder = _builder(hosts[0], key.public_key(), _SERVER_VALID, now)
    builder = builder.add_extension(
        x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False
    )
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    _write_key(files.key, key)
    replace_file(files.certificate, _signed(builder, usage, issuer, issuer_key))


def _make_models_key(files: ServerFiles, now: datetime) -> None:
    issuer, issuer_key = _authority(files)
    key = ec.generate_private_key(ec.SECP256R1())
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])
    builder = _builder(MODELS_NAME, key.public_key(), _MODELS_VALID, now)
    _write_key(files.models_key, key)
    replace_file(files.models, _signed(builder, usage, issuer, issuer_key))


def _ends_soon(path: Path, now: datetime) -> bool:
    """Whether a certificate is to be made anew; one that is not there is."""
    if not path.exists():
        return True
    certificate = _read(path, remedy="Remove it: `tidegate server up` then makes another")
    return certificate.not_valid_after_utc - now < _RENEWED_BEFORE


def _read(path: Path, *, remedy: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as exc:
        raise AddressError("this file holds no certificate", where=str(path), remedy=remedy) from exc


def _is_to_renew(path: Path, hosts: Sequence[str], now: datetime) -> bool:
    certificate = _read(path, remedy="Remove it: `tidegate server up` then makes another")
    try:
        named = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return True
    if set(named) != {_host(host) for host in hosts}:
        return True
    return certificate.not_valid_after_utc - now < _RENEWED_BEFORE


def _builder(
    name: str, key: ec.EllipticCurvePublicKey, valid: timedelta, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + valid)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _signed(
    builder: x509.CertificateBuilder,
    usage: x509.ExtendedKeyUsage,
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
) -> bytes:
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    certificate = (
        builder.issuer_name(issuer.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=False)
        .add_extension(identifier, critical=False)
        .sign(issuer_key, hashes.SHA384())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    content = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    replace_file(path, content)
