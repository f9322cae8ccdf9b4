"""What a server says of a model version, signed with the federation's key: which files are the version's.

An in-toto statement (version 1) in a DSSE envelope (`contract.envelope`). Its subjects are the version's
files with their SHA-256: arrays, experiment and passport. The predicate says of which model and version, and,
where the version is in service, by which decision: a later decision has a larger number, so that an older
version which is offered as a new one is known by it. Beside the signature lies the certificate of the key
that made it, which the federation's authority has signed for this use alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from contract.envelope import PrivateKey, read, sign, verify
from contract.errors import InputError
from contract.names import ExperimentName

__all__ = [
    "MODELS_NAME",
    "STATEMENT_FILE",
    "ModelStatement",
    "Service",
    "require_stated",
    "sign_statement",
    "verify_statement",
]

STATEMENT_FILE = "statement.dsse.json"
MODELS_NAME = "Tidegate models"
"""The name that the certificate is for: an organisation's authority signs for other code too."""
_PAYLOAD = "application/vnd.in-toto+json"
_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://tidegate.example/model-version/v1"
_REMEDY = "Do not use it; fetch the version again, and ask the operator if it stays so"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Service(_Frozen):
    """By which decision a version is in service.

    Attributes:
        number: of the decision; that of a later one is larger.
        decided: when.
    """

    number: int
    decided: AwareDatetime


class ModelStatement(_Frozen):
    """What is said of a version.

    Attributes:
        files: SHA-256 by the file's name.
        signed: when.
        service: None where the version is not in service.
    """

    model: ExperimentName  # it becomes a folder's name at a site
    version: int = Field(ge=1, le=2**31)
    files: Mapping[str, str] = Field(min_length=1, max_length=100)
    signed: AwareDatetime
    service: Service | None


def sign_statement(statement: ModelStatement, key: PrivateKey, certificate: bytes) -> dict[str, Any]:
    """The envelope, as JSON values.

    Args:
        statement: what is said.
        key: of the certificate.
        certificate: in PEM form; the authority's signature on it makes the key's word the federation's.
    """
    said = statement.model_dump(mode="json")
    subjects = [{"name": name, "digest": {"sha256": value}} for name, value in said.pop("files").items()]
    payload = {"_type": _TYPE, "subject": subjects, "predicateType": _PREDICATE, "predicate": said}
    envelope = sign(_PAYLOAD, json.dumps(payload, sort_keys=True).encode(), key)
    envelope["signatures"][0]["cert"] = certificate.decode()
    return envelope


def verify_statement(envelope: object, authority: bytes, *, where: str) -> ModelStatement:
    """What a server has said of a version; the authority's word stands behind it.

    Args:
        envelope: as JSON values.
        authority: the federation's certificate, in PEM form.
        where: what is named in an error.

    Raises:
        InputError: it is no such statement, the signature is another's, or the key was not for this.
    """
    certificate = _certificate(envelope, authority, where)
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise _refused("its key is of another kind", where)
    payload = verify(envelope, key)
    if read(envelope)[0] != _PAYLOAD:
        raise _refused("it is of another kind", where)
    try:
        said = json.loads(payload)
        kind = said["_type"], said["predicateType"]
        files = {str(one["name"]): str(one["digest"]["sha256"]) for one in said["subject"]}
        statement = ModelStatement.model_validate({**said["predicate"], "files": files})
    except (ValueError, KeyError, TypeError, RecursionError, ValidationError) as exc:
        raise _refused("it says nothing of a model version", where) from exc
    if kind != (_TYPE, _PREDICATE):
        raise _refused("it is of another kind", where)
    if not certificate.not_valid_before_utc <= statement.signed <= certificate.not_valid_after_utc:
        raise _refused("it was signed when the key's certificate did not hold", where)
    return statement


def require_stated(
    files: Mapping[str, str], statement: ModelStatement, *, model: str, version: int, where: str
) -> None:
    """Refuse files that are not those of the version.

    Args:
        files: SHA-256 by name, of what is there.
        statement: that was verified.
        model: the version's.
        version: it.
        where: what is named in an error.

    Raises:
        InputError: the statement is of another version, or a file is another, or is not named in it.
    """
    if (statement.model, statement.version) != (model, version):
        raise _refused(f"it is of version {statement.version} of '{statement.model}'", where)
    for name, value in files.items():
        if statement.files.get(name) != value:
            raise _refused(f"{name} is not the file that it names", where)


def _certificate(envelope: object, authority: bytes, where: str) -> x509.Certificate:
    try:
        shown = envelope["signatures"][0]["cert"]  # type: ignore[index]
        certificate = x509.load_pem_x509_certificate(shown.encode())
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority))
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except InvalidSignature as exc:
        raise _refused("another authority has signed it", where) from exc
    except (LookupError, TypeError, ValueError, AttributeError, x509.ExtensionNotFound) as exc:
        raise _refused("it shows no certificate of the federation's", where) from exc
    named = [one.value for one in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if ExtendedKeyUsageOID.CODE_SIGNING not in usage or named != [MODELS_NAME]:
        raise _refused("its key is not one that speaks for models", where)
    return certificate


def _refused(why: str, where: str) -> InputError:
    return InputError(f"the statement of the model does not hold: {why}", where=where, remedy=_REMEDY)


def now() -> datetime:
    """The present moment, to the second: what is signed is read by people too."""
    return datetime.now(UTC).replace(microsecond=0)
