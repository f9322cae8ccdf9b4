"""A joined site's certificate: renewed in time, shown from then on, and a fault in it is a sentence."""

from __future__ import annotations

import http.server
import json
import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from clients.cli.join import standing, way_for
from clients.keys import PrivateKey, make_node_key, read_private_key
from clients.line import enrolment, flower
from clients.line.enrolment import Joined, JoiningSite, NotNowError, RefusedError, joined, renew, renew_on
from contract.card import Card
from contract.enrolment import Token
from contract.errors import AddressError, InputError
from server.line.certificates import ServerFiles, authority_fingerprint, make_server_files, sign_site

Answer = tuple[int, Any]


@dataclass
class Server:
    """Answers whatever a test says, to whoever shows a certificate or none."""

    files: ServerFiles
    address: str = ""
    answers: dict[str, Answer] = field(default_factory=dict)
    seen: list[tuple[str, str | None]] = field(default_factory=list)

    def joining(self, keys: Path, key: PrivateKey) -> JoiningSite:
        token = Token.make(self.address, authority_fingerprint(self.files.authority.read_bytes()))
        return JoiningSite(token=token, name="north", key=key, stated_rows=50, card=None, keys=keys)

    def signed(self, key: PrivateKey, days: float, name: str = "north") -> str:
        """A certificate that is so many days old."""
        began = datetime.now(UTC) - timedelta(days=days)
        return sign_site(self.files, name, key.public_key(), now=began).decode()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(make_server_files(tmp_path / "server", ("127.0.0.1",)))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            shown = self.connection.getpeercert(binary_form=True)  # type: ignore[attr-defined]
            serial = None if shown is None else str(x509.load_der_x509_certificate(shown).serial_number)
            what = self.path.rpartition("/")[2]
            found.seen.append((what, serial))
            status, content = found.answers.get(what, (404, ""))
            body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(found.files.certificate, found.files.key)
    context.load_verify_locations(found.files.authority)
    context.verify_mode = ssl.CERT_OPTIONAL

    class Quiet(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None: ...  # a site that hangs up is what a test is about

    listening = Quiet(("127.0.0.1", 0), Handler)
    listening.socket = context.wrap_socket(listening.socket, server_side=True)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    found.address = f"127.0.0.1:{listening.server_port}"
    yield found
    listening.shutdown()
    listening.server_close()


@pytest.fixture
def key(tmp_path: Path) -> PrivateKey:
    return read_private_key(make_node_key(tmp_path / "keys")[0])


def keep(joining: JoiningSite, authority: x509.Certificate, certificate: str) -> None:
    joining.keep(authority, joining.own(authority, certificate))


@pytest.fixture
def site(server: Server, key: PrivateKey, tmp_path: Path) -> Joined:
    """One whose certificate is 120 days old."""
    authority = x509.load_pem_x509_certificate(server.files.authority.read_bytes())
    keep(server.joining(tmp_path / "keys", key), authority, server.signed(key, 120))
    found = joined(tmp_path / "site.toml")
    assert found is not None
    return found


def test_a_certificate_is_renewed_when_half_of_its_time_is_over(
    server: Server, site: Joined, key: PrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrolment, "_PAUSE", 0.01)
    old, stop = site.shows.serial_number, threading.Event()
    server.answers["renew"] = 200, {"state": "waiting"}
    with pytest.raises(NotNowError, match="tries again in six hours"):
        renew(site, key, stop)
    assert {serial for _, serial in server.seen} == {str(old)}
    server.answers["renew"] = 200, {"state": "confirmed", "certificate": server.signed(key, 0)}
    assert renew(site, key, stop)
    assert site.shows.serial_number != old
    assert b"PRIVATE KEY" in site.certificate.read_bytes()
    asked = len(server.seen)
    assert not renew(site, key, stop)
    assert len(server.seen) == asked  # half of its time is not over: nobody is asked


def test_a_card_that_is_too_long_is_not_left_out_unsaid(
    server: Server, key: PrivateKey, tmp_path: Path
) -> None:
    columns = [{"name": f"column {n}", "kind": "numeric", "meaning": "m" * 60} for n in range(600)]
    asking = server.joining(tmp_path / "keys", key)
    authority = x509.load_pem_x509_certificate(server.files.authority.read_bytes())
    server.answers["join"] = (200, {"state": "waiting", "certificate": None})
    with pytest.raises(InputError, match=r"the card is too long: .* 65,536") as refused:
        replace(asking, card=Card.model_validate({"columns": columns})).ask(authority)
    assert "--without-card" in refused.value.remedy
    assert server.seen == []
    assert replace(asking, card=Card.model_validate({"columns": columns[:300]})).ask(authority)
    assert [what for what, _ in server.seen] == ["join"]


def test_another_s_certificate_is_not_taken(
    server: Server, site: Joined, key: PrivateKey, tmp_path: Path
) -> None:
    other = read_private_key(make_node_key(tmp_path / "other")[0])
    elsewhere = make_server_files(tmp_path / "elsewhere", ("127.0.0.1",))
    before = site.certificate.read_bytes()
    for certificate in (
        server.signed(other, 0),
        server.signed(key, 0, "south"),
        sign_site(elsewhere, "north", key.public_key()).decode(),
        server.files.certificate.read_text(),
        "-----BEGIN CERTIFICATE-----\n",
        "",
    ):
        server.answers["renew"] = 200, {"state": "confirmed", "certificate": certificate}
        with pytest.raises(AddressError):
            renew(site, key, threading.Event())
    assert site.certificate.read_bytes() == before


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        ((403, "no \x1b[2J"), RefusedError, r"no \\x1b\[2J"),
        ((429, "wait"), NotNowError, "wait"),
        ((503, ""), NotNowError, "cannot answer just now"),
        ((404, ""), AddressError, "no gateway"),
        ((302, ""), AddressError, "no gateway"),
        ((200, "[]"), AddressError, "no gateway"),
        ((200, {"state": "else"}), AddressError, "no gateway"),
        ((200, "x" * 2**17), AddressError, "no gateway"),
    ],
)
def test_what_a_server_may_answer_is_a_sentence(
    server: Server, site: Joined, key: PrivateKey, answer: Answer, error: type[Exception], words: str
) -> None:
    server.answers["renew"] = answer
    with pytest.raises(error, match=words):
        renew(site, key, threading.Event())


def test_a_renewal_that_fails_is_a_warning_and_tried_again(
    server: Server,
    site: Joined,
    key: PrivateKey,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(enrolment, "_RENEWED_EVERY", 0.05)
    stop, renewed = threading.Event(), threading.Event()
    server.answers["renew"] = 503, ""
    arguments = (site, tmp_path / "keys" / "node.key", stop, renewed.set)
    with caplog.at_level(logging.INFO, "tidegate.agent"):
        thread = threading.Thread(target=renew_on, args=arguments)
        thread.start()
        while not caplog.records and thread.is_alive():
            stop.wait(0.01)
        server.answers["renew"] = 200, {"state": "confirmed", "certificate": server.signed(key, 0)}
        assert renewed.wait(300)
        stop.set()
        thread.join(300)
    assert not thread.is_alive()
    assert caplog.records[0].levelname == "WARNING"
    assert "could not be renewed" in caplog.records[0].getMessage()
    assert "is renewed, until" in caplog.text


def test_a_connection_that_stands_shows_the_renewed_certificate(
    server: Server, site: Joined, key: PrivateKey
) -> None:
    from flwr.proto.fleet_pb2 import DeactivateNodeRequest
    from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor

    authority = site.authority.read_bytes()
    client: Any = flower._client_that_shows(site.certificate, []).from_server_address(
        server.address,
        False,
        authority,
        interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperNode")],
    )
    old = site.shows.serial_number
    with client:
        for _ in range(2):
            with pytest.raises(Exception, match="404"):
                client.DeactivateNode(DeactivateNodeRequest(node_id=1))
            server.answers["renew"] = 200, {"state": "confirmed", "certificate": server.signed(key, 0)}
            renew(site, key, threading.Event())
            flower.show_renewed(site.certificate)
    shown = [serial for what, serial in server.seen if what != "renew"]
    assert shown == [str(old), str(site.shows.serial_number)]
    assert shown[0] != shown[1]


def test_what_is_damaged_is_a_sentence(site: Joined, key: PrivateKey, tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    assert way_for(file, None, None).certificate == site.certificate
    with pytest.raises(InputError, match="named 'south', and was let in as 'north'"):
        site.require("south")
    with pytest.raises(InputError, match="for another key"):
        site.require_key(read_private_key(make_node_key(tmp_path / "other")[0]))
    whole = site.certificate.read_bytes()
    other = read_private_key(make_node_key(tmp_path / "third")[0]).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for content, words in (
        (b"", "holds no certificate"),
        (whole[: whole.index(b"-----BEGIN PRIVATE")] + other, "do not go together"),
        (whole[: whole.index(b"-----BEGIN PRIVATE")], "do not go together"),
    ):
        site.certificate.write_bytes(content)
        with pytest.raises(InputError, match=words):
            _ = site.tls
    site.certificate.unlink()
    with pytest.raises(InputError, match="no such file"):
        standing(file)


def test_a_proxy_of_the_environment_is_used(
    server: Server, key: PrivateKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
    monkeypatch.setenv("no_proxy", "")
    asked: list[bytes] = []

    def serve() -> None:
        with proxy, proxy.accept()[0] as line:
            asked.append(line.recv(1000))
            line.sendall(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    token = Token.make("tidegate.invalid:9443", bytes(32))
    site = JoiningSite(token=token, name="north", key=key, stated_rows=1, card=None, keys=tmp_path)
    with pytest.raises(AddressError, match="through the proxy"):
        site.authority()
    thread.join(300)
    assert asked[0].startswith(b"CONNECT tidegate.invalid:9443 ")
    # the server on this machine is asked without
    server.answers["authority"] = 200, {"authority": server.files.authority.read_text()}
    assert server.joining(tmp_path, key).authority().subject


VERSION, CURVE = bytes.fromhex("a003020102"), bytes.fromhex("2a8648ce3d030107")
"""In a certificate's bytes: that it is of the third version, and that its key is on the curve P-256."""


def der(tag: int, content: bytes) -> bytes:
    size = len(content).to_bytes(2, "big")
    return bytes([tag]) + (size[1:] if len(content) < 128 else b"\x82" + size) + content


def forged(server: Server, certificate: str, before: bytes, after: bytes) -> str:
    """A certificate that says something else, and which the authority has signed all the same."""
    found = x509.load_pem_x509_certificate(certificate.encode())
    authority = serialization.load_pem_private_key(server.files.authority_key.read_bytes(), None)
    assert isinstance(authority, ec.EllipticCurvePrivateKey)
    said = found.tbs_certificate_bytes.replace(before, after)
    assert said != found.tbs_certificate_bytes
    whole = found.public_bytes(serialization.Encoding.DER)
    kind = whole[whole.index(found.tbs_certificate_bytes) + len(said) :]
    algorithm = kind[: 2 + kind[1]]
    assert isinstance(found.signature_hash_algorithm, hashes.HashAlgorithm)
    signature = authority.sign(said, ec.ECDSA(found.signature_hash_algorithm))
    return ssl.DER_cert_to_PEM_cert(der(0x30, said + algorithm + der(0x03, b"\0" + signature)))


def test_an_authority_that_nobody_can_read_is_a_sentence(
    server: Server, key: PrivateKey, tmp_path: Path
) -> None:
    """Whoever stands between may send it: its fingerprint is looked at once it is read."""
    server.answers["authority"] = (
        200,
        {"authority": forged(server, server.files.authority.read_text(), VERSION, VERSION[:-1] + b"\x05")},
    )
    with pytest.raises(AddressError, match="no gateway of a federation"):
        server.joining(tmp_path, key).authority()


@pytest.mark.parametrize(
    ("before", "after"),
    [(VERSION, VERSION[:-1] + b"\x05"), (CURVE, CURVE[:-1] + b"\x09"), (b"north", b"n\xffrth")],
    ids=["of no version", "for a key of no curve", "for no name"],
)
def test_a_certificate_that_nobody_can_read_is_a_sentence_and_not_kept(
    server: Server, site: Joined, key: PrivateKey, tmp_path: Path, before: bytes, after: bytes
) -> None:
    kept = site.certificate.read_bytes()
    lie = forged(server, server.signed(key, 0), before, after)
    authority = x509.load_pem_x509_certificate(server.files.authority.read_bytes())
    with pytest.raises(AddressError):
        server.joining(tmp_path / "keys", key).own(authority, lie)
    server.answers["renew"] = 200, {"state": "confirmed", "certificate": lie}
    with pytest.raises(AddressError):
        renew(site, key, threading.Event())
    assert site.certificate.read_bytes() == kept


@pytest.mark.parametrize(("days", "words"), [(0, ""), (155, "has not renewed it"), (181, "new token")])
def test_how_long_the_certificate_is_valid_is_said(
    server: Server, key: PrivateKey, tmp_path: Path, days: int, words: str
) -> None:
    authority = x509.load_pem_x509_certificate(server.files.authority.read_bytes())
    keep(server.joining(tmp_path / "keys", key), authority, server.signed(key, days))
    stands = standing(tmp_path / "site.toml")
    assert stands is not None
    assert words in stands.remedy
    assert bool(stands.remedy) == bool(words)
    assert stands.has_ended == (days > 180)
    assert ("ended" in stands.words) == (days > 180)
