"""Requests that no client makes: written byte by byte, over TLS, by a stranger or a site."""

from __future__ import annotations

import contextlib
import ssl
import time
from pathlib import Path

import pytest

from server.gateway import door, visitors
from tests.server.gateway.conftest import FLEET, Gateway, Site

JOIN = b"POST /v1/enrolment/join HTTP/1.1\r\nhost: x\r\n"
ASK = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"

REFUSED: dict[str, tuple[bytes, bytes]] = {
    "a length twice": (JOIN + b"content-length: 5\r\ncontent-length: 50\r\n\r\nhello", b"400"),
    "the same length twice": (JOIN + b"content-length: 5\r\ncontent-length: 5\r\n\r\nhello", b"400"),
    "a list of lengths": (JOIN + b"content-length: 5, 5\r\n\r\nhello", b"400"),
    "a length with a sign": (JOIN + b"content-length: +5\r\n\r\nhello", b"400"),
    "a length with a line in it": (JOIN + b"content-length: 1_0\r\n\r\nhello", b"400"),
    "no length": (JOIN + b"content-length: \r\n\r\n", b"400"),
    "a length of zeros": (JOIN + b"content-length: " + b"0" * 5000 + b"5\r\n\r\nhello", b"400"),
    "zeros before a length": (JOIN + b"content-length: " + b"0" * 20 + b"99999999\r\n\r\n", b"400"),
    "a length and pieces": (
        JOIN + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"400",
    ),
    "pieces": (JOIN + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n", b"411"),
    "pieces for what has no body": (ASK[:-2] + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n", b"411"),
    "a long body for what has none": (ASK[:-2] + b"content-length: 1000000\r\n\r\n", b"413"),
    "other pieces": (JOIN + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n", b"400"),
    "a blank before a colon": (JOIN + b"content-length : 5\r\n\r\nhello", b"400"),
    "a header on two lines": (JOIN + b"x: a\r\n b\r\ncontent-length: 5\r\n\r\nhello", b"400"),
    "a lone carriage return": (JOIN.replace(b"x\r\n", b"x\r") + b"content-length: 5\r\n\r\nhello", b"400"),
    "lone line feeds": (JOIN.replace(b"\r\n", b"\n") + b"content-length: 5\n\nhello", b"400"),
    "a zero byte": (ASK[:-2] + b"x: a\0b\r\n\r\n", b"400"),
    "a whole address": (b"POST https://x/v1/control/list-nodes HTTP/1.1\r\nhost: x\r\n\r\n", b"404"),
    "a way through": (b"CONNECT x:443 HTTP/1.1\r\nhost: x\r\n\r\n", b"400"),
    "no path": (b"GET ?x HTTP/1.1\r\nhost: x\r\n\r\n", b"400"),
    "everything": (b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n", b"404"),
    "a question": (b"GET /health?x=1 HTTP/1.1\r\nhost: x\r\n\r\n", b"404"),
    "a question of no letters": (b"GET /health?x=\xff HTTP/1.1\r\nhost: x\r\n\r\n", b"4"),
    "another protocol": (ASK[:-2] + b"connection: upgrade\r\nupgrade: websocket\r\n\r\n" + ASK, b"400"),
    "another version": (ASK[:-2] + b"connection: upgrade\r\nupgrade: h2c\r\n\r\n" + ASK, b"400"),
    "the next version": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400"),
}


def answers(connection: ssl.SSLSocket, request: bytes) -> bytes:
    """All that comes until the other end closes it."""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        connection.sendall(request)
    came = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while part := connection.recv(2**16):
            came += part
    return came


@pytest.mark.parametrize("kind", REFUSED)
def test_what_two_readers_could_read_differently_is_refused_once_and_for_all(
    gateway: Gateway, kind: str
) -> None:
    """What follows the refusal may be another request, hidden in the body of the first: none is answered."""
    request, status = REFUSED[kind]
    with gateway.connect() as stranger:
        came = answers(stranger, request + ASK * 3)
    assert came.count(b"HTTP/1.1 ") == 1
    assert came.split(b" ")[1].startswith(status), came
    assert gateway.seen == []


def test_a_stated_length_of_usual_digits_is_taken(gateway: Gateway) -> None:
    """Or each of the refusals above would say nothing."""
    with gateway.connect() as stranger:
        came = answers(stranger, JOIN + b"content-length: 0005\r\nconnection: close\r\n\r\nhello")
    assert b'"bytes":5' in came


def test_a_site_s_connections_are_bounded_and_others_come_in(
    gateway: Gateway, north: tuple[Site, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from server.line.certificates import sign_site

    monkeypatch.setattr(visitors, "_MOST_OF_ONE", 3)
    south = Site(tmp_path, "south")
    other = south.pem(sign_site(gateway.files, "south", south.key.public_key()))
    with contextlib.ExitStack() as crowd:
        for _ in range(3):
            one = crowd.enter_context(gateway.connect(north[1]))
            one.sendall(ASK)
            assert b" 200 " in one.recv(2**16)
        assert answers(crowd.enter_context(gateway.connect(north[1])), ASK) == b""
        with gateway.client(other) as client:
            assert client.post(FLEET, content=b"", headers=south.header).status_code == 200
        with gateway.client() as client:
            assert client.get("/health").status_code == 200
    end = time.monotonic() + 300
    while gateway.port.visitors.known:
        assert time.monotonic() < end, "a connection that was closed is still counted after 300 s"
        time.sleep(0.01)
    with gateway.client(north[1]) as client:
        assert client.get("/health").status_code == 200


@pytest.mark.parametrize("is_site", [False, True])
def test_a_body_that_does_not_come_is_told_so_and_keeps_no_room(
    gateway: Gateway,
    north: tuple[Site, Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_site: bool,
) -> None:
    monkeypatch.setattr(door, "_BODY_SECONDS", 0.5)
    monkeypatch.setattr(door, "_SLOWEST", 2**40)
    head = f"POST {FLEET} HTTP/1.1\r\nhost: x\r\n" if is_site else JOIN.decode()
    more = "".join(f"{name}: {value}\r\n" for name, value in north[0].header.items()) if is_site else ""
    length = 3 * 2**20 if is_site else 2**10
    with gateway.connect(north[1] if is_site else None) as slow:
        came = answers(slow, f"{head}{more}content-length: {length}\r\n\r\nx".encode())
    assert came.split(b" ")[1] == b"408"
    assert not gateway.door.room.taken_by
    assert "Exception" not in caplog.text


def test_who_hangs_up_in_the_middle_writes_nothing_into_the_log(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        with gateway.connect() as stranger:
            stranger.sendall(JOIN + b"content-length: 100\r\n\r\nhalf")
    end = time.monotonic() + 300
    while gateway.port.visitors.strangers:
        assert time.monotonic() < end, "a connection that was closed is still counted after 300 s"
        time.sleep(0.01)
    with gateway.client() as client:
        assert client.get("/health").status_code == 200
    assert "Exception" not in caplog.text


def test_a_request_after_a_refused_one_is_not_answered(gateway: Gateway, north: tuple[Site, Path]) -> None:
    """Though a site sends it: of a refused request nobody knows for sure where it ends."""
    site, certificate = north
    lines = "".join(f"{name}: {value}\r\n" for name, value in site.header.items())
    good = f"POST {FLEET} HTTP/1.1\r\nhost: x\r\n{lines}content-length: 0\r\n\r\n".encode()
    with gateway.connect(certificate) as line:
        came = answers(line, b"POST /v1/control/x HTTP/1.1\r\nhost: x\r\n\r\n" + good + good)
    assert (came.count(b"HTTP/1.1 "), b" 404 " in came) == (1, True)
    assert gateway.seen == []
