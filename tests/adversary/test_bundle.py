"""An app bundle is an archive that the server packs: it fills no memory, and what is odd gets one word."""

from __future__ import annotations

import io
import struct
import threading
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree

from clients.code import installed_code
from clients.line.agent import serve
from clients.line.flower import FleetConnection
from clients.line.packing import PackedReply, pack, read_bundle
from server.line.flower import assume_identity, build_bundle

ROOT = Path(__file__).resolve().parents[2]
MEGABYTE = 2**20
MOST = 48 * MEGABYTE
"""Of memory that reading a bundle may take."""
PYPROJECT = (ROOT / "pyproject.toml").read_bytes()


class _Server:
    """What Flower's Fleet connection gives an agent, from a server with this bundle."""

    def __init__(self, bundle: bytes, messages: int = 1) -> None:
        self._bundle, self._left = bundle, messages
        self.stop, self.words = threading.Event(), list[str]()

    def connection(self) -> FleetConnection:
        run = SimpleNamespace(fab_hash="ab", override_config={"run": "r"})
        fab = SimpleNamespace(content=self._bundle)
        callbacks = (1, self._receive, self._send, lambda _: run, lambda *_: fab)
        return FleetConnection((*callbacks, lambda _, name: self._objects[name], None, lambda *_: None), {})

    def _receive(self) -> Any:
        if not self._left:
            self.stop.set()
            return None
        self._left -= 1
        assume_identity(5 + self._left)  # of one run only the last is answered
        message = Message(RecordDict(), dst_node_id=1, message_type="train")
        message.metadata.__dict__["_message_id"] = message.object_id
        self._objects = {name: item.deflate() for name, item in get_all_nested_objects(message).items()}
        return message, get_object_tree(message)

    def _send(self, envelope: Message, *_: object) -> tuple[set[str], str]:
        self.words.append(envelope.error.reason if envelope.has_error() else "answered")
        return set(), ""


def archive(files: Iterator[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        file.writestr("pyproject.toml", PYPROJECT)
        for name, content in files:
            file.writestr(name, content)
    return buffer.getvalue()


def _large_file() -> bytes:
    return archive(iter([("clients/a.py", bytes(150 * MEGABYTE))]))


def _many_files() -> bytes:
    content = bytes(MEGABYTE)
    return archive((f"clients/{number}.py", content) for number in range(150))


def _many_entries() -> bytes:
    return archive((f"{number}", b"") for number in range(120_000))


def _other_method() -> bytes:
    return archive(iter([("clients/a.py", bytes(150 * MEGABYTE))]), zipfile.ZIP_BZIP2)


def _lying(method: int) -> bytes:
    """It declares ten bytes of a file that holds more than all files of a bundle."""
    whole = bytearray(archive(iter([("clients/a.py", bytes(150 * MEGABYTE))]), method))
    at = whole.rindex(b"PK\x01\x02")
    whole[at + 24 : at + 28] = struct.pack("<L", 10)
    return bytes(whole)


BOMBS: dict[str, Callable[[], bytes]] = {
    "a large file": _large_file,
    "many files": _many_files,
    "many entries": _many_entries,
    "another method": _other_method,
    "a lie": lambda: _lying(zipfile.ZIP_DEFLATED),
    "a lie by another method": lambda: _lying(zipfile.ZIP_BZIP2),
}

ODD: dict[str, bytes] = {
    "nothing": b"",
    "no archive": b"\x00" * 1000,
    "no project": archive(iter([]))[:-22],
    "no description": archive(iter([("clients/a.py", b"")])).replace(b"pyproject.toml", b"pyproject.tom_"),
    **{
        f"a file named {name!r}": archive(iter([(name, b"")]))
        for name in (
            "../a.py",
            "/etc/a.py",
            "clients/../a.py",
            "clients\\a.py",
            "clients/",
            "a//b.py",
            "é.py",
        )
    },
    "a long name": archive(iter([("a/" * 1000 + "a.py", b"")])),
}


def asked(bundle: bytes, messages: int = 1) -> list[str]:
    """What the agent answers to a server with this bundle."""
    server = _Server(bundle, messages)

    def answer(work: Any) -> PackedReply:
        return pack(Message(RecordDict(), reply_to=work.message), to=work.message)

    serve(server.connection(), answer, server.stop)
    return server.words


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clients.line.agent._IDLE_POLL", 0.001)
    monkeypatch.setattr("clients.line.agent._POLLS", ())


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bundle_that_unpacks_to_more_than_a_bundle_is_refused_and_fills_no_memory(bomb: str) -> None:
    content = BOMBS[bomb]()
    tracemalloc.start()
    try:
        words = asked(content)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert words == ["input"]
    assert peak < MOST


@pytest.mark.parametrize("odd", ODD)
def test_a_bundle_that_is_none_is_refused_in_one_word_and_the_agent_goes_on(odd: str) -> None:
    assert asked(ODD[odd], messages=2) == ["input", "input"]


def test_the_real_bundle_is_well_within_the_limits() -> None:
    bundle = build_bundle(ROOT)
    read = read_bundle(bundle)
    assert (read.fault, asked(bundle)) == ("", ["answered"])
    assert 3 * len(read.files) < 1000
    assert 4 * sum(map(len, installed_code().values())) < 16 * MEGABYTE
