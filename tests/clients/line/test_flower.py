"""The adapter to Flower's Fleet API, where a real SuperLink would take long to show it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from flwr.app import Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.retry.http_retry import make_simple_http_retry_invoker

from clients.keys import make_node_key
from clients.line import flower
from clients.line.flower import (
    FleetConnection,
    LineBrokenError,
    RunOverError,
    ServerRefusedError,
    _lasting_heartbeats,
    connect,
)
from clients.line.packing import error_reply, pack
from contract.errors import AddressError, SiteConfigError
from server.line.certificates import make_server_files
from server.line.flower import assume_identity


@pytest.fixture
def answering() -> Iterator[tuple[int, list[bytes]]]:
    """A port, and what is said to whoever connects there before the line is cut."""
    said: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    line, _ = server.accept()
                except OSError:
                    return
                with line:
                    line.recv(1000)
                    line.sendall(b"".join(said))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1], said
        server.shutdown(socket.SHUT_RDWR)
    thread.join(300)


def ask(port: int, folder: Path) -> None:
    private, _ = make_node_key(folder / "keys")
    authority = make_server_files(folder / "certificates", ("127.0.0.1",)).authority
    with connect(f"127.0.0.1:{port}", root_certificates=authority, private_key=private, node_config={}):
        raise AssertionError("it was let in")


def test_a_server_that_dies_during_the_handshake_may_be_asked_again(
    answering: tuple[int, list[bytes]], tmp_path: Path
) -> None:
    with pytest.raises(LineBrokenError):
        ask(answering[0], tmp_path)


def test_a_port_that_speaks_no_tls_is_the_wrong_one(
    answering: tuple[int, list[bytes]], tmp_path: Path
) -> None:
    answering[1].append(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(AddressError, match="does not let this site in"):
        ask(answering[0], tmp_path)


def test_heartbeats_go_on_after_an_error_that_flower_does_not_expect(
    caplog: pytest.LogCaptureFixture,
) -> None:
    beats, come = iter([RuntimeError("503"), ConnectionError("cut"), True]), threading.Event()

    def beat() -> bool:
        said = next(beats)
        if isinstance(said, Exception):
            raise said
        come.set()
        return said

    caplog.set_level("WARNING", "tidegate.agent")
    sender = _lasting_heartbeats(beat)
    sender.start()
    try:
        assert come.wait(300)
    finally:
        sender.stop()
    assert [message for message in caplog.messages if "the server did not take a heartbeat" in message] == [
        "the server did not take a heartbeat (503); trying again",
        "the server did not take a heartbeat (cut); trying again",
    ]


@pytest.mark.parametrize("content", [b"", b"patient,age\n1,2\n", bytes(range(256))])
def test_an_authority_that_is_none_is_named(tmp_path: Path, content: bytes) -> None:
    private, _ = make_node_key(tmp_path / "keys")
    authority = tmp_path / "visits.toml"
    authority.write_bytes(content)
    with (
        pytest.raises(SiteConfigError, match=r"visits\.toml: not a certificate in PEM form.* --root-cert"),
        connect("127.0.0.1:1", root_certificates=authority, private_key=private, node_config={}),
    ):
        raise AssertionError("it was let in")


def test_a_part_that_the_server_never_stores_is_given_up() -> None:
    """Otherwise a site would send it until its run is over, and answer nothing else."""
    from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

    tried: list[str] = []

    def push(run: int, session: str, object_id: str, _content: bytes) -> None:
        tried.append(object_id)
        raise ObjectPushError(object_id, run, session)

    nothing = object()
    connection = FleetConnection((7, *[nothing] * 5, push, nothing), {})
    for _ in range(4):
        with pytest.raises(ObjectPushError):
            connection._push(1, "s", "part", b"")
    with pytest.raises(ServerRefusedError, match="does not store a part"):
        connection._push(1, "s", "part", b"")
    with pytest.raises(ObjectPushError):
        connection._push(1, "s", "another", b"")
    assert tried == [*["part"] * 5, "another"]


class Whole:
    """A server's whole messages: two that wait, and what it heard."""

    def __init__(self, status: int = 200) -> None:
        self.status, self.waiting, self.takes = status, 2, True
        self.heard: list[str] = []
        self._messages = [self._made(run) for run in (5, 6)]

    def receive(self) -> Any:
        if self.status != 200:
            request = httpx.Request("POST", "https://server")
            raise httpx.HTTPStatusError("no", request=request, response=httpx.Response(self.status))
        if not self.waiting:
            return None
        self.waiting -= 1
        return self.message()

    def message(self) -> Any:
        return self._messages[self.waiting - 1]

    @staticmethod
    def _made(run: int) -> Any:
        assume_identity(run)
        message = Message(RecordDict(), dst_node_id=7, message_type="train")
        message.metadata.__dict__["_message_id"] = message.object_id
        objects = {name: item.deflate() for name, item in get_all_nested_objects(message).items()}
        return message, get_object_tree(message), objects

    def send(self, envelope: Any, *_: Any) -> bool:
        self.heard.append(f"reply to {envelope.metadata.reply_to_message_id[:6]}")
        return self.takes

    def connection(self) -> FleetConnection:
        run, fab = SimpleNamespace(fab_hash="a", override_config={}), SimpleNamespace(content=b"")

        def confirm(_run: int, message_id: str) -> None:
            self.heard.append(f"{message_id[:6]} has arrived")

        def send(*_: Any) -> tuple[set[str], str]:
            self.heard.append("a reply, alone")
            return set(), "session"

        alone = (lambda: self.message()[:2] if self.waiting else None, send)
        pull: Any = lambda _, name: self.message()[2][name]  # noqa: E731
        callbacks = (7, *alone, lambda _: run, lambda *_: fab, pull, lambda *_: None, confirm)
        return FleetConnection(callbacks, {}, cast(Any, self))


def test_the_server_hears_with_the_reply_that_a_message_has_arrived() -> None:
    server, kept = Whole(), list[str]()
    connection = server.connection()
    first = connection.receive(lambda work: kept.append(work.message_id))
    assert first is not None
    assert kept == [first.message_id]
    connection.send(pack(error_reply(first.message, "policy"), to=first.message))
    assert server.heard == [f"reply to {first.message_id[:6]}"]
    second = connection.receive()
    assert second is not None
    assert connection.receive() is None  # one that is not answered is confirmed before the next is asked for
    assert server.heard[1:] == [f"{second.message_id[:6]} has arrived"]
    server.takes = False  # too long, or not stored
    connection.send(pack(error_reply(first.message, "policy"), to=first.message))
    assert server.heard[2:] == [f"reply to {first.message_id[:6]}", "a reply, alone"]


def test_a_server_that_knows_no_whole_messages_is_asked_one_after_another() -> None:
    server = Whole(status=404)
    connection = server.connection()
    first = connection.receive()
    assert first is not None
    assert server.heard == [f"{first.message_id[:6]} has arrived"]
    connection.send(pack(error_reply(first.message, "policy"), to=first.message))
    assert server.heard[1:] == ["a reply, alone"]


def test_another_refusal_of_a_whole_message_is_a_refusal() -> None:
    with pytest.raises(ServerRefusedError):
        Whole(status=410).connection().receive()


def test_a_run_that_the_server_does_not_know_any_more_is_over() -> None:
    """Flower takes a 403 for that, and the server answers so (`server.line.replies`)."""
    server = Whole()
    connection = server.connection()
    work = connection.receive()
    assert work is not None

    def refuse(*_: Any) -> bool:
        return make_simple_http_retry_invoker().invoke(Whole(status=403).receive)  # type: ignore[no-any-return]

    server.send = refuse  # type: ignore[method-assign]
    with pytest.raises(RunOverError, match="the server was started again"):
        connection.send(pack(error_reply(work.message, "policy"), to=work.message))


@pytest.mark.parametrize(
    ("status", "told", "waited"),
    [(503, "2", [2.0]), (503, "9" * 400, [10.0]), (503, "soon", []), (503, None, []), (200, "2", [])],
)
def test_a_server_without_room_says_when_it_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, status: int, told: str | None, waited: list[float]
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(flower.time, "sleep", slept.append)
    flower._wait_as_told(httpx.Response(status, headers={} if told is None else {"retry-after": told}))
    assert slept == waited
