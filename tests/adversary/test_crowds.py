"""Crowds at a real gateway with Flower's SuperLink behind it: what they cost, and whom they keep out."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node

from tests.adversary.rows import Figure
from tests.adversary.standing import Site, Standing, stand

pytestmark = pytest.mark.e2e

GROWTH = 256 * 2**20
"""Bytes that the server may grow by under each attack: the issue's attack took a gigabyte."""
LONG = 200 * 2**20
ATTACKERS, ROUNDS = 4, 100


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    with stand(tmp_path_factory.mktemp) as found:
        yield found


def _address(standing: Standing) -> tuple[str, int]:
    assert standing.federation.file is not None
    return "127.0.0.1", standing.federation.file.gateway_port


def beats(standing: Standing, site: Site) -> int:
    """The status of an honest heartbeat, over a new connection."""
    beat = SendNodeHeartbeatRequest(node=Node(node_id=site.node), heartbeat_interval=30)
    return standing.ask(site, "/v1/fleet/send-node-heartbeat", beat, site).status_code


@contextlib.contextmanager
def crowd(attack: Callable[[contextlib.ExitStack], None]) -> Iterator[None]:
    """Attackers who open line after line, and keep what stays open, while the block runs."""
    stop = threading.Event()

    def work() -> None:
        with contextlib.ExitStack() as lines:
            for _ in range(ROUNDS):
                if stop.is_set():
                    return
                with contextlib.suppress(OSError):  # they are hung up on
                    attack(lines)
            stop.wait()

    attackers = [threading.Thread(target=work) for _ in range(ATTACKERS)]
    for attacker in attackers:
        attacker.start()
    try:
        yield
    finally:
        stop.set()
        for attacker in attackers:
            attacker.join()


def withstands(standing: Standing, attack: Callable[[contextlib.ExitStack], None]) -> int:
    """Have an honest site come in ten times meanwhile; the bytes by which the server grew at most."""
    server = standing.superlink
    before, most = server.memory_info().rss, 0
    with crowd(attack):
        for _ in range(10):
            assert beats(standing, standing.south) == 200
            most = max(most, server.memory_info().rss)
            time.sleep(0.1)
    assert standing.superlink.create_time() == server.create_time()
    assert "Traceback" not in standing.log
    return max(most, server.memory_info().rss) - before


def test_quiet_strangers(standing: Standing, figure: Figure) -> None:
    def attack(lines: contextlib.ExitStack) -> None:
        lines.enter_context(socket.create_connection(_address(standing), 300, ("127.0.0.2", 0)))

    grown = withstands(standing, attack)
    figure(f"{ATTACKERS * ROUNDS} quiet connections: memory {grown / 2**20:+.0f} MB")
    assert grown < GROWTH


SENT = {
    "requests sent ahead": b"GET /health HTTP/1.1\r\n\r\n" * 10_000,
    "headers": b"GET /health HTTP/1.1\r\n" + b"a: b\r\n" * 40_000,
    "one long header": b"GET /health HTTP/1.1\r\nx: " + b"y" * 2**18,
    "pieces": b"POST /v1/enrolment/join HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
    + b"1\r\nx\r\n" * 50_000,
    "a promise": b"POST /v1/fleet/push-object HTTP/1.1\r\ncontent-length: 1000000000\r\n\r\n" + bytes(2**18),
}


@pytest.mark.parametrize("name", SENT)
def test_strangers_who_send(standing: Standing, figure: Figure, name: str) -> None:
    """From an address of their own: at their own they may win a race now and then, and a site tries again."""
    tls = standing.tls(None)

    def attack(lines: contextlib.ExitStack) -> None:
        raw = socket.create_connection(_address(standing), 300, ("127.0.0.2", 0))
        line = lines.enter_context(tls.wrap_socket(raw, server_hostname="127.0.0.1"))
        line.sendall(SENT[name])

    grown = withstands(standing, attack)
    figure(f"{name}, {ATTACKERS * ROUNDS} times: memory {grown / 2**20:+.0f} MB")
    assert grown < GROWTH


def test_a_site_that_promises_all_the_room_keeps_no_other_out(standing: Standing, figure: Figure) -> None:
    north = standing.north

    def attack(lines: contextlib.ExitStack) -> None:
        headers = "".join(f"{name}: {value}\r\n" for name, value in north.signature().items())
        head = f"POST /v1/fleet/push-object HTTP/1.1\r\nhost: x\r\n{headers}content-length: {LONG}\r\n\r\n"
        line = lines.enter_context(standing.connect(north))
        with contextlib.suppress(ssl.SSLError):
            line.sendall(head.encode() + os.urandom(2**10))

    grown = withstands(standing, attack)
    figure(f"a site with {ATTACKERS * ROUNDS} parts of 200 MB: memory {grown / 2**20:+.0f} MB")
    assert grown < GROWTH
