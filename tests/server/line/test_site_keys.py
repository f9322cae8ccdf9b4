"""The keys that sites give to the operator: one is admitted once, and what is none is refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from clients.keys import make_node_key
from contract.errors import AddressError, InputError
from server.federation import Federation, admit, dismiss
from server.line.flower import ControlClient
from server.line.processes import Processes
from server.line.site_keys import read_site_key
from server.settings import ServerSettings
from server.state.storage import open_state


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_site_key(path)
    assert caught.value.exit_code == 2
    assert str(caught.value).startswith(f"{path}: ")
    assert caught.value.remedy
    return str(caught.value)


def test_a_node_key_is_read(tmp_path: Path) -> None:
    _, public = make_node_key(tmp_path)
    assert isinstance(read_site_key(public), ec.EllipticCurvePublicKey)


def test_a_private_key_is_told_from_what_is_no_key(tmp_path: Path) -> None:
    private, _ = make_node_key(tmp_path)
    told = refusal(private)
    assert "a PRIVATE key, which must never leave its site" in told
    assert "the site must make a new key" in told
    pem = tmp_path / "rsa.pem"
    pem.write_bytes(
        rsa.generate_private_key(65537, 2048).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    assert "a PRIVATE key" in refusal(pem)


def test_what_is_no_public_key_of_a_site_is_named(tmp_path: Path) -> None:
    file = tmp_path / "node.pub"
    assert "no such file" in refusal(file)
    assert "a folder, not a file" in refusal(tmp_path)
    for content in (b"", b'name = "north"\n', bytes(range(256)), b"ecdsa-sha2-nistp256 AAAA north"):
        file.write_bytes(content)
        assert "not a public key in OpenSSH form" in refusal(file)
    assert "cannot be read: Not a directory" in refusal(file / "x")
    edwards = ed25519.Ed25519PrivateKey.generate().public_key()
    file.write_bytes(edwards.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH))
    assert "not an elliptic-curve key" in refusal(file)


def test_a_file_that_this_user_may_not_read_is_to_be_made_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", denied)
    assert "Permission denied. Make it readable" in refusal(tmp_path / "node.pub")


def test_a_server_whose_authority_is_gone_or_none_says_so(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    with pytest.raises(AddressError, match=r"ca\.pem: the server's certificate cannot be read: No such file"):
        ControlClient("127.0.0.1:1", authority, "")
    for content in (b"", b"patient,age\n1,2\n", bytes(range(256))):
        authority.write_bytes(content)
        with pytest.raises(AddressError, match=r"ca\.pem: not a certificate in PEM form"):
            ControlClient("127.0.0.1:1", authority, "")


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    home = tmp_path / "home"
    home.mkdir()
    settings = ServerSettings(
        home=home,
        state_url=f"sqlite:///{home / 'state.db'}",
        tracking_uri=f"sqlite:///{home / 'mlflow.db'}",
        artifact_root=home / "artifacts",
    )
    with Processes(logs=tmp_path / "logs") as processes:
        yield Federation(home=home, settings=settings, processes=processes, lasting=True)


@pytest.mark.e2e
def test_a_key_that_the_superlink_knows_is_named_by_its_site(federation: Federation, tmp_path: Path) -> None:
    control, settings = federation.start_server(), federation.settings
    _, south = make_node_key(tmp_path / "south")
    admit("south", south, control, settings)

    def refused(name: str) -> str:
        with pytest.raises(InputError) as caught:
            admit(name, south, control, settings)
        return str(caught.value)

    told = refused("north")
    assert "this key is admitted as 'south'" in told
    assert "Name the node.pub of 'north'" in told
    assert "admitted as 'south' already. Nothing is to be done" in refused("south")
    _, other = make_node_key(tmp_path / "other")
    with pytest.raises(
        InputError, match=r"'south' is admitted with another key.*tidegate server revoke south"
    ):
        admit("south", other, control, settings)
    with open_state(settings.state_url) as state:
        (before,) = state.admitted_sites(settings.federation)
        state.dismiss_site("south", federation=settings.federation)  # as if it had been cut off half way
        assert admit("south", south, control, settings) == before.node_id
        assert [site.key for site in state.admitted_sites(settings.federation)] == [before.key]
    dismiss("south", control, settings)
    assert admit("south", other, control, settings) != before.node_id
    dismiss("south", control, settings)
    assert "was admitted as 'south' and dismissed" in refused("south")
    control.close()
