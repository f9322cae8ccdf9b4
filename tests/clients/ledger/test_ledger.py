"""The ledger loses nothing, doubles nothing, and notices what it did not write."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clients.ledger.accounting import FILTER_GAUSSIAN, FILTER_RENYI, PLAN_PLD, Event, compose
from clients.ledger.chain import Cap, Ledger, Plan
from contract.errors import BudgetError, LedgerError


def open_ledger(path: Path, *, site: str = "north", epsilon: float = 8.0) -> Ledger:
    return Ledger(
        path, site=site, cap=Cap(epsilon=epsilon, delta=1e-5), clock=lambda: "2026-11-24T00:00:00+00:00"
    )


def plan(
    name: str = "run-1/train",
    *,
    uses: int = 3,
    noise: float = 5.0,
    blocks: tuple[str, ...] = ("w1/train",),
    split: str = "",
    unit: Literal["record", "person"] = "record",
) -> Plan:
    return Plan(
        name=name,
        run=name.split("/", maxsplit=1)[0],
        purpose="train",
        blocks=blocks,
        noise_multiplier=noise,
        uses=uses,
        split=split,
        unit=unit,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "site" / "ledger.db"


def release(ledger: Ledger, request: str, charged: Plan, reply: bytes = b"reply") -> None:
    ledger.authorise(charged)
    ledger.reserve(request, charged.name)
    ledger.commit(request, charged.name, reply, {"releases": ["update"]})


def test_a_committed_reply_comes_back_byte_for_byte_after_a_restart(path: Path) -> None:
    ledger = open_ledger(path)
    release(ledger, "run-1/train/1", plan(), b"\x00\x01reply")
    ledger.close()
    again = open_ledger(path)
    assert again.stored_reply("run-1/train/1") == b"\x00\x01reply"
    assert again.stored_reply("run-1/train/2") is None
    assert again.spent() == open_ledger(path).spent()
    assert again.spent().epsilon > 0


def test_a_reserve_without_a_commit_stays_spent_and_is_charged_again(path: Path) -> None:
    ledger = open_ledger(path)
    ledger.authorise(plan())
    ledger.reserve("run-1/train/1", "run-1/train")
    once = open_ledger(path).spent().epsilon
    ledger.reserve("run-1/train/1", "run-1/train")
    assert 0 < once < ledger.spent().epsilon


def test_a_plan_above_the_cap_is_refused_and_nothing_is_entered(path: Path) -> None:
    ledger = open_ledger(path, epsilon=1.0)
    with pytest.raises(BudgetError, match="w1/train"):
        ledger.authorise(plan(noise=1.0))
    with pytest.raises(BudgetError):
        ledger.check(plan(noise=1.0))
    assert ledger.entries() == []


def test_a_cap_lowered_below_what_is_spent_refuses_everything_on_that_block(path: Path) -> None:
    release(open_ledger(path), "run-1/train/1", plan())
    lowered = open_ledger(path, epsilon=0.01)
    with pytest.raises(BudgetError):
        lowered.authorise(plan("run-2/train", uses=1, noise=1000.0))
    lowered.authorise(plan("run-3/train", uses=1, noise=1000.0, blocks=("w2/train",)))


def test_open_plans_count_in_full_and_closed_ones_as_far_as_they_ran(path: Path) -> None:
    ledger = open_ledger(path, epsilon=50.0)
    release(ledger, "run-1/train/1", plan(uses=100))
    assert ledger.spent(promised=True).epsilon > 5 * ledger.spent().epsilon
    ledger.authorise(plan("run-2/train", uses=1, noise=1000.0))
    assert ledger.spent(promised=True).epsilon == pytest.approx(ledger.spent().epsilon, rel=0.01)


def reserve_often(ledger: Ledger, times: int) -> None:
    for number in range(times):
        ledger.reserve(f"run-1/train/{number}", "run-1/train")


WHOLE, ONE, OTHER = ("all/train",), ("w1/train",), ("w2/train",)


@pytest.mark.parametrize(
    ("first", "second"), [(WHOLE, ONE), (ONE, WHOLE), (WHOLE, WHOLE), (ONE, ("w1/train", "w2/train"))]
)
def test_a_record_pays_for_its_window_and_for_the_whole(
    path: Path, first: tuple[str, ...], second: tuple[str, ...]
) -> None:
    ledger = open_ledger(path)
    release(ledger, "a", plan("run-1/train", uses=1, blocks=first))
    once = ledger.spent().epsilon
    release(ledger, "b", plan("run-2/train", uses=1, blocks=second))
    both, _ = compose([Event(noise_multiplier=5.0, count=2)], 1e-5)
    assert ledger.spent().epsilon == pytest.approx(both)
    assert both > 1.3 * once


def test_the_cap_holds_for_a_record_that_two_names_of_its_rows_charge(path: Path) -> None:
    one, _ = compose([Event(noise_multiplier=5.0)], 1e-5)
    ledger = open_ledger(path, epsilon=1.2 * one)
    release(ledger, "a", plan("run-1/train", uses=1, blocks=ONE))
    with pytest.raises(BudgetError, match="above the site's cap"):
        ledger.authorise(plan("run-2/train", uses=1, blocks=WHOLE))
    release(ledger, "b", plan("run-3/train", uses=1, blocks=OTHER))
    with pytest.raises(BudgetError, match="above the site's cap"):
        ledger.authorise(plan("run-4/train", uses=1, blocks=ONE, split="another"))


def test_windows_and_sides_of_one_split_share_no_record(path: Path) -> None:
    ledger = open_ledger(path)
    for number, block in enumerate(("w1/train", "w2/train", "w1/holdout", "all/holdout")):
        release(ledger, str(number), plan(f"run-{number}/train", uses=1, blocks=(block,)))
    one, _ = compose([Event(noise_multiplier=5.0)], 1e-5)
    two, _ = compose([Event(noise_multiplier=5.0, count=2)], 1e-5)
    found = {block: spent.epsilon for block, spent in ledger.spent_by_block().items()}
    assert found == {
        "w1/train": pytest.approx(one),
        "w2/train": pytest.approx(one),
        "w1/holdout": pytest.approx(two),
        "all/holdout": pytest.approx(one),
    }


def test_another_split_counts_on_every_block(path: Path) -> None:
    ledger = open_ledger(path)
    release(ledger, "a", plan("run-1/train", uses=1, blocks=ONE, split="by month"))
    release(ledger, "b", plan("run-2/train", uses=1, blocks=("w1/holdout",), split="by ward"))
    two, _ = compose([Event(noise_multiplier=5.0, count=2)], 1e-5)
    assert [spent.epsilon for spent in ledger.spent_by_block().values()] == [pytest.approx(two)] * 2


def test_a_run_that_bounds_records_alone_leaves_no_bound_for_persons(path: Path) -> None:
    ledger = open_ledger(path)
    release(ledger, "a", plan("run-1/train", uses=1, blocks=WHOLE, unit="person"))
    assert ledger.spent().unit == "person"
    release(ledger, "b", plan("run-2/train", uses=1, blocks=WHOLE))
    assert ledger.spent().unit == "record"
    assert ledger.spent(run="run-1").unit == "person"


def test_uses_beyond_the_plan_are_admitted_against_the_cap_alone(path: Path) -> None:
    ledger = open_ledger(path, epsilon=1.0)
    ledger.authorise(plan(uses=1, noise=5.0))
    with pytest.raises(BudgetError):
        reserve_often(ledger, 10)
    assert ledger.spent().epsilon <= 1.0


def sampled(number: int, *, runs: int = 3, window: str = "w1") -> Plan:
    """A run of sub-sampled training that may use a block `runs` times."""
    return Plan(
        name=f"run-{number}/train",
        run=f"run-{number}",
        purpose="train",
        blocks=(f"{window}/train",),
        noise_multiplier=1.0,
        sampling_rate=0.1,
        uses=10,
        allowance="experiment/train",
        runs=runs,
    )


def drift_check(number: int, window: str = "w1") -> Plan:
    name, blocks = f"check-{number}/drift", (f"{window}/train", f"{window}/holdout")
    return Plan(name=name, run=name, purpose="drift", blocks=blocks, noise_multiplier=10.0, uses=1)


def use_up(ledger: Ledger, charged: Plan) -> None:
    ledger.authorise(charged)
    for number in range(charged.uses):
        ledger.reserve(f"{charged.name}/{number}", charged.name)


def pld(runs: int, checks: int = 0) -> tuple[float, str]:
    events = [Event(noise_multiplier=1.0, sampling_rate=0.1, count=10 * runs, plan="all")]
    if checks:
        events.append(Event(noise_multiplier=10.0, count=checks))
    return compose(events, 1e-5)


def test_the_runs_of_an_allowance_are_one_plan_that_counts_in_full_from_the_first(path: Path) -> None:
    ledger = open_ledger(path, epsilon=12.0)
    for number in (1, 2, 3):
        use_up(ledger, sampled(number))
        spent, promised = ledger.spent(), ledger.spent(promised=True)
        assert (spent.epsilon, spent.method) == pld(number)
        assert (promised.epsilon, promised.method) == pld(3)
        assert ledger.spent(run=f"run-{number}", promised=True).epsilon == pld(1)[0]
    use_up(ledger, sampled(4))
    assert ledger.spent().method == FILTER_RENYI
    assert ledger.spent().epsilon > pld(4)[0]


def test_an_allowance_holds_for_windows_to_come_and_counts_from_their_first_release(path: Path) -> None:
    ledger = open_ledger(path)
    use_up(ledger, sampled(1))
    use_up(ledger, drift_check(1, "w2"))
    spent = ledger.spent_by_block(promised=True)["w2/train"]
    assert (spent.epsilon, spent.method) == pld(3, checks=1)
    assert ledger.spent_by_block(promised=True)["w2/holdout"].method == FILTER_GAUSSIAN
    use_up(ledger, sampled(2, window="w2"))
    spent = ledger.spent_by_block()["w2/train"]
    assert (spent.epsilon, spent.method) == pld(1, checks=1)


def test_an_allowance_is_refused_if_its_whole_does_not_fit_the_cap(path: Path) -> None:
    ledger = open_ledger(path, epsilon=(pld(2)[0] + pld(3)[0]) / 2)
    with pytest.raises(BudgetError):
        ledger.authorise(sampled(1))
    ledger.authorise(sampled(2, runs=2))


def test_sampled_training_that_was_chosen_after_a_release_goes_through_the_filter(path: Path) -> None:
    ledger = open_ledger(path)
    use_up(ledger, drift_check(1))
    use_up(ledger, sampled(1))
    assert ledger.spent_by_block()["w1/train"].method == FILTER_RENYI
    assert ledger.spent(run="run-1").method == PLAN_PLD  # of itself it was fixed


def test_a_use_beyond_the_plan_goes_through_the_filter(path: Path) -> None:
    ledger = open_ledger(path)
    use_up(ledger, sampled(1, runs=1))
    assert ledger.spent().method == PLAN_PLD
    ledger.reserve("again", "run-1/train")
    assert ledger.spent().method == FILTER_RENYI


def test_the_same_plan_with_other_parameters_is_refused(path: Path) -> None:
    ledger = open_ledger(path)
    ledger.authorise(plan())
    ledger.authorise(plan())
    with pytest.raises(LedgerError, match="other parameters"):
        ledger.authorise(plan(noise=6.0))
    assert len(ledger.entries()) == 1


def test_a_run_without_privacy_shows_as_infinite(path: Path) -> None:
    ledger = open_ledger(path)
    release(ledger, "run-1/train/1", plan(noise=0.0))
    assert ledger.spent().epsilon == float("inf")
    assert ledger.spent().method == "not private"


@pytest.mark.parametrize(
    "statement", ["update entries set kind = 'close'", "delete from entries", "delete from replies"]
)
def test_the_database_itself_refuses_changes(path: Path, statement: str) -> None:
    release(open_ledger(path), "run-1/train/1", plan())
    with sqlite3.connect(path) as connection, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "update entries set body = replace(body, 'multiplier\":5', 'multiplier\":9') where sequence = 1",
        "delete from entries where sequence = 2",
        "update replies set reply = x'00'",
        "update entries set kind = 'close' where sequence = 2",
    ],
)
def test_what_was_tampered_with_does_not_verify(path: Path, statement: str) -> None:
    ledger = open_ledger(path)
    release(ledger, "run-1/train/1", plan())
    assert ledger.verify() == 3
    with sqlite3.connect(path) as connection:
        for (trigger,) in connection.execute(
            "select name from sqlite_master where type = 'trigger'"
        ).fetchall():
            connection.execute(f"drop trigger {trigger}")
        connection.execute(statement)
    with pytest.raises(LedgerError, match="hash chain"):
        open_ledger(path).verify()


def test_a_ledger_of_another_site_or_a_newer_program_is_refused_untouched(path: Path) -> None:
    open_ledger(path).close()
    with pytest.raises(LedgerError, match="belongs to site 'north'"):
        open_ledger(path, site="south")
    with sqlite3.connect(path) as connection:
        connection.execute("drop trigger about_no_update")
        connection.execute("update about set version = 99")
    with pytest.raises(LedgerError, match="newer"):
        open_ledger(path)


@pytest.mark.parametrize(
    "spoil", [lambda _: b"not a database at all" * 100, lambda whole: whole[: len(whole) // 2]]
)
def test_a_damaged_file_is_refused_and_left_as_it_is(path: Path, spoil: Callable[[bytes], bytes]) -> None:
    ledger = open_ledger(path)
    for number in range(20):
        release(ledger, f"run-1/train/{number}", plan(uses=20), bytes(3000))
    ledger.close()
    path.write_bytes(spoil(path.read_bytes()))
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=r"nothing was released|hash chain"):
        open_ledger(path).verify()
    assert path.read_bytes() == before


def test_a_full_disk_leaves_nothing_half_written(path: Path) -> None:
    import sqlalchemy as sa

    ledger = open_ledger(path)
    release(ledger, "run-1/train/1", plan())

    @sa.event.listens_for(ledger._store.engine, "connect")
    def no_more_pages(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA max_page_count = 20")

    ledger._store.engine.dispose()
    ledger.reserve("run-1/train/2", "run-1/train")
    with pytest.raises(LedgerError, match="full"):
        ledger.commit("run-1/train/2", "run-1/train", bytes(500_000), {})
    again = open_ledger(path)
    assert again.verify() == 4
    assert again.stored_reply("run-1/train/2") is None
    assert again.spent() == ledger.spent()


LOOP = """\
import sys
from pathlib import Path
from clients.ledger.chain import Cap, Ledger, Plan
ledger = Ledger(Path(sys.argv[1]), site="north", cap=Cap(epsilon=8.0, delta=1e-5), clock=lambda: "now")
plan = Plan(name="r/train", run="r", purpose="train", blocks=("b",), noise_multiplier=1000.0, uses=100000)
ledger.authorise(plan)
start = len(ledger.entries())
print("writing", flush=True)
for number in range(start, start + 100000):
    ledger.reserve(f"{sys.argv[2]}/{number}", "r/train")
    ledger.commit(f"{sys.argv[2]}/{number}", "r/train", b"x" * 50, {"releases": []})
"""


def test_kill_nine_loses_and_doubles_nothing_and_two_writers_keep_one_chain(path: Path) -> None:
    for delay in (0.15, 0.3, 0.23):
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", LOOP, str(path), f"{name}{delay}"], stdout=subprocess.PIPE, text=True
            )
            for name in "ab"
        ]
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "writing\n"
        time.sleep(delay)
        for writer in writers:
            os.kill(writer.pid, signal.SIGKILL)
            writer.communicate()
    ledger = open_ledger(path)
    entries = ledger.entries()
    assert ledger.verify() == len(entries) > 20
    reserved = [entry.request for entry in entries if entry.kind == "reserve"]
    committed = [entry.request for entry in entries if entry.kind == "commit"]
    assert len(set(committed)) == len(committed)
    assert set(committed) <= set(reserved)
    assert all(ledger.stored_reply(request) is not None for request in committed)
    assert len(reserved) - len(committed) <= 6  # one a killed writer


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["authorise", "reserve", "commit"]), st.integers(0, 3)), max_size=12
    )
)
def test_what_is_spent_never_falls(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    ledger = open_ledger(tmp_path_factory.mktemp("ledger") / "ledger.db", epsilon=3.0)
    spent, known, pending = 0.0, set[str](), dict[str, str]()
    for number, (act, which) in enumerate(steps):
        charged = plan(f"run-{which}/train", uses=2)
        try:
            if act == "authorise":
                ledger.authorise(charged)
                known.add(charged.name)
            elif act == "reserve" and charged.name in known:
                ledger.reserve(f"request-{number}", charged.name)
                pending[f"request-{number}"] = charged.name
            elif act == "commit" and pending:
                request, name = pending.popitem()
                ledger.commit(request, name, b"reply", {})
        except BudgetError:
            pass
        now = ledger.spent().epsilon
        assert spent <= now <= 3.0 * (1 + 1e-6)
        spent = now
    assert ledger.verify() == len(ledger.entries())
