"""A server that lies to the people who are connected to it, and what that costs them and their sites."""

from __future__ import annotations

import functools
import gzip
import http.server
import json
import resource
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from clients.keys import make_node_key, read_private_key
from clients.line.enrolment import JoiningSite
from clients.line.flower import _client_that_shows
from contract import transport
from contract.enrolment import Token
from contract.errors import TidegateError
from contract.federation_api import Sites, Submitted, Whoami
from contract.mandate import make_signing_key, public_key_of, read_signing_key
from scientist import connection
from scientist.connection import Connection, ask_authority
from scientist.watching import follow
from server.line.certificates import ServerFiles, authority_fingerprint, make_server_files
from tests.cli.conftest import tidegate
from tests.hostile import HOSTILE, require_harmless
from tests.runtimes.conftest import SMALL

__all__ = ["tidegate"]

Command = Callable[..., str]
TOKEN = "x" * 43
EVIL = public_key_of(read_signing_key(make_signing_key()))
RUN = {
    **{"name": "fake-1", "experiment": "fake", "job": "train", "owner": "ada", "status": "succeeded"},
    **{"place": 0, "since": "2026-03-01T00:00:00Z", "ended": "2026-03-01T00:00:00Z", "rounds": 1, "of": 1},
    **{"model_version": None, "error": ""},
}


@dataclass
class Liar:
    """Answers whatever a test says, with the certificate that it ought to have."""

    files: ServerFiles
    url: str = ""
    answers: dict[str, Any] = field(default_factory=dict)

    def connection(self) -> Connection:
        return Connection(self.url, TOKEN, self.files.authority.read_text())


@functools.cache  # a second of work, which is not one for every process that collects the tests
def packed() -> bytes:
    """600 bytes that are 256 MB."""
    return gzip.compress(gzip.compress(bytes(2**28)))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Liar]:
    found = Liar(make_server_files(tmp_path / "server", ("127.0.0.1",)))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            answer = found.answers.get(self.path.partition("?")[0], b"")
            if callable(answer):
                answer(self)
                return
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            if content.startswith(b"\x1f\x8b"):
                self.send_header("content-encoding", "gzip, gzip")
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET  # noqa: N815 - the library's name

        def log_message(self, *_: Any) -> None: ...

    class Quiet(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None: ...  # a client that hangs up is what a test is about

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(found.files.certificate, found.files.key)
    listening = Quiet(("127.0.0.1", 0), Handler)
    listening.socket = context.wrap_socket(listening.socket, server_side=True)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    found.url = f"https://127.0.0.1:{listening.server_port}"
    yield found
    listening.shutdown()
    listening.server_close()


def who(**more: Any) -> dict[str, Any]:
    return {"name": "ada", "role": "scientist", "expires": None, "version": "1", **more}


@pytest.fixture
def connected(
    server: Liar, tidegate: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """`tidegate connect` to that server, which believes in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("TIDEGATE_TOKEN", TOKEN)

    def connect(*arguments: str, code: int = 0) -> str:
        authority = str(server.files.authority)
        return tidegate("connect", server.url, "--authority", authority, *arguments, code=code)

    return connect


@pytest.mark.parametrize("role", ["scientist", "reviewer"])
@pytest.mark.parametrize(
    "key",
    [EVIL, "ssh-ed25519 !", HOSTILE.replace("\ud800", ""), None],
    ids=["another key", "no key", "hostile text", "none"],
)
def test_no_server_says_which_key_is_a_scientist_s(
    server: Liar, connected: Command, tmp_path: Path, key: str | None, role: str
) -> None:
    """Whoever told it to a site's administrator would have the site answer to the server."""
    server.answers["/v1/whoami"] = server.answers["/v1/signing-key"] = who(signing_key=key, role=role)
    for arguments in ((), ("--json",)):
        told = connected(*arguments, code=0 if role == "reviewer" else 2)
        require_harmless(told)
        assert key is None or key not in told
        assert role == "reviewer" or "another key" in told
    kept = list((tmp_path / "config").rglob("*.toml"))
    assert bool(kept) == (role == "reviewer")


@pytest.mark.parametrize("length", [None, str(10**15), "-1", "9" * 5000])
def test_no_answer_without_a_bound_is_read_by_an_agent(server: Liar, length: str | None) -> None:
    """It is read whole: a server that sends on and on would have it take all memory of a site's machine."""
    sent: list[int] = []

    def on_and_on(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        if length is not None:
            handler.send_header("content-length", length)
        handler.end_headers()
        while sum(sent) < 2**27:
            handler.wfile.write(bytes(2**20))
            sent.append(2**20)

    server.answers["/v1/fleet/pull-messages"] = on_and_on
    made: list[Any] = []
    authority, options = server.files.authority.read_bytes(), {"interceptors": []}
    gateway = server.url.removeprefix("https://")
    with _client_that_shows(None, made).from_server_address(gateway, False, authority, **options):
        with pytest.raises(httpx.HTTPError):
            made[0]._client.post(f"{server.url}/v1/fleet/pull-messages", content=b"")
        assert made[0]._client.post(f"{server.url}/other", content=b"").status_code == 200
    assert sum(sent) < 2**27


def test_no_answer_is_unpacked(server: Liar, tmp_path: Path) -> None:
    """Nor is that of somebody in the server's place, who is asked before anything is compared."""
    server.answers = dict.fromkeys(
        ("/authority.pem", "/v1/whoami", "/v1/runs/a/events", "/v1/enrolment/authority"), packed()
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    key = read_private_key(make_node_key(tmp_path / "keys")[0])
    token = Token.make(
        server.url.removeprefix("https://"), authority_fingerprint(server.files.authority.read_bytes())
    )
    site = JoiningSite(token=token, name="north", key=key, stated_rows=1, card=None, keys=tmp_path / "keys")
    with server.connection() as asked:
        for ask in (
            lambda: ask_authority(server.url),
            lambda: asked.get("/v1/whoami", Whoami),
            lambda: list(follow(asked, "a")),
            site.authority,
        ):
            with pytest.raises(TidegateError, match=r"packed|no gateway"):
                ask()
    made: list[Any] = []
    options: dict[str, Any] = {"interceptors": []}
    of_flower = _client_that_shows(None, made)
    authority = server.files.authority.read_bytes()
    with of_flower.from_server_address(token.gateway, False, authority, **options):
        assert made[0]._client.headers["accept-encoding"] == "identity"
        with pytest.raises(httpx.DecodingError, match="packed"):
            made[0]._client.get(f"{server.url}/v1/whoami")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 2**10


def test_a_line_without_an_end_takes_no_memory(server: Liar) -> None:
    def endless(to: Any) -> None:
        to.send_response(200)
        to.end_headers()
        while True:
            to.wfile.write(b"data: " + bytes(2**20))

    server.answers["/v1/runs/a/events"] = endless
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with server.connection() as asked, pytest.raises(TidegateError, match="too long"):
        list(follow(asked, "a"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 2**10


def test_a_list_of_long_pages_takes_no_memory(server: Liar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_MOST_ANSWERS", 5 * 2**20)
    site = {"name": "x" * 2**20, "admitted": True, "connected": True, "stated_rows": 1, "last_answer": None}
    server.answers["/v1/sites"] = {"sites": [site], "more": True}
    read = []
    with server.connection() as asked, pytest.raises(TidegateError, match="too long"):
        read.extend(asked.pages("/v1/sites", Sites))
    assert len(read) <= 4


def test_a_trickle_is_not_waited_for(server: Liar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_PATIENCE", 0.2)
    stop = threading.Event()

    def trickle(to: Any) -> None:
        to.send_response(200)
        to.end_headers()
        while not stop.wait(0.05):
            to.wfile.write(b" ")

    server.answers["/v1/whoami"] = server.answers["/authority.pem"] = trickle
    with server.connection() as asked:
        for ask in (lambda: ask_authority(server.url), lambda: asked.get("/v1/whoami", Whoami)):
            with pytest.raises(TidegateError, match="too slowly"):
                ask()
    stop.set()


def test_an_event_is_read_whole_whatever_letters_are_in_it(server: Liar) -> None:
    """Unicode has more ends of a line than a stream of events."""
    error = "one\u2028two\x85three\x0bfour"
    data = json.dumps({**RUN, "status": "failed", "error": error}, ensure_ascii=False)
    server.answers["/v1/runs/a/events"] = f"event: end\r\nid: 1-1\r\ndata: {data}\r\n\r\n".encode()
    with server.connection() as asked:
        assert [one.error for one in follow(asked, "a")] == [error]  # type: ignore[attr-defined]


RESULTS: list[dict[str, Any]] = [
    {"metrics": 1, "privacy": 1, "private": 1, "rounds_counted": 1},
    {
        "metrics": {"overall": {"auc": HOSTILE}},
        "privacy": {HOSTILE: {}},
        "private": True,
        "rounds_counted": {},
    },
    {"metrics": {}, "privacy": [HOSTILE], "private": False, "rounds_counted": {}},
    {"features": [{"feature": HOSTILE, "low": HOSTILE, "high": []}]},
    {"features": 3},
]


@pytest.mark.parametrize("result", RESULTS)
def test_a_result_that_is_none_is_a_sentence(
    server: Liar, connected: Command, tidegate: Command, tmp_path: Path, result: dict[str, Any]
) -> None:
    text = json.loads(json.dumps(result).replace("\\ud800", ""))
    run = {**RUN, "job": "ranges" if "features" in result else "train"}
    detail = {"run": run, "trigger": "ada", "windows": [], "rounds": [], "participation": [], "result": text}
    server.answers["/v1/runs/fake-1"] = detail
    server.answers["/v1/runs/fake-1/events"] = f"event: end\ndata: {json.dumps(run)}\n\n".encode()
    server.answers["/v1/ranges"] = {"run": "fake-1", "place": 1}
    server.answers["/v1/whoami"] = who(role="reviewer")
    connected()
    file, copy = tmp_path / "small.toml", tmp_path / "copy.toml"
    plan = SMALL.format(kind="linear", strategy="fedavg", rounds=2, quorum=2, private="true", seed="")
    file.write_text("\n".join(line for line in plan.splitlines() if not line.startswith(("low", "high"))))
    commands: list[tuple[str, ...]] = [("runs", "show", "fake-1"), ("runs", "watch", "fake-1")]
    commands += [("compare", "fake-1", "fake-1")] if "metrics" in result else []
    for command in commands:
        told = tidegate(*command, code=1)
        assert "not understood" in told
        require_harmless(told)
    if "features" in result:
        told = tidegate("ranges", str(file), "--epsilon", "1", "--write", str(copy), code=1)
        assert "not understood" in told, told
        require_harmless(told)
        assert not copy.exists()


def test_a_run_s_name_is_no_way_to_another_path(server: Liar) -> None:
    for name in ("../../authority.pem", "a/b", "a?b", "a\n", "", HOSTILE.replace("\ud800", "")):
        server.answers["/v1/ranges"] = {"run": name, "place": 1}
        with server.connection() as asked, pytest.raises(TidegateError, match="not understood"):
            asked.get("/v1/ranges", Submitted)
