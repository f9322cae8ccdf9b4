"""Who is asked: the quorum, chosen from those that are connected when it is asked."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from contract.errors import RoundError
from contract.messages import Instruction
from server.asking import Question, ask
from server.exchange import Patience
from server.flower import assume_identity
from server.participation import SiteStatus, Step
from tests.server.test_exchange import LONG, ScriptedGrid, at


class Memory:
    """Remembers what it is told; the three sites were admitted."""

    def __init__(self) -> None:
        self.written: list[dict[str, SiteStatus]] = []

    def admitted(self) -> Mapping[int, str]:
        return {1: "north", 2: "south", 3: "west"}

    def site_names(self) -> Mapping[int, str]:
        return {}

    def stated_rows(self, run: str) -> Mapping[str, int]:
        return {}

    def record_sites(self, step: Step, sites: Mapping[str, SiteStatus], *, ended: bool) -> None:
        self.written.append(dict(sites))


def question(quorum: int = 3, deadline: float = LONG) -> Question:
    return Question(
        kind="train",
        instruction=Instruction(run="r", step=4),
        patience=Patience(quorum=quorum, deadline=deadline, grace=LONG),
    )


@pytest.fixture(autouse=True)
def _identity() -> None:
    assume_identity(1)


def test_where_the_choice_falls_below_the_quorum_it_is_made_again() -> None:
    """Sites come and go between the look that counts them and the one that chooses."""
    grid, memory = ScriptedGrid(at("north"), at("south"), at("west")), Memory()
    choices = iter([[1], [1, 3], [1, 2, 3]])
    answers = ask(question(), grid, memory, choose=lambda _connected: next(choices))
    assert sorted(answers.replies) == ["north", "south", "west"]
    assert answers.failures == {}
    assert {site: status.state for site, status in memory.written[-1].items()} == dict.fromkeys(
        ("north", "south", "west"), "trained"
    )


def test_a_choice_that_stays_below_the_quorum_ends_with_who_was_not_asked() -> None:
    grid, memory = ScriptedGrid(at("north"), at("south"), at("west")), Memory()
    answers = ask(question(deadline=0.3), grid, memory, choose=lambda connected: connected[:1])
    assert answers.failures == {"south": "not connected", "west": "not connected"}
    with pytest.raises(RoundError, match="round 4 of run 'r' needs 3 sites and got 1"):
        answers.require(3, str(question().step))
