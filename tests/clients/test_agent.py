"""The agent answers for the installed code alone, and outlives whatever the line does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict

from clients.agent import installed_code_hash, serve
from clients.app import app
from clients.flower import Bundle, Work
from contract.code import BUNDLED_PACKAGES, code_hash
from contract.errors import RefusalCode
from server.flower import assume_identity

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = {
    path.relative_to(ROOT).as_posix(): path.read_bytes()
    for package in BUNDLED_PACKAGES
    for path in (ROOT / package).rglob("*.py")
}


class Line:
    """A connection that gives what is scripted, an error being raised, and then ends the agent.

    Args:
        events: what `receive` gives, one at each look.
        files: the content of the server's bundle.
        cuts: how many times a reply cannot be sent before one can.
    """

    def __init__(self, *events: Any, files: dict[str, bytes] = INSTALLED, cuts: int = 0) -> None:
        self.stop = threading.Event()
        self.sent: list[Message] = []
        self.seconds: list[float] = []
        self.tries = 0
        self._events = list(events)
        self._files = files
        self._cuts = cuts

    def receive(self) -> Work | None:
        if not self._events:
            self.stop.set()
            return None
        event = self._events.pop(0)
        if isinstance(event, Exception):
            raise event
        return event

    def bundle(self, run: int) -> Bundle:
        assert run == 5
        return Bundle(files=self._files, sha256="ab" * 32)

    def send(self, reply: Message, seconds: float) -> None:
        self.tries += 1
        if self.tries <= self._cuts:
            raise ConnectionError("cut")
        self.sent.append(reply)
        self.seconds.append(seconds)


class Answering:
    """Stands for the ClientApp, and counts its calls."""

    def __init__(self) -> None:
        self.asked: list[Work] = []

    def __call__(self, work: Work) -> Message:
        self.asked.append(work)
        return Message(RecordDict(), reply_to=work.message)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    assume_identity(5)
    monkeypatch.setattr("clients.agent._IDLE_POLL", 0.001)
    monkeypatch.setattr("clients.agent._POLLS", ())


def work(kind: str = "evaluate") -> Work:
    context = Context(run_id=5, node_id=1, node_config={}, state=RecordDict(), run_config={})
    return Work(message=Message(content=RecordDict(), dst_node_id=1, message_type=kind), context=context)


def run(line: Line, answer: Callable[[Work], Message]) -> None:
    connection: Any = line
    serve(connection, answer, line.stop)


def test_a_server_with_the_installed_code_is_answered() -> None:
    line, answering = Line(None, work(), None, work()), Answering()
    run(line, answering)
    assert len(answering.asked) == len(line.sent) == 2
    assert all(message.has_content() for message in line.sent)
    assert all(0 <= seconds < 5 for seconds in line.seconds)


def test_what_is_no_code_of_the_bundle_does_not_matter() -> None:
    line, answering = (
        Line(work(), files={**INSTALLED, "README.md": b"!", "experiments/a.py": b"!"}),
        Answering(),
    )
    run(line, answering)
    assert len(answering.asked) == 1
    assert installed_code_hash() == code_hash(INSTALLED)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {**INSTALLED, "clients/gate.py": INSTALLED["clients/gate.py"] + b"\n"},
        {**INSTALLED, "clients/more.py": b""},
        {name: content for name, content in INSTALLED.items() if name != "clients/ledger.py"},
    ],
)
def test_a_server_with_other_code_is_refused_in_one_word_and_nothing_is_run(files: dict[str, bytes]) -> None:
    line, answering = Line(work(), files=files), Answering()
    run(line, answering)
    assert answering.asked == []
    assert [message.error.reason for message in line.sent] == [RefusalCode.INPUT]
    assert not line.sent[0].has_content()


def test_a_line_that_breaks_while_receiving_is_outlived(caplog: pytest.LogCaptureFixture) -> None:
    line, answering = Line(ConnectionError("cut"), RuntimeError("restarted"), work()), Answering()
    run(line, answering)
    assert len(line.sent) == 1
    assert caplog.text.count("could not be received") == 2


def test_a_reply_that_cannot_be_sent_is_sent_again_and_computed_once() -> None:
    line, answering = Line(work(), cuts=2), Answering()
    run(line, answering)
    assert (line.tries, len(line.sent), len(answering.asked)) == (3, 1, 1)


def test_a_reply_that_can_never_be_sent_is_left_to_the_ledger(caplog: pytest.LogCaptureFixture) -> None:
    line, answering = Line(work(), work(), cuts=1000), Answering()
    run(line, answering)
    assert (line.tries, len(line.sent), len(answering.asked)) == (2 * 5, 0, 2)
    assert caplog.text.count("the reply stays in the ledger") == 2


def test_an_answer_that_raises_is_one_word_and_the_agent_goes_on() -> None:
    def raising(_: Work) -> Message:
        raise ValueError("age = 7300131072")

    line = Line(work(), work())
    run(line, raising)
    assert [message.error.reason for message in line.sent] == [RefusalCode.FAILED] * 2


def test_a_message_that_no_site_understands_is_refused_and_the_agent_goes_on() -> None:
    line = Line(work("query.rows"), work("query.rows"))
    run(line, lambda asked: app(asked.message, asked.context))
    assert [message.error.reason for message in line.sent] == [RefusalCode.FAILED] * 2


def test_nothing_is_received_once_it_is_to_stop() -> None:
    line, answering = Line(work()), Answering()
    line.stop.set()
    run(line, answering)
    assert answering.asked == []


def test_the_stop_event_ends_an_idle_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clients.agent._IDLE_POLL", 60.0)
    line = Line(None, None, None)
    agent = threading.Thread(target=run, args=(line, Answering()), daemon=True)
    agent.start()
    time.sleep(0.05)
    assert agent.is_alive()
    line.stop.set()
    agent.join(timeout=5)
    assert not agent.is_alive()
