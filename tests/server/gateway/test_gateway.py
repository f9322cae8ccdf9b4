"""The gateway, asked over TLS by sites, strangers and impostors. Behind it an app answers anything."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER

from server.gateway import connections, room, visitors
from server.gateway.tls import Shown
from server.line.certificates import make_server_files, sign_site
from tests.server.gateway.conftest import FLEET, Gateway, Site


def test_a_site_comes_in_under_its_name(gateway: Gateway, north: tuple[Site, Path]) -> None:
    site, certificate = north
    with gateway.client(certificate) as client:
        answer = client.post(FLEET, content=b"12345", headers=site.header)
    assert (answer.status_code, answer.json()) == (200, {"site": "north", "bytes": 5})


PATHS = [
    "/v1/control/start-run",
    "/v1/runtime/acquire-task",
    "/v1/fleet",
    "/",
    "/docs",
    "/openapi.json",
    "/v1/responses",
    "//v1/fleet/pull-messages",
    "/V1/fleet/pull-messages",
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("is_site", [False, True])
def test_nothing_else_is_there_for_anybody(
    gateway: Gateway, north: tuple[Site, Path], path: str, is_site: bool
) -> None:
    site, certificate = north
    with gateway.client(certificate if is_site else None) as client:
        for method in ("POST", "GET", "PUT", "DELETE", "OPTIONS"):
            answer = client.request(method, "/", headers=site.header, extensions={"target": path.encode()})
            assert answer.status_code == 404
        assert client.get(FLEET, headers=site.header).status_code == 404
        assert client.post("/health").status_code == 404
    assert gateway.seen == []


def test_a_stranger_has_the_health_page_and_enrolment_and_no_more(
    gateway: Gateway, north: tuple[Site, Path]
) -> None:
    site, _ = north
    with gateway.client() as client:
        assert client.get("/health").json() == {"site": None, "bytes": 0}
        assert client.post("/v1/enrolment/join", content=b"{}").json() == {"site": None, "bytes": 2}
        refused = client.post(FLEET, content=b"x" * 1000, headers=site.header)
        assert refused.status_code == 401
        assert "tidegate site join" in refused.text
        assert client.post("/v1/enrolment/join", content=b"x" * (2**16 + 1)).status_code == 413
        assert client.post("/v1/enrolment/join", content=iter([b"{}"])).status_code == 411
    assert gateway.seen == ["/health", "/v1/enrolment/join"]


def test_a_site_with_another_s_key_comes_in_as_nobody(gateway: Gateway, north: tuple[Site, Path]) -> None:
    _, certificate = north
    other = Site(certificate.parent, "south")
    with gateway.client(certificate) as client:
        for headers in (other.header, {}, {FLEET_HTTP_PUBLIC_KEY_HEADER: "no base64!"}):
            answer = client.post(FLEET, content=b"x", headers=headers)
            assert answer.status_code == 401
            assert "certificate of 'north' is for another key" in answer.text
    assert gateway.seen == []


def _forged(gateway: Gateway, kind: str, site: Site, folder: Path) -> bytes:
    """A certificate that no site of this federation has."""
    if kind == "another authority's":
        return sign_site(make_server_files(folder / "other", ("127.0.0.1",)), "north", site.key.public_key())
    if kind == "the server's own":
        return gateway.files.certificate.read_bytes()
    authority = x509.load_pem_x509_certificate(gateway.files.authority.read_bytes())
    signs: ec.EllipticCurvePrivateKey = serialization.load_pem_private_key(
        gateway.files.authority_key.read_bytes(), None
    )  # type: ignore[assignment]
    now, usage = datetime.now(UTC), ExtendedKeyUsageOID.CLIENT_AUTH
    begins, ends = now - timedelta(days=2), now + timedelta(days=2)
    if kind == "one that has ended":
        ends = now - timedelta(days=1)
    elif kind == "one that has not begun":
        begins = now + timedelta(days=1)
    elif kind == "one for servers":
        usage = ExtendedKeyUsageOID.SERVER_AUTH
    elif kind == "one that it signed itself":
        signs = site.key
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "north")]))
        .issuer_name(authority.subject)
        .public_key(site.key.public_key())
        .serial_number(7)
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .sign(signs, hashes.SHA384())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize(
    "kind",
    [
        "another authority's",
        "the server's own",
        "one that has ended",
        "one that has not begun",
        "one for servers",
        "one that it signed itself",
    ],
)
def test_tls_refuses_a_certificate_that_is_none_of_a_site(
    gateway: Gateway, tmp_path: Path, kind: str
) -> None:
    site = Site(tmp_path, "north")
    if kind == "the server's own":
        key = serialization.load_pem_private_key(gateway.files.key.read_bytes(), None)
        site.key = key  # type: ignore[assignment]
    certificate = site.pem(_forged(gateway, kind, site, tmp_path))
    with (
        gateway.client(certificate) as client,
        pytest.raises((httpx.ReadError, httpx.ConnectError, httpx.RemoteProtocolError, httpx.WriteError)),
    ):
        client.get("/health")
    assert gateway.seen == []


def test_a_site_s_certificate_is_none_for_a_server(gateway: Gateway, north: tuple[Site, Path]) -> None:
    """Or a site could stand in the server's place for all others."""
    _, certificate = north
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    client = ssl.create_default_context(cafile=str(gateway.files.authority))
    client.check_hostname = False  # it has no host's name either
    here, there = socket.socketpair()

    def stand_in() -> None:
        with pytest.raises(ssl.SSLError):
            context.wrap_socket(there, server_side=True).read()

    thread = threading.Thread(target=stand_in, daemon=True)
    thread.start()
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        client.wrap_socket(here)
    here.close()
    thread.join(timeout=300)
    assert not thread.is_alive()


def ends(connection: ssl.SSLSocket) -> float:
    """Seconds until the other end closes it without an answer."""
    began = time.monotonic()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        assert connection.recv(1) == b""
    return time.monotonic() - began


def send_on(connection: ssl.SSLSocket) -> None:
    end = time.monotonic() + 300
    while time.monotonic() < end:
        connection.sendall(b"x" * 100_000)


@pytest.mark.parametrize("begun", [b"", b"GET /health HTTP/1.1\r\nx-slow: "])
def test_a_head_that_does_not_come_ends_the_connection(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(connections, "_HEAD_SECONDS", 0.5)
    with gateway.connect() as stranger:
        stranger.sendall(begun)
        assert ends(stranger) < 50  # the socket's own patience is a minute


def test_a_head_without_end_ends_the_connection(gateway: Gateway) -> None:
    with gateway.connect() as stranger:
        stranger.sendall(b"GET /health HTTP/1.1\r\nx-long: ")
        with pytest.raises((ConnectionError, ssl.SSLError)):
            send_on(stranger)
    with gateway.client() as client:
        assert client.get("/health").status_code == 200


def test_strangers_without_number_do_not_keep_a_site_out(
    gateway: Gateway, north: tuple[Site, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visitors, "_MOST_STRANGERS", 5)
    site, certificate = north
    crowd = [gateway.connect() for _ in range(5)]
    try:
        with gateway.connect() as one_more:
            ends(one_more)
        with gateway.client(certificate) as client:
            assert client.post(FLEET, content=b"", headers=site.header).status_code == 200
    finally:
        for stranger in crowd:
            stranger.close()
    end = time.monotonic() + 300
    while gateway.port.visitors.strangers:
        assert time.monotonic() < end, "a connection that was closed is still counted after 300 s"
        time.sleep(0.01)
    with gateway.client() as client:
        assert client.get("/health").status_code == 200


def test_a_long_request_of_a_stranger_is_not_read(gateway: Gateway) -> None:
    with gateway.connect() as stranger:
        stranger.sendall(
            b"POST /v1/fleet/push-object HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000\r\n\r\n"
        )
        assert b" 401 " in stranger.recv(100)
        with pytest.raises((ConnectionError, ssl.SSLError)):
            send_on(stranger)


def _trickle(gateway: Gateway, site: Site, certificate: Path, length: int) -> ssl.SSLSocket:
    """Begin a long request, and keep what is left of it."""
    connection = gateway.connect(certificate)
    head = f"POST {FLEET} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in site.header.items())
    connection.sendall(head.encode() + b"\r\n" + b"x")
    return connection


def test_what_comes_at_once_is_bounded_over_all_sites(
    gateway: Gateway, north: tuple[Site, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_WAIT_SECONDS", 0.3)
    site, certificate = north
    size = 3 * 2**20
    with _trickle(gateway, site, certificate, size) as first:
        end = time.monotonic() + 300
        while not gateway.door.room.taken_by:
            assert time.monotonic() < end, "the first request was not begun within 300 s"
            time.sleep(0.01)
        with gateway.client(certificate) as client:
            assert client.post(FLEET, content=b"x" * size, headers=site.header).status_code == 503
            assert client.post(FLEET, content=b"x" * 1000, headers=site.header).status_code == 200
        first.sendall(b"x" * (size - 1))
        assert b" 200 " in first.recv(100)
    with gateway.client(certificate) as client:
        assert client.post(FLEET, content=b"x" * size, headers=site.header).json()["bytes"] == size
        assert client.post(FLEET, content=b"x" * (8 * 2**20), headers=site.header).status_code == 200
    with _trickle(gateway, site, certificate, size):
        pass  # hung up half way
    end = time.monotonic() + 300
    while gateway.door.room.taken_by:
        assert time.monotonic() < end, "a request that was given up still has its room after 300 s"
        time.sleep(0.01)


def test_a_renewed_certificate_is_shown_without_a_new_start(gateway: Gateway) -> None:
    def shown() -> bytes:
        with gateway.connect() as connection:
            certificate = connection.getpeercert(binary_form=True)
            assert certificate is not None
            return certificate

    folder, names, before = gateway.files.authority.parent, ("127.0.0.1", "localhost"), shown()
    showing = Shown(gateway.port.tls, gateway.files)
    for days, is_renewed in ((200, False), (330, True)):
        make_server_files(folder, names, now=datetime.now(UTC) + timedelta(days=days))
        assert shown() == before  # as it was started with
        showing.look()
        # now a certificate that begins in 330 days: nobody takes it yet, which shows that it is another
        if is_renewed:
            with pytest.raises(ssl.SSLCertVerificationError, match="not yet valid"):
                shown()
        else:
            assert shown() == before
    make_server_files(folder, ("127.0.0.1", "localhost", "tidegate.example.org"))
    showing.look()
    assert shown() != before
    whole = gateway.files.certificate.read_bytes()
    gateway.files.certificate.write_bytes(whole[: len(whole) // 2])
    showing.look()
    assert shown() != before
