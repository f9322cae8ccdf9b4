"""A statement of a model version, against who passes off other files, another version, or another key."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey

from contract.envelope import sign
from contract.errors import AddressError, InputError
from contract.model_statement import ModelStatement, Service, require_stated, sign_statement, verify_statement
from server.line.certificates import (
    ServerFiles,
    _authority,
    _builder,
    _signed,
    make_server_files,
    models_signer,
    sign_site,
)

NOW = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)  # a suite takes a while
SAID = ModelStatement(
    model="visits",
    version=3,
    files={"arrays.npz": "a" * 64, "experiment.json": "b" * 64, "passport.md": "c" * 64},
    signed=NOW,
    service=Service(number=12, decided=NOW),
)


@dataclass(frozen=True)
class Made:
    files: ServerFiles

    @property
    def authority(self) -> bytes:
        return self.files.authority.read_bytes()

    def signed(self, said: ModelStatement = SAID) -> dict[str, Any]:
        return sign_statement(said, *models_signer(self.files))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(make_server_files(tmp_path_factory.mktemp("certificates"), ["tidegate.example"], NOW))


def test_what_was_signed_is_what_is_read_and_other_tools_read_it_too(made: Made) -> None:
    """securesystemslib, which in-toto uses, checks the signature; the statement has in-toto's own form."""
    envelope = made.signed()
    assert verify_statement(envelope, made.authority, where="w") == SAID
    key, _ = models_signer(made.files)
    known = SSlibKey.from_crypto(key.public_key(), keyid=envelope["signatures"][0]["keyid"])
    read = Envelope.from_dict(json.loads(json.dumps(envelope)))
    assert read.verify([known], 1)
    statement = json.loads(read.payload)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert {"name": "arrays.npz", "digest": {"sha256": "a" * 64}} in statement["subject"]
    assert read.payload_type == "application/vnd.in-toto+json"


def _by_a_site(made: Made) -> dict[str, Any]:
    key = ec.generate_private_key(ec.SECP256R1())
    return sign_statement(SAID, key, sign_site(made.files, "north", key.public_key()))


def _by_the_server_s_key_for_tls(made: Made) -> dict[str, Any]:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(made.files.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return sign_statement(SAID, key, made.files.certificate.read_bytes())


def _by_another_federation(made: Made) -> dict[str, Any]:
    other = make_server_files(made.files.authority.parent / "other", ["tidegate.example"])
    return sign_statement(SAID, *models_signer(other))


def _by_a_key_beside_the_certificate(made: Made) -> dict[str, Any]:
    _, certificate = models_signer(made.files)
    return sign_statement(SAID, ec.generate_private_key(ec.SECP256R1()), certificate)


def _with_another_payload(made: Made) -> dict[str, Any]:
    envelope = made.signed()
    payload = base64.b64decode(envelope["payload"]).replace(b"a" * 64, b"d" * 64)
    return {**envelope, "payload": base64.b64encode(payload).decode()}


def _as_another_kind(made: Made) -> dict[str, Any]:
    key, certificate = models_signer(made.files)
    payload: dict[str, Any] = {"_type": "https://in-toto.io/Statement/v1", "predicateType": "x"}
    payload["subject"] = [{"name": "arrays.npz", "digest": {"sha256": "a" * 64}}]
    payload["predicate"] = SAID.model_dump(mode="json", exclude={"files"})
    envelope = sign("application/vnd.in-toto+json", json.dumps(payload).encode(), key)
    envelope["signatures"][0]["cert"] = certificate.decode()
    return envelope


def _of_no_file(made: Made) -> dict[str, Any]:
    return made.signed(SAID.model_copy(update={"files": {}}))


def _in_another_envelope(made: Made) -> dict[str, Any]:
    key, certificate = models_signer(made.files)
    envelope = sign("application/x-else", base64.b64decode(made.signed()["payload"]), key)
    envelope["signatures"][0]["cert"] = certificate.decode()
    return envelope


def _by_a_key_for_other_code(made: Made) -> dict[str, Any]:
    """Of an organisation whose authority signs more than models."""
    other = replace(made.files, models=made.files.models.with_name("x.pem"), models_key=made.files.key)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder("Installers", key.public_key(), timedelta(days=9), NOW)
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])
    return sign_statement(SAID, key, _signed(builder, usage, *_authority(other)))


def _after_its_certificate(made: Made) -> dict[str, Any]:
    return made.signed(SAID.model_copy(update={"signed": NOW + timedelta(days=4000)}))


def _without_a_certificate(made: Made) -> dict[str, Any]:
    envelope = made.signed()
    del envelope["signatures"][0]["cert"]
    return envelope


@pytest.mark.parametrize(
    ("forge", "words"),
    [
        (_by_a_site, "not one that speaks for models"),
        (_by_the_server_s_key_for_tls, "not one that speaks for models"),
        (_by_another_federation, "another authority has signed it"),
        (_by_a_key_beside_the_certificate, "the signature is not this key's"),
        (_with_another_payload, "the signature is not this key's"),
        (_as_another_kind, "it is of another kind"),
        (_of_no_file, "it says nothing of a model version"),
        (_in_another_envelope, "it is of another kind"),
        (_by_a_key_for_other_code, "not one that speaks for models"),
        (_after_its_certificate, "when the key's certificate did not hold"),
        (_without_a_certificate, "no certificate of the federation's"),
        (lambda _: [], "no certificate of the federation's"),
        (lambda _: {"signatures": [{"cert": 3}]}, "no certificate of the federation's"),
        (lambda _: None, "no certificate of the federation's"),
    ],
)
def test_what_another_signed_or_changed_is_refused(
    made: Made, forge: Callable[[Made], object], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        verify_statement(forge(made), made.authority, where="w")


@pytest.mark.parametrize(
    ("files", "version", "words"),
    [
        ({"arrays.npz": "d" * 64}, 3, "arrays.npz is not the file that it names"),
        ({"more.npz": "a" * 64}, 3, "more.npz is not the file"),
        ({"arrays.npz": "a" * 64}, 4, "it is of version 3 of 'visits'"),
    ],
)
def test_other_files_or_another_version_are_refused(files: dict[str, str], version: int, words: str) -> None:
    require_stated({"arrays.npz": "a" * 64}, SAID, model="visits", version=3, where="w")
    with pytest.raises(InputError, match=words):
        require_stated(files, SAID, model="visits", version=version, where="w")


def test_the_key_is_made_once_renewed_before_its_end_and_its_loss_is_a_sentence(tmp_path: Path) -> None:
    files = make_server_files(tmp_path, ["tidegate.example"])
    first = files.models.read_bytes()
    make_server_files(tmp_path, ["tidegate.example"])
    assert files.models.read_bytes() == first
    assert (files.models_key.stat().st_mode & 0o077, files.models_key.exists()) == (0, True)
    make_server_files(tmp_path, ["tidegate.example"], NOW + timedelta(days=310))
    assert files.models.read_bytes() != first
    files.models_key.unlink()
    with pytest.raises(AddressError, match="the key that signs models cannot be read"):
        models_signer(files)
    lost = files.models.read_bytes()
    make_server_files(tmp_path, ["tidegate.example"])  # makes both anew, as it does of two that are no pair
    assert files.models.read_bytes() != lost
    files.models_key.write_bytes(files.key.read_bytes())
    with pytest.raises(AddressError, match=r"not that of models\.pem"):
        models_signer(files)
    make_server_files(tmp_path, ["tidegate.example"])
    models_signer(files)


@pytest.mark.parametrize(
    ("key", "value"),
    [("model", "../../etc/cron.d/x"), ("model", "/etc/x"), ("model", "a b"), ("model", ""), ("version", -1)],
)
def test_a_statement_names_a_model_and_no_path(made: Made, key: str, value: object) -> None:
    """A site's inference service makes a folder of the name, and a hostile server has the key."""
    with pytest.raises(InputError, match="it says nothing of a model version"):
        verify_statement(made.signed(SAID.model_copy(update={key: value})), made.authority, where="w")
