"""Real schedulers against a real database: each slot is acted on once, and none is dropped."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from contract.errors import InputError, StorageError
from monitoring.schedule import Schedule, SlotOutcome, run_schedule

SLOTS = tuple(f"w{number:02d}" for number in range(12))


class Database:
    """The claims and acts of all schedulers in one SQLite file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._open() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS claims (job, slot, UNIQUE (job, slot))")
            connection.execute("CREATE TABLE IF NOT EXISTS acts (slot)")

    def _open(self) -> closing[sqlite3.Connection]:
        return closing(sqlite3.connect(self.path, timeout=30, isolation_level=None))

    def claim(self, job: str, slot: str) -> bool:
        with self._open() as connection:
            try:
                connection.execute("INSERT INTO claims VALUES (?, ?)", (job, slot))
            except sqlite3.IntegrityError:
                return False
            return True

    def act(self, slot: str) -> SlotOutcome:
        time.sleep(0.01)
        with self._open() as connection:
            connection.execute("INSERT INTO acts VALUES (?)", (slot,))
        return SlotOutcome(slot=slot)

    def acts(self) -> list[str]:
        with self._open() as connection:
            return [slot for (slot,) in connection.execute("SELECT slot FROM acts ORDER BY rowid")]


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "claims.db")


def run(
    database: Database,
    *,
    slots: tuple[str, ...] = SLOTS,
    act: Callable[[str], SlotOutcome] | None = None,
    ready: Callable[[str], bool] = lambda slot: True,
    report: Callable[[SlotOutcome], None] = lambda outcome: None,
    stop: threading.Event | None = None,
) -> tuple[SlotOutcome, ...]:
    return run_schedule(
        schedule=Schedule(job="drift", interval=0.02, slots=slots),
        claims=database,
        act=act or database.act,
        ready=ready,
        report=report,
        stop=stop or threading.Event(),
    )


def test_two_schedulers_act_once_on_every_slot(database: Database) -> None:
    handled: list[str] = []
    threads = [
        threading.Thread(target=lambda: handled.extend(outcome.slot for outcome in run(database)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert sorted(database.acts()) == sorted(handled) == list(SLOTS)


PROCESS = """
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("schedule_parts", sys.argv[1])
parts = importlib.util.module_from_spec(spec)
spec.loader.exec_module(parts)
print(len(parts.run(parts.Database(Path(sys.argv[2])))))
"""


def test_two_processes_act_once_on_every_slot(database: Database) -> None:
    command = [sys.executable, "-c", PROCESS, __file__, str(database.path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    shares = [int(process.communicate(timeout=600)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert Counter(database.acts()) == Counter(SLOTS)
    assert sum(shares) == len(SLOTS)


def test_without_the_claim_they_would_act_twice(database: Database) -> None:
    database.claim = lambda job, slot: True  # type: ignore[method-assign]
    run(database)
    run(database)
    assert Counter(database.acts()).most_common(1)[0][1] == 2


def test_slow_acts_drop_no_slot_and_keep_the_order(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """And nobody is warned of the ticks that they outlast."""

    def slow(slot: str) -> SlotOutcome:
        time.sleep(0.1)
        return database.act(slot)

    run(database, slots=SLOTS[:5], act=slow)
    assert database.acts() == list(SLOTS[:5])
    assert not caplog.records


def test_a_slot_whose_rows_come_late_waits_unclaimed(database: Database) -> None:
    asked: list[str] = []

    def ready(slot: str) -> bool:
        asked.append(slot)
        if slot == "w01" and asked.count("w01") < 5:
            with closing(sqlite3.connect(database.path)) as connection:
                assert [row[0] for row in connection.execute("SELECT slot FROM claims")] == ["w00"]
            return False
        return True

    run(database, slots=SLOTS[:3], ready=ready)
    assert database.acts() == ["w00", "w01", "w02"]
    assert asked.count("w01") == 5


def test_a_scheduler_that_starts_later_goes_on_where_the_last_one_stopped(database: Database) -> None:
    stop = threading.Event()
    first = run(database, report=lambda outcome: stop.set() if outcome.slot == "w03" else None, stop=stop)
    assert [outcome.slot for outcome in first] == ["w00", "w01", "w02", "w03"]
    run(database)
    assert database.acts() == list(SLOTS)


def test_a_failed_slot_is_reported_and_the_next_ones_go_on(database: Database) -> None:
    def act(slot: str) -> SlotOutcome:
        if slot == "w01":
            raise StorageError("the state database is away", remedy="Start it")
        return database.act(slot)

    reported: list[SlotOutcome] = []
    outcomes = run(database, slots=SLOTS[:3], act=act, report=reported.append)
    assert list(outcomes) == reported
    assert [(outcome.slot, outcome.done) for outcome in outcomes] == [
        ("w00", True),
        ("w01", False),
        ("w02", True),
    ]
    assert outcomes[1].detail == "the state database is away. Start it."


def test_a_database_that_is_away_for_a_moment_costs_no_slot(database: Database) -> None:
    failures = iter([True, True])
    reported: list[SlotOutcome] = []

    def ready(slot: str) -> bool:
        if next(failures, False):
            raise StorageError("the state database is away")
        return True

    run(database, slots=SLOTS[:2], ready=ready, report=reported.append)
    assert database.acts() == ["w00", "w01"]
    assert [outcome.done for outcome in reported] == [False, False, True, True]


def test_a_defect_ends_the_schedule_and_is_not_swallowed(database: Database) -> None:
    def act(slot: str) -> SlotOutcome:
        raise ZeroDivisionError(slot)

    with pytest.raises(ZeroDivisionError, match="w00"):
        run(database, act=act)


def test_stop_lets_the_act_in_progress_end_and_begins_no_other(database: Database) -> None:
    stop, begun = threading.Event(), threading.Event()

    def act(slot: str) -> SlotOutcome:
        begun.set()
        assert stop.wait(300)
        time.sleep(0.1)
        return database.act(slot)

    def stop_once_begun() -> None:
        assert begun.wait(300)
        stop.set()

    thread = threading.Thread(target=stop_once_begun)
    thread.start()
    outcomes = run(database, act=act, stop=stop)
    thread.join(300)
    assert [outcome.slot for outcome in outcomes] == database.acts() == ["w00"]
    assert not [thread for thread in threading.enumerate() if "APScheduler" in thread.name]


def test_wall_clock_slots_are_named_by_their_beginning_and_late_ones_are_kept() -> None:
    start = datetime(2026, 3, 1, 6, tzinfo=UTC)
    schedule = Schedule(job="drift", interval=3600, start=start)
    assert schedule.due(start - timedelta(seconds=1)) == ()
    assert schedule.due(start) == ("2026-03-01T06:00:00Z",)
    assert schedule.due(start + timedelta(hours=2, minutes=59)) == (
        "2026-03-01T06:00:00Z",
        "2026-03-01T07:00:00Z",
        "2026-03-01T08:00:00Z",
    )


def test_a_wall_clock_schedule_catches_up_and_runs_until_stopped(database: Database) -> None:
    stop = threading.Event()
    schedule = Schedule(job="drift", interval=1.0, start=datetime.now(UTC) - timedelta(seconds=1.5))

    def report(outcome: SlotOutcome) -> None:
        if len(database.acts()) == 2:
            stop.set()

    run_schedule(
        schedule=schedule,
        claims=database,
        act=database.act,
        ready=lambda slot: True,
        report=report,
        stop=stop,
    )
    assert database.acts() == list(schedule.due(datetime.now(UTC))[:2])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"interval": 0, "slots": ("a",)}, "above 0"),
        ({"interval": 1}, "either slots or a start"),
        ({"interval": 1, "slots": ("a",), "start": datetime(2026, 1, 1, tzinfo=UTC)}, "either"),
        ({"interval": 1, "start": datetime(2026, 1, 1)}, "time zone"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Schedule(job="drift", **values)  # type: ignore[arg-type]
