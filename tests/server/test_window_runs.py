"""What is known of a window's check: under which name it is made again, whom it waits for, what it found."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime

import pytest

from contract.experiment import Experiment
from contract.mandate import mandate_for
from contract.standing import Standing
from server.state.participation import SiteStatus, Step
from server.state.records import RunRecord
from server.state.storage import State
from server.window_runs import Waiting, WindowRuns, outcome_words
from tests.server.federation import plan

SOUTH_AWAY = "waiting for south (not connected), up to 10 min"


@pytest.fixture
def runs(state: State) -> WindowRuns:
    return WindowRuns(state=state, experiment=plan(quorum=2, round_timeout=600.0))


def begin(runs: WindowRuns, name: str, experiment: Experiment | None = None) -> None:
    asked = experiment or runs.experiment
    runs.state.start_run(name, experiment=asked, job="cycle", trigger=runs.trigger("w2"), code_hash="c0de")


def promote(state: State, window: str) -> None:
    state.record_decision("fake", window=window, kind="promote", subject="version 2", by="p", reason="r")


def last(runs: WindowRuns) -> RunRecord:
    run = runs.last("w2")
    assert run is not None
    return run


def test_a_check_that_failed_is_made_again_under_its_name(runs: WindowRuns) -> None:
    assert runs.name("w2").startswith("fake-w2-")
    assert runs.last("w2") is None
    begin(runs, "one")
    assert not runs.is_over("w2")
    runs.state.finish_run("one", "failed", error="too few")
    assert not runs.is_over("w2")
    assert runs.name("w2") == "one"
    assert runs.last("w20") is None


def test_of_a_signed_schedule_the_tries_have_the_names_that_were_signed(state: State) -> None:
    experiment = plan(quorum=2, round_timeout=600.0)
    weeks = Standing(every="week", first="2026-W02", last="2026-W09", tries=2, drift_epsilon=0.5)
    mandate = mandate_for(
        experiment, run="fake-1", code="c" * 64, authority="a" * 64, scientist="ada",
        expires=datetime(2026, 12, 1, tzinfo=UTC), covers=weeks,
    )  # fmt: skip
    runs = WindowRuns(state=state, experiment=experiment, mandate=mandate)

    def fail() -> str:
        name = runs.name("2026-W02")
        trigger = runs.trigger("2026-W02")
        if state.run(name) is None:
            state.start_run(name, experiment=experiment, job="cycle", trigger=trigger, code_hash="c0de")
            state.finish_run(name, "failed")
        return name

    assert [fail(), fail()] == ["fake-1-2026-W02-1"] * 2  # the same question
    promote(state, "2026-W01")
    assert [fail(), fail()] == ["fake-1-2026-W02-2"] * 2
    promote(state, "2026-W01")
    more = fail()
    assert (more.startswith("fake-2026-W02-"), runs.is_signed("2026-W02", more)) == (True, False)
    assert [fail(), fail()] == [more] * 2  # the same question still: under a new name it is charged anew
    assert runs.is_signed("2026-W02", "fake-1-2026-W02-2")
    for window in ("2026-W01", "2026-W10"):
        assert not runs.name(window).startswith("fake-1-")
    other = WindowRuns(state=state, experiment=plan(quorum=1), mandate=mandate)
    assert not other.name("2026-W03").startswith("fake-1-")


def test_another_question_has_another_name(runs: WindowRuns) -> None:
    begin(runs, "one", plan(quorum=1))
    runs.state.finish_run("one", "failed")
    assert runs.name("w2").startswith("fake-w2-")


def test_a_new_champion_makes_another_question_unless_it_came_of_this_window(runs: WindowRuns) -> None:
    promote(runs.state, "w1")
    begin(runs, "one")
    runs.state.finish_run("one", "failed")
    promote(runs.state, "w2")
    assert runs.name("w2") == "one"
    promote(runs.state, "w3")
    assert runs.name("w2").startswith("fake-w2-")


def test_a_verdict_on_a_model_that_is_replaced_leads_to_nothing_more(runs: WindowRuns) -> None:
    begin(runs, "one")
    runs.state.finish_run("one", "failed")
    runs.state.save_verdict("fake", window="w2", verdict={}, alarm=True)
    assert not runs.is_over("w2")
    promote(runs.state, "w3")
    assert runs.is_over("w2")


def test_a_finished_check_says_what_it_found(runs: WindowRuns) -> None:
    begin(runs, "one")
    outcome = {"alarm": True, "sites_in_alarm": ["north", "west"], "decision": "watch"}
    runs.state.link_run("one", result=json.dumps(outcome))
    runs.state.finish_run("one", "partial", error="south: not connected")
    words = "alarm at north, west; decision: watch; missing: south: not connected"
    assert outcome_words(last(runs)) == words
    assert runs.is_over("w2")
    outcome |= {"sites_in_alarm": [], "decision": "retrain", "challenger": 3, "promoted": False}
    runs.state.link_run("one", result=json.dumps(outcome))
    runs.state.finish_run("one", "succeeded")
    assert outcome_words(last(runs)) == (
        "alarm at all sites together; decision: retrain; challenger version 3 refused"
    )


def test_whom_a_check_waits_for_is_said_once_and_only_after_a_while(
    runs: WindowRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, said = [1000.0], list[str]()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    waiting = Waiting(state=runs.state, run="one", strategy=runs.experiment.strategy, say=said.append)

    def passed(seconds: float) -> list[str]:
        for _ in range(int(seconds)):
            now[0] += 1
            waiting.look()
        return said

    def stands(kind: str, **sites: SiteStatus) -> None:
        runs.state.record_participation(Step(run="one", kind=kind, number=1), sites)

    here = SiteStatus(state="connected", node=1)
    away = SiteStatus(state="enrolled", reason="not connected")
    assert passed(5) == []
    begin(runs, "one")
    assert passed(5) == []
    stands("query.drift", north=here, south=away)
    assert passed(2) == []
    assert passed(5) == [SOUTH_AWAY]
    stands("query.drift", north=here, south=here, west=away)
    assert passed(4) == [SOUTH_AWAY]
    assert passed(4)[1:] == ["waiting for north, south (no answer yet), up to 10 min"]
    stands("query.drift", north=SiteStatus(state="counted"), south=SiteStatus(state="counted"), west=away)
    assert len(passed(9)) == 2
    runs.state.finish_run("one", "failed")
    stands("query.drift", north=here, south=away)
    assert len(passed(9)) == 2
