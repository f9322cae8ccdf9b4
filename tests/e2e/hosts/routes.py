"""Every route of the server's ports, asked by somebody with the credentials that they have."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from fastapi.routing import iter_route_contexts
from flwr.superlink.main import create_app

from contract.whole import PULL, PUSH, RELEASE, join
from server.line.app_messages import APP_PULL, APP_PUSH
from server.state.storage import open_known_state
from tests.adversary.test_gateway_fuzz import honest
from tests.e2e.hosts.ask import Ask
from tests.e2e.hosts.network import API, GATEWAY, NAME, Host
from tests.e2e.hosts.story import Story

__all__ = [
    "Credential",
    "api_endpoints",
    "ask_api",
    "ask_gateway",
    "ask_plainly",
    "node_ids",
    "superlink_paths",
]

_FLEET = "/v1/fleet/"


@dataclass(frozen=True)
class Credential:
    """What is shown at the gateway, and what signs; empty for neither."""

    certificate: str = ""
    key: str = ""


def superlink_paths() -> list[str]:
    """Flower's own, as its SuperLink has them, and ours."""
    found = {str(route.path) for route in iter_route_contexts(create_app().routes)}
    return sorted(found | {PULL, PUSH, RELEASE, APP_PULL, APP_PUSH, "/metrics", "/v1/", "/"})


def node_ids(story: Story) -> dict[str, int]:
    """Of the sites that may come in."""
    with open_known_state(f"sqlite:///{story['server'].folder / '.tidegate' / 'state.db'}") as state:
        return {site.name: site.node_id for site in state.admitted_sites("standing")}


def ask_gateway(story: Story, host: str, paths: Sequence[str], shows: Credential, node: int) -> list[int]:
    """What a site asks, as it asks it: in the name of that node, whoever it is; the statuses."""
    site: Any = SimpleNamespace(node=node, public=b"")
    said = {_FLEET + name: message.SerializeToString() for name, message in honest(site).items()}
    said[PULL] = join([said[f"{_FLEET}pull-messages"]])
    said[RELEASE] = join([said[f"{_FLEET}send-node-heartbeat"]])
    said[PUSH] = join([said[f"{_FLEET}push-messages"], said[f"{_FLEET}confirm-message-received"]])
    asks = []
    for path in paths:
        ask = Ask(method="POST", path=path, content=said.get(path, b"").hex())
        if shows.certificate:
            ask["certificate"] = shows.certificate
        if shows.key:
            ask["key"] = shows.key
        asks.append(ask)
    return _asked(story[host], f"https://{NAME}:{GATEWAY}", asks)


def api_endpoints(story: Story) -> list[tuple[str, str]]:
    """Method and path of each, from the API's own document."""
    told = story["scientist"].run("curl", "-sk", f"https://{NAME}:{API}/openapi.json").stdout
    paths = json.loads(told)["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods]


def ask_api(story: Story, endpoints: Sequence[tuple[str, str]], token: str) -> list[int]:
    """Each of them, of things that are there; the statuses."""
    names = {"name": "visits-1", "experiment": "visits", "model": "visits", "version": "1", "site": "south"}
    asks = [Ask(method=method, path=path.format(**names)) for method, path in endpoints]
    if token:
        asks = [{**ask, "token": token} for ask in asks]
    return _asked(story["scientist"], f"https://{NAME}:{API}", asks)


def ask_plainly(host: Host, method: str, urls: Sequence[str]) -> list[int]:
    """What somebody asks who has curl and nothing else; the statuses."""
    empty = ("-d", "") if method == "POST" else ()
    places = [word for url in urls for word in ("-o", "/dev/null", url)]
    told = host.run(
        *("curl", "-sk", "-X", method, *empty, "-H", "content-type: application/protobuf"),
        *("--max-time", "60", "-w", "%{http_code}\n", *places),
    )
    found = [int(line) for line in told.stdout.split()]
    assert len(found) == len(urls), told.stderr
    return found


def _asked(host: Host, url: str, asks: Sequence[Ask]) -> list[int]:
    done = host.run("python", "-m", "tests.e2e.hosts.ask", url, json.dumps(list(asks)))
    assert done.returncode == 0, done.stderr
    found: list[int] = json.loads(done.stdout)
    return found
