"""Replies go when nobody can wait for them, refusals are entered and few, and no clock changes either."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest

from clients.ledger.answers import MOST_REFUSALS
from clients.ledger.chain import Ledger
from clients.ledger.entry_bodies import require_sound
from clients.ledger.plan import Cap, Plan
from contract.errors import InputError, LedgerError

DAY = timedelta(days=1)


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, tzinfo=UTC)

    def __call__(self) -> str:
        return self.now.isoformat(timespec="milliseconds")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Ledger:
    return Ledger(tmp_path / "ledger.db", site="north", cap=Cap(epsilon=8.0, delta=1e-5), clock=clock)


def release(
    ledger: Ledger, run: str, *, purpose: Literal["train", "evaluate", "drift"] = "train", number: int = 1
) -> str:
    name = f"{run}/{purpose}"
    values: dict[str, Any] = {"blocks": (f"{run}/train",), "noise_multiplier": 20.0, "uses": 5}
    ledger.authorise(Plan(name=name, run=run, purpose=purpose, **values))
    request = f"{name}/{number}"
    ledger.reserve(request, name)
    ledger.commit(request, name, b"large" * 100, {"releases": ["update"]})
    return request


def kinds(ledger: Ledger) -> list[str]:
    return [entry.kind for entry in ledger.entries()]


def rows(ledger: Ledger) -> int:
    connection = sqlite3.connect(ledger.path)
    (count,) = connection.execute("select count(*) from replies").fetchone()
    connection.close()
    return int(count)


def test_replies_of_a_run_that_another_ended_go_after_a_day(ledger: Ledger, clock: Clock) -> None:
    first = release(ledger, "run-1")
    second = release(ledger, "run-2")
    assert ledger.stored_reply(first) is not None  # its server may still be waiting
    clock.now += DAY
    release(ledger, "run-3")
    assert kinds(ledger)[-5:] == ["close", "authorise", "expire", "reserve", "commit"]
    with pytest.raises(LedgerError, match="has expired"):
        ledger.stored_reply(first)
    with pytest.raises(LedgerError, match="has expired"):
        ledger.reserve(first, "run-1/train")
    assert ledger.stored_reply(second) is not None
    assert ledger.verify() == len(ledger.entries())
    require_sound(ledger.entries(), where="here")
    (kept,) = (entry for entry in ledger.entries() if entry.kind == "commit" and entry.request == first)
    assert len(kept.body["sha256"]) == 64


def test_a_run_that_goes_on_after_it_was_ended_keeps_its_new_replies(ledger: Ledger, clock: Clock) -> None:
    release(ledger, "run-1")
    release(ledger, "run-2")
    clock.now += DAY
    release(ledger, "run-3")
    ledger.reserve("run-1/train/2", "run-1/train")
    ledger.commit("run-1/train/2", "run-1/train", b"new", {"releases": []})
    assert ledger.stored_reply("run-1/train/2") == b"new"
    assert ledger.verify() == len(ledger.entries())


def test_an_open_plans_replies_go_after_thirty_days(ledger: Ledger, clock: Clock) -> None:
    request = release(ledger, "run-1")
    clock.now += 29 * DAY
    values: dict[str, Any] = {"blocks": ("w/holdout",), "noise_multiplier": 20.0, "uses": 1}
    for name in ("a", "b"):
        ledger.authorise(Plan(name=f"run-1/{name}", run="run-1", purpose="evaluate", **values))
        assert ("expire" in kinds(ledger)) == (name == "b")
        clock.now += DAY
    assert rows(ledger) == 0
    with pytest.raises(LedgerError, match="has expired"):
        ledger.stored_reply(request)


def test_what_a_drift_check_released_stays(ledger: Ledger, clock: Clock) -> None:
    """Who asks the same again, months later, is given the same counts."""
    request = release(ledger, "reference", purpose="drift")
    clock.now += 400 * DAY
    release(ledger, "run-2")
    clock.now += 400 * DAY
    release(ledger, "run-3")
    assert ledger.stored_reply(request) is not None


@pytest.mark.parametrize("at", ["1970-01-01T00:00:00+00:00", "now", ""])
def test_a_clock_that_is_set_back_or_is_none_lets_nothing_go(ledger: Ledger, clock: Clock, at: str) -> None:
    request = release(ledger, "run-1")
    ledger._clock = lambda: at
    for run in ("run-2", "run-3"):
        release(ledger, run)
    assert ledger.stored_reply(request) is not None


def test_the_file_does_not_grow_with_the_runs(ledger: Ledger, clock: Clock) -> None:
    for number in range(12):
        release(ledger, f"run-{number}")
        clock.now += DAY
        assert rows(ledger) <= 2


def test_a_reply_that_no_entry_lets_go_cannot_be_deleted(ledger: Ledger, clock: Clock) -> None:
    release(ledger, "run-1")
    release(ledger, "run-2")
    clock.now += DAY
    release(ledger, "run-3")
    connection = sqlite3.connect(ledger.path)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute("delete from replies")
    connection.close()


def test_an_expired_reply_that_is_put_back_is_noticed(ledger: Ledger, clock: Clock) -> None:
    release(ledger, "run-1")
    release(ledger, "run-2")
    clock.now += DAY
    release(ledger, "run-3")
    with sqlite3.connect(ledger.path) as connection:
        connection.execute("insert into replies values ('run-1/train/1', ?)", (b"large" * 100,))
    with pytest.raises(LedgerError, match="stored reply"):
        ledger.verify()


# -- refusals ----------------------------------------------------------------------------------------


def test_a_refusal_is_an_entry(ledger: Ledger) -> None:
    assert ledger.refuse("run-1/train/1", "budget")
    (entry,) = ledger.entries()
    assert (entry.kind, entry.request, entry.body["word"]) == ("refuse", "run-1/train/1", "budget")
    require_sound([entry], where="here")
    assert ledger.spent().epsilon == 0
    with pytest.raises(InputError):
        ledger.refuse("run-1/train/1", "63;f;1")


@pytest.mark.parametrize(
    ("named", "entered"),
    [
        ("a\x1b[2Kb", "a?[2Kb"),
        ("\ud800", "?"),
        ("a\0", "a?"),
        ("", "?"),
        ("  ", "?"),
        ("x" * 10**6, "x" * 200),
        ("\u202eab", "?ab"),
    ],
)
def test_whatever_a_server_calls_a_request_its_refusal_can_be_shown(
    ledger: Ledger, named: str, entered: str
) -> None:
    assert ledger.refuse(named, "input")
    (entry,) = ledger.entries()
    assert entry.request == entered
    assert ledger.verify() == 1


def test_refusals_are_few_within_any_day(ledger: Ledger, clock: Clock) -> None:
    entered: list[datetime] = []
    for _ in range(MOST_REFUSALS + 10):
        if ledger.refuse("r", "budget"):
            entered.append(clock.now)
        clock.now += timedelta(minutes=1)
    assert len(entered) == MOST_REFUSALS
    clock.now = entered[0] + DAY - timedelta(seconds=1)
    assert not ledger.refuse("r", "budget")
    clock.now = entered[0] + DAY
    assert ledger.refuse("r", "budget")
    assert not ledger.refuse("r", "budget")
    assert len(ledger.entries()) == MOST_REFUSALS + 1


@pytest.mark.parametrize("at", ["1970-01-01T00:00:00+00:00", "now"])
def test_a_clock_that_is_set_back_allows_no_more(ledger: Ledger, at: str) -> None:
    ledger.refuse("r", "budget")
    ledger._clock = lambda: at
    assert sum(ledger.refuse("r", "budget") for _ in range(MOST_REFUSALS + 5)) == MOST_REFUSALS - 1


@pytest.mark.parametrize("name", ["", "a\0", "a\ud800", "a\n", "x" * 501])
def test_a_request_that_is_no_name_is_not_charged(ledger: Ledger, name: str) -> None:
    release(ledger, "run-1")
    with pytest.raises(InputError):
        ledger.reserve(name, "run-1/train")
    assert len(ledger.entries()) == 3
