"""Strangers in numbers, at a gateway: whoever they are, a newcomer and a site get through."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.gateway import connections, handshake, visitors
from server.gateway.visitors import Visitors, network_of
from tests.server.gateway.conftest import FLEET, Gateway, Site
from tests.server.gateway.test_http import ASK, answers


@contextlib.contextmanager
def quiet(gateway: Gateway, number: int, host: str = "127.0.0.1", word: bytes = b"") -> Iterator[None]:
    """So many connections from that address, that say a word and no more; TLS is not made."""
    with contextlib.ExitStack() as crowd:
        for _ in range(number):
            line = crowd.enter_context(socket.create_connection(gateway.address, 300, (host, 0)))
            with contextlib.suppress(ConnectionError):
                line.sendall(word)
        yield


def wait_until_gone(gateway: Gateway) -> None:
    end = time.monotonic() + 300
    while gateway.port.visitors.strangers:
        assert time.monotonic() < end, "a connection that was closed is still counted after 300 s"
        time.sleep(0.01)


@pytest.mark.parametrize("word", [b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n"], ids=["none", "half", "other"])
def test_a_crowd_before_tls_keeps_nobody_out(gateway: Gateway, north: tuple[Site, Path], word: bytes) -> None:
    """Also not at the address that they have themselves."""
    with quiet(gateway, 300, word=word), quiet(gateway, 300, host="127.0.0.2", word=word):
        assert gateway.port.visitors.strangers <= 64  # 32 of each address
        with gateway.client() as client:
            assert client.get("/health").status_code == 200
        with gateway.client(north[1]) as client:
            assert client.post(FLEET, content=b"", headers=north[0].header).status_code == 200
    wait_until_gone(gateway)


def test_crowds_of_many_addresses_keep_nobody_out(gateway: Gateway, north: tuple[Site, Path]) -> None:
    with contextlib.ExitStack() as crowds:
        for number in range(2, 22):
            crowds.enter_context(quiet(gateway, 30, host=f"127.0.0.{number}"))
        with gateway.client() as client:
            assert client.get("/health").status_code == 200
        assert gateway.port.visitors.strangers <= 256
        with gateway.client(north[1]) as client:
            assert client.post(FLEET, content=b"", headers=north[0].header).status_code == 200
    wait_until_gone(gateway)


def test_a_site_that_is_in_stays_in(gateway: Gateway, north: tuple[Site, Path]) -> None:
    with gateway.connect(north[1]) as site:
        site.sendall(ASK)
        assert b" 200 " in site.recv(2**16)
        with quiet(gateway, 300), quiet(gateway, 300, host="127.0.0.2"):
            assert b" 200 " in answers(site, ASK[:-2] + b"connection: close\r\n\r\n")


def test_who_comes_and_goes_at_once_leaves_nothing(gateway: Gateway) -> None:
    """Before TLS listens, nothing would tell it of the end."""
    for _ in range(500):
        socket.create_connection(gateway.address, timeout=300).close()
    wait_until_gone(gateway)


def test_a_handshake_that_does_not_come_ends(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake, "_HANDSHAKE_SECONDS", 0.5)
    with (
        socket.create_connection(gateway.address, timeout=300) as stranger,
        contextlib.suppress(ConnectionError),
    ):
        assert stranger.recv(1) == b""
    wait_until_gone(gateway)


def test_requests_that_are_sent_ahead_are_bounded(gateway: Gateway) -> None:
    """Thousands fit into one read: each would be kept with its headers until those before it are answered."""
    with gateway.connect() as stranger:
        came = answers(stranger, b"GET /health HTTP/1.1\r\n\r\n" * 10_000)
    assert came.count(b" 200 ") <= connections._MOST_AHEAD + 1
    wait_until_gone(gateway)


@pytest.mark.parametrize(
    "lines", [b"a: b\r\n" * 1000, b"x: " + b"y" * 2**17 + b"\r\n"], ids=["many headers", "a long one"]
)
def test_a_head_that_comes_in_one_piece_is_bounded(gateway: Gateway, lines: bytes) -> None:
    with gateway.connect() as stranger:
        assert b" 200 " not in answers(stranger, ASK[:-2] + lines + b"\r\n")
    with gateway.connect() as stranger:
        assert b" 200 " not in answers(stranger, ASK.replace(b"/health", b"/health" + b"/x" * 2**16))
    assert gateway.seen == []


def test_an_answer_that_is_not_taken_is_given_up(
    gateway: Gateway, north: tuple[Site, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_TAKE_SECONDS", 1.0)
    monkeypatch.setattr(connections, "_SLOWEST", 2**40)
    site, certificate = north
    lines = "".join(f"{name}: {value}\r\n" for name, value in site.header.items())
    head = f"POST {FLEET} HTTP/1.1\r\nhost: x\r\n{lines}x-long: {2**27}\r\ncontent-length: 0\r\n\r\n"
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.settimeout(300)
        raw.connect(gateway.address)
        with gateway.tls(certificate).wrap_socket(raw, server_hostname="127.0.0.1") as slow:
            slow.sendall(head.encode())
            assert b" 200 " in slow.recv(1000)
            end = time.monotonic() + 300
            while gateway.port.visitors.known:
                assert time.monotonic() < end, "a site that takes nothing is still there after 300 s"
                time.sleep(0.01)
    with gateway.client(certificate) as client:
        long = client.post(FLEET, content=b"", headers={**site.header, "x-long": "10000000"})
        assert long.content == b"x" * 10_000_000  # in pieces, and whole


def test_a_certificate_is_shown_on_every_connection(gateway: Gateway, north: tuple[Site, Path]) -> None:
    """A ticket would let a site in after its certificate has ended."""
    with gateway.connect(north[1]) as line:
        assert b" 200 " in answers(line, ASK[:-2] + b"connection: close\r\n\r\n")
        assert line.version() == "TLSv1.3"
        assert line.session is None or not line.session.has_ticket
    old = gateway.tls(north[1])
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(gateway.address, timeout=300) as raw,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        old.wrap_socket(raw, server_hostname="127.0.0.1")


def test_who_goes_is_the_oldest_that_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    gone: list[str] = []
    port = Visitors(most_of_a_network=3)
    first = port.arrive("192.0.2.1", lambda: gone.append("first"))
    first.is_answered = True
    port.arrive("192.0.2.1", lambda: gone.append("second"))
    third = port.arrive("192.0.2.1", lambda: gone.append("third"))
    assert port.recognize(third, b"somebody")
    port.arrive("192.0.2.1", lambda: gone.append("fourth"))
    assert gone == []
    port.arrive("192.0.2.1", lambda: gone.append("fifth"))
    assert gone == ["second"]
    first.is_answered = False
    first.is_leaving = True
    port.arrive("192.0.2.1", lambda: gone.append("sixth"))
    assert gone == ["second", "first"]
    port.leave(first)
    port.leave(first)
    port.leave(third)
    assert (port.strangers, dict(port.known)) == (3, {})
    monkeypatch.setattr(visitors, "_MOST_STRANGERS", 4)
    port.arrive("198.51.100.1", lambda: gone.append("another"))
    port.arrive("203.0.113.1", lambda: gone.append("a third"))
    assert gone == ["second", "first", "fourth"]  # of the network that has most


def test_who_has_64_bits_of_addresses_has_one_network() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:0:0:9") != network_of("2001:db8:0:1::1")
    assert network_of("fe80::1%eth0") == network_of("fe80::2")
    assert network_of("no address") == "unknown"
