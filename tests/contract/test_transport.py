"""Connections of both sides: what is a certificate, and who is asked through a proxy."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from clients.line.reach import reach
from contract.errors import AddressError, SiteConfigError
from contract.transport import ask_directly_here, named_proxy, proxy_for, read_authority
from scientist.connection import Connection, ask_authority
from server.line.certificates import make_server_files
from server.line.processes import free_port


@pytest.fixture
def address() -> Iterator[str]:
    """Of a server on this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_this_machine_is_asked_directly_whatever_proxy_the_environment_names(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Flower's clients ask: by httpx, which goes by the environment."""
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(httpx.ConnectError):
        httpx.get(address)
    with monkeypatch.context():
        ask_directly_here(os.environ)
    assert httpx.get(address).status_code == 204


def test_what_was_named_before_stays_named() -> None:
    environ = {"NO_PROXY": "hospital.example, localhost"}
    ask_directly_here(environ)
    assert environ["NO_PROXY"] == "hospital.example,localhost,127.0.0.1,::1"
    assert environ["no_proxy"] == environ["NO_PROXY"]
    before = dict(environ)
    ask_directly_here(environ)
    assert environ == before


def test_others_are_asked_as_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "near.example")
    assert proxy_for("https://far.example:9092") == "http://proxy.example:3128"
    assert proxy_for("https://near.example:9092") == ""
    assert proxy_for("https://127.0.0.2:9092") == ""


@pytest.mark.parametrize(
    "proxy",
    ["foo:bar", "socks5://10.0.0.2:1", "http://[::1", "http://", "http://a:99999", "http://a\x1b[2J:x"],
)
def test_what_is_no_proxy_is_a_sentence_that_says_what_to_do(
    proxy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = make_server_files(tmp_path / "server", ("127.0.0.1",)).authority.read_bytes()
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("https_proxy", proxy)
    for ask in (
        lambda: ask_authority("https://far.example:1"),
        lambda: Connection("https://far.example:1", "token", authority.decode()),
        lambda: reach("far.example:1", authority),
    ):
        with pytest.raises(
            AddressError, match=r"proxy that cannot be used.*name far\.example in NO_PROXY"
        ) as told:
            ask()
        assert str(told.value).isprintable()


def test_a_proxy_needs_no_scheme_and_its_password_is_not_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = make_server_files(tmp_path / "server", ("127.0.0.1",)).authority.read_bytes()
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    place = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("https_proxy", f"ada:secret@{place}")
    assert proxy_for("https://far.example:1") == f"http://ada:secret@{place}"
    assert named_proxy("") == ""
    for ask in (lambda: ask_authority("https://far.example:1"), lambda: reach("far.example:1", authority)):
        with pytest.raises(AddressError, match=f"proxy http://{place}") as told:
            ask()
        assert "secret" not in str(told.value)


def test_an_authority_is_read_or_refused_with_what_to_do(tmp_path: Path) -> None:
    files = make_server_files(tmp_path / "server", ("127.0.0.1",))
    whole = read_authority(files.authority, error=SiteConfigError, remedy="Ask for it")
    assert whole == files.authority.read_bytes()
    (tmp_path / "rows.csv").write_text("age,ill\n")
    for path, words in ((tmp_path / "rows.csv", "not a certificate"), (tmp_path / "gone", "cannot be read")):
        with pytest.raises(SiteConfigError, match=f"{words}.*Ask for it"):
            read_authority(path, error=SiteConfigError, remedy="Ask for it")
