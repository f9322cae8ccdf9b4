"""The agent answers for the installed code alone, and outlives whatever the line does."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from flwr.app import Message, RecordDict

from clients.app import app
from clients.code import installed_code_hash
from clients.line.agent import serve
from clients.line.flower import RunOverError, ServerRefusedError
from clients.line.packing import Bundle, PackedReply, Work, pack
from clients.line.spool import Spool, write_reply
from clients.line.worker import TaskFailedError
from contract.code import BUNDLED_PACKAGES, code_hash
from contract.errors import LedgerError, RefusalCode, SilentError
from server.line.flower import assume_identity
from terminal.health import Health, serve_health
from tests.works import make_work

ROOT = Path(__file__).resolve().parents[3]
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
        self.confirmed: list[str] = []
        self.at: list[float] = []
        self.tries = 0
        self.refuses: Exception | None = None
        self._events = list(events)
        self._files = files
        self._cuts = cuts

    def receive(self, keep: Callable[[Work], None] = lambda _: None) -> Work | None:
        if not self._events:
            self.stop.set()
            return None
        event = self._events.pop(0)
        if isinstance(event, Exception):
            raise event
        if event is not None:
            keep(event)
            self.confirmed.append(event.message_id)
        return event

    def bundle(self, run: int) -> Bundle:
        assert run in (5, 6)
        return Bundle(files=self._files, sha256="ab" * 32)

    def send(self, reply: PackedReply) -> None:
        self.tries += 1
        if self.tries <= self._cuts:
            raise ConnectionError("cut")
        if self.refuses is not None:
            raise self.refuses
        self.sent.append(unpacked(reply))
        self.at.append(time.monotonic())


def unpacked(reply: PackedReply) -> Message:
    from flwr.common.serde import message_from_proto
    from flwr.proto.message_pb2 import Message as EnvelopeProto
    from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

    envelope = message_from_proto(EnvelopeProto.FromString(reply.envelope))
    if envelope.has_error():
        return envelope
    whole: Any = inflate_object_from_contents(envelope.metadata.message_id, dict(reply.objects))
    return whole  # type: ignore[no-any-return]


class Answering:
    """Stands for the ClientApp, and counts its calls."""

    def __init__(self) -> None:
        self.asked: list[Work] = []

    def __call__(self, work: Work) -> PackedReply:
        self.asked.append(work)
        return pack(Message(RecordDict(), reply_to=work.message), to=work.message)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    assume_identity(5)
    monkeypatch.setattr("clients.line.agent._IDLE_POLL", 0.001)
    monkeypatch.setattr("clients.line.agent._POLLS", ())
    monkeypatch.setattr("clients.line.agent._FIRST_PAUSE", 0.001)


def run(
    line: Line,
    answer: Callable[[Work], PackedReply],
    spool: Spool | None = None,
    health: Health | None = None,
) -> None:
    connection: Any = line
    serve(connection, answer, line.stop, spool=spool, health=health)


def test_a_server_with_the_installed_code_is_answered() -> None:
    line, answering = Line(None, make_work(), None, make_work()), Answering()
    run(line, answering)
    assert len(answering.asked) == len(line.sent) == 2
    assert all(message.has_content() for message in line.sent)


@pytest.mark.parametrize("took", [0.0, 0.2])
@pytest.mark.parametrize("fails", [False, True])
def test_a_reply_goes_out_on_the_grid_of_stated_seconds_whether_it_failed_or_not(
    took: float, fails: bool
) -> None:
    line = Line(make_work(), None)

    def answer(work: Work) -> PackedReply:
        time.sleep(took)
        if fails:
            raise TaskFailedError("no memory")
        return pack(Message(RecordDict(), reply_to=work.message), to=work.message)

    began = time.monotonic()
    serve(cast(Any, line), answer, line.stop, reply_seconds=0.6)
    assert [message.has_error() for message in line.sent] == [fails]
    assert 0.59 <= line.at[0] - began < 1.1


def test_a_refusal_of_the_agents_own_is_entered_and_a_flood_gets_no_answer() -> None:
    refused: list[tuple[str, str]] = []

    def refuse(request: str, word: str) -> None:
        refused.append((request, word))
        if len(refused) > 1:
            raise SilentError("too many")

    def fail(_work: Work) -> PackedReply:
        raise ValueError("a row")

    line = Line(make_work(), None, make_work())
    serve(cast(Any, line), fail, line.stop, refuse=refuse)
    assert [word for _, word in refused] == ["failed", "failed"]
    assert [message.error.reason for message in line.sent] == ["failed"]


def test_what_is_no_code_of_the_bundle_does_not_matter() -> None:
    line, answering = (
        Line(make_work(), files={**INSTALLED, "README.md": b"!", "experiments/a.py": b"!"}),
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
        {name: content for name, content in INSTALLED.items() if name != "clients/ledger/chain.py"},
    ],
)
def test_a_server_with_other_code_is_refused_in_one_word_and_nothing_is_run(files: dict[str, bytes]) -> None:
    line, answering = Line(make_work(), files=files), Answering()
    run(line, answering)
    assert answering.asked == []
    assert [message.error.reason for message in line.sent] == [RefusalCode.INPUT]
    assert not line.sent[0].has_content()


def test_a_line_that_breaks_while_receiving_is_outlived(caplog: pytest.LogCaptureFixture) -> None:
    line, answering = Line(ConnectionError("cut"), RuntimeError("restarted"), make_work()), Answering()
    run(line, answering)
    assert len(line.sent) == 1
    assert caplog.text.count("could not be received") == 1  # said once, until it is whole again


def test_a_reply_that_cannot_be_sent_is_sent_again_and_computed_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "tidegate.agent")
    line, answering = Line(None, make_work(), cuts=2), Answering()
    run(line, answering)
    assert (line.tries, len(line.sent), len(answering.asked)) == (3, 1, 1)
    assert caplog.text.count("could not be sent") == 1
    assert caplog.text.count("the server answers again") == 1


def test_a_server_that_came_back_and_refuses_the_reply_is_said_to_be_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "tidegate.agent")
    line = Line(None, make_work(), cuts=1)
    line.refuses = ServerRefusedError("413: too long")
    run(line, Answering())
    said = [record.message for record in caplog.records]
    assert [words.partition(" to north")[0].partition(" (")[0] for words in said] == [
        "the reply could not be sent",
        "the server answers again",
        "the server does not take an answer",
    ]


def test_a_server_that_was_started_again_and_waits_for_nothing_is_no_trouble(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level("INFO", "tidegate.agent")
    line, spool = Line(None, make_work(), cuts=1), Spool(tmp_path)
    line.refuses = RunOverError("the run is over")
    run(line, Answering(), spool)
    assert [(record.levelname, record.message) for record in caplog.records][1:] == [
        ("INFO", "the server answers again"),
        ("INFO", "no answer to north-1/train/3 is wanted any more: the run is over"),
    ]
    assert spool.waiting() == []


def test_a_reply_that_the_server_refuses_is_dropped_and_the_agent_goes_on(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    line, answering, spool = Line(None, make_work(), make_work()), Answering(), Spool(tmp_path)
    line.refuses = ServerRefusedError("404: no such run")
    run(line, answering, spool)
    assert (line.tries, len(line.sent), len(answering.asked)) == (2, 0, 2)
    assert caplog.text.count("does not take an answer to north-1/train/3 any more (404") == 2
    assert spool.waiting() == []


def test_a_message_is_on_disk_before_the_server_hears_that_it_arrived(tmp_path: Path) -> None:
    line, seen = Line(make_work()), []
    spool = Spool(tmp_path)
    line.confirmed = Confirmed(lambda: seen.append(len(spool.waiting())))
    run(line, Answering(), spool)
    assert seen == [1]
    assert spool.waiting() == []


class Confirmed(list[str]):
    """Looks when the server is told that a message arrived."""

    def __init__(self, look: Callable[[], None]) -> None:
        super().__init__()
        self._look = look

    def append(self, message_id: str) -> None:
        self._look()
        super().append(message_id)


def test_what_a_stopped_agent_left_is_sent_by_the_next(tmp_path: Path) -> None:
    """The line is cut; the agent is stopped while it tries; another starts on the same folder."""
    first, answering = Line(make_work(), cuts=1000), Answering()
    threading.Timer(0.3, first.stop.set).start()
    run(first, answering, Spool(tmp_path))
    assert first.sent == []
    assert len(Spool(tmp_path).waiting()) == 1
    second = Line()
    run(second, answering, Spool(tmp_path))
    assert [message.metadata.reply_to_message_id for message in second.sent] == [
        answering.asked[0].message_id
    ]
    assert answering.asked[1].message.content == answering.asked[0].message.content
    assert Spool(tmp_path).waiting() == []


def test_of_the_messages_that_wait_for_a_site_that_was_away_the_last_of_each_run_is_answered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, other, second, third = make_work(), make_work(run=6), make_work(), make_work()
    line, answering, spool = Line(third, first, other, second, None), Answering(), Spool(tmp_path / "spool")
    caplog.set_level("INFO", "tidegate.agent")
    run(line, answering, spool)
    assert {item.message_id for item in answering.asked} == {third.message_id, other.message_id}
    assert line.confirmed == [item.message_id for item in (third, first, other, second)]
    assert spool.waiting() == []
    left = [message for message in caplog.messages if "the server has sent a later one" in message]
    assert len(left) == 2
    assert left[0].startswith("left north-1/train/3 of 20")


@pytest.mark.parametrize("long", ["_LONG_TASK", "_LONG_SENDING"])
def test_rounds_that_went_by_during_a_long_task_or_sending_are_not_answered(
    long: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = [make_work() for _ in range(4)]
    line, answering = Line(None, *works, None), Answering()
    run(line, answering)
    assert answering.asked == works  # none took long: each is the only one that waits
    monkeypatch.setattr(f"clients.line.agent.{long}", 0.0)
    line, answering = Line(None, *works, None), Answering()
    run(line, answering)
    assert answering.asked == [works[0], works[-1]]


def test_one_who_waits_a_second_to_send_is_asked_for_nothing_more_than_the_next_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With 256 sites every reply takes a second: each would ask twice a round, and confirm alone."""
    works = [make_work() for _ in range(3)]
    line, answering = Line(None, *works, None), Answering()
    clock = iter(range(0, 10_000))
    send = line.send

    def slow(reply: PackedReply) -> None:
        for _ in range(2):
            next(clock)
        send(reply)

    monkeypatch.setattr(line, "send", slow)
    monkeypatch.setattr("clients.line.agent.time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    monkeypatch.setattr("clients.line.agent._LONG_TASK", 2.0)
    run(line, answering)
    assert answering.asked == works


def test_what_an_earlier_agent_left_is_dropped_where_the_server_has_gone_on(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    old, answered, new = make_work(), make_work(), make_work()
    spool.keep(old)
    spool.keep(answered)
    write_reply(
        spool.path(answered), pack(Message(RecordDict(), reply_to=answered.message), to=answered.message)
    )
    line, answering = Line(new, None), Answering()
    run(line, answering, spool)
    assert [item.message_id for item in answering.asked] == [answered.message_id, new.message_id]
    assert spool.waiting() == []


def test_a_message_that_was_kept_and_comes_again_is_answered_once(tmp_path: Path) -> None:
    spool, kept = Spool(tmp_path / "spool"), make_work()
    spool.keep(kept)
    line, there = Line(kept, None), []

    def answer(asked: Work) -> PackedReply:
        there.append(spool.path(asked).exists())
        return pack(Message(RecordDict(), reply_to=asked.message), to=asked.message)

    run(line, answer, spool)
    assert there == [True]
    assert len(line.sent) == 1
    assert spool.waiting() == []


def test_a_damaged_message_is_said_and_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "5-abc.message").write_bytes(b"no zip")
    line, answering = Line(make_work(), None), Answering()
    run(line, answering, Spool(tmp_path))
    assert len(line.sent) == 1
    assert "5-abc.message" in caplog.text
    assert "Remove the file" in caplog.text


def test_a_full_disk_leaves_the_message_with_the_server(tmp_path: Path) -> None:
    class Full(Spool):
        def keep(self, work: Work) -> None:
            raise LedgerError("no space")

    line, answering, health = Line(make_work(), None), Answering(), Health("north")
    run(line, answering, Full(tmp_path), health)
    assert (answering.asked, line.confirmed) == ([], [])


def test_the_health_says_what_the_agent_does(tmp_path: Path) -> None:
    states = []

    class Watched(Health):
        def say(self, state: Any, note: str = "", *, answered: int = 0) -> None:
            super().say(state, note, answered=answered)
            states.append((self.standing.state, self.standing.well, self.standing.answered))

    run(Line(None, make_work(), ConnectionError("cut")), Answering(), Spool(tmp_path), Watched("north"))
    assert states == [
        ("connected", True, 0),
        ("answering", True, 0),
        ("sending", True, 0),
        ("connected", True, 1),
        ("unreachable", False, 1),
        ("connected", True, 1),
    ]


def test_health_is_served_on_the_loopback_address() -> None:
    health = Health("north")
    with serve_health(health, 0) as port:
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health")
        health.say("connected")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
            said = json.loads(answer.read())
    assert (said["name"], said["state"], said["well"]) == ("north", "connected", True)


def test_an_answer_that_raises_is_one_word_and_the_agent_goes_on() -> None:
    def raising(_: Work) -> PackedReply:
        raise ValueError("age = 7300131072")

    line = Line(None, make_work(), make_work())
    run(line, raising)
    assert [message.error.reason for message in line.sent] == [RefusalCode.FAILED] * 2


def test_a_message_that_no_site_understands_is_refused_and_the_agent_goes_on() -> None:
    line = Line(None, make_work("query.rows"), make_work("query.rows"))
    run(line, lambda asked: pack(app(asked.message, asked.context), to=asked.message))
    assert [message.error.reason for message in line.sent] == [RefusalCode.FAILED] * 2


def test_nothing_is_received_once_it_is_to_stop() -> None:
    line, answering = Line(make_work(), None), Answering()
    line.stop.set()
    run(line, answering)
    assert answering.asked == []


def test_the_stop_event_ends_an_idle_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clients.line.agent._IDLE_POLL", 6000.0)
    line = Line(None, None, None)
    agent = threading.Thread(target=run, args=(line, Answering()), daemon=True)
    agent.start()
    time.sleep(0.05)
    assert agent.is_alive()
    line.stop.set()
    agent.join(timeout=300)
    assert not agent.is_alive()
