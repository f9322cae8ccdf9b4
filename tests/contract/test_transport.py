"""Over a real TLS line: an answer comes whole, and whatever goes wrong is an error of httpx's."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from contract.transport import PooledTransport, pooled
from server.line.certificates import make_server_files
from server.line.processes import free_port

LONG = bytes(range(256)) * 20_000


class Server:
    """Answers by the path that it is asked for, and counts its connections."""

    def __init__(self, folder: Path) -> None:
        files = make_server_files(folder, ("127.0.0.1",))
        self.authority, self.connections = files.authority, 0
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.certificate, files.key)
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                server.connections += 1
                super().setup()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.path == "/silent":
                    time.sleep(1.0)
                if self.path == "/hangs-up":
                    self.close_connection = True
                    return
                answer = LONG if self.path == "/long" else body
                self.send_response(409 if self.path == "/refuses" else 200)
                self.send_header("content-length", str(len(answer)))
                self.send_header("x-asked-by", self.headers.get("x-name", ""))
                self.end_headers()
                self.wfile.write(answer[: len(answer) // 2] if self.path == "/half" else answer)
                self.close_connection = self.path in ("/half", "/last")

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def client(self, seconds: float = 30.0) -> httpx.Client:
        context = ssl.create_default_context(cafile=self.authority)
        return pooled(httpx.Client(timeout=seconds, follow_redirects=True), self.url, context)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def test_what_is_sent_and_what_comes_back_is_whole(server: Server) -> None:
    with server.client() as client:
        assert isinstance(client._transport, PooledTransport)
        assert client.post(f"{server.url}/long", content=b"").content == LONG
        answer = client.post(f"{server.url}/echo", content=LONG, headers={"x-name": "north"})
    assert (answer.status_code, answer.headers["x-asked-by"]) == (200, "north")
    assert answer.content == LONG
    assert answer.is_closed


def test_a_refusal_is_an_answer(server: Server) -> None:
    with server.client() as client:
        answer = client.post(f"{server.url}/refuses", content=b"no such run")
    assert (answer.status_code, answer.content) == (409, b"no such run")
    with pytest.raises(httpx.HTTPStatusError):
        answer.raise_for_status()


def test_threads_share_it_and_a_connection_serves_many_requests(server: Server) -> None:
    before = server.connections
    with server.client() as client, ThreadPoolExecutor(4) as threads:
        bodies = [str(number).encode() for number in range(40)]
        answers = threads.map(lambda body: client.post(f"{server.url}/echo", content=body).content, bodies)
        assert list(answers) == bodies
    assert server.connections - before <= 4


def test_a_connection_that_the_server_closed_is_not_used_again(server: Server) -> None:
    with server.client() as client:
        for number in range(3):
            assert client.post(f"{server.url}/last", content=b"%d" % number).content == b"%d" % number
            time.sleep(0.05)


@pytest.mark.parametrize("path", ["half", "hangs-up"])
def test_half_an_answer_is_none(path: str, server: Server) -> None:
    with server.client() as client, pytest.raises(httpx.ReadError):
        client.post(f"{server.url}/{path}", content=LONG)


def test_an_answer_that_takes_too_long_is_not_waited_for(server: Server) -> None:
    with server.client(seconds=0.2) as client, pytest.raises(httpx.ReadTimeout):
        client.post(f"{server.url}/silent", content=b"")


def test_another_authority_is_refused_and_said(server: Server, tmp_path: Path) -> None:
    other = ssl.create_default_context(cafile=make_server_files(tmp_path, ("127.0.0.1",)).authority)
    with (
        pooled(httpx.Client(), server.url, other) as client,
        pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        client.post(server.url, content=b"")


def test_nobody_at_the_address_is_an_error_of_the_connection(server: Server) -> None:
    with server.client() as client, pytest.raises(httpx.ConnectError):
        client.post(f"https://127.0.0.1:{free_port()}", content=b"")


def test_a_server_without_tls_is_named(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain, server.client() as client:

        def answer() -> None:
            line, _ = plain.accept()
            with line:
                line.recv(100)
                line.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(httpx.ConnectError, match="WRONG_VERSION_NUMBER"):
            client.post(f"https://127.0.0.1:{plain.getsockname()[1]}", content=b"")


def test_a_proxy_that_the_environment_names_is_left_to_httpx(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.hospital.example:3128")
    context = ssl.create_default_context(cafile=server.authority)
    elsewhere = "https://server.hospital.example:9092"
    with pooled(httpx.Client(), elsewhere, context) as client:
        assert not isinstance(client._transport, PooledTransport)
    with server.client() as client:  # this machine is asked directly
        assert isinstance(client._transport, PooledTransport)
    monkeypatch.setenv("NO_PROXY", "server.hospital.example")
    with pooled(httpx.Client(), elsewhere, context) as client:
        assert isinstance(client._transport, PooledTransport)
