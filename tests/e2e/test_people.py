"""People at a real `tidegate server up` with a server.toml, in folders that share nothing with it."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clients.keys import make_node_key
from server.line.processes import free_port
from server.registry.registry import Registry
from tests.commands import plain_environment
from tests.failure.conftest import home_of, plan
from tests.forked import run_forked
from tests.runtimes.conftest import make_site

pytestmark = pytest.mark.e2e

TIDEGATE = (sys.executable, "-m", "experiments.cli.main")


class Standing:
    """A server and its sites' folders; each part is started and ended on its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "operator"
        self.settings = home_of(self.home)
        self.port, self.api, gateway = free_port(), free_port(), free_port()
        self.home.joinpath("server.toml").write_text(
            f'hosts = ["127.0.0.1"]\nlisten = "127.0.0.1"\napi_port = {self.api}\n'
            f"gateway_port = {gateway}\nruns_at_once = 1\n"
        )
        self.sites = {
            name: make_site(folder / name, name, seed) for seed, name in enumerate(("north", "south"))
        }
        self.server: subprocess.Popen[bytes] | None = None
        self.agents: list[subprocess.Popen[bytes]] = []
        self.commands: list[subprocess.Popen[str]] = []

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.api}"

    @property
    def said(self) -> str:
        return (self.folder / "server.log").read_text(errors="replace")

    def environment(self) -> dict[str, str]:
        values = {
            "TIDEGATE_HOME": str(self.home),
            "MLFLOW_TRACKING_URI": self.settings.tracking_uri,
            "TIDEGATE_ARTIFACT_ROOT": str(self.settings.artifact_root),
        }
        return {**plain_environment(), **values, "OMP_NUM_THREADS": "1"}

    def start(self) -> None:
        said = len(self.said) if (self.folder / "server.log").exists() else 0
        with (self.folder / "server.log").open("ab") as log:
            self.server = subprocess.Popen(
                [*TIDEGATE, "server", "up", "--port", str(self.port), "--ui-port", "0"],
                cwd=self.folder, env=self.environment(), stdout=log, stderr=log,
            )  # fmt: skip
        self.wait(lambda: "API  " in self.said[said:], "API", pause=0.1)

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.server is not None:
            self.server.send_signal(number)
            self.server.wait(timeout=300)
            self.server = None

    def end(self) -> None:
        """End all that was started here, whatever a test has left."""
        for command in self.commands:
            with command:  # whose output nobody reads any more
                command.kill()
        for agent in self.agents:
            agent.terminate()
        self.stop()
        for agent in self.agents:
            agent.wait(timeout=300)

    def operator(self, *arguments: str) -> str:
        done = run_forked(self.folder, arguments, self.environment())
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start_site(self, name: str) -> None:
        path = self.sites[name]
        private, public = make_node_key(path.parent / "keys")
        self.operator("server", "admit", name, str(public))
        authority = self.home / "certificates" / "ca.pem"
        command = [
            *TIDEGATE, "site", "up", str(path), "--superlink", f"127.0.0.1:{self.port}",
            "--root-certificates", str(authority), "--key", str(private), "--warm",
        ]  # fmt: skip
        with (self.folder / f"{name}.log").open("ab") as log:
            self.agents.append(
                subprocess.Popen(command, cwd=path.parent, env=plain_environment(), stdout=log, stderr=log)
            )

    def wait(self, true: Callable[[], bool], what: str, *, pause: float = 1.0) -> None:
        """Wait until a command says so: each is a process, which costs half a second of a processor."""
        end = time.monotonic() + 900
        while not true():
            assert self.server is None or self.server.poll() is None, self.said
            assert time.monotonic() < end, f"no {what}: {self.said}"
            time.sleep(pause)


class Scientist:
    """A person in a folder of their own, with no file of the server."""

    def __init__(self, standing: Standing, folder: Path, token: str) -> None:
        self.standing, self.folder, self.token = standing, folder, token
        folder.mkdir()
        (folder / "small.toml").write_text(_file())

    def environment(self) -> dict[str, str]:
        return {**plain_environment(), "XDG_CONFIG_HOME": str(self.folder / "config")}

    def runs(self, *arguments: str, code: int = 0, token: str = "") -> str:
        environment = {**self.environment(), **({"TIDEGATE_TOKEN": token} if token else {})}
        done = run_forked(self.folder, arguments, environment)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr if code else done.stdout

    def starts(self, *arguments: str) -> subprocess.Popen[str]:
        started = subprocess.Popen(
            [*TIDEGATE, *arguments], cwd=self.folder, env=self.environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1,
        )  # fmt: skip
        self.standing.commands.append(started)
        return started

    def submits(self) -> str:
        """Submit, and leave with Ctrl-C; the run's name."""
        running = self.starts("run", "small.toml", "--yes")
        assert running.stdout is not None
        said = []
        for line in running.stdout:  # first what the recipe chose
            said.append(line)
            if line.startswith("run '"):
                break
        else:
            pytest.fail("".join(said))
        second = running.stdout.readline()
        assert any(word in second for word in ("queued", "begin", "it goes on", "small")), second
        running.send_signal(signal.SIGINT)
        rest = running.stdout.read()
        name = line.split("'")[1]
        assert running.wait(timeout=300) == 130, rest
        assert f"the run goes on. Come back with: tidegate runs watch {name}" in rest
        return name

    def list(self) -> dict[str, dict[str, Any]]:
        listed = json.loads(self.runs("runs", "list", "--json"))
        return {run["name"]: run for run in listed["runs"]}


def _file() -> str:
    """The plan as a file, for a quorum of two."""
    from tests.runtimes.conftest import SMALL

    text = SMALL.format(
        kind="linear", strategy="fedavg", rounds=2, quorum=2, private="false", seed="seed = 7"
    )
    assert plan(rounds=2, quorum=2).name == "small"
    return text.replace("grace = 2.0", "grace = 2.0\nround_timeout = 900")


@pytest.fixture
def standing(tmp_path: Path) -> Iterator[Standing]:
    found = Standing(tmp_path)
    try:
        found.start()
        yield found
    finally:
        found.end()


@pytest.mark.long
def test_two_scientists_share_a_queue_that_outlives_the_server(standing: Standing, tmp_path: Path) -> None:
    """The whole of it at a server and two sites.

    Alone: connecting and running at such a server (tests/runtimes/test_parity.py), leaving with Ctrl-C and
    stopping (the test below), the queue and a server that starts again (tests/server/test_run_queue.py), a
    certificate that must be compared (tests/scientist/test_connection.py), roles and owners
    (test_commands.py beside it), a line that is cut (tests/server/api/test_events.py,
    tests/scientist/test_runs.py), tokens that are revoked or kept out of logs
    (tests/server/api/test_api.py).
    """
    made = {
        name: json.loads(standing.operator("server", "person", "add", name, "--role", role, "--json"))
        for name, role in (
            ("ada", "scientist"),
            ("ben", "scientist"),
            ("olga", "operator"),
            ("rita", "reviewer"),
        )
    }
    people = {
        name: Scientist(standing, tmp_path / f"laptop-{name}", one["token"]) for name, one in made.items()
    }
    for name, person in people.items():
        said = person.runs("connect", standing.url, token=person.token, code=2)
        assert made[name]["fingerprint"] in said  # nobody trusts what is not compared
        assert not (person.folder / "config").exists()
        said = person.runs(
            "connect", standing.url, "--fingerprint", made[name]["fingerprint"], token=person.token
        )
        assert f"as '{name}'" in said
        profile = person.folder / "config" / "tidegate" / "profiles" / "127.0.0.1.toml"
        assert stat.S_IMODE(profile.stat().st_mode) == 0o600
        assert person.token not in said
    ada, ben, olga, rita = (people[name] for name in ("ada", "ben", "olga", "rita"))

    first, second, third, fourth = ada.submits(), ben.submits(), ada.submits(), ben.submits()
    places = lambda: {name: run["place"] for name, run in rita.list().items()}  # noqa: E731
    assert places() == {first: 0, second: 1, third: 2, fourth: 3}
    assert {run["owner"] for run in ada.list().values()} == {"ada", "ben"}
    assert "a reviewer may not do this" in rita.runs("runs", "stop", third, code=2)
    assert "the run is ben's" in ada.runs("runs", "stop", fourth, code=2)
    assert "out of the queue" in olga.runs("runs", "stop", fourth)
    standing.wait(lambda: ada.list()[first]["status"] == "running", "first run")

    watching = ada.starts("runs", "watch", second)
    assert watching.stdout is not None
    assert watching.stdout.readline() == "queued, at place 1\n"
    standing.stop()
    assert "cannot be reached" in ada.runs("runs", "list", code=2)
    standing.start()
    assert {name: run["owner"] for name, run in ada.list().items()} == {
        first: "ada", second: "ben", third: "ada", fourth: "ben",
    }  # fmt: skip
    assert places() == {first: 0, second: 1, third: 2, fourth: 0}
    for name in standing.sites:
        standing.start_site(name)
    for name in (first, second, third):
        ended = json.loads(ada.runs("runs", "watch", name, "--json"))
        assert ended["run"]["status"] == "succeeded", standing.said
        assert [one["number"] for one in ended["rounds"]] == [1, 2]
        assert ended["result"]["privacy"].keys() == {"north", "south"}
    followed, _ = watching.communicate(timeout=600)
    assert "the line to the server is cut" in followed
    assert f"run {second}, of ben: succeeded" in followed
    began = [ada.list()[name]["since"] for name in (first, second, third)]
    assert began == sorted(began)
    assert "small" in Registry(standing.settings.tracking_uri, standing.settings.artifact_root).models()

    said = ben.runs("runs", "show", first)
    assert "version 1 of 'small'" in said
    standing.operator("server", "person", "revoke", "ben")
    assert "does not take your token" in ben.runs("runs", "list", code=2)
    assert "are gone" in ben.runs("disconnect")
    assert "you are not connected" in ben.runs("runs", "list", code=2)
    logs = "".join(path.read_text(errors="replace") for path in standing.home.rglob("*.log")) + standing.said
    for person in people.values():
        assert person.token not in logs


def test_a_run_that_goes_on_is_stopped_by_its_owner(standing: Standing, tmp_path: Path) -> None:
    made = json.loads(standing.operator("server", "person", "add", "ada", "--role", "scientist", "--json"))
    ada = Scientist(standing, tmp_path / "laptop", made["token"])
    authority = ["--authority", str(standing.home / "certificates" / "ca.pem")]
    ada.runs("connect", standing.url, *authority, token=ada.token)
    name = ada.submits()
    standing.wait(lambda: ada.list()[name]["status"] == "running", "run")
    assert "is being stopped" in ada.runs("runs", "stop", name)
    standing.wait(lambda: ada.list()[name]["status"] == "stopped", "end of the run")
    assert "the run is stopped" in ada.runs("runs", "watch", name, code=1)
    assert "the run has ended" in ada.runs("runs", "stop", name, code=2)
    log = standing.home / "logs" / "api.log"
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert f"ada stops run {name}" in log.read_text()


@pytest.mark.long
def test_a_run_is_held_against_each_of_its_sites_alone(standing: Standing, tmp_path: Path) -> None:
    made = json.loads(standing.operator("server", "person", "add", "ada", "--role", "scientist", "--json"))
    ada = Scientist(standing, tmp_path / "laptop", made["token"])
    authority = ["--authority", str(standing.home / "certificates" / "ca.pem")]
    ada.runs("connect", standing.url, *authority, token=ada.token)
    for name in standing.sites:
        standing.start_site(name)
    run = json.loads(ada.runs("run", "small.toml", "--yes", "--json"))["run"]["name"]

    assert "nothing was spent" in ada.runs("compare", run, "--against", "local", code=2)
    assert len(ada.list()) == 1
    found = json.loads(ada.runs("compare", run, "--against", "local", "--yes", "--json"))
    assert [one["site"] for one in found["sites"]] == sorted(standing.sites)
    for one in found["sites"]:
        detail = json.loads(ada.runs("runs", "show", one["run"], "--json"))
        assert list(detail["result"]["privacy"]) == [one["site"]]
        assert detail["result"]["diagnosis"]["verdict"]
        assert one["alone"]["rows"] > 0
    assert "together is better at" in ada.runs("compare", run, "--against", "local")
    assert len(ada.list()) == 3, "what was paid for was asked for again"
