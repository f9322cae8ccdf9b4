"""An exchange ends in time, and names everyone who was asked and does not count."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.superlink.grid import InMemoryGrid

from contract.errors import RefusalCode, ReleaseError, RoundError, StorageError
from contract.messages import Instruction, Reply
from contract.releases import Spent
from experiments.runtimes.inline import InlineGrid
from server.exchange.answers import LOST, Answers, Patience, connected_sites, exchange, instruct
from server.line.flower import REFUSED, TOO_LONG, TOO_MANY_PARTS, assume_identity
from server.state.participation import NOT_UNDERSTOOD, WAITING, advice
from tests.server.federation import text_of, written

SPENT = Spent(epsilon=1.0, delta=1e-5, unit="record", method="RDP", block="all/train")
NAMES = {1: "north", 2: "south", 3: "west"}
LONG = 300.0


def reply(site: str) -> Reply:
    return Reply(site=site, stated_rows=100, mechanism="none", spent_in_run=SPENT, spent_in_total=SPENT)


def records(**changed: Any) -> RecordDict:
    """A reply as records, with some of its public values replaced."""
    return written(text_of(reply("north")) | changed)


@dataclass(frozen=True)
class Says:
    """What a node answers (records, or the reason of an error), and after how many seconds."""

    content: RecordDict | str
    after: float = 0.0
    code: int = 0


def at(site: str, after: float = 0.0) -> Says:
    return Says(reply(site).to_records(), after)


NEVER = at("nobody", math.inf)


class ScriptedGrid(InlineGrid):
    """Nodes 1, 2, … answer as the script says."""

    def __init__(self, *script: Says) -> None:
        client: Any = self._answer
        super().__init__(client, [Path("nowhere")] * len(script), {})
        self._script = dict(enumerate(script, start=1))
        self.pushed: list[int] = []
        self._pushed_at = 0.0

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        messages = list(messages)
        self.pushed += [message.metadata.dst_node_id for message in messages]
        self._pushed_at = time.monotonic()
        return super().push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        age = time.monotonic() - self._pushed_at
        nodes = {name: self._replies[name].metadata.src_node_id for name in message_ids}
        return super().pull_messages(name for name, node in nodes.items() if self._script[node].after <= age)

    def _answer(self, message: Message, context: Context) -> Message:
        said = self._script[context.node_id]
        content = said.content
        if isinstance(content, str):
            return Message(Error(code=said.code, reason=content), reply_to=message)
        return Message(content, reply_to=message)


def ask(
    *script: Says,
    quorum: int = 2,
    deadline: float = LONG,
    grace: float = LONG,
    names: dict[int, str] = NAMES,
    **more: Any,
) -> Answers:
    grid = ScriptedGrid(*script)
    messages = instruct(grid.get_node_ids(), "train", Instruction(run="r"), None)
    patience = Patience(quorum=quorum, deadline=deadline, grace=grace)
    return exchange(grid, messages, names=names, patience=patience, **more)


@pytest.fixture(autouse=True)
def _identity() -> None:
    assume_identity(1)


def test_all_answer_and_the_exchange_ends_at_once() -> None:
    answers = ask(at("west"), at("north"), at("south", after=0.1))
    assert list(answers.replies) == ["north", "south", "west"] == list(answers.asked)
    assert answers.nodes == {"west": 1, "north": 2, "south": 3}
    assert answers.failures == {}
    assert 0.1 <= answers.seconds < 5


class LosingGrid(ScriptedGrid):
    """Loses the first message to node 2, or both replies to it come."""

    def __init__(self, *script: Says, loses: bool) -> None:
        super().__init__(*script)
        self._loses = loses
        self._first = ""

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        names = super().push_messages(messages)
        self._first = self._first or names[self.pushed.index(2)]
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        lost = self._loses or self.pushed.count(2) < 2
        return super().pull_messages(name for name in message_ids if name != self._first or not lost)


@pytest.mark.parametrize("loses", [True, False])
def test_a_site_whose_message_was_lost_is_asked_again_and_counts_once(
    monkeypatch: pytest.MonkeyPatch, loses: bool
) -> None:
    monkeypatch.setattr("server.exchange.answers._FIRST_REPEAT", 0.05)
    grid = LosingGrid(at("north"), at("south"), loses=loses)
    messages = instruct([1, 2], "train", Instruction(run="r"), None)
    patience = Patience(quorum=2, deadline=LONG, grace=LONG)
    answers = exchange(grid, messages, names=NAMES, patience=patience)
    assert list(answers.replies) == ["north", "south"]
    assert answers.failures == {}
    assert grid.pushed == [1, 2, 2]
    assert answers.seconds < 5


def test_after_the_quorum_the_others_have_their_grace_and_are_then_named() -> None:
    answers = ask(at("north"), at("south"), NEVER, grace=0.3)
    assert list(answers.replies) == ["north", "south"]
    assert answers.failures == {"west": LOST}
    assert answers.asked == ("north", "south", "west")
    assert 0.3 <= answers.seconds < 5


def test_who_answers_within_the_grace_counts() -> None:
    answers = ask(at("north"), at("south"), at("west", after=0.2), grace=LONG)
    assert list(answers.replies) == ["north", "south", "west"]
    assert answers.seconds < 5


def test_a_slow_quorum_gives_the_others_twice_its_own_time() -> None:
    answers = ask(at("north"), at("south", after=0.3), at("west", after=0.6), grace=0.01)
    assert list(answers.replies) == ["north", "south", "west"]


class SimulatedGrid(ScriptedGrid, InMemoryGrid):
    """By its class Flower's grid of virtual nodes."""


@pytest.mark.parametrize("kind", [ScriptedGrid, SimulatedGrid])
def test_in_a_simulation_everybody_is_waited_for_and_nobody_is_asked_twice(
    monkeypatch: pytest.MonkeyPatch, kind: type[ScriptedGrid]
) -> None:
    monkeypatch.setattr("server.exchange.answers._FIRST_REPEAT", 0.05)
    grid = kind(at("north"), at("south"), at("west", after=0.6))
    messages = instruct([1, 2, 3], "train", Instruction(run="r"), None)
    patience = Patience(quorum=2, deadline=LONG, grace=0.3)
    answers = exchange(grid, messages, names=NAMES, patience=patience)
    if kind is SimulatedGrid:
        assert list(answers.replies) == ["north", "south", "west"]
        assert grid.pushed == [1, 2, 3]
    else:
        assert answers.failures == {"west": LOST}
        assert grid.pushed[:4] == [1, 2, 3, 3]


def test_the_deadline_ends_what_has_no_quorum() -> None:
    answers = ask(at("north"), NEVER, NEVER, deadline=0.3)
    assert list(answers.replies) == ["north"]
    assert answers.failures == {"south": LOST, "west": LOST}
    assert 0.3 <= answers.seconds < 5


def test_the_deadline_cuts_the_grace_short() -> None:
    answers = ask(at("north"), at("south"), NEVER, deadline=0.3, grace=LONG)
    assert answers.failures == {"west": LOST}
    assert answers.seconds < 5


def test_what_is_there_at_the_deadline_still_counts() -> None:
    answers = ask(at("north"), at("south"), NEVER, deadline=1e-9)
    assert list(answers.replies) == ["north", "south"]
    assert answers.failures == {"west": LOST}


@pytest.mark.parametrize("word", sorted(RefusalCode.ALL))
def test_a_refusal_is_named_by_its_word(word: str) -> None:
    answers = ask(at("north"), Says(word))
    reason = WAITING if word == "approval" else word
    assert answers.failures == {"south": reason}
    assert advice(reason)
    assert list(answers.replies) == ["north"]


@pytest.mark.parametrize("text", ["", "Budget", "budget ", "data: age = 7300131072 in row 3"])
def test_no_other_text_passes(text: str) -> None:
    assert ask(at("north"), Says(text)).failures == {"south": LOST}


@pytest.mark.parametrize("words", [TOO_LONG, TOO_MANY_PARTS])
def test_what_the_superlink_refused_is_a_refused_reply_with_advice(words: str) -> None:
    answers = ask(at("north"), Says(words, code=REFUSED))
    assert answers.failures == {"south": words}
    assert answers.refused == {"south"}
    assert "TIDEGATE_LARGEST_REPLY" in advice(words)
    assert ask(at("north"), Says("data: age = 73", code=REFUSED)).failures == {"south": LOST}


def test_a_reply_with_records_beside_it_is_none() -> None:
    content = reply("south").to_records()
    content["more"] = ConfigRecord({"b": b"1"})
    answers = ask(at("north"), Says(content))
    assert answers.failures == {"south": NOT_UNDERSTOOD}


def test_two_nodes_with_one_site_name_are_told_apart_and_count_once() -> None:
    answers = ask(at("north"), at("north"), names={})
    assert answers.nodes == {"north": 1, "node 2 as north": 2}
    assert answers.failures == {"node 2 as north": "two nodes gave the same site name"}


def test_a_reply_that_the_check_refuses_does_not_count() -> None:
    def check(found: Reply) -> None:
        if found.site == "south":
            raise ReleaseError("update of the wrong shape")

    answers = ask(at("north"), at("south"), check=check)
    assert list(answers.replies) == ["north"]
    assert answers.failures == {"south": "update of the wrong shape"}


def test_an_error_in_a_check_is_that_replys_and_one_of_the_database_is_nobodys() -> None:
    def check(found: Reply) -> None:
        if found.site == "south":
            raise ZeroDivisionError

    answers = ask(at("north"), at("south"), check=check)
    assert list(answers.replies) == ["north"]
    assert answers.failures == {"south": "a site sent a reply that this version does not understand"}

    def away(found: Reply) -> None:
        raise StorageError(f"away when {found.site} was noted")

    with pytest.raises(StorageError, match="away"):
        ask(at("north"), at("south"), check=away)


@pytest.mark.parametrize(
    "content", [RecordDict(), records(site=["north"]), records(site=7), records(stated_rows="many")]
)
def test_a_reply_that_is_not_one_is_named_and_the_others_count(content: RecordDict) -> None:
    answers = ask(at("north"), Says(content))
    assert list(answers.replies) == ["north"]
    assert answers.failures == {"south": "a site sent a reply that this version does not understand"}


def test_a_node_that_was_never_heard_of_is_named_by_its_number() -> None:
    answers = ask(at("north"), at("south"), NEVER, grace=0.01, names={})
    assert answers.failures == {"node 3": LOST}
    assert answers.asked == ("node 3", "north", "south")


def test_nobody_is_asked_and_nothing_is_awaited() -> None:
    answers = ask()
    assert (answers.asked, answers.replies, answers.failures) == ((), {}, {})
    assert answers.seconds < 5


def test_too_few_answers_are_refused_with_everyone_who_is_missing_and_why() -> None:
    answers = ask(at("north"), Says("budget"), NEVER, deadline=0.2)
    answers.require(1, "round 3")
    with pytest.raises(RoundError) as raised:
        answers.require(2, "round 3")
    assert raised.value.what == "round 3 needs 2 sites and got 1; missing: south (budget), west (no answer)"
    with pytest.raises(RoundError, match="got 0; missing: no site is connected"):
        Answers(asked=(), replies={}).require(1, "round 3")


def test_every_node_gets_the_same_instruction() -> None:
    messages = instruct([4, 2], "query.drift", Instruction(run="r", step=3, windows=("w1",)), None)
    assert [message.metadata.dst_node_id for message in messages] == [4, 2]
    assert {message.metadata.message_type for message in messages} == {"query.drift"}
    assert [Instruction.from_records(message.content)[0] for message in messages] == [
        Instruction(run="r", step=3, windows=("w1",))
    ] * 2


def test_a_quorum_that_never_connects_is_an_error_that_says_how_many_did() -> None:
    began = time.monotonic()
    with pytest.raises(RoundError, match="2 sites are connected, and 3 are needed"):
        connected_sites(ScriptedGrid(NEVER, NEVER), Patience(quorum=3, deadline=0.1, grace=LONG), pause=0.01)
    assert 0.1 <= time.monotonic() - began < 5


def test_sites_that_connect_late_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = ScriptedGrid(NEVER)
    looks = iter([[9], [9, 4], [9, 4, 7]])
    monkeypatch.setattr(grid, "get_node_ids", lambda: next(looks))
    assert connected_sites(grid, Patience(quorum=3, deadline=LONG, grace=LONG), pause=0.01) == [4, 7, 9]
