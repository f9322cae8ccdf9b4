"""`tidegate site doctor`: each thing that stops a site is seen, named, and told what to do about."""

from __future__ import annotations

import email.utils
import functools
import json
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from clients.keys import make_node_key
from clients.site import close_site
from contract.transport import proxy_for
from server.line.certificates import make_server_files
from server.line.processes import free_port

SITE = """\
name = "north"
stated_rows = 50
[data]
kind = "csv"
path = "rows.csv"
[card]
holdout = { column = "side" }
columns = [
    { name = "age", kind = "numeric", low = 0, high = 120 },
    { name = "ill", kind = "categorical", categories = ["0", "1"] },
]
"""

Command = Callable[..., str]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "site.toml").write_text(SITE)
    (tmp_path / "rows.csv").write_text("age,ill,side\n50,1,train\n")
    make_node_key(tmp_path / "keys")
    yield tmp_path / "site.toml"
    close_site(tmp_path / "site.toml")


class _Server(NamedTuple):
    address: str
    authority: Path
    ahead: list[float]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Server]:
    """One that answers over TLS, and says a time that is so many seconds behind."""
    files = make_server_files(tmp_path_factory.mktemp("server"), ("127.0.0.1",))
    behind = [0.0]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(200)
            self.send_header("date", email.utils.formatdate(time.time() - behind[0], usegmt=True))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    listening = ThreadingHTTPServer(("0.0.0.0", 0), Handler)  # noqa: S104 - as 127.0.0.2 too
    listening.socket = context.wrap_socket(listening.socket, server_side=True)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield _Server(f"127.0.0.1:{listening.server_port}", files.authority, behind)
    listening.shutdown()
    listening.server_close()


def look(tidegate: Command, site: Path, *arguments: object, faults: tuple[str, ...] = ()) -> dict[str, Any]:
    """What was found, by what it is about; exactly these are faults."""
    value = json.loads(tidegate("site", "doctor", site, *arguments, "--json", code=1 if faults else 0))
    assert value["ready"] == (not faults)
    assert tuple(one["about"] for one in value["findings"] if one["state"] == "fault") == faults, value
    return {one["about"]: one for one in value["findings"]}


def test_a_site_that_is_ready(tidegate: Command, site: Path, server: _Server) -> None:
    server.ahead[0] = 0
    reached = ("--superlink", server.address, "--root-certificates", server.authority)
    found = look(tidegate, site, *reached)
    assert found["clock"]["what"] == "as the server's"
    assert "answers" in found["server"]["what"]
    assert found["ledger"]["what"].startswith("none yet")
    assert not (site.parent / "tidegate").exists()  # looking makes nothing
    told = tidegate("site", "doctor", site, *reached)
    assert "The site is ready." in told


@pytest.mark.parametrize(
    ("change", "about", "words"),
    [
        (("north", "no/rth"), "settings", "name"),
        (("[card]", "[card]\ndraft = true"), "card", "draft"),
        (("[card]", "[card]  # REPLACE: from the rows"), "card", "1 line of it still says REPLACE (line "),
        (('"rows.csv"', '"gone.csv"'), "rows", "gone.csv"),
        (('name = "age"', 'name = "years"'), "rows", "years"),
    ],
)
def test_a_wrong_setting_is_a_fault(
    tidegate: Command, site: Path, change: tuple[str, str], about: str, words: str
) -> None:
    site.write_text(SITE.replace(*change))
    faults = ("card", "rows") if about == "card" else (about,)
    found = look(tidegate, site, faults=faults)[about]
    assert words in found["what"]
    assert found["remedy"]


def test_a_key_that_others_can_read_is_a_fault(tidegate: Command, site: Path) -> None:
    (site.parent / "keys" / "node.key").chmod(0o640)
    assert "chmod 600" in look(tidegate, site, faults=("key",))["key"]["remedy"]
    (site.parent / "keys" / "node.key").unlink()
    look(tidegate, site, faults=("key",))


def test_a_ledger_that_is_gone_is_put_back_by_a_command(tidegate: Command, site: Path) -> None:
    (site.parent / "tidegate").mkdir()
    (site.parent / "tidegate" / "holdout.key").write_bytes(bytes(32))
    found = look(tidegate, site, faults=("ledger",))["ledger"]
    assert "`tidegate site restore` puts a backup back" in found["remedy"]


def test_little_room_is_said(tidegate: Command, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(site.parent)
    for free, state in ((10**8, "fault"), (10**9, "warning")):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage._replace(free=free))
        faults = ("disk",) if state == "fault" else ()
        assert look(tidegate, site, faults=faults)["disk"]["state"] == state
    monkeypatch.undo()
    site.write_text(SITE + f"[agent]\nmemory_mb = {psutil.virtual_memory().total // 2**20 + 1}\n")
    assert look(tidegate, site)["memory"]["state"] == "warning"


def test_it_says_where_models_compute(tidegate: Command, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "on the processor (agent.device)" in look(tidegate, site)["device"]["what"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for device, state in (("auto", "ok"), ("cuda", "warning")):
        site.write_text(SITE + f'[agent]\ndevice = "{device}"\n')
        found = look(tidegate, site)["device"]
        assert found["state"] == state
        assert "on the processor: " in found["what"]
        assert ("agent.device = 'cpu'" in found["remedy"]) is (device == "cuda")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "NVIDIA L4")
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (0, 24 * 2**30))
    assert look(tidegate, site)["device"]["what"] == "NVIDIA L4, 24 GiB"


@pytest.mark.parametrize(
    ("ahead", "state", "words"),
    [
        (30, "warning", "your clock is 30 s ahead of the server's"),
        (3, "ok", "your clock is 3 s ahead of the server's"),
        (-60, "warning", "behind the server's"),
        (-900, "warning", "behind the server's"),
        (7200, "fault", "ahead of the server's"),
        (-7200, "fault", "behind the server's"),
    ],
)
def test_a_clock_that_is_off_is_said(
    tidegate: Command, site: Path, server: _Server, ahead: int, state: str, words: str
) -> None:
    server.ahead[0] = ahead + 0.01 if ahead > 0 else ahead
    reached = ("--superlink", server.address, "--root-certificates", server.authority)
    found = look(tidegate, site, *reached, faults=("clock",) if state == "fault" else ())["clock"]
    assert found["state"] == state
    assert words.replace("30 s", "") in found["what"].replace("30 s", "").replace("31 s", "").replace(
        "4 s", "3 s"
    )
    assert bool(found["remedy"]) == (state != "ok")


def _nothing(_: _Server) -> str:
    return f"127.0.0.1:{free_port()}"


def _a_mute(listening: socket.socket) -> None:
    with listening, listening.accept()[0] as connection:
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")


def _no_tls(_: _Server) -> str:
    listening = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=functools.partial(_a_mute, listening), daemon=True).start()
    return f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (_nothing, "nothing listens there"),
        (_no_tls, "does not speak TLS"),
        (lambda server: server.address.replace("127.0.0.1", "127.0.0.2"), "for another address"),
        (lambda _: "not an address", "not an address"),
        (lambda _: "host/path:80", "not an address"),
    ],
)
def test_what_is_between_is_named(
    tidegate: Command, site: Path, server: _Server, address: Callable[[_Server], str], words: str
) -> None:
    arguments = ("--superlink", address(server), "--root-certificates", server.authority)
    found = look(tidegate, site, *arguments, faults=("server",))["server"]
    assert words in found["what"]
    assert found["remedy"]


def test_a_name_that_nobody_knows_is_named(
    tidegate: Command, site: Path, server: _Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No name server is asked here: what it would say stands in its place."""

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    arguments = ("--superlink", "hospital.example:9092", "--root-certificates", server.authority)
    found = look(tidegate, site, *arguments, faults=("server",))["server"]
    assert "no such host is known here" in found["what"]
    assert "DNS" in found["remedy"]


def test_another_authority_is_named(tidegate: Command, site: Path, server: _Server, tmp_path: Path) -> None:
    other = make_server_files(tmp_path / "other", ("127.0.0.1",)).authority
    found = look(
        tidegate, site, "--superlink", server.address, "--root-certificates", other, faults=("server",)
    )
    assert "another authority signed" in found["server"]["what"]
    without = look(tidegate, site, "--superlink", server.address, faults=("server",))
    assert "--root-certificates" in without["server"]["remedy"]


def test_a_proxy_is_named_and_this_machine_is_asked_without_one(
    tidegate: Command, site: Path, server: _Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.ahead[0] = 0
    proxy = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    monkeypatch.setenv("https_proxy", proxy)
    look(tidegate, site, "--superlink", server.address, "--root-certificates", server.authority)
    arguments = ("--superlink", "hospital.example:9092", "--root-certificates", server.authority)
    found = look(tidegate, site, *arguments, faults=("server",))["server"]
    assert f"the proxy {proxy} does not answer" in found["what"]
    assert "NO_PROXY" in found["remedy"]
    assert proxy_for("https://hospital.example:9092") == proxy
    for here in ("127.0.0.1:1", "[::1]:1", "localhost:1"):
        assert proxy_for(f"https://{here}") == ""
    monkeypatch.setenv("no_proxy", "hospital.example")
    assert proxy_for("https://hospital.example:9092") == ""
