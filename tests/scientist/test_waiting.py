"""A run that waits for sites' administrators says so wherever runs are shown, from its first pause on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from server.exchange import asking
from server.jobs.memory import RunMemory
from server.line.flower import assume_identity
from server.rounds import Training, train
from server.state.participation import Step
from tests.scientist.conftest import Standing
from tests.server.federation import Behaviour, FakeFederation, honest, plan

Command = Callable[..., str]
WORDS = "waiting for approval at "


def after(times: int) -> Behaviour:
    """A site whose administrator has approved once it was asked so often."""
    asked: list[int] = []

    def behave(reply: object, told: object, model: object) -> object:
        asked.append(1)
        return reply if len(asked) > times else "approval"

    return behave  # type: ignore[return-value]


@pytest.fixture(autouse=True)
def _identity() -> None:
    assume_identity(1)


@pytest.fixture
def look(standing: Standing, tidegate: Command) -> Callable[[], list[str]]:
    """What each place says of the run `waits` at this moment."""
    standing.here()
    token = standing.served.people.add("rita", "reviewer")

    standing.connect("ada", "scientist")

    def told() -> list[str]:
        with standing.served.client() as browser:
            browser.post("/sign-in", data={"token": token}, headers={"Origin": standing.served.url})
            page = browser.get("/").text
        return [
            tidegate("runs", "list"),
            tidegate("runs", "show", "waits"),
            tidegate("server", "status"),
            page[page.index('id="runs-now"') : page.index('id="queue"')],
        ]

    return told


def test_while_a_run_waits_it_says_for_whom(
    standing: Standing, tidegate: Command, look: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(asking, "_LONGEST_PAUSE", 0.01)
    experiment, state = plan(rounds=2, quorum=2), standing.served.state
    state.start_run("waits", experiment=experiment, job="train", trigger="ada", code_hash="c")
    grid = FakeFederation({"north": after(3), "south": after(4)})
    pauses: list[tuple[list[str], Sequence[str]]] = []
    asked_again: list[tuple[str, ...]] = []

    def waits(step: Step, sites: Sequence[str]) -> None:
        assert step.number == 1
        if len(pauses) in (0, 3):  # the others say the same: each look takes its time
            pauses.append((look(), list(sites)))
        else:
            pauses.append(([], list(sites)))

    push = grid.push_messages

    def pushed(messages: object) -> list[str]:
        found = state.run("waits")
        assert found is not None
        asked_again.append(state.unapproved(found))
        return push(messages)  # type: ignore[arg-type]

    monkeypatch.setattr(grid, "push_messages", pushed)
    memory = RunMemory(state, admitted=lambda: grid.names, waits=waits)
    train(Training(run="waits", experiment=experiment), grid, memory, np.random.default_rng(0))

    assert [sites for _, sites in pauses] == [["north", "south"]] * 3 + [["south"]]
    for told, sites in (pauses[0], pauses[3]):
        for place in told:
            assert f"{WORDS}{', '.join(sites)}" in " ".join(place.split())
    both = ("north", "south")
    assert asked_again[:6] == [(), both, both, both, ("south",), ()]  # the evaluation comes after
    found = {one["name"]: one["unapproved"] for one in json.loads(tidegate("runs", "list", "--json"))["runs"]}
    assert found["waits"] == []
    assert not any(WORDS in place for place in look())


def test_one_that_has_ended_waits_for_nobody(
    standing: Standing, tidegate: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    standing.connect("ada", "scientist")
    monkeypatch.setenv("TIDEGATE_APPROVAL_SECONDS", "0")
    experiment, state = plan(rounds=2, quorum=1), standing.served.state
    state.start_run("waits", experiment=experiment, job="train", trigger="ada", code_hash="c")
    grid = FakeFederation({"north": honest, "south": lambda *_: "approval"})
    seen: list[str] = []
    memory = RunMemory(
        state, admitted=lambda: grid.names, watch=lambda _: seen.append(tidegate("runs", "list"))
    )
    train(Training(run="waits", experiment=experiment), grid, memory, np.random.default_rng(0))
    assert [f"{WORDS}south" in " ".join(told.split()) for told in seen] == [True, True]  # the others go on
    state.finish_run("waits", "succeeded")
    assert WORDS not in tidegate("runs", "list")
