"""The queue with a SuperLink that does as a test says: order, places, restarts, stops."""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import func, select, update

from contract.errors import AddressError, InputError, RoundError, UnansweredError
from contract.experiment import Experiment
from server.api.reading import Page, Reading
from server.beside import working_beside
from server.jobs.job import RangeQuestion, read_job
from server.line.flower import ControlClient, RunState
from server.run_queue import _MOST_REFUSALS, RunQueue, _work
from server.state import submissions, tables
from server.state.people import People
from server.state.storage import State, open_state
from server.state.submissions import MOST_QUEUED, SubmissionRecord, Submissions
from tests.server.federation import plan

LONG = 600.0


class FakeSuperLink:
    """Gives numbers; a run goes on until a test, or a stop, ends it."""

    def __init__(self, before: int = 2**63) -> None:
        self._before = before
        self.began: list[str] = []
        self.configs: list[Mapping[str, str]] = []
        self.mandates: list[str] = []
        self.ended: dict[int, str] = {}
        self.stopped: list[int] = []
        self.error: Exception | None = None

    def submit(self, _project: Path, config: Mapping[str, str]) -> int:
        if self.error is not None:
            raise self.error
        self.began.append(config["run"])
        self.configs.append(config)
        self.mandates.append(config["mandate"])
        return self._before + len(self.began)

    def state(self, run: int) -> RunState:
        if self.error is not None:
            raise self.error
        ended = self.ended.get(run, "")
        return RunState(status="finished" if ended else "running", sub_status=ended, details="")

    def stop(self, run: int) -> None:
        self.stopped.append(run)
        self.ended[run] = "stopped"


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with open_state(f"sqlite:///{tmp_path}/state.db") as found:
        yield found


@pytest.fixture
def superlink() -> FakeSuperLink:
    return FakeSuperLink()


@pytest.fixture
def queue(state: State, superlink: FakeSuperLink) -> RunQueue:
    control = cast(ControlClient, superlink)
    return RunQueue(state=state, control=control, federation="f", at_once=2, say=lambda _: None)


def add(queue: RunQueue, *people: str, experiment: Experiment | None = None) -> list[str]:
    plain: Any = experiment or plan()
    return [queue.submissions.add(plain, person=one, federation="f").run for one in people]


def test_so_many_go_on_and_the_others_follow_in_their_order(
    queue: RunQueue, superlink: FakeSuperLink
) -> None:
    names = add(queue, "ada", "ben", "ada", "ben")
    assert len(set(names)) == 4
    for _ in range(3):
        queue.look()
    assert superlink.began == names[:2]
    assert queue.submissions.places("f") == {names[2]: 1, names[3]: 2}
    superlink.ended[2**63 + 1] = "completed"
    queue.look()
    assert superlink.began == names[:3]
    assert queue.submissions.get(names[0]).state == "ended"  # type: ignore[union-attr]
    assert queue.submissions.places("f") == {names[3]: 1}


def test_who_submits_many_keeps_nobody_waiting_for_all_of_them(
    queue: RunQueue, superlink: FakeSuperLink
) -> None:
    many = add(queue, *["ada"] * 10)
    queue.look()
    queue.look()
    assert superlink.began == many[:2]
    first, second, other = add(queue, "ben", "ben", "cleo")
    places = queue.submissions.places("f")
    assert sorted(places, key=lambda name: places[name])[:5] == [first, other, second, many[2], many[3]]
    for number in range(1, 4):
        superlink.ended[2**63 + number] = "completed"
        queue.look()
        assert queue.submissions.places("f") != places
    assert superlink.began[2:] == [first, many[2], second]  # of those who have none going on, the oldest


def test_who_has_several_places_gives_one_to_who_has_none(
    queue: RunQueue, superlink: FakeSuperLink, state: State
) -> None:
    """Ada's runs never end; each of the others comes in, and Ada keeps one place and loses no run."""
    many, said = add(queue, *["ada"] * 4), list[str]()
    queue.say = said.append
    queue.look()
    state.start_run(many[1], experiment=plan(), job="train", trigger="ada", code_hash="c")
    state.take_over(many[1])  # its process lives
    (bens,) = add(queue, "ben")
    for _ in range(3):
        queue.look()
    assert (superlink.began, superlink.stopped) == (many[:2], [])  # he has not waited for a minute
    queue.wait = timedelta(0)
    queue.look()
    queue.look()
    assert superlink.stopped == [2**63 + 2]  # her newest of those that go on
    found, shown = queue.submissions.get(many[1]), reading_of(queue).run(many[1])
    assert (found and found.state, shown and (shown.status, shown.place)) == ("yielding", ("queued", 0))
    queue.look()
    assert superlink.began == many[:2]  # until its process has ended nobody has its place
    state.finish_run(many[1], "failed", error="stopped")
    queue.look()
    assert superlink.began == [*many[:2], bens]
    shown = reading_of(queue).run(many[1])
    assert shown is not None
    assert (shown.status, shown.place) == ("queued", 3)  # behind her two others
    assert any("gives its place" in words for words in said)
    (cleos,) = add(queue, "cleo")
    for _ in range(5):
        queue.look()
    assert superlink.stopped == [2**63 + 2]  # nobody's only run is taken from its place
    superlink.ended[2**63 + 3] = "completed"
    queue.look()
    assert superlink.began[-1] == cleos
    superlink.ended[2**63 + 4] = superlink.ended[2**63 + 1] = "completed"
    for number in range(5, 8):
        queue.look()
        superlink.ended[2**63 + number] = "completed"
    queue.look()
    assert superlink.began == [*many[:2], bens, cleos, many[2], many[3], many[1]]
    assert [one.state for one in queue.submissions.of_runs([*many, bens, cleos]).values()] == ["ended"] * 6


@pytest.mark.parametrize("outcome", ["completed", "done", "stopped by ada"])
def test_what_ends_or_is_stopped_while_it_gives_its_place_is_not_queued_again(
    queue: RunQueue, superlink: FakeSuperLink, state: State, outcome: str
) -> None:
    queue.wait = timedelta(0)
    first, second = add(queue, "ada", "ada")
    state.start_run(second, experiment=plan(), job="train", trigger="ada", code_hash="c")
    queue.look()
    (bens,) = add(queue, "ben")
    queue.look()
    found = queue.submissions.get(second)
    assert found is not None
    assert (found.state, found.superlink_run) == ("yielding", str(2**63 + 2))
    if outcome == "completed":
        superlink.ended[2**63 + 2] = "completed"
    elif outcome == "done":  # it was done, and its process was ended over saying so
        state.finish_run(second, "succeeded")
    else:
        assert queue.submissions.stop(second, by="ada")
    for _ in range(3):
        queue.look()
    ended = queue.submissions.get(second)
    assert ended is not None
    assert (ended.state, ended.detail) == ("ended", outcome if outcome.startswith("stopped") else "")
    assert superlink.began == [first, second, bens]


def test_a_restart_while_a_place_is_given_loses_nothing(
    queue: RunQueue, superlink: FakeSuperLink, state: State
) -> None:
    queue.wait = timedelta(0)
    many = add(queue, "ada", "ada")
    queue.look()
    (bens,) = add(queue, "ben")
    queue.look()
    state.start_run(many[1], experiment=plan(), job="train", trigger="ada", code_hash="c")
    state.take_over(many[1])  # its process lives
    later = replace(queue, control=cast(ControlClient, superlink))
    later.adopt()
    assert superlink.began == [*many, *many]
    for _ in range(2):
        later.look()
    state.finish_run(many[1], "failed", error="stopped")
    for _ in range(2):
        later.look()
    assert superlink.began[-1] == bens
    assert later.submissions.places("f") == {many[1]: 1}


def reading_of(queue: RunQueue) -> Reading:
    nothing: Any = None
    return Reading(state=queue.state, registry=nothing, control=nothing, federation="f")


def test_of_one_person_no_more_are_kept_in_an_hour(queue: RunQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submissions, "_MOST_IN_AN_HOUR", 3)
    for name in add(queue, "ada", "ada", "ada"):
        queue.submissions.stop(name, by="ada")
    with pytest.raises(InputError, match="in the last hour"):
        add(queue, "ada")
    with pytest.raises(InputError, match="in the last hour"):
        queue.submissions.resume(name)
    add(queue, "ben")


def test_a_loop_of_submitting_and_stopping_leaves_no_more_than_some_records(
    queue: RunQueue, superlink: FakeSuperLink, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Day after day, as fast as may be: what never began makes room, and what has begun is kept."""
    monkeypatch.setattr(submissions, "_MOST_IN_AN_HOUR", 30)
    monkeypatch.setattr(submissions, "MOST_QUEUED", 10)
    (begun,) = add(queue, "ada")
    queue.look()
    state.start_run(begun, experiment=plan(), job="train", trigger="ada", code_hash="c")
    state.finish_run(begun, "stopped")
    superlink.ended[2**63 + 1] = "stopped"
    queue.look()
    (bens,) = add(queue, "ben")
    queue.submissions.stop(bens, by="ben")
    for hour in range(4):
        mine = tables.submissions.c.person == "ada"
        with state.database.write() as connection:  # an hour later
            earlier = tables.submissions.c.submitted < datetime.now(UTC) - timedelta(hours=hour + 9)
            ago = datetime.now(UTC) - timedelta(hours=hour + 9)
            connection.execute(update(tables.submissions).where(~earlier).values(submitted=ago))
        for _ in range(30):
            (last,) = add(queue, "ada")
            queue.submissions.stop(last, by="ada")
        with pytest.raises(InputError, match="in the last hour"):
            add(queue, "ada")
        with state.database.read() as connection:
            kept = connection.execute(select(func.count()).where(mine)).scalar_one()
        assert kept <= 1 + 10 + 30
    assert queue.submissions.get(begun) is not None
    assert queue.submissions.get(bens) is not None
    assert queue.submissions.get(last) is not None


def test_of_one_person_so_many_are_kept_in_all(
    queue: RunQueue, superlink: FakeSuperLink, state: State
) -> None:
    kept = Submissions(state.database, most_kept=3)
    queue.at_once = 9
    for _ in range(3):
        kept.add(plan(), person="ada", federation="f")
    queue.look()
    with pytest.raises(InputError, match=r"3 runs of 'ada' are kept already.*runs_kept_per_person"):
        kept.add(plan(), person="ada", federation="f")
    assert len(superlink.began) == 3
    kept.add(plan(), person="ben", federation="f")


def test_nothing_of_whom_the_operator_revoked_begins_or_goes_on(
    queue: RunQueue, superlink: FakeSuperLink, state: State
) -> None:
    """Ada fills the queue before her token is taken back, and asks for more on her way out."""
    people, said = People(state.database), list[str]()
    queue.say = said.append
    for name in ("ada", "ben"):
        people.add(name, "scientist")
    begun, *waiting = add(queue, "ada", "ada", "ada", "ada")
    queue.at_once = 1
    queue.look()
    (bens,) = add(queue, "ben")
    people.revoke("ada")
    for asks in (lambda: add(queue, "ada"), lambda: queue.submissions.resume(waiting[0])):
        with pytest.raises(InputError, match=r"token of 'ada', whose run it is, was revoked.*person add"):
            asks()
    for _ in range(3):
        queue.look()
    assert superlink.began == [begun, bens]
    assert superlink.stopped == [2**63 + 1]
    ended = queue.submissions.of_runs([begun, *waiting])
    assert {one.state for one in ended.values()} == {"ended"}
    assert {one.stopped_by for one in ended.values()} == {"the operator: the token was revoked"}
    assert sum("of ada is stopped by the operator" in words for words in said) == 4
    people.add("ada", "scientist")  # let in again, she goes on where she was, when she says so
    superlink.ended[2**63 + 2] = "completed"
    queue.look()
    assert superlink.began == [begun, bens]
    assert queue.submissions.resume(begun)
    queue.look()
    assert superlink.began == [begun, bens, begun]


def test_of_whom_the_operator_revoked_nothing_is_taken_up_by_a_later_server(
    queue: RunQueue, superlink: FakeSuperLink, state: State
) -> None:
    People(state.database).add("ada", "scientist")
    add(queue, "ada", "ada")
    queue.look()
    People(state.database).revoke("ada")
    fresh = FakeSuperLink(2**62)
    again = replace(queue, control=cast(ControlClient, fresh))
    again.adopt()
    assert (fresh.began, again.look()) == ([], False)


def test_with_a_token_that_is_over_nothing_begins_and_what_has_begun_goes_on(
    queue: RunQueue, superlink: FakeSuperLink, state: State
) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    People(state.database).add("ada", "scientist", expires=soon)
    begun, waits = add(queue, "ada", "ada")
    queue.at_once = 1
    queue.look()
    with state.database.write() as connection:
        connection.execute(update(tables.people).values(expires=soon - timedelta(hours=2)))
    with pytest.raises(InputError, match="is over"):
        add(queue, "ada")
    queue.look()
    assert queue.submissions.get(waits).state == "ended"  # type: ignore[union-attr]
    assert (superlink.began, superlink.stopped) == ([begun], [])


def test_another_federation_in_the_database_is_left_alone(queue: RunQueue, superlink: FakeSuperLink) -> None:
    queue.submissions.add(plan(), person="ada", federation="other")
    queue.look()
    assert superlink.began == []


def test_a_stop_takes_a_run_out_of_the_queue_or_ends_it(queue: RunQueue, superlink: FakeSuperLink) -> None:
    first, second, third = add(queue, "ada", "ada", "ada")
    queue.look()
    assert queue.submissions.stop(third, by="ada")
    assert queue.submissions.stop(first, by="olga")
    assert queue.submissions.stop(first, by="ada")  # again: it was asked for, and the first word stands
    for _ in range(2):
        queue.look()
    assert superlink.stopped == [2**63 + 1]
    ended = queue.submissions.get(first)
    assert ended is not None
    assert (ended.state, ended.detail) == ("ended", "stopped by olga")
    assert superlink.began == [first, second]
    assert not queue.submissions.stop(first, by="ada")
    assert not queue.submissions.stop(third, by="ada")
    assert not queue.submissions.stop("unknown", by="ada")


def test_what_an_earlier_server_began_goes_on_and_the_queue_keeps_its_order(
    queue: RunQueue, superlink: FakeSuperLink, state: State
) -> None:
    cut, done, unknown, waits, stopped = add(queue, "ada", "ada", "ada", "ada", "ada")
    queue.at_once = 5
    queue.submissions.stop(waits, by="x")
    queue.look()
    for name in (cut, done):
        state.start_run(name, experiment=plan(), job="train", trigger="ada", code_hash="c")
    state.finish_run(cut, "stopped", error="its process was stopped")
    state.finish_run(done, "succeeded")
    queue.submissions.stop(stopped, by="ada")
    later = add(queue, "ben")
    fresh = FakeSuperLink(2**62)
    again = RunQueue(
        state=state, control=cast(ControlClient, fresh), federation="f", at_once=2, say=lambda _: None
    )
    again.adopt()
    assert fresh.began == [cut, unknown]
    assert fresh.stopped == [2**63 + 1, 2**63 + 3, 2**63 + 4]  # of the earlier server, all but what was done
    again.look()
    assert later[0] not in fresh.began
    assert queue.submissions.places("f") == {later[0]: 1}


def test_a_run_that_ended_with_its_server_is_not_failed_before_the_queue_takes_it_up(
    queue: RunQueue, superlink: FakeSuperLink, state: State
) -> None:
    """A server that starts looks for dead processes each second, and its queue may be slower than that."""
    killed, stopped, alone = *add(queue, "ada", "ada"), "alone"
    queue.look()
    for name in (killed, stopped, alone):
        state.start_run(name, experiment=plan(), job="train", trigger="ada", code_hash="c")
        state.claim(f"run {name}", "1", f"process 1 of {platform.node()}, since 1.00")
    state.finish_run(stopped, "stopped", error="its process was stopped")
    assert state.end_dead_runs() == (alone,)  # of no person, so nobody takes it up
    shown = {run.name: run.status for run in reading_of(queue).runs(Page()).runs}
    assert shown == {killed: "running", stopped: "starting", alone: "failed"}  # whoever watches goes on
    fresh = FakeSuperLink(2**62)
    again = replace(queue, control=cast(ControlClient, fresh))
    again.adopt()
    assert fresh.began == [killed, stopped]
    fresh.stopped.clear()  # of the earlier server's
    again.look()
    assert fresh.stopped == []  # their new processes have not said yet that they run
    state.claim(f"run {killed}", "2", f"process 1 of {platform.node()}, since 2.00")  # it has, and was killed
    fresh.ended = {2**62 + 2: "stopped"}  # at the SuperLink, by somebody who may
    again.look()
    again.look()
    assert fresh.stopped == [2**62 + 1]  # so nobody waits for Flower's minute
    assert state.end_dead_runs() == (killed,)
    shown = {run.name: run.status for run in reading_of(queue).runs(Page()).runs}
    assert shown == {killed: "failed", stopped: "stopped", alone: "failed"}


def test_a_run_killed_while_it_gives_its_place_is_queued_again(
    queue: RunQueue, superlink: FakeSuperLink, state: State
) -> None:
    queue.wait = timedelta(0)
    _, second = add(queue, "ada", "ada")
    state.start_run(second, experiment=plan(), job="train", trigger="ada", code_hash="c")
    state.claim(f"run {second}", "1", f"process 1 of {platform.node()}, since 1.00")
    queue.look()
    (bens,) = add(queue, "ben")
    for _ in range(3):
        queue.look()
    assert superlink.began[-1] == bens
    assert queue.submissions.places("f") == {second: 1}


def test_what_a_superlink_that_was_started_again_lost_is_taken_up(
    queue: RunQueue, superlink: FakeSuperLink, state: State
) -> None:
    cut, done, stopped = add(queue, "ada", "ada", "ada")
    queue.at_once = 3
    queue.look()
    for name in (cut, done):
        state.start_run(name, experiment=plan(), job="train", trigger="ada", code_hash="c")
    state.finish_run(done, "succeeded")
    queue.submissions.stop(stopped, by="ada")
    superlink.ended.update(dict.fromkeys(range(2**63 + 1, 2**63 + 4), "lost"))
    queue.look()
    assert superlink.began == [cut, done, stopped, cut]
    assert superlink.stopped == [], "there is nothing to be stopped"
    assert [one.run for one in queue.submissions.active("f")] == [cut]
    queue.look()
    assert len(superlink.began) == 4, "once"


def test_a_run_that_is_resumed_goes_on_at_its_turn_and_after_a_restart(
    queue: RunQueue, superlink: FakeSuperLink, state: State
) -> None:
    failed, stopped = add(queue, "ada", "ada")
    queue.look()
    for name in (failed, stopped):
        state.start_run(name, experiment=plan(), job="train", trigger="ada", code_hash="c")
        state.finish_run(name, "failed", error="too few sites")
    queue.submissions.stop(stopped, by="olga")
    superlink.ended = {2**63 + 1: "failed", 2**63 + 2: "stopped"}
    queue.look()
    later = add(queue, "ben")
    assert not queue.submissions.resume("unknown")
    assert not queue.submissions.resume(later[0])
    assert queue.submissions.resume(failed)
    assert queue.submissions.resume(stopped)
    assert not queue.submissions.resume(failed)
    assert queue.submissions.places("f") == {later[0]: 1, failed: 2, stopped: 3}
    queue.at_once = 3
    queue.look()
    assert superlink.began[2:] == [later[0], failed, stopped]
    fresh = FakeSuperLink(2**62)
    again = RunQueue(
        state=state, control=cast(ControlClient, fresh), federation="f", at_once=3, say=lambda _: None
    )
    again.adopt()  # before a process has said that they run
    assert fresh.began == [later[0], failed, stopped]
    assert again.submissions.get(stopped).stopped_by == ""  # type: ignore[union-attr]


def test_of_one_person_no_more_may_wait_by_resuming(queue: RunQueue, superlink: FakeSuperLink) -> None:
    (first,) = add(queue, "ada")
    queue.submissions.stop(first, by="ada")
    add(queue, *["ada"] * MOST_QUEUED)
    with pytest.raises(InputError, match="wait in the queue"):
        queue.submissions.resume(first)


def test_a_question_for_ranges_is_asked_as_one(queue: RunQueue, superlink: FakeSuperLink) -> None:
    question = {"features": ["x0"], "epsilon": 0.5, "share": 0.01}
    run = queue.submissions.add(plan(), person="ada", federation="f", question=question).run
    queue.look()
    assert run.startswith("fake-ranges-")
    (config,) = superlink.configs
    assert read_job(config, fallback_run="").question == RangeQuestion(
        features=("x0",), epsilon=0.5, share=0.01
    )
    assert config["job"] == "ranges"


def test_a_death_between_taking_and_submitting_loses_nothing(
    queue: RunQueue, superlink: FakeSuperLink
) -> None:
    (name,) = add(queue, "ada")
    assert queue.submissions.take("f", at_once=2) is not None
    queue.adopt()
    assert superlink.began == [name]


def test_a_superlink_that_is_away_costs_no_place_and_one_that_refuses_ends_the_run(
    queue: RunQueue, superlink: FakeSuperLink
) -> None:
    first, second = add(queue, "ada", "ben")
    superlink.error = AddressError("away")
    queue.look()
    assert queue.submissions.places("f") == {first: 1, second: 2}
    superlink.error = RoundError("the bundle is refused")
    queue.look()
    assert [queue.submissions.get(name).detail for name in (first, second)] == [  # type: ignore[union-attr]
        "the bundle is refused.", "the bundle is refused.",
    ]  # fmt: skip


def test_a_run_of_which_nobody_knows_whether_it_began_is_submitted_again_and_can_be_stopped(
    queue: RunQueue, superlink: FakeSuperLink
) -> None:
    """The SuperLink began it, and did not answer: given up, it would go on and nobody could stop it."""
    (name,) = add(queue, "ada")
    superlink.error = UnansweredError("no answer came in time")
    for _ in range(3):
        queue.look()
    found = queue.submissions.get(name)
    assert found is not None
    assert (found.state, queue.submissions.stop(name, by="ada")) == ("submitting", True)
    superlink.error = None
    for _ in range(3):
        queue.look()
    found = queue.submissions.get(name)
    assert found is not None
    assert (found.state, found.detail, superlink.stopped) == ("ended", "stopped by ada", [2**63 + 1])
    (never,) = add(queue, "ada")
    superlink.error = UnansweredError("no answer came in time")
    for _ in range(_MOST_REFUSALS):
        queue.look()
    assert queue.submissions.places("f") == {}
    assert "no answer" in queue.submissions.get(never).detail  # type: ignore[union-attr]


def test_a_stop_that_comes_while_a_run_is_queued_again_is_kept(
    queue: RunQueue, superlink: FakeSuperLink
) -> None:
    """Whoever works on the queue has read the run before somebody stops it, and queues it after that."""
    away, gives = add(queue, "ada", "ben")
    for name in (away, gives):
        assert queue.submissions.take("f", at_once=2) is not None, name
    before = {one.run: one for one in queue.submissions.active("f")}
    for name in (away, gives):
        assert queue.submissions.stop(name, by="ada")
    queue.submissions.give_back(before[away])
    queue.submissions.requeue(before[gives])
    for _ in range(3):
        queue.look()
    assert (superlink.began, queue.submissions.places("f")) == ([], {})
    for name in (away, gives):
        found = queue.submissions.get(name)
        assert found is not None
        assert (found.state, found.detail) == ("ended", "stopped by ada")


def test_two_servers_that_take_at_once_take_no_more_than_allowed(state: State) -> None:
    submissions = Submissions(state.database)
    for _ in range(6):
        submissions.add(plan(), person="ada", federation="f")

    def take(_: int) -> SubmissionRecord | None:
        return submissions.take("f", at_once=3)

    with ThreadPoolExecutor(8) as threads:
        taken = [one.run for one in threads.map(take, range(16)) if one is not None]
    assert len(taken) == len(set(taken)) == 3


def test_an_idle_queue_is_woken_by_a_submission_by_a_stop_and_by_its_end(
    queue: RunQueue, superlink: FakeSuperLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_LOOK", "_IDLE_LOOK"):
        monkeypatch.setattr(f"server.run_queue.{name}", LONG)
    said, asked = list[str](), threading.Event()
    queue.say = said.append
    began = time.monotonic()
    with working_beside("queue", lambda stop: _work(queue, stop, asked), wake=asked):
        (run,) = add(queue, "ada")
        asked.set()
        _wait(lambda: superlink.began == [run])
        assert queue.submissions.stop(run, by="ada")
        asked.set()
        _wait(lambda: superlink.stopped == [2**63 + 1])
    assert time.monotonic() - began < LONG / 2
    assert any("begins" in line for line in said)


def test_an_idle_queue_looks_rarely_and_a_waiting_one_often(
    queue: RunQueue, superlink: FakeSuperLink
) -> None:
    assert not queue.look()
    add(queue, "ada")
    superlink.error = AddressError("away")
    assert queue.look()  # it waits for the SuperLink
    superlink.error = None
    assert queue.look()
    superlink.ended[2**63 + 1] = "completed"
    queue.look()
    assert not queue.look()


def _wait(true: Callable[[], bool]) -> None:
    end = time.monotonic() + LONG / 2
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_mandate_goes_with_its_run_and_again_after_a_restart(
    queue: RunQueue, superlink: FakeSuperLink
) -> None:
    queue.submissions.add(plan(), person="ada", federation="f", run="fake-1", mandate="signed")
    queue.submissions.add(plan(), person="ben", federation="f")
    queue.look()
    assert superlink.mandates == ["signed", ""]
    queue.adopt()
    assert superlink.mandates == ["signed", "", "signed", ""]
