"""A site becomes one of a federation, over a real gateway and real commands; and who must not become one.

The gateway, the operator's commands, the site's commands and its agent are processes of their own.
"""

from __future__ import annotations

import json
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509

from clients.keys import fingerprint, make_node_key, read_private_key
from clients.line.enrolment import JoiningSite, joined, renew
from contract.enrolment import REVOKED, Token
from contract.errors import AddressError
from server.enrolment import Upkeep
from server.federation import Federation
from server.line.certificates import sign_site
from server.line.processes import Processes, free_port
from server.server_file import ServerFile
from server.settings import ServerSettings
from server.state.enrolments import Enrolments
from server.state.storage import open_state
from tests.commands import plain_environment
from tests.forked import run_forked
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e

_SITE = """\
name = "{name}"
stated_rows = 50
[data]
kind = "csv"
path = "rows.csv"
[card]
description = "Visits"
holdout = {{ column = "side" }}
columns = [
    {{ name = "age", kind = "numeric", low = 0, high = 120 }},
    {{ name = "ill", kind = "categorical", categories = ["0", "1"] }},
]
"""


@dataclass
class World:
    """A server with a gateway, and a place for sites."""

    folder: Path
    federation: Federation
    started: list[subprocess.Popen[str]]

    @property
    def home(self) -> Path:
        return self.federation.home

    @property
    def gateway(self) -> str:
        assert self.federation.file is not None
        return self.federation.file.gateway

    def start(self, *arguments: str | Path, cwd: Path | None = None, **more: str) -> subprocess.Popen[str]:
        """A command as a process of its own."""
        process = subprocess.Popen(
            [sys.executable, "-m", "experiments.cli.main", *map(str, arguments)],
            cwd=cwd or self.folder,
            env=self.environment(more),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        settings = self.federation.settings
        return {
            **plain_environment(),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "TIDEGATE_HOME": str(settings.home),
            "TIDEGATE_STATE_URL": settings.state_url,
            **more,
        }

    def run(self, *arguments: str | Path, code: int = 0, **more: str) -> str:
        """A command that must end so; what it wrote on standard output, or on standard error if it failed."""
        done = run_forked(self.folder, [str(one) for one in arguments], self.environment(more))
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stderr if code else done.stdout

    def server(self, *arguments: str, code: int = 0) -> str:
        return self.run("server", *arguments, code=code)

    def server_json(self, *arguments: str) -> Any:
        return json.loads(self.server(*arguments, "--json"))

    def site(self, name: str) -> Path:
        folder = self.folder / f"{name}-{len(list(self.folder.iterdir()))}"
        folder.mkdir()
        (folder / "site.toml").write_text(_SITE.format(name=name))
        (folder / "rows.csv").write_text("age,ill,side\n50,1,train\n")
        make_node_key(folder / "keys")
        return folder / "site.toml"

    def invited(self, name: str) -> str:
        return self.server("invite", name).strip()

    def let_in(self, name: str) -> Path:
        """A site that has joined."""
        site = self.site(name)
        token = self.invited(name)
        self.run("site", "join", token, "--site", site, "--wait", "0", code=1)
        self.server("requests")
        self.server("confirm", name, key_of(site))
        self.run("site", "join", token, "--site", site, "--wait", "300")
        return site

    def enrolments(self) -> Any:
        return open_state(self.federation.settings.state_url)

    def is_connected(self, name: str) -> bool:
        found = [one for one in self.server_json("sites") if one["name"] == name]
        return bool(found and found[0]["connected"])


def key_of(site: Path) -> str:
    return fingerprint(read_private_key(site.parent / "keys" / "node.key").public_key())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = tmp_path_factory.mktemp("server")
    settings = ServerSettings(
        home=home,
        state_url=f"sqlite:///{home / 'state.db'}",
        tracking_uri=f"sqlite:///{home / 'mlflow.db'}",
        artifact_root=home / "artifacts",
    )
    places: dict[str, Any] = {
        "gateway_port": free_port(),
        "api_port": free_port(),
    }
    made = World(
        tmp_path_factory.mktemp("sites"),
        Federation(home=home, settings=settings, processes=Processes(logs=home / "logs")),
        [],
    )
    ports = [f"--{name.replace('_', '-')}={port}" for name, port in places.items()]
    assert "authority" in made.server("init", "127.0.0.1", "--listen", "127.0.0.1", *ports)
    with Processes(logs=home / "logs") as processes:
        file = ServerFile(hosts=("127.0.0.1",), listen="127.0.0.1", **places)
        made.federation = Federation(
            home=home, settings=settings, processes=processes, lasting=True, file=file
        )
        made.federation.start_server().close()
        yield made
        for process in made.started:
            process.kill()
            process.communicate()


def test_from_nothing_to_a_connected_site_and_out_again(world: World) -> None:
    site = world.site("north")
    token = world.invited("north")
    assert len(token) <= 200
    assert token.replace("_", "").replace("-", "").isalnum()  # one word for every shell
    assert Token.read(token).secret not in (world.home / "state.db").read_bytes().hex()

    joining = world.start("site", "join", token, "--site", site)
    wait_until(lambda: world.server_json("requests") != [], "the request")
    (request,) = world.server_json("requests")
    assert (request["name"], request["fingerprint"]) == ("north", key_of(site))
    assert request["stated_rows"] == 50
    assert request["card"]["description"] == "Visits"
    assert "2 columns" in world.server("requests")
    assert "another fingerprint" in world.server("confirm", "north", "SHA256:" + "A" * 43, code=2)
    assert "16 characters at least" in world.server("confirm", "north", key_of(site)[:22], code=2)
    world.server("confirm", "north", key_of(site)[:23])
    out, said = joining.communicate(timeout=600)
    assert joining.returncode == 0, said
    assert key_of(site) in out

    keys = site.parent / "keys"
    for name in ("ca.pem", "site.pem", "federation.json", "node.key"):
        assert stat.S_IMODE((keys / name).stat().st_mode) == 0o600
    assert json.loads((keys / "federation.json").read_text()) == {"gateway": world.gateway, "name": "north"}

    status = json.loads(world.run("site", "status", site, "--json"))
    assert status["federation"]["gateway"] == world.gateway
    found = {one["about"]: one for one in json.loads(world.run("site", "doctor", site, "--json"))["findings"]}
    assert found["membership"]["state"] == "ok"
    assert "answers" in found["server"]["what"]

    agent = world.start("site", "up", site)
    wait_until(lambda: world.is_connected("north"), "the agent's connection")
    assert "is let in already" in world.server("invite", "north", code=2)
    world.server("revoke", "north")
    out, said = agent.communicate(timeout=600)
    assert "the server does not know this site any more" in said, said  # its next question, or its next beat
    assert agent.returncode == 1
    assert not world.is_connected("north")
    assert REVOKED in said
    assert REVOKED in world.run("site", "up", site, code=1)
    doctor = run_forked(world.folder, ["site", "doctor", str(site), "--json"], world.environment({}))
    (fault,) = [one for one in json.loads(doctor.stdout)["findings"] if one["state"] == "fault"]
    assert (fault["about"], REVOKED in fault["what"]) == ("admission", True)
    assert "a new key" in fault["remedy"]

    renewal = httpx.post(
        f"https://{world.gateway}/v1/enrolment/renew", content="{}", verify=_tls(world, site), trust_env=False
    )
    assert renewal.status_code == 403
    assert "no site 'north' is admitted" in world.server("revoke", "north", code=2)
    again = world.invited("north")  # with the key of before it is refused, in words
    world.run("site", "join", again, "--site", site, "--wait", "0", code=1)
    world.server("requests")
    assert "a key is admitted once" in world.server("confirm", "north", key_of(site), code=2)
    world.server("refuse", "north")
    assert "has refused this site" in world.run("site", "join", again, "--site", site, "--wait", "0", code=1)


def _tls(world: World, site: Path) -> ssl.SSLContext:
    found = joined(site)
    assert found is not None
    return found.tls


def test_a_token_is_its_first_key_s(world: World) -> None:
    site, thief = world.site("south"), world.site("south")
    token = world.invited("south")
    for _ in range(2):  # stopped while it waits, and again
        assert "has not confirmed" in world.run("site", "join", token, "--site", site, "--wait", "0", code=1)
    told = world.run("site", "join", token, "--site", thief, "--wait", "0", code=1)
    assert "no such invitation is open" in told
    wrong = Token.make(world.gateway, Token.read(token).authority).written()
    assert told == world.run("site", "join", wrong, "--site", site, "--wait", "0", code=1)
    (request,) = world.server_json("requests")
    assert (request["fingerprint"], request["rival"]) == (key_of(site), key_of(thief))
    assert f"was refused: {key_of(thief)}" in world.server("requests")
    assert "another fingerprint" in world.server("confirm", "south", key_of(thief), code=2)
    newer = world.invited("south")
    assert world.server_json("requests") == []
    assert told == world.run("site", "join", token, "--site", site, "--wait", "0", code=1)
    piped = world.start("site", "join", "-", "--site", str(thief), "--wait", "0")
    piped.communicate(newer + "\n", timeout=600)
    assert world.server_json("requests")[0]["fingerprint"] == key_of(thief)
    world.server("refuse", "south")
    assert "was answered already: refused" in world.server("confirm", "south", key_of(thief), code=2)
    log = (world.federation.processes.logs / "superlink.log").read_text()
    assert f"another key's, with {key_of(thief)}" in log
    for secret in (token, newer, wrong):
        assert Token.read(secret).secret not in log


def test_a_site_that_is_stopped_goes_on_with_the_same_command(world: World) -> None:
    site, token = world.site("west"), world.invited("west")
    for number in (signal.SIGKILL, signal.SIGINT):
        joining = world.start("site", "join", token, "--site", site)
        assert joining.stdout is not None
        for line in joining.stdout:
            if "goes on" in line:
                break
        joining.send_signal(number)
        joining.communicate(timeout=600)
    assert joining.returncode == 130
    world.server("requests")
    world.server("confirm", "west", key_of(site))
    assert "was answered already: confirmed" in world.server("confirm", "west", key_of(site), code=2)
    world.run("site", "join", token, "--site", site, "--wait", "300")
    world.run("site", "join", token, "--site", site, "--wait", "300")  # it does no harm
    assert not [path for path in (site.parent / "keys").iterdir() if path.name.startswith(".")]


def test_what_is_confirmed_is_what_the_operator_was_shown(world: World) -> None:
    """The site asks again with the same key, once the operator has looked: other rows, another card."""
    site, token = world.site("shifty"), world.invited("shifty")
    key, shown = key_of(site), site.read_text()

    def ask(text: str) -> None:
        site.write_text(text)
        world.run("site", "join", token, "--site", site, "--wait", "0", code=1)

    def admitted() -> dict[str, int]:
        with world.enrolments() as state:
            return {one.name: one.stated_rows for one in state.admitted_sites("standing")}

    ask(shown)
    assert "was not shown to you" in world.server("confirm", "shifty", key, code=2)  # nobody has looked
    world.server("requests")
    for other in (
        shown.replace("stated_rows = 50", "stated_rows = 5000"),
        shown.replace("high = 120", "high = 100"),
    ):
        ask(other)
        assert any(one["name"] == "shifty" for one in world.server_json("requests"))  # a program that watches
        for more in ((), ("--rows", "50")):
            told = world.server("confirm", "shifty", key, *more, code=2)
            assert "'shifty' asks for is not what it was when you looked" in told
            assert "tidegate server requests" in told
        assert "shifty" not in admitted()
    ask(shown)  # as it was shown
    world.server("confirm", "shifty", key)
    assert admitted()["shifty"] == 50
    world.run("site", "join", token, "--site", site, "--wait", "300")


@contextmanager
def _between(certificate: Path, key: Path, answers: list[bytes]) -> Iterator[int]:
    """One who stands between, with a certificate of another authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listening = socket.create_server(("127.0.0.1", 0))
    seen: list[bytes] = []

    def serve() -> None:
        for answer in answers:
            try:
                plain, _ = listening.accept()
                with context.wrap_socket(plain, server_side=True) as line:
                    request = b""
                    while not request.endswith(b"}"):  # one half-read would be answered with a reset
                        request += line.recv(2**16)
                    seen.append(request)
                    line.sendall(
                        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(answer)
                        + answer
                    )
            except OSError:
                pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listening.getsockname()[1]
    listening.shutdown(socket.SHUT_RDWR)  # which ends a wait in `accept`, as closing alone does not
    thread.join(timeout=300)
    assert not thread.is_alive(), "who stands between did not end within 300 s"
    listening.close()
    assert all(b"signing_request" not in request for request in seen)


def test_a_man_in_the_middle_gets_nothing(world: World, tmp_path: Path) -> None:
    from server.line.certificates import make_server_files

    other = make_server_files(tmp_path / "other", ("127.0.0.1",))
    true, site = world.federation.files.authority.read_text(), world.site("east")
    token = Token.read(world.invited("east"))
    false = other.authority.read_text()
    answers = [
        {"authority": false},
        {"authority": true + false},
        {"authority": false + true},
        {"authority": ""},
    ]
    for said in answers:
        text = json.dumps(said).encode()
        with _between(other.certificate, other.key, [text, b"{}"]) as port:
            stolen = Token(gateway=f"127.0.0.1:{port}", authority=token.authority, secret=token.secret)
            told = world.run("site", "join", stolen.written(), "--site", site, "--wait", "0", code=2)
        if said["authority"].startswith(true):
            # the true authority, told on: the join that follows is made over TLS that it has not
            assert "another authority signed" in told
        else:
            assert "is not the federation" in told or "is no gateway" in told
    assert world.server_json("requests") == []
    assert not (site.parent / "keys" / "federation.json").exists()
    # the server under a name that its certificate does not have
    elsewhere = Token(
        gateway=world.gateway.replace("127.0.0.1", "127.0.0.2"),
        authority=token.authority,
        secret=token.secret,
    )
    assert world.gateway.startswith("127.0.0.1")
    assert "error" in world.run("site", "join", elsewhere.written(), "--site", site, "--wait", "0", code=2)


def test_a_certificate_is_renewed_and_the_authority_s_key_stays_with_the_operator(world: World) -> None:
    site = world.let_in("renewed")
    found = joined(site)
    assert found is not None
    key = read_private_key(site.parent / "keys" / "node.key")
    stop, files, settings = threading.Event(), world.federation.files, world.federation.settings
    assert not renew(found, key, stop)  # half of its time is not over
    with open_state(settings.state_url) as state:
        enrolments = Enrolments(state.database, settings.federation)
        asked = enrolments.get("renewed")
        assert asked is not None
        old = sign_site(files, "renewed", key.public_key(), now=datetime.now(UTC) - timedelta(days=120))
        enrolments.renew(asked, old.decode())
        whole = found.certificate.read_bytes()
        found.certificate.write_bytes(old + whole[whole.index(b"-----BEGIN PRIVATE") :])
        upkeep = Upkeep(
            state=state,
            federation=settings.federation,
            home=world.home,
            hosts=("127.0.0.1", "localhost"),
            say=print,
        )
        hidden = files.authority_key.rename(world.home / "hidden")
        said: list[str] = []
        ends = threading.Event()

        def operator() -> None:
            while not ends.wait(0.2):
                upkeep.look()

        upkeep.say = said.append
        thread = threading.Thread(target=operator)
        thread.start()
        try:
            asker = threading.Thread(target=lambda: done.append(renew(found, key, stop)))
            done: list[bool] = []
            asker.start()
            wait_until(lambda: any("cannot be renewed" in one for one in said), "the operator's warning")
            assert (enrolments.get("renewed") or asked).renewal_asked is not None
            hidden.rename(files.authority_key)
            asker.join(timeout=300)
        finally:
            ends.set()
            thread.join()
    assert done == [True]
    assert found.shows.not_valid_after_utc > datetime.now(UTC) + timedelta(days=170)
    assert found.require_key(key).require("renewed").tls
    assert len([one for one in said if "cannot be renewed" in one and "site 'renewed'" in one]) == 1
    agent = world.start("site", "up", site)
    wait_until(lambda: world.is_connected("renewed"), "the agent's connection")
    agent.send_signal(signal.SIGTERM)
    _, told = agent.communicate(timeout=600)
    assert agent.returncode == 0, told
    # somebody else's certificate is renewed for nobody: whose it is, TLS alone says
    with httpx.Client(verify=_tls(world, site), trust_env=False) as client:
        url = f"https://{world.gateway}/v1/enrolment/renew"
        assert client.post(url, content='{"site": "south"}').status_code == 400
        mine = client.post(url, content="{}").json()["certificate"]
    assert x509.load_pem_x509_certificate(mine.encode()).serial_number == found.shows.serial_number


def test_a_confirmation_that_is_cut_off_is_done_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from server import enrolment
    from server.federation import running_control

    site, token = world.site("cut"), world.invited("cut")
    world.run("site", "join", token, "--site", site, "--wait", "0", code=1)
    world.server("requests")
    settings = world.federation.settings

    class KilledError(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise KilledError

    for place, name in ((enrolment, "_sign"), (enrolment, "_admit"), (Enrolments, "confirm")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, killed)
            with pytest.raises(KilledError):
                enrolment.confirm("cut", key_of(site), running_control(settings), settings, 40)
        assert [one["name"] for one in world.server_json("requests")] == ["cut"]
        assert "has not confirmed" in world.run("site", "join", token, "--site", site, "--wait", "0", code=1)
    assert "45 rows" in world.server("confirm", "cut", key_of(site), "--rows", "45")
    world.run("site", "join", token, "--site", site, "--wait", "300")
    with open_state(settings.state_url) as state:
        assert {one.name: one.stated_rows for one in state.admitted_sites("standing")}["cut"] == 45


def test_what_an_operator_gets_wrong_is_one_sentence(world: World) -> None:
    assert "there is a server already" in world.server("init", "127.0.0.1", code=2)
    assert "cannot be named" in world.server("invite", "no/rth\x1b[2J", code=2)
    assert "is no time from 1h to 90d" in world.server("invite", "x", "--expires", "0d", code=2)
    assert "is no time from 1h to 90d" in world.server("invite", "x", "--expires", "91d", code=2)
    assert "no site 'nobody' has asked" in world.server("confirm", "nobody", "SHA256:" + "A" * 43, code=2)
    assert "no site 'nobody' has asked" in world.server("refuse", "nobody", code=2)
    told = world.run("server", "invite", "x", code=2, TIDEGATE_HOME=str(world.folder / "none"))
    assert "tidegate server init HOST" in told


def test_what_a_site_gets_wrong_is_one_sentence(world: World) -> None:
    site, token = world.site("careless"), world.invited("careful")
    told = world.run("site", "join", token, "--site", site, code=1)
    assert "the invitation is for a site named 'careful'" in told
    for wrong in ("no token", token[:-3], token + "x", "tidegate_", "\x1b[2J" + token, "x" * 10_000):
        said = world.run("site", "join", wrong, "--site", site, code=2)
        assert "TOKEN" in said
        assert "\x1b" not in said
        assert token not in said
    assert "has joined no federation" in world.run("site", "up", site, code=2)
    assert "go together" in world.run("site", "up", site, "--superlink", "127.0.0.1:1", code=2)
    with pytest.raises(AddressError):
        JoiningSite(
            token=Token(gateway="127.0.0.1:9", authority=bytes(32), secret="0" * 32),
            name="careless",
            key=read_private_key(site.parent / "keys" / "node.key"),
            stated_rows=1,
            card=None,
            keys=site.parent / "keys",
        ).authority()
    (site.parent / "keys" / "federation.json").write_text('{"gateway": "a b"}')
    assert "not what `tidegate site join` wrote" in world.run("site", "up", site, code=2)
