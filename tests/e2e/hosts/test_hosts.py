"""A federation on five hosts: from invitations to a trained model, drift, a reviewed successor, and an end.

The hosts share no file. Sites are 40 ms away and lose one packet in a hundred; one is behind a proxy, the
clock of another is half a minute wrong. The gateway's port is open to sites, the API's to the scientist.

It is the README's story: `operator`, `administrator` and `scientist` are its sections, and the last test
makes sure that each of their commands was typed. The tests are its chapters, in their order.

It is part of `make long`. `make test` tells it, shorter, on one machine (tests/e2e/test_readme.py), and shows
each of its troubles alone: clocks, proxies and names (tests/cli/test_site_doctor.py,
tests/clients/line/test_clock.py); strangers at the SuperLink's port, other users of the server
(tests/adversary/test_superlink_port.py, tests/server/api/test_mlflow.py); a drifted week and its challenger
(tests/server/test_cycle.py, tests/e2e/test_demo.py); roles (tests/server/api); starting again
(tests/server/test_schedule.py, tests/server/line/test_lasting_state.py).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from contract.enrolment import REVOKED
from contract.whole import PULL, PUSH, RELEASE
from tests.e2e.hosts.network import API, GATEWAY, NAME, Host, Network, lacking
from tests.e2e.hosts.routes import (
    Credential,
    api_endpoints,
    ask_api,
    ask_gateway,
    ask_plainly,
    node_ids,
    superlink_paths,
)
from tests.e2e.hosts.story import (
    EXPERIMENT,
    WEEKS,
    Story,
    approve,
    connect,
    enrol,
    make_sites,
    start_server,
    train,
)
from tests.mlflow_database import lay_mlflow_database
from tests.server.api.test_api import WRITERS

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.long,
    pytest.mark.xdist_group("hosts"),
    pytest.mark.skipif(bool(lacking()), reason=lacking()),
]

SITES = ("north", "south", "east")
RULES = {
    "north": 'label = "ill"\nepsilon = 1.0',  # drift checks; a training costs more, and asks
    "south": 'label = "ill"',
    "east": 'label = "ill"',
}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with Network(tmp_path_factory.mktemp("federation") / "hosts") as network:
        network.hosts["south"].set_clock(30)
        lay_mlflow_database(network.hosts["server"].folder / "mlruns" / "mlflow.db")
        yield network


@pytest.fixture(scope="module")
def story(network: Network) -> Story:
    """Three sites that were invited, asked, were confirmed and are connected."""
    story = Story(network.hosts, SITES)
    story.type("server", story.operator.take("tidegate server init"))
    start_server(story, story.operator.take("tidegate server up"))
    make_sites(story, RULES)
    enrol(story)
    return story


@pytest.fixture(scope="module")
def nodes(story: Story) -> dict[str, int]:
    """The sites' node ids, while all three are in."""
    return node_ids(story)


def test_the_hosts_are_what_they_claim(story: Story) -> None:
    """40 ms each way, a clock that is wrong, no name server behind the proxy, no folder of another's."""
    reached = f"https://{NAME}:{GATEWAY}/health"
    timed = story["north"].run("curl", "-sk", "-o", "/dev/null", "-w", "%{time_connect}", reached)
    assert float(timed.stdout) > 0.079, timed.stderr
    assert story["east"].run("getent", "hosts", NAME).returncode != 0
    assert abs(int(story["south"].run("date", "+%s").stdout) - time.time() - 30) < 20
    for name, host in story.hosts.items():
        assert host.run("ls", str(story["server"].covered)).stdout == "", name


def test_doctor_says_what_is_in_the_way(story: Story) -> None:
    told = story.type("north", story.administrator.take("tidegate site doctor"))
    assert "FAULT" not in told, told
    told = story["south"].run("tidegate", "site", "doctor", "south/site.toml").stdout
    assert re.search(r"your clock is (2[5-9]|3[0-9]) s ahead of the server's", told), told
    told = story["east"].run("tidegate", "site", "doctor", "east/site.toml").stdout
    assert story["east"].environment["HTTPS_PROXY"] in told, told
    assert "requests are dated by the server's" in story.said("south-up")


LISTENERS = "ss -Htln | awk '{print $4}'"
SCAN = """
import concurrent.futures, socket, sys
def is_open(place):
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return False
    return True
with concurrent.futures.ThreadPoolExecutor(len(sys.argv)) as threads:
    for place, found in zip(sys.argv[1:], threads.map(is_open, sys.argv[1:])):
        if found:
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
    hosts = ("north", "south", "east", "scientist", "proxy")
    with ThreadPoolExecutor(len(hosts)) as threads:
        found = threads.map(lambda name: story[name].run("python", "-S", "-c", SCAN, *places).stdout, hosts)
        reached = dict(zip(hosts, found, strict=True))
    assert reached.pop("east") == ""
    for name, told in reached.items():
        its_own = API if name == "scientist" else GATEWAY
        assert told.split() == [f"{story[name].environment['SERVER']}:{its_own}"], name


def test_a_local_user_of_the_server_reads_nothing_and_commands_nothing(story: Story) -> None:
    server = story["server"]
    nobody = Host(
        "nobody", server.space, server.folder, server.covered, dict(server.environment), user="nobody"
    )
    for path in (".tidegate", ".tidegate/superlink.secret", ".tidegate/state.db", ".tidegate/certificates"):
        assert nobody.run("cat", path).returncode != 0, path
        assert nobody.run("ls", path).returncode != 0, path
    own = subprocess.run(["ip", "netns", "pids", server.space], capture_output=True, text=True, check=True)
    listed = nobody.run("ps", "-ww", "-o", "args", "-p", ",".join(own.stdout.split())).stdout
    assert "superlink" in listed  # of this server's processes, and of no other test's
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


def test_a_scientist_trains_on_rows_that_are_three_hosts_away(story: Story) -> None:
    """North's administrator is asked; the rules of the other sites allow it."""
    name = train(story, EXPERIMENT)
    (run,) = story.facts("scientist", "tidegate runs list")["runs"]
    assert (run["name"], run["status"], run["model_version"]) == (name, "succeeded", 1)
    assert name in story.type("server", "tidegate server status --json")
    spent = {site: story.facts(site, f"tidegate site status {site}/site.toml")["worst"] for site in SITES}
    assert all(block is not None for block in spent.values()), spent


def test_a_first_version_is_in_service_once_a_reviewer_has_approved_it(story: Story) -> None:
    connect(story, "rita", "reviewer", story.reviewer)
    assert _champions(story) == []
    approve(story, 1)
    assert _champions(story) == [1]


def test_drift_of_a_week_is_found_and_a_challenger_is_trained(story: Story) -> None:
    """The server catches up on weeks that have closed; a retraining costs more than north's rule allows."""
    (story["server"].folder / "visits.toml").write_text(EXPERIMENT)
    story.type("server", story.operator.take("tidegate schedule add", WEEK=WEEKS[0]))
    story.until("north is asked for the retraining", lambda: "-challenger/train" in story.said("north-up"))
    story.type("server", "tidegate schedule pause visits")
    digest = story.asked("north")
    assert digest in story.type("north", "tidegate site requests north/site.toml")
    story.type("north", f"tidegate site approve north/site.toml {digest}")
    story.until("the drifted week is judged", lambda: f"window {WEEKS[1]}: done" in story.said("server-up"))
    checks = story.checks()
    assert checks[WEEKS[0]]["detail"] == "quiet; decision: none"
    assert checks[WEEKS[1]]["detail"] == (
        "alarm at east, north, south; decision: retrain; challenger version 2 refused"
    )
    assert {check["state"] for window, check in checks.items() if window > WEEKS[1]} == {"waiting"}


def test_a_reviewer_reads_the_passport_and_approves_the_challenger_in_mlflow(story: Story) -> None:
    """The gate refused it; a person decides otherwise, under their name. Others may not."""
    told = story.facts("server", "tidegate server person add sam --role scientist")
    story.tokens["sam"] = told["token"]
    version = (
        '{"name": "visits", "version": "2", "key": "review", "value": "approve: the weeks after it count"}'
    )
    alias = '{"name": "visits", "alias": "champion", "version": "2"}'
    code, passport = _mlflow(story, "rita", "GET", "model-versions/get?name=visits&version=2")
    assert code == 200
    assert WEEKS[1] in json.loads(passport)["model_version"]["description"]
    assert _mlflow(story, "sam", "POST", "model-versions/set-tag", version)[0] == 403
    assert _mlflow(story, "rita", "POST", "registered-models/alias", alias)[0] == 403
    assert _champions(story) == [1]
    assert _mlflow(story, "rita", "POST", "model-versions/set-tag", version)[0] == 200
    assert _champions(story) == [2]
    told = story.type("scientist", "tidegate models history visits", person="rita")
    assert "the weeks after it count" in told


def _mlflow(story: Story, person: str, method: str, path: str, body: str = "") -> tuple[int, str]:
    """Ask MLflow as a person, from the scientist's host; the token stands in no list of processes."""
    host = story["scientist"]
    address = f"https://{NAME}:{API}/mlflow/api/2.0/mlflow/{path}"
    (host.folder / "request").write_text(
        f'url = "{address}"\nrequest = {method}\nheader = "Authorization: Bearer {story.tokens[person]}"\n'
        + ('header = "Content-Type: application/json"\ndata = "@body"\n' if body else "")
    )
    (host.folder / "body").write_text(body)
    said = host.run("curl", "-sk", "-K", "request", "-w", "\n%{http_code}").stdout
    answer, _, code = said.rpartition("\n")
    return int(code), answer


def _champions(story: Story) -> list[int]:
    versions = story.facts("server", "tidegate models list visits")
    return [version["version"] for version in versions if "champion" in version["aliases"]]


def test_each_host_may_start_again_and_the_schedule_goes_on(story: Story, network: Network) -> None:
    """While a check waits for north, the server starts again; then every other host does, in turn."""
    before = {site: _entries(story, site) for site in SITES}
    story.end("north-up")
    story.type("server", "tidegate schedule resume visits")
    story.until("a week waits for north", lambda: "waiting for north (not conn" in story.said("server-up"))
    run = story.checks()[WEEKS[2]]["run"]
    story.end("server-up")
    start_server(story)
    network.restart_proxy()
    story.start_agents("north")
    story.until("the week is judged", lambda: f"window {WEEKS[2]}: done" in story.said("server-up"))
    check = story.checks()[WEEKS[2]]
    assert (check["run"], check["detail"]) == (run, "quiet; decision: none")
    for site in ("south", "east"):
        story.end(f"{site}-up")
        story.start_agents(site)
    closed = [window for window in story.checks() if window > WEEKS[2]]
    story.until(
        "all weeks are judged",
        lambda: all(f"window {window}: done" in story.said("server-up") for window in closed),
    )
    assert story.connected() == set(SITES)
    assert _champions(story) == [2]
    assert all(_entries(story, site) > before[site] for site in SITES)
    assert WEEKS[0] in story.type("server", story.operator.take("tidegate schedule list"))


def _entries(story: Story, site: str) -> int:
    """Of its ledger, which is read whole and verified."""
    return int(story.facts(site, f"tidegate site ledger {site}/site.toml --verify")["entries"])


def test_a_revoked_site_is_out_and_the_others_are_not(story: Story, nodes: dict[str, int]) -> None:
    assert nodes.keys() == set(SITES)
    story.type("server", story.operator.take("tidegate server revoke"))
    agent = story.running.pop("north-up")
    assert agent.wait(600) != 0
    assert REVOKED in story.said("north-up")
    assert story.connected() == {"south", "east"}


REFUSED = {401, 403, 404, 429}
"""No, no such thing, or not so often."""
NOTHING = REFUSED | {0}
"""Or not even a connection."""


def test_no_credential_leads_further_than_its_own(story: Story, nodes: dict[str, int]) -> None:
    """Every route of the SuperLink, at the gateway, from the site that is out, with what it has and stole."""
    shutil.copytree(story["south"].folder / "south" / "keys", story["north"].folder / "stolen")
    own = Credential("north/keys/site.pem", "north/keys/node.key")
    souths = Credential("stolen/site.pem", "stolen/node.key")
    paths = [path for path in superlink_paths() if path != "/health"]
    tries = {
        "nobody": (Credential(), "south"),
        "a key alone": (Credential(key=souths.key), "south"),
        "a certificate alone": (Credential(souths.certificate), "south"),
        "a revoked site": (own, "north"),
        "a revoked site's key": (Credential(souths.certificate, own.key), "north"),
        "a revoked site's certificate": (Credential(own.certificate, souths.key), "south"),
        "another's name": (souths, "east"),
    }
    for who, (shows, name) in tries.items():
        found = dict(zip(paths, ask_gateway(story, "north", paths, shows, nodes[name]), strict=True))
        assert set(found.values()) <= NOTHING, (who, found)
    elsewhere = [path for path in paths if not path.startswith("/v1/fleet/")]
    assert set(ask_gateway(story, "north", elsewhere, souths, nodes["south"])) == {404}
    beat = "/v1/fleet/send-node-heartbeat"
    assert ask_gateway(story, "north", [beat], souths, nodes["south"]) == [200]  # it is no wall
    assert story.connected() == {"south", "east"}


def test_no_person_does_what_is_anothers(story: Story) -> None:
    """Every endpoint of the API, with the tokens of two roles, a revoked one, a wrong one, and none."""
    eve = story.facts("server", "tidegate server person add eve --role operator")["token"]
    story.type("server", "tidegate server person revoke eve")
    before = story.facts("scientist", "tidegate runs list")
    listed = api_endpoints(story)
    for person, role in (("sam", "scientist"), ("rita", "reviewer")):
        found = dict(zip(listed, ask_api(story, listed, story.tokens[person]), strict=True))
        others = {place for place in listed if place[0] == "POST" and role not in WRITERS[place[1]]}
        assert {found[place] for place in others} == {403}, (person, found)
        assert found["GET", "/v1/whoami"] == 200
    for who, token in {"revoked": eve, "a guess": eve[:-4] + "0000", "nobody": ""}.items():
        found = dict(zip(listed, ask_api(story, listed, token), strict=True))
        assert set(found.values()) <= NOTHING, (who, found)
    assert story.facts("scientist", "tidegate runs list") == before


def test_a_local_user_gets_no_further_than_a_stranger(story: Story) -> None:
    """Every route of the SuperLink at its own port and at the gateway, and of the API, on the server."""
    server = story["server"]
    nobody = replace(server, name="nobody", user="nobody", started=[])
    port = (server.folder / ".tidegate" / "superlink.address").read_text().rpartition(":")[2]
    paths = [path for path in superlink_paths() if path != "/health"]
    for place in (port, GATEWAY):
        found = ask_plainly(nobody, "POST", [f"https://127.0.0.1:{place}{path}" for path in paths])
        told = dict(zip(paths, found, strict=True))
        for path in (PULL, PUSH, RELEASE):  # with nothing in it, it is no request, whoever asks
            assert told.pop(path) in {400, 401}
        assert set(told.values()) <= REFUSED, (place, told)
    listed = api_endpoints(story)
    for method in ("GET", "POST"):
        urls = [f"https://127.0.0.1:{API}{path}" for kind, path in listed if kind == method]
        assert set(ask_plainly(nobody, method, urls)) <= REFUSED
    urls = [f"https://127.0.0.1:{place}/health" for place in (port, GATEWAY)]
    assert ask_plainly(nobody, "GET", urls) == [200, 200]  # they are no walls


def test_the_story_is_the_readmes(story: Story) -> None:
    assert not story.left, "these commands of the README were typed on no host"
