"""Requests that were honest, with something changed, at a real gateway: nobody falls over, nobody comes in.

TIDEGATE_ADVERSARY=long sends 100,000.
"""

from __future__ import annotations

import contextlib
import json
import random
import ssl
import threading
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
    RegisterNodeFleetRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    Message,
    Metadata,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from sqlalchemy import text

from contract.whole import PULL, PUSH, RELEASE, join
from server.state import tables
from server.state.storage import open_state
from tests.adversary.rows import Figure
from tests.adversary.standing import Site, Standing, stand
from tests.adversary.test_fuzz import changed
from tests.adversary.test_generated import LONG

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600 if LONG else 900)]
REQUESTS = 100_000 if LONG else 600
SENDERS = 8
GROWTH = 64 * 2**20
LETS_GO = 6.0
"""Seconds between two words that it asks no more: its questions are held for a second, and not for twenty."""
SETTLES = 300.0
"""Seconds in which a SuperLink has given back what it does not use: it does so a minute after."""
ODD_SECONDS = (0.0, -1.0, 1e-300, 1e18, 1e308, float("inf"), float("-inf"), float("nan"))
FORGED = "ERROR :    the operator is to run this"
ODD_WORDS = ("", "\0", "x" * 20_000, "\U0001f600", "../..", f"a\r\n{FORGED}", "%n%s", "0" * 64, "\x1b[2J")
FLEET = "/v1/fleet/"


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    with stand(tmp_path_factory.mktemp) as found:
        yield found


@dataclass(frozen=True)
class Request:
    """One to be sent: to where, with which headers, from whom."""

    path: str
    content: bytes
    headers: dict[str, str | bytes]
    shows: bool


def odd(message: Any, rng: random.Random, depth: int = 0) -> None:
    """Put values into a message of protobuf that fit its types and nothing else."""
    for field in message.DESCRIPTOR.fields:
        if rng.random() < 0.6:
            continue
        if field.type != field.TYPE_MESSAGE and field.is_repeated:
            getattr(message, field.name).extend([odd_value(field, rng)] * rng.choice((1, 2, 20)))
        elif field.type != field.TYPE_MESSAGE:
            setattr(message, field.name, odd_value(field, rng))
        elif not field.is_repeated:
            odd(getattr(message, field.name), rng, depth)
        elif depth < 80:  # protobuf itself reads a hundred
            for _ in range(rng.choice((0, 1, 1, 2, 40) if depth < 2 else (0, 1))):
                odd(getattr(message, field.name).add(), rng, depth + 1)


def odd_value(field: Any, rng: random.Random) -> Any:
    match field.type:
        case field.TYPE_DOUBLE | field.TYPE_FLOAT:
            return rng.choice(ODD_SECONDS)
        case field.TYPE_STRING:
            return rng.choice(ODD_WORDS)
        case field.TYPE_BYTES:
            return rng.randbytes(rng.choice((0, 1, 91, 1000)))
        case field.TYPE_UINT64 | field.TYPE_FIXED64:
            return rng.choice((0, 1, 7, 2**63 - 1, 2**63, 2**64 - 1))
        case field.TYPE_INT64 | field.TYPE_SINT64:
            return rng.choice((0, 1, 7, -1, -(2**63), 2**63 - 1))
        case _:
            return rng.choice((0, 1)) if field.type == field.TYPE_BOOL else rng.choice((0, 1, 2, 2**31 - 1))


def honest(site: Site) -> dict[str, Any]:
    """What a site asks, by the path, as it would ask it."""
    node, name = Node(node_id=site.node), "0" * 64
    said = Metadata(
        run_id=1, message_id=name, src_node_id=site.node, dst_node_id=1, reply_to_message_id="1" * 64,
        created_at=time.time(), ttl=60.0, message_type="train",
    )  # fmt: skip
    return {
        "pull-messages": PullMessagesRequest(node=node),
        "push-messages": PushMessagesRequest(
            node=node,
            messages_list=[Message(metadata=said)],
            message_object_trees=[ObjectTree(object_id=name, children=[ObjectTree(object_id="2" * 64)])],
            clientapp_runtime_list=[1.0],
        ),
        "push-object": PushObjectRequest(
            node=node, run_id=1, object_id=name, object_content=b"x" * 200, session_id=name
        ),
        "pull-object": PullObjectRequest(node=node, run_id=1, object_id=name),
        "confirm-message-received": ConfirmMessageReceivedRequest(
            node=node, run_id=1, message_object_id=name
        ),
        "get-run": GetRunRequest(node=node, run_id=1),
        "get-fab": GetFabRequest(node=node, hash_str=name, run_id=1),
        "send-node-heartbeat": SendNodeHeartbeatRequest(node=node, heartbeat_interval=30),
        "activate-node": ActivateNodeRequest(public_key=site.public, heartbeat_interval=30),
        "deactivate-node": DeactivateNodeRequest(node_id=site.node),
        "register-node": RegisterNodeFleetRequest(public_key=site.public),
    }


def joining(site: Site) -> bytes:
    asked = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "stranger")])
    )
    signed = asked.sign(site.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    said = {"secret": "0" * 32, "signing_request": signed.decode(), "stated_rows": 100, "card": None}
    return json.dumps(said).encode()


class Made:
    """Makes requests, one after another."""

    def __init__(self, site: Site, rng: random.Random) -> None:
        self._site, self._rng, self._joining = site, rng, joining(site)
        self._headers: dict[str, str] = {}
        self._signed = 0.0

    def one(self) -> Request:
        rng = self._rng
        if time.monotonic() - self._signed > 2:  # a signature is good for some seconds
            self._headers, self._signed = self._site.signature(), time.monotonic()
        kind = rng.choice(("fleet", "fleet", "odd", "odd", "pull", "push", "enrolment"))
        headers: dict[str, str | bytes] = dict(self._headers)
        if kind == "enrolment":
            name = rng.choice(("authority", "join", "join", "collect", "renew"))
            content = {"join": self._joining, "collect": b'{"secret": "%s"}' % (b"0" * 32)}.get(name, b"{}")
            path = f"/v1/enrolment/{name}"
        else:
            path, content = self._fleet(kind)
        match rng.randrange(8):
            case 0:
                name = rng.choice(sorted(headers))
                line = changed(str(headers[name]).encode(), rng)
                headers[name] = bytes(byte for byte in line if byte >= 32 and byte != 127)
            case 1:
                del headers[rng.choice(sorted(headers))]
            case 2:
                path = "/v1/" + changed(path[4:].encode(), rng).decode("latin-1")
                path = "".join(letter for letter in path if "!" <= letter <= "~") or "/"
            case 3:
                headers["host"] = rng.choice(("x/?", "x/foo#", "x@y:1/..?", "[::1", "", "x:y", "/v1/control"))
            case _:
                content = changed(content, rng) if kind != "odd" else content
        return Request(path, content[: 2**20], headers, shows=rng.random() < 0.8)

    def _fleet(self, kind: str) -> tuple[str, bytes]:
        rng, asked = self._rng, honest(self._site)
        if kind == "pull":
            return PULL, join([asked["pull-messages"].SerializeToString()] * rng.choice((1, 1, 0, 2)))
        if kind == "push":
            names = [
                "push-messages",
                *["push-object"] * rng.choice((0, 1, 2, 40)),
                "confirm-message-received",
            ]
            for name in names:
                if rng.random() < 0.5:
                    odd(asked[name], rng)
            return PUSH, join([asked[name].SerializeToString() for name in names])
        name = rng.choice(sorted(asked))
        if kind == "odd":
            node = asked[name].node.node_id if hasattr(asked[name], "node") else None
            odd(asked[name], rng)
            if node is not None and rng.random() < 0.8:  # or the check of the node would be all that is met
                asked[name].node.node_id = node
        return FLEET + name, asked[name].SerializeToString()


@dataclass
class Line:
    """A connection of a sender's own, that is made anew where the gateway has closed it."""

    standing: Standing
    shows: Site | None

    def __post_init__(self) -> None:
        self.client = httpx.Client(verify=self.standing.tls(self.shows), trust_env=False, timeout=300)

    def send(self, asked: Request) -> httpx.Response | None:
        """The answer; None where the gateway closed the line instead."""
        try:
            return self.client.post(
                self.standing.url,
                content=asked.content,
                headers=[(name.encode(), _line(value)) for name, value in asked.headers.items()],
                extensions={"target": asked.path.encode("latin-1")},
            )
        except httpx.TransportError as exc:
            if isinstance(exc, httpx.TimeoutException):
                raise
            return None


def _line(value: str | bytes) -> bytes:
    return value.encode("latin-1") if isinstance(value, str) else value.strip()


def rows(standing: Standing) -> dict[str, int]:
    """How much there is in each table of the server's state, and of whom the SuperLink knows."""
    with open_state(standing.federation.settings.state_url) as state, state.database.read() as connection:
        counts = {
            name: connection.execute(text(f"SELECT count(*) FROM {name}")).scalar_one()  # noqa: S608
            for name in sorted(tables.metadata.tables)
        }
    control = standing.federation.control
    with control._client() as client:
        from flwr.proto.control_pb2 import ListNodesRequest, ListRunsRequest

        counts["nodes"] = len(client.ListNodes(ListNodesRequest()).nodes_info)
        counts["runs of the SuperLink"] = len(client.ListRuns(ListRunsRequest()).run_dict)
    control.close()
    return counts


@contextlib.contextmanager
def let_go(standing: Standing) -> Iterator[None]:
    """While the block runs, a good question for a message is answered soon: else the senders wait, and send
    little."""
    north, over = standing.north, threading.Event()
    beat = SendNodeHeartbeatRequest(node=Node(node_id=north.node), heartbeat_interval=30)

    def release() -> None:
        with httpx.Client(verify=standing.tls(north), trust_env=False, timeout=300) as line:
            said = join([beat.SerializeToString()])
            while True:
                answer = line.post(standing.url + RELEASE, content=said, headers=north.signature())
                assert answer.status_code in (200, 503), answer.text
                if over.wait(LETS_GO):
                    return

    with ThreadPoolExecutor(1) as beside:
        released = beside.submit(release)
        try:
            yield
        finally:
            over.set()
        released.result()


def flood(standing: Standing, number: int, seed: int) -> Counter[str]:
    """Send so many from several connections; how often each status came."""

    def send(sender: int) -> Counter[str]:
        made = Made(standing.north, random.Random(f"{seed}/{sender}"))
        lines = {True: Line(standing, standing.north), False: Line(standing, None)}
        words: Counter[str] = Counter()
        for _ in range(number // SENDERS):
            asked = made.one()
            answer = lines[asked.shows].send(asked)
            word = "closed" if answer is None else str(answer.status_code)
            words[word] += 1
            if answer is not None and answer.status_code >= 500 and answer.status_code != 503:
                words[f"{word} {asked.path[:60]} {asked.content[:300]!r} {answer.text[:300]}"] += 1
        for line in lines.values():
            line.client.close()
        return words

    with let_go(standing), ThreadPoolExecutor(SENDERS) as senders:
        return sum(senders.map(send, range(SENDERS)), Counter())


def settled(server: psutil.Process, before: int) -> int:
    """By how many bytes a process has grown, once it is below the limit or has had time for it."""
    end = time.monotonic() + SETTLES
    while (grown := server.memory_info().rss - before) >= GROWTH and time.monotonic() < end:
        time.sleep(1)
    return grown


def test_a_gateway_outlives_changed_requests_and_lets_nobody_in(
    standing: Standing,
    figure: Figure,
    tried: Figure,
) -> None:
    server = standing.superlink
    flood(standing, SENDERS * 25, seed=1)  # what is loaded and kept with the first requests
    counts, memory, born = rows(standing), server.memory_info().rss, server.create_time()
    words = flood(standing, REQUESTS, seed=2)
    sent = sum(count for word, count in words.items() if " " not in word)
    at_once = server.memory_info().rss - memory
    grown = settled(server, memory)
    tried(f"{sent:,} requests")
    figure(
        f"{sent:,} changed requests: {dict(sorted((w, n) for w, n in words.items() if ' ' not in w))}, "
        f"memory {grown / 2**20:+.0f} MB, at the end of them {at_once / 2**20:+.0f} MB"
    )
    assert not [word for word in words if " " in word]
    log = standing.log
    assert "Traceback" not in log
    assert "UnexpectedError" not in log
    assert words["200"] > sent / 100  # some were good enough to get past everything
    assert words["401"] > sent / 100
    assert standing.superlink.create_time() == born
    assert grown < GROWTH
    assert rows(standing) == counts
    beat = SendNodeHeartbeatRequest(node=Node(node_id=standing.south.node), heartbeat_interval=30)
    assert (
        standing.ask(standing.south, f"{FLEET}send-node-heartbeat", beat, standing.south).status_code == 200
    )


def test_what_a_site_says_is_no_line_of_the_log(standing: Standing) -> None:
    """Flower writes a bundle's name, or an object's, as it came: it could hold other lines, or 60 KB."""
    north = standing.north
    for said in (f"x\n{FORGED}", "\x1b[2J\x1b]0;x\x07", "y" * 60_000):
        asked = GetFabRequest(node=Node(node_id=north.node), hash_str=said, run_id=7)
        assert 400 <= standing.ask(north, f"{FLEET}get-fab", asked, north).status_code < 500
    log = standing.log
    assert "yyyyyyyyyy" in log  # it is written, and cut short
    assert "y" * 5000 not in log
    assert not any(line.startswith(FORGED) for line in log.splitlines())
    assert "\x1b[2J" not in log


def raw(standing: Standing, request: bytes, shows: Site | None = None) -> bytes:
    """What comes back until the gateway closes the line."""
    came = b""
    with standing.connect(shows) as line:
        line.sendall(request)
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while part := line.recv(2**16):
                came += part
    return came


@pytest.mark.parametrize("host", ["x/?", "x/health?", "x#", "x@y/..", "x\\..\\", "", "[::1", "x:0/"])
def test_no_host_leads_round_the_signature(standing: Standing, host: str) -> None:
    """Flower reads the path out of an address that is made with the Host header."""
    north, south = standing.north, standing.south
    key = b64encode(north.public).decode()
    content = PullMessagesRequest(node=Node(node_id=south.node)).SerializeToString()
    head = (
        f"POST /v1/fleet/pull-messages HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/protobuf\r\n"
        f"{FLEET_HTTP_PUBLIC_KEY_HEADER}: {key}\r\nconnection: close\r\n"
        f"content-length: {len(content)}\r\n\r\n"
    )
    came = raw(standing, head.encode() + content, north)
    assert came.split(b" ")[1] in (b"400", b"401"), came


def test_who_hangs_up_is_no_error_of_the_server(standing: Standing) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in standing.north.signature().items())
    for path in (f"{FLEET}pull-messages", f"{FLEET}push-object", PULL, PUSH, "/v1/enrolment/join"):
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\n{lines}content-length: 1000\r\n\r\nhalf"
        with standing.connect(standing.north) as line:
            line.sendall(head.encode())
    beat = SendNodeHeartbeatRequest(node=Node(node_id=standing.north.node), heartbeat_interval=30)
    for _ in range(5):
        answer = standing.ask(standing.north, f"{FLEET}send-node-heartbeat", beat, standing.north)
        assert answer.status_code == 200
    log = standing.log
    assert "Traceback" not in log
    assert "UnexpectedError" not in log


def test_what_cannot_be_is_the_site_s_mistake_and_not_the_server_s(standing: Standing) -> None:
    """Flower's handlers end with an error of their own: an announcement of nothing, a part of no run."""
    north = standing.north
    for name, told in (
        ("push-messages", (400, "what this request says cannot be")),
        ("pull-object", (403, "the run is not known here")),
    ):
        answer = standing.ask(north, FLEET + name, honest(north)[name], north)
        assert (answer.status_code, told[1] in answer.text) == (told[0], True), answer.text
