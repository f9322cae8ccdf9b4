"""Who is asked: the quorum, chosen from those that are connected when it is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from contract.errors import RoundError
from contract.messages import Anchor, Instruction
from server.exchange.answers import Patience
from server.exchange.asking import Question, ask
from server.line.flower import assume_identity
from server.state.participation import WAITING, SiteStatus, Step
from tests.server.exchange.test_exchange import LONG, ScriptedGrid, at


class Memory:
    """Remembers what it is told; the three sites were admitted."""

    def __init__(self) -> None:
        self.written: list[dict[str, SiteStatus]] = []
        self.waited: list[tuple[str, ...]] = []

    def admitted(self) -> Mapping[int, str]:
        return {1: "north", 2: "south", 3: "west"}

    def site_names(self) -> Mapping[int, str]:
        return {}

    def stated_rows(self, run: str) -> Mapping[str, int]:
        return {}

    def remember_anchor(self, site: str, anchor: Anchor | None) -> None:
        pass

    def record_sites(self, step: Step, sites: Mapping[str, SiteStatus], *, ended: bool) -> None:
        self.written.append(dict(sites))

    def wait_for_approval(self, step: Step, sites: Mapping[str, SiteStatus]) -> None:
        self.waited.append(tuple(site for site, status in sites.items() if status.reason == WAITING))


def question(quorum: int = 3, deadline: float = LONG, *, sites: Sequence[str] = ()) -> Question:
    return Question(
        kind="train",
        instruction=Instruction(run="r", step=4),
        patience=Patience(quorum=quorum, deadline=deadline, grace=LONG),
        sites=sites,
    )


@pytest.fixture(autouse=True)
def _identity() -> None:
    assume_identity(1)


class ComingAndGoing(ScriptedGrid):
    """Who is connected changes from look to look."""

    def __init__(self, *looks: list[int]) -> None:
        super().__init__(at("north"), at("south"), at("west"))
        self.looks = list(looks)

    def get_node_ids(self) -> list[int]:
        return self.looks.pop(0)


def test_everybody_is_asked_whom_the_look_found_that_found_the_quorum() -> None:
    grid, memory = ComingAndGoing([1], [1, 3], [1, 2, 3]), Memory()
    answers = ask(question(quorum=2), grid, memory)
    assert sorted(answers.replies) == ["north", "west"]
    assert answers.failures == {"south": "not connected"}
    assert grid.looks == [[1, 2, 3]]
    assert {site: status.state for site, status in memory.written[-1].items()} == {
        "north": "trained",
        "south": "enrolled",
        "west": "trained",
    }


def test_a_quorum_that_is_never_connected_ends_with_who_is_missing() -> None:
    grid = ComingAndGoing(*[[1]] * 100)
    with pytest.raises(RoundError, match="1 site is connected, and 3 are needed; not connected: south, west"):
        ask(question(deadline=0.3), grid, Memory())


def test_of_named_sites_alone_nobody_else_is_asked() -> None:
    grid, memory = ComingAndGoing([1, 2], [1, 2, 3]), Memory()
    answers = ask(question(quorum=2, sites=("north", "west")), grid, memory)
    assert sorted(answers.replies) == ["north", "west"]
    assert answers.failures == {}
    assert "south" not in memory.written[-1]


def test_a_named_site_that_is_not_admitted_is_waited_for_in_vain() -> None:
    grid = ComingAndGoing(*[[1, 2, 3]] * 100)
    with pytest.raises(RoundError, match="0 sites are connected, and 1 is needed"):
        ask(question(quorum=1, deadline=0.3, sites=("east",)), grid, Memory())
