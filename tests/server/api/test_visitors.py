"""Strangers in numbers at the API, and people who take more than their part: others get through."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections import Counter

import httpx
import pytest

from contract.experiment import Experiment
from contract.mandate import make_signing_key, public_key_of, read_signing_key
from server.gateway import visitors
from server.registry.registry import Registry
from terminal import logs
from tests.server.api.conftest import Served


@pytest.mark.parametrize("word", [b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n"], ids=["none", "half", "other"])
def test_a_crowd_before_tls_keeps_nobody_out(served: Served, word: bytes) -> None:
    token, address = served.people.add("ada", "scientist"), ("127.0.0.1", served.file.api_port)
    with contextlib.ExitStack() as crowd:
        for host in ("127.0.0.1", "127.0.0.2"):
            for _ in range(300):
                line = crowd.enter_context(socket.create_connection(address, 300, (host, 0)))
                with contextlib.suppress(ConnectionError):
                    line.sendall(word)
        with served.client(token) as ada:
            assert ada.get("/v1/whoami").json()["name"] == "ada"
        with served.client() as newcomer:
            assert newcomer.get("/", headers={"accept": "text/html"}).status_code == 200


def _ask(served: Served, request: bytes, crowd: contextlib.ExitStack) -> bytes:
    """The first words of an answer to a request, whose connection stays open; empty where it was closed."""
    raw = socket.create_connection(("127.0.0.1", served.file.api_port), timeout=300)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.load_verify_locations(served.files.authority)
    try:
        line = crowd.enter_context(tls.wrap_socket(raw, server_hostname="127.0.0.1"))
        line.sendall(request)
        return line.recv(12)
    except (ConnectionError, ssl.SSLError):
        return b""


def test_a_person_of_many_streams_keeps_no_other_out(served: Served, experiment: Experiment) -> None:
    greedy, ada = served.people.add("greedy", "scientist"), served.people.add("ada", "scientist")
    run = served.submissions.add(experiment, person="ada", federation="standing").run
    head = f"GET /v1/runs/{run}/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer "
    with contextlib.ExitStack() as crowd:
        answers = Counter(_ask(served, f"{head}{greedy}\r\n\r\n".encode(), crowd) for _ in range(120))
        assert answers[b"HTTP/1.1 200"] == 8
        assert set(answers) <= {b"HTTP/1.1 200", b"HTTP/1.1 503", b""}
        assert _ask(served, f"{head}{ada}\r\n\r\n".encode(), crowd) == b"HTTP/1.1 200"
        with served.client(ada) as other:
            assert other.get("/v1/whoami").status_code == 200


def test_a_person_has_some_connections_and_others_have_theirs(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visitors, "_MOST_OF_ONE", 3)
    greedy, ada = served.people.add("greedy", "scientist"), served.people.add("ada", "scientist")
    head = "GET /v1/whoami HTTP/1.1\r\nhost: x\r\nauthorization: Bearer "
    with contextlib.ExitStack() as crowd:
        answers = [_ask(served, f"{head}{greedy}\r\n\r\n".encode(), crowd) for _ in range(5)]
        assert answers == [b"HTTP/1.1 200"] * 3 + [b"HTTP/1.1 503"] * 2
        assert _ask(served, f"{head}{ada}\r\n\r\n".encode(), crowd) == b"HTTP/1.1 200"


def test_a_person_of_many_slow_requests_keeps_no_other_waiting(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow does not answer: who asks for it sixty times has not all threads, and others get through."""
    greedy, ada = served.people.add("greedy", "scientist"), served.people.add("ada", "scientist")
    asked, answers, come = threading.Semaphore(0), threading.Event(), Counter[int]()

    def models(_: Registry) -> list[str]:
        asked.release()
        assert answers.wait(300)
        return []

    monkeypatch.setattr(Registry, "models", models)

    def ask() -> None:
        status = 0
        while not status:
            with contextlib.suppress(httpx.TransportError), served.client(greedy) as client:
                status = client.get("/v1/models").status_code  # of a crowd before TLS, some are turned out
        come[status] += 1

    crowd = [threading.Thread(target=ask) for _ in range(60)]
    with served.client(ada) as other:
        assert other.get("/v1/whoami").status_code == 200  # known from here on, and turned out by no crowd
        try:
            for one in crowd:
                one.start()
            assert asked.acquire(timeout=300)
            for _ in range(20):
                assert other.get("/v1/whoami", timeout=200).status_code == 200
        finally:
            answers.set()
            for one in crowd:
                one.join(300)
    assert come.total() == 60
    assert set(come) <= {200, 503}
    assert come[200] >= 8


def test_strangers_do_not_write_the_log_full(served: Served) -> None:
    for _ in range(100):
        with contextlib.ExitStack() as crowd:
            assert _ask(served, b"no request at all\r\n\r\n", crowd) == b"HTTP/1.1 400"
    assert 0 < len(served.log.splitlines()) <= 61


def test_nobody_with_a_token_writes_the_log_full(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_LARGEST", 2000)
    key = {"key": public_key_of(read_signing_key(make_signing_key()))}
    with served.client(served.people.add("ada", "scientist")) as ada:
        for _ in range(200):
            assert ada.post("/v1/signing-key", json=key).status_code == 200
    kept = list((served.settings.home / "logs").glob("api.log*"))
    assert len(kept) == 6
    assert sum(file.stat().st_size for file in kept) < 6 * 2300
    assert {file.stat().st_mode & 0o777 for file in kept} == {0o600}
    assert "ada signs with" in served.log
