"""A quorum that lacks nothing but approvals is waited for; what lacks more ends at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from flwr.app import Context, Message

from contract.errors import RoundError
from contract.messages import Instruction
from server.exchange import asking
from server.exchange.answers import Answers, Patience
from server.exchange.asking import Question, require
from server.exchange.asking import ask as ask_sites
from server.line.flower import assume_identity
from server.settings import approval_seconds
from server.state.participation import WAITING
from tests.server.exchange.test_asking import Memory
from tests.server.exchange.test_exchange import LONG, Says, ScriptedGrid, at

WORD = "approval"


class DecidingGrid(ScriptedGrid):
    """A site's administrator decides after it was asked so many times."""

    def __init__(self, *script: Says, decides: Mapping[int, tuple[int, Says]]) -> None:
        super().__init__(*script)
        self._decides = dict(decides)

    def _answer(self, message: Message, context: Context) -> Message:
        node = context.node_id
        if node in self._decides and self.pushed.count(node) >= self._decides[node][0]:
            self._script[node] = self._decides.pop(node)[1]
        return super()._answer(message, context)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    assume_identity(1)
    monkeypatch.setattr(asking, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(asking, "_LONGEST_PAUSE", 0.02)


def ask(grid: ScriptedGrid, memory: Any, *, quorum: int = 3, approval: float = LONG) -> Answers:
    question = Question(
        kind="train",
        instruction=Instruction(run="r", step=1),
        patience=Patience(quorum=quorum, deadline=LONG, grace=0.0, approval=approval),
    )
    answers = ask_sites(question, grid, memory)
    require(answers, question)
    return answers


def test_the_others_go_on_where_they_are_enough() -> None:
    grid, memory = ScriptedGrid(at("north"), at("south"), Says(WORD)), Memory()
    answers = ask(grid, memory, quorum=2)
    assert sorted(answers.replies) == ["north", "south"]
    assert answers.failures == {"west": WAITING}
    assert memory.waited == []
    assert memory.written[-1]["west"].reason == WAITING
    assert grid.pushed == [1, 2, 3]


def test_a_quorum_is_waited_for_and_only_who_waits_is_asked_again() -> None:
    decides = {2: (3, at("south")), 3: (4, at("west"))}
    grid, memory = DecidingGrid(at("north"), Says(WORD), Says(WORD), decides=decides), Memory()
    answers = ask(grid, memory)
    assert sorted(answers.replies) == ["north", "south", "west"]
    assert answers.failures == {}
    assert answers.nodes == {"north": 1, "south": 2, "west": 3}
    assert grid.pushed == [1, 2, 3, 2, 3, 2, 3, 3]
    assert memory.waited == [("south", "west"), ("south", "west"), ("west",)]
    assert {status.state for status in memory.written[-1].values()} == {"trained"}


def test_a_site_that_is_asked_again_waits_for_approval_until_it_answers() -> None:
    grid = DecidingGrid(at("north"), at("south"), Says(WORD, after=0.05), decides={3: (4, at("west"))})
    memory = Memory()
    ask(grid, memory)
    found = [(sites["west"].state, sites["west"].reason) for sites in memory.written if "west" in sites]
    changes = [one for number, one in enumerate(found) if number == 0 or one != found[number - 1]]
    assert changes == [("connected", ""), ("connected", WAITING), ("trained", "")]


def test_the_wait_ends_and_says_for_whom_it_was() -> None:
    grid = ScriptedGrid(at("north"), at("south"), Says(WORD))
    with pytest.raises(RoundError, match="west \\(waiting for approval\\)") as caught:
        ask(grid, Memory(), approval=0.2)
    assert "tidegate site requests" in caught.value.remedy
    assert grid.pushed.count(3) > 2
    assert grid.pushed.count(1) == 1


@pytest.mark.parametrize("word", ["budget", "policy", "failed"])
def test_nobody_is_waited_for_where_it_would_not_help(word: str) -> None:
    grid = ScriptedGrid(at("north"), Says(word), Says(WORD))
    with pytest.raises(RoundError):
        ask(grid, Memory())
    assert grid.pushed == [1, 2, 3]


def test_one_that_is_refused_while_the_others_wait_ends_the_wait() -> None:
    grid = DecidingGrid(at("north"), at("south"), Says(WORD), decides={3: (2, Says("policy"))})
    with pytest.raises(RoundError, match="west \\(policy\\)"):
        ask(grid, Memory())


def test_a_site_that_answers_late_under_anothers_name_does_not_count() -> None:
    grid = DecidingGrid(at("north"), at("south"), Says(WORD), decides={3: (2, at("south"))})
    with pytest.raises(RoundError, match="name refused"):
        ask(grid, Memory())


def test_two_nodes_of_one_name_count_once_also_where_one_waited() -> None:
    class Strangers(Memory):
        def admitted(self) -> Mapping[int, str]:
            return {}

    grid = DecidingGrid(at("north"), at("south"), Says(WORD), decides={3: (2, at("south"))})
    with pytest.raises(RoundError, match="two nodes gave the same site name"):
        ask(grid, Strangers())


@pytest.mark.parametrize(("text", "seconds"), [(None, 600.0), ("", 600.0), ("0", 0.0), ("86400", 86400.0)])
def test_the_limit_is_a_setting(text: str | None, seconds: float) -> None:
    environ = {} if text is None else {"TIDEGATE_APPROVAL_SECONDS": text}
    assert approval_seconds(environ) == seconds


@pytest.mark.parametrize("text", ["-1", "soon", "1e9", "99999999"])
def test_a_limit_that_is_none_is_refused(text: str) -> None:
    from contract.errors import InputError

    with pytest.raises(InputError, match="no number of seconds"):
        approval_seconds({"TIDEGATE_APPROVAL_SECONDS": text})
