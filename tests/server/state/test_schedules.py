"""Schedules are kept, and each window is checked by one process at a time."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import psutil
import pytest

from contract.errors import InputError
from contract.experiment import Experiment
from server.state.owner import this_process
from server.state.records import ScheduleRecord, WindowCheck
from server.state.schedules import Schedules
from server.state.storage import State

NOW = datetime(2026, 3, 1, tzinfo=UTC)
LEASE = timedelta(seconds=60)
ELSEWHERE = "process 7 of another-machine, since 1.00"
"""Of whom nothing is known here but the lease."""


@pytest.fixture
def schedules(state: State) -> Schedules:
    return Schedules(state.database)


def schedule(experiment: Experiment, name: str = "rand-health") -> ScheduleRecord:
    return ScheduleRecord(
        experiment=name,
        experiment_json=experiment.model_dump_json(),
        every="week",
        first="2026-W05",
        lag=2,
        zone="Europe/Berlin",
        cron="0 2 * * *",
        pace=None,
        paused=False,
        added=NOW,
    )


def take(
    schedules: Schedules, *, owner: str = "", now: datetime = NOW, window: str | None = None
) -> WindowCheck | None:
    return schedules.take("x", owner=owner or this_process(), now=now, lease=LEASE, window=window)


def entered(schedules: Schedules, *windows: str) -> None:
    schedules.enter("x", [(window, NOW) for window in windows])


def stand(schedules: Schedules) -> dict[str, str]:
    return {check.window: check.state for check in schedules.checks("x")}


def test_a_schedule_is_kept_as_it_was_given_and_an_experiment_has_one(
    schedules: Schedules, experiment: Experiment
) -> None:
    record = schedule(experiment)
    schedules.add(record)
    assert schedules.all() == (record,)
    assert schedules.get("rand-health").plan == experiment
    assert record.calendar.due(NOW)[0] == ("2026-W05", datetime(2026, 2, 4, 1, tzinfo=UTC))
    with pytest.raises(InputError, match="has a schedule"):
        schedules.add(record)
    schedules.add(schedule(experiment, "other"))
    schedules.pause("other", paused=True)
    assert [one.paused for one in schedules.all()] == [False, True]
    schedules.remove("rand-health")
    assert [one.experiment for one in schedules.all()] == ["other"]


def test_a_schedule_that_is_removed_leaves_no_window_to_the_next_one(
    schedules: Schedules, experiment: Experiment
) -> None:
    schedules.add(schedule(experiment, "x"))
    entered(schedules, "w1", "w2", "w3")
    first = take(schedules)
    assert first is not None
    schedules.settle(first, "done", "quiet")
    assert take(schedules) is not None
    schedules.remove("x")
    assert stand(schedules) == {"w1": "done", "w2": "checking"}


def test_a_schedule_that_is_not_there_is_named_beside_those_that_are(
    schedules: Schedules, experiment: Experiment
) -> None:
    with pytest.raises(InputError, match=r"'x' has no schedule\. Add one"):
        schedules.remove("x")
    schedules.add(schedule(experiment))
    for act in (schedules.get, schedules.remove, lambda name: schedules.pause(name, paused=True)):
        with pytest.raises(InputError, match=r"'x' has no schedule\. There are: rand-health"):
            act("x")


def test_windows_are_taken_in_their_order_one_at_a_time(schedules: Schedules) -> None:
    entered(schedules, "w1", "w2")
    entered(schedules, "w1", "w2", "w3")
    first = take(schedules)
    assert first is not None
    assert (first.window, first.attempts) == ("w1", 1)
    assert take(schedules) is None
    assert schedules.name_run(first, "run-1")
    assert schedules.settle(first, "done", "quiet")
    second = take(schedules)
    assert second is not None
    assert second.window == "w2"
    assert stand(schedules) == {"w1": "done", "w2": "checking", "w3": "waiting"}
    assert [check.run for check in schedules.checks("x")] == ["run-1", "", ""]


def test_a_window_that_waits_for_its_next_try_holds_up_no_later_one(schedules: Schedules) -> None:
    entered(schedules, "w1", "w2")
    first = take(schedules)
    assert first is not None
    assert schedules.settle(first, "waiting", "south was away", due=NOW + timedelta(minutes=10))
    second = take(schedules)
    assert second is not None
    assert second.window == "w2"
    schedules.settle(second, "done", "quiet")
    assert take(schedules, now=NOW + timedelta(minutes=9)) is None
    again = take(schedules, now=NOW + timedelta(minutes=10))
    assert again is not None
    assert (again.window, again.attempts) == ("w1", 2)
    schedules.settle(again, "not judged", "south was away")
    assert take(schedules, now=NOW + timedelta(days=1)) is None


def test_what_is_not_due_is_not_taken_unless_a_person_asks_for_it(schedules: Schedules) -> None:
    schedules.enter("x", [("w1", NOW + timedelta(hours=1))])
    assert take(schedules) is None
    asked = take(schedules, window="w1")
    assert asked is not None
    schedules.settle(asked, "done", "quiet")
    assert take(schedules, now=NOW + timedelta(days=1)) is None
    assert take(schedules, window="w1") is not None
    assert take(schedules, window="unknown") is None


def test_a_lease_lasts_while_it_is_renewed_and_is_anybodys_afterwards(schedules: Schedules) -> None:
    entered(schedules, "w1")
    theirs = take(schedules, owner=ELSEWHERE)
    assert theirs is not None
    assert take(schedules, now=NOW + timedelta(seconds=59)) is None
    assert schedules.renew(theirs, until=NOW + timedelta(seconds=100))
    assert take(schedules, now=NOW + timedelta(seconds=99)) is None
    mine = take(schedules, now=NOW + timedelta(seconds=101))
    assert mine is not None
    assert mine.attempts == 2


def test_who_was_away_for_too_long_can_write_nothing_more(schedules: Schedules) -> None:
    entered(schedules, "w1")
    theirs = take(schedules, owner=ELSEWHERE)
    mine = take(schedules, now=NOW + timedelta(seconds=61))
    assert theirs is not None
    assert mine is not None
    assert not schedules.renew(theirs, until=NOW + timedelta(days=1))
    assert not schedules.name_run(theirs, "theirs")
    assert not schedules.settle(theirs, "done", "theirs")
    assert not schedules.give_back(theirs)
    assert schedules.settle(mine, "done", "mine")
    assert not schedules.settle(mine, "not judged", "a second word")
    assert [(check.state, check.detail) for check in schedules.checks("x")] == [("done", "mine")]


def test_what_a_dead_process_held_is_taken_at_once(schedules: Schedules) -> None:
    entered(schedules, "w1")
    dead = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    words = this_process()
    began = psutil.Process(dead.pid).create_time()
    owner = words.replace(words.split(" of ")[0], f"process {dead.pid}").rsplit(" ", 1)[0] + f" {began:.2f}"
    assert take(schedules, owner=owner) is not None
    assert take(schedules) is None
    dead.kill()
    dead.wait()
    assert take(schedules) is not None


def test_a_lease_that_is_given_back_counts_as_no_attempt(schedules: Schedules) -> None:
    entered(schedules, "w1")
    first = take(schedules)
    assert first is not None
    assert schedules.give_back(first)
    assert [(check.state, check.attempts) for check in schedules.checks("x")] == [("waiting", 0)]
    assert take(schedules) is not None
