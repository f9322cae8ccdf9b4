"""Sites, and what says that it is one, at a real gateway with Flower's SuperLink behind it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import pytest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
    RegisterNodeFleetRequest,
    UnregisterNodeFleetRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree
from flwr.proto.node_pb2 import Node

from clients.keys import make_node_key, read_private_key
from clients.line.flower import connect
from contract.errors import AddressError
from contract.whole import PULL, join
from server.federation import dismiss
from server.line.app_messages import APP_PULL, APP_PUSH
from tests.adversary.standing import Site, Standing, stand

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    with stand(tmp_path_factory.mktemp) as found:
        yield found


def test_a_site_connects_through_it_and_without_its_certificate_does_not(standing: Standing) -> None:
    address, north = standing.url.removeprefix("https://"), standing.north
    options: dict[str, Any] = {
        "root_certificates": standing.federation.files.authority,
        "private_key": north.key_file,
        "node_config": {},
    }
    with connect(address, certificate=north.certificate, **options) as connection:
        assert connection.node_id == north.node
    with pytest.raises(AddressError, match="shows its certificate"), connect(address, **options):
        pass
    with (
        pytest.raises(AddressError, match="certificate of 'south' is for another key"),
        connect(address, certificate=standing.south.certificate, **options),
    ):
        pass


def pull(site: Site) -> PullMessagesRequest:
    return PullMessagesRequest(node=Node(node_id=site.node))


def test_every_request_is_held_against_the_certificate(standing: Standing) -> None:
    north, south, path = standing.north, standing.south, "/v1/fleet/send-node-heartbeat"
    beat = {
        site.name: SendNodeHeartbeatRequest(node=Node(node_id=site.node), heartbeat_interval=30)
        for site in (north, south)
    }
    # a site that got hold of another's key, another's signature, another's number
    assert standing.ask(north, path, beat["south"], south).status_code == 401
    assert standing.ask(None, path, beat["south"], south).status_code == 401
    assert standing.ask(north, path, beat["south"], north).status_code == 401
    assert standing.ask(north, path, beat["north"], None).status_code == 401
    assert standing.ask(north, "/v1/fleet/pull-messages", pull(south), north).status_code == 401
    assert standing.ask(north, path, beat["north"], north).status_code == 200
    for site, status in ((south, 401), (north, 200)):
        whole = SimpleNamespace(SerializeToString=lambda site=site: join([pull(site).SerializeToString()]))
        assert standing.ask(north, PULL, whole, north).status_code == status


def test_a_reply_in_another_s_name_is_refused(standing: Standing) -> None:
    north, south = standing.north, standing.south
    told = PushMessagesRequest(
        node=Node(node_id=north.node),
        messages_list=[
            Message(
                metadata=Metadata(
                    run_id=1, message_id="a", src_node_id=south.node, reply_to_message_id="b", ttl=60
                )
            )
        ],
        message_object_trees=[ObjectTree(object_id="a")],
        clientapp_runtime_list=[0.0],
    )
    answer = standing.ask(north, "/v1/fleet/push-messages", told, north)
    assert (answer.status_code, "in its own name" in answer.text) == (403, True)


def test_a_site_makes_no_other_and_removes_no_other(standing: Standing, tmp_path: Path) -> None:
    north, south = standing.north, standing.south
    private, _ = make_node_key(tmp_path)
    key = read_private_key(private)
    stranger = Site("stranger", key, private, 1, north.certificate)
    control = standing.federation.control
    for site in (stranger, south):
        made = RegisterNodeFleetRequest(public_key=site.public)
        assert standing.ask(north, "/v1/fleet/register-node", made, north).status_code == 401
        assert standing.ask(north, "/v1/fleet/register-node", made, site).status_code == 401
        woken = ActivateNodeRequest(public_key=site.public, heartbeat_interval=30)
        assert standing.ask(north, "/v1/fleet/activate-node", woken, north).status_code == 401
    gone = UnregisterNodeFleetRequest(node_id=south.node)
    assert standing.ask(north, "/v1/fleet/unregister-node", gone, north).status_code == 401
    assert control._node_with(stranger.public) is None
    assert control._node_with(south.public).status != "unregistered"
    control.close()


def test_what_is_for_the_operator_is_not_there_whoever_asks(standing: Standing) -> None:
    secret = (standing.federation.home / "superlink.secret").read_text()
    for shows in (None, standing.north):
        control = ("/v1/control/list-nodes", "/v1/control/start-run", "/docs")
        for path in (*control, "/v1/runtime/acquire-task", APP_PULL, APP_PUSH):
            assert standing.ask(shows, path, PullMessagesRequest(), standing.north).status_code == 404
    with httpx.Client(verify=False, trust_env=False) as client:  # noqa: S501 - whoever the server is
        answer = client.post(f"{standing.url}/v1/control/list-nodes", headers={"tidegate-secret": secret})
    assert answer.status_code == 404


def test_what_strangers_send_takes_no_memory(standing: Standing) -> None:
    import contextlib
    import socket
    import ssl

    server = psutil.Process(standing.federation.processes.process_ids()["superlink"])
    before, tls = server.memory_info().rss, ssl._create_unverified_context()  # noqa: S323
    address = standing.url.removeprefix("https://").split(":")
    rubbish = os.urandom(2**20)
    for path in ("/v1/fleet/push-object", "/v1/enrolment/join", "/health", "/v1/control/start-run"):
        with socket.create_connection((address[0], int(address[1])), timeout=300) as raw:
            stranger = tls.wrap_socket(raw)
            head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {2**30}\r\n\r\n"
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                stranger.sendall(head.encode())
                for _ in range(256):
                    stranger.sendall(rubbish)
    assert server.memory_info().rss - before < 64 * 2**20


def test_a_site_that_was_dismissed_is_out_with_its_next_request(standing: Standing) -> None:
    federation, south, north = standing.federation, standing.south, standing.north
    assert standing.ask(south, "/v1/fleet/pull-messages", pull(south), south).status_code == 200
    control = federation.control
    dismiss("south", control, federation.settings)
    control.close()
    assert standing.ask(south, "/v1/fleet/pull-messages", pull(south), south).status_code == 401
    beat = SendNodeHeartbeatRequest(node=Node(node_id=south.node), heartbeat_interval=30)
    assert standing.ask(south, "/v1/fleet/send-node-heartbeat", beat, south).status_code == 401
    assert standing.ask(north, "/v1/fleet/pull-messages", pull(north), north).status_code == 200
