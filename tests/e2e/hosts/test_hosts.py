"""A federation on five hosts, from nothing to a trained model, a revoked site and a restart of each in turn.

The hosts share no file. Sites are 40 ms away and lose one packet in a hundred; one is behind a proxy, the
clock of another is half a minute wrong. The gateway's port is open to sites, the API's to the scientist.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.hosts.network import API, GATEWAY, NAME, Host, Network, lacking
from tests.mlflow_database import lay_mlflow_database
from tests.runtimes.conftest import SMALL, make_site

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.xdist_group("hosts"),
    pytest.mark.skipif(bool(lacking()), reason=lacking()),
]

SITES = ("north", "south", "east")
SITE_FILE = "site/site.toml"
EXPERIMENT = SMALL.format(
    kind="linear", strategy="fedavg", rounds=2, quorum=3, private="true", seed=""
).replace("grace = 2.0", "grace = 30.0\nround_timeout = 600.0")


@dataclass
class Story:
    """The hosts, and what runs on them."""

    network: Network
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    token: str = ""

    def __getitem__(self, name: str) -> Host:
        return self.network.hosts[name]

    def do(self, host: str, *arguments: str, **more: str) -> str:
        """A command of Tidegate that must succeed; what it printed."""
        done = self[host].run("tidegate", *arguments, **more)
        assert done.returncode == 0, f"{host}: tidegate {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def facts(self, host: str, *arguments: str) -> Any:
        return json.loads(self.do(host, *arguments, "--json"))

    def keep(self, host: str, log: str, *arguments: str) -> None:
        """A command that lasts."""
        self.running[log] = self[host].start(f"{log}.log", "tidegate", *arguments)

    def end(self, log: str) -> None:
        """End it as a service's supervisor does."""
        process = self.running.pop(log)
        process.terminate()
        process.wait(300)

    def said(self, host: str, log: str) -> str:
        return (self[host].folder / f"{log}.log").read_text(errors="replace")

    def until(self, what: str, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + 600
        while not holds():
            logs = {log: self.said(*place) for log, place in self._places().items()}
            tails = "\n".join(f"--- {log}\n{text[-1500:]}" for log, text in logs.items())
            for log, process in self.running.items():
                assert process.poll() is None, f"{log} ended while {what} was waited for\n{tails}"
            assert time.monotonic() < end, f"not within 10 min: {what}\n{tails}"
            time.sleep(0.5)

    def _places(self) -> dict[str, tuple[str, str]]:
        return {log: (log.split("-")[0], log) for log in self.running}

    def start_server(self) -> None:
        self.keep("server", "server-up", "server", "up")
        self.until("the server is up", lambda: "Ctrl-C stops all" in self.said("server", "server-up"))

    def start_agent(self, site: str) -> None:
        self.keep(site, f"{site}-up", "site", "up", SITE_FILE, "--wait", "600")

    def connected(self) -> set[str]:
        return {site["name"] for site in self.facts("server", "server", "sites") if site["connected"]}


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Three sites that were invited, asked, were confirmed and are connected."""
    with Network(tmp_path_factory.mktemp("federation") / "hosts") as network:
        story = Story(network)
        for seed, name in enumerate(SITES):
            made = make_site(network.folder / f"made-{name}", name, seed)
            story.do(name, "site", "init", "site", "--name", name)
            for file in made.parent.iterdir():  # in the place of the draft that `site card` makes
                file.replace(story[name].folder / "site" / file.name)
        story["south"].set_clock(30)
        lay_mlflow_database(story["server"].folder / "mlruns" / "mlflow.db")
        story.do("server", "server", "init", NAME)
        story.start_server()
        for site in SITES:
            _enrol(story, site)
            story.start_agent(site)
        story.until("all sites are connected", lambda: story.connected() == set(SITES))
        yield story


def _enrol(story: Story, site: str) -> None:
    """As operator and administrator do it, over the telephone."""
    token = story.facts("server", "server", "invite", site)["token"]
    story.keep(site, f"{site}-join", "site", "join", token, "--site", SITE_FILE, "--wait", "600")
    found: dict[str, str] = {}

    def asked() -> bool:
        read_out = re.search(r"SHA256:\S+", story.said(site, f"{site}-join"))
        waiting = {one["name"]: one["fingerprint"] for one in story.facts("server", "server", "requests")}
        if read_out is not None and site in waiting:
            found.update(said=read_out[0], seen=waiting[site])
        return bool(found)

    story.until(f"{site} has asked to be let in", asked)
    assert found["said"] == found["seen"]
    story.do("server", "server", "confirm", site, found["said"])
    joining = story.running.pop(f"{site}-join")
    assert joining.wait(600) == 0, story.said(site, f"{site}-join")


def test_the_hosts_are_what_they_claim(story: Story) -> None:
    """40 ms each way, a clock that is wrong, no name server behind the proxy, no folder of another's."""
    reached = f"https://{NAME}:{GATEWAY}/health"
    timed = story["north"].run("curl", "-sk", "-o", "/dev/null", "-w", "%{time_connect}", reached)
    assert float(timed.stdout) > 0.079, timed.stderr
    assert story["east"].run("getent", "hosts", NAME).returncode != 0
    assert abs(int(story["south"].run("date", "+%s").stdout) - time.time() - 30) < 20
    for name, host in story.network.hosts.items():
        assert host.run("ls", str(story.network.folder)).stdout == "", name


def test_doctor_says_what_is_in_the_way(story: Story) -> None:
    told = story["south"].run("tidegate", "site", "doctor", SITE_FILE)
    assert re.search(r"your clock is (2[5-9]|3[0-9]) s ahead of the server's", told.stdout), told.stdout
    told = story["east"].run("tidegate", "site", "doctor", SITE_FILE)
    assert story["east"].environment["HTTPS_PROXY"] in told.stdout, told.stdout + told.stderr
    assert "requests are dated by the server's" in story.said("south", "south-up")


LISTENERS = "ss -Htln | awk '{print $4}'"
SCAN = """
import socket, sys
for place in sys.argv[1:]:
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=3).close()
    except OSError:
        continue
    print(place)
"""


def test_nobody_reaches_a_port_that_is_not_theirs(story: Story) -> None:
    """Each of the server's ports, from each other host, at each of the server's addresses."""
    listening = story["server"].run("sh", "-c", LISTENERS).stdout.split()
    ports = sorted({int(line.rpartition(":")[2]) for line in listening})
    assert {GATEWAY, API} < set(ports), ports
    for line in listening:  # what is not for others listens on loopback alone
        host, _, port = line.rpartition(":")
        assert int(port) in (GATEWAY, API) or host.strip("[]") in ("127.0.0.1", "::1"), listening
    addresses = [f"10.77.{number}.1" for number in range(1, 6)]
    places = [f"{address}:{port}" for address in addresses for port in ports]
    for name, open_ports in {"north": GATEWAY, "south": GATEWAY, "scientist": API, "proxy": GATEWAY}.items():
        found = story[name].run("python", "-c", SCAN, *places).stdout.split()
        assert found == [f"{story[name].environment['SERVER']}:{open_ports}"], name
    assert story["east"].run("python", "-c", SCAN, *places).stdout == ""


def test_a_local_user_of_the_server_reads_nothing_and_commands_nothing(story: Story) -> None:
    server = story["server"]
    nobody = Host(
        "nobody", server.space, server.folder, server.covered, dict(server.environment), user="nobody"
    )
    for path in (".tidegate", ".tidegate/superlink.secret", ".tidegate/state.db", ".tidegate/certificates"):
        assert nobody.run("cat", path).returncode != 0, path
        assert nobody.run("ls", path).returncode != 0, path
    listed = nobody.run("ps", "-eww", "-o", "args").stdout
    secret = (server.folder / ".tidegate" / "superlink.secret").read_text()
    assert secret not in listed
    assert "--token" not in listed
    port = (server.folder / ".tidegate" / "superlink.address").read_text().rpartition(":")[2]
    for path in ("v1/control/list-nodes", "v1/runtime/acquire-task", "docs"):
        asked = nobody.run(
            *("curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", "-X", "POST"),
            f"https://127.0.0.1:{port}/{path}",
        )
        assert asked.stdout == "403", path


def test_a_scientist_trains_on_rows_that_are_three_hosts_away(story: Story, tmp_path: Path) -> None:
    person = story.facts("server", "server", "person", "add", "ada", "--role", "scientist")
    scientist = story["scientist"]
    (scientist.folder / "token").write_text(person["token"])
    (scientist.folder / "small.toml").write_text(EXPERIMENT)
    told = story.do(
        "scientist", "connect", f"https://{NAME}:{API}",
        "--fingerprint", person["fingerprint"], "--token-file", "token",
    )  # fmt: skip
    assert "as 'ada', scientist" in told
    story.do("scientist", "run", "small.toml")
    (run,) = story.facts("scientist", "runs", "list")["runs"]
    assert run["status"] == "succeeded", run
    (seen,) = story.facts("server", "server", "status")
    assert run["name"] in json.dumps(seen)
    spent = {site: story.facts(site, "site", "status", SITE_FILE)["worst"] for site in SITES}
    assert all(block is not None for block in spent.values()), spent


def test_each_host_may_start_again(story: Story) -> None:
    for site in SITES:
        story.end(f"{site}-up")
        story.start_agent(site)
    story.until("all sites are back", lambda: story.connected() == set(SITES))
    story.end("server-up")
    story.start_server()
    story.until("all sites found the server again", lambda: story.connected() == set(SITES))


def test_a_revoked_site_is_out_and_the_others_are_not(story: Story) -> None:
    story.do("server", "server", "revoke", "north")
    agent = story.running.pop("north-up")
    assert agent.wait(600) != 0
    assert "does not let this site in" in story.said("north", "north-up")
    assert story.connected() == {"south", "east"}
