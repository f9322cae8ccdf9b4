import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

from contract.errors import ReleaseError, StorageError, TakenOverError
from contract.experiment import Experiment
from contract.names import name_run
from server.state.participation import SiteStatus, Step
from server.state.records import RoundRecord
from server.state.storage import State, open_state
from server.state.versions import RegisteredVersions

ROOT = Path(__file__).parents[3]


def _start(state: State, experiment: Experiment, name: str = "r") -> None:
    state.start_run(name, experiment=experiment, job="train", trigger="a data scientist", code_hash="c0de")


def _round(number: int) -> RoundRecord:
    return RoundRecord(
        round=number,
        cohort=("a", "b"),
        counted=("a",),
        failures={"b": "budget"},
        metrics={"site": {"a": {"log_loss": 0.5, "auc": float("nan")}}},
        seconds=1.5,
    )


def test_a_run_from_start_to_end(state: State, experiment: Experiment) -> None:
    _start(state, experiment)
    assert [run.name for run in state.unfinished_runs()] == ["r"]
    state.link_run("r", mlflow_run_id="m1")
    state.finish_run("r", "partial", error="site b was lost")
    state.link_run("r", model_version=3)
    run = state.run("r")
    assert run is not None
    assert Experiment.model_validate_json(run.experiment_json).digest == run.experiment_digest
    assert (run.status, run.error, run.mlflow_run_id, run.model_version) == (
        "partial",
        "site b was lost",
        "m1",
        3,
    )
    assert run.ended is not None
    assert run.ended >= run.started
    assert state.unfinished_runs() == ()
    assert state.run("unknown") is None
    assert state.runs(experiment.name) == (run,)
    assert state.runs("another") == ()


def test_a_name_is_given_once_and_an_unknown_run_is_named(state: State, experiment: Experiment) -> None:
    _start(state, experiment)
    with pytest.raises(StorageError, match="a run 'r' already"):
        _start(state, experiment)
    with pytest.raises(StorageError, match="no run 'q'"):
        state.finish_run("q", "failed")
    with pytest.raises(StorageError, match="round 1 of run 'q'"):
        state.save_round("q", _round(1), checkpoint=b"")


def test_run_names_are_slugs() -> None:
    name = name_run("rand-health", at=datetime(2026, 11, 24, 10, 15, tzinfo=UTC))
    assert name.startswith("rand-health-20261124-101500-")
    assert len(name) == len("rand-health-20261124-101500-ab12")


def test_rounds_and_checkpoint(state: State, experiment: Experiment) -> None:
    _start(state, experiment)
    assert state.load_checkpoint("r") is None
    for number in (1, 2):
        state.save_round("r", _round(number), checkpoint=b"state %d" % number)
    first, second = state.rounds("r")
    assert (first.round, second.round) == (1, 2)
    assert (second.cohort, second.counted, second.failures) == (("a", "b"), ("a",), {"b": "budget"})
    assert second.metrics == {"site": {"a": {"log_loss": 0.5, "auc": None}}}
    assert second.ended is not None
    assert state.load_checkpoint("r") == (2, b"state 2")


def test_a_run_belongs_to_whoever_took_it_over_last(state: State, experiment: Experiment) -> None:
    _start(state, experiment)
    first = state.take_over("r")
    state.save_round("r", _round(1), checkpoint=b"first", turn=first)
    state.require_turn("r", first)
    second = state.take_over("r")
    assert state.take_over("another") == first == second - 1
    with pytest.raises(TakenOverError, match="'r' was taken over"):
        state.save_round("r", _round(2), checkpoint=b"late", turn=first)
    with pytest.raises(TakenOverError):
        state.require_turn("r", first)
    assert state.load_checkpoint("r") == (1, b"first")
    state.save_round("r", _round(2), checkpoint=b"second", turn=second)
    assert state.load_checkpoint("r") == (2, b"second")


def test_everyone_who_takes_a_run_over_at_once_has_a_turn_of_their_own(
    state: State, experiment: Experiment
) -> None:
    _start(state, experiment)
    with ThreadPoolExecutor(8) as pool:
        turns = list(pool.map(lambda _: state.take_over("r"), range(24)))
    assert sorted(turns) == list(range(1, 25))
    state.require_turn("r", 24)


def test_a_round_that_is_there_leaves_its_checkpoint(state: State, experiment: Experiment) -> None:
    _start(state, experiment)
    state.save_round("r", _round(1), checkpoint=b"first")
    with pytest.raises(StorageError, match="round 1"):
        state.save_round("r", _round(1), checkpoint=b"second")
    assert state.load_checkpoint("r") == (1, b"first")


def test_sites_keep_when_they_were_first_seen(state: State) -> None:
    state.record_site("plan-a", node_id=2**64 - 1, stated_rows=100)
    before = state.sites()[0]
    state.record_site("plan-a", node_id=5, stated_rows=200)
    (after,) = state.sites()
    assert (after.node_id, after.stated_rows) == (5, 200)
    assert after.first_seen == before.first_seen
    assert after.last_seen > before.last_seen


ROUND = Step(run="r", kind="train", number=1)


def _states(state: State) -> dict[str, tuple[str, str]]:
    return {item.site: (item.state, item.reason) for item in state.participation("r")}


def test_how_far_a_site_came_is_rewritten_and_keeps_since_when(state: State, experiment: Experiment) -> None:
    _start(state, experiment)
    connected = SiteStatus(state="connected", node=2**64 - 1)
    away = SiteStatus(state="enrolled", reason="not connected")
    state.record_participation(
        ROUND, {"a": connected, "node 7": SiteStatus(state="connected", node=7), "c": away}
    )
    first = {item.site: item for item in state.participation("r")}
    assert state.sites() == ()
    trained = replace(connected, state="trained", stated_rows=2**40)
    state.record_participation(ROUND, {"a": trained, "b": SiteStatus(state="connected", node=7), "c": away})
    second = {item.site: item for item in state.participation("r")}
    assert sorted(second) == ["a", "b", "c"]
    assert second["c"] == first["c"]
    assert second["a"].since > first["a"].since
    assert (second["a"].node_id, second["a"].stated_rows, second["a"].round) == (2**64 - 1, 2**40, 1)
    assert [(site.name, site.stated_rows) for site in state.sites()] == [("a", 2**40)]


def test_a_round_and_that_its_sites_counted_are_written_together(
    state: State, experiment: Experiment
) -> None:
    _start(state, experiment)
    refused = SiteStatus(state="trained", reason="update refused: too long", node=2, stated_rows=None)
    sites = {"a": SiteStatus(state="trained", node=1, stated_rows=5), "b": refused}
    for step in (ROUND, replace(ROUND, number=2), replace(ROUND, kind="evaluate")):
        state.record_participation(step, sites)
    state.save_round("r", _round(1), checkpoint=b"")
    found = [(item.kind, item.round, item.site, item.state) for item in state.participation("r")]
    assert found == [
        ("train", 1, "a", "counted"),
        ("train", 1, "b", "trained"),
        ("train", 2, "a", "trained"),
        ("train", 2, "b", "trained"),
        ("evaluate", 1, "a", "trained"),
        ("evaluate", 1, "b", "trained"),
    ]
    assert _states(state)["b"] == ("trained", "update refused: too long")


def test_nobody_takes_part_in_an_unknown_run(state: State) -> None:
    with pytest.raises(StorageError, match="round 1 of run 'r' is being written by another, or"):
        state.record_participation(ROUND, {"a": SiteStatus(state="connected", node=1)})


def test_a_site_is_admitted_to_one_federation_and_anew_in_its_place(state: State) -> None:
    state.admit_site("north", federation="standing", node_id=2**64 - 1, key="k1")
    state.admit_site("south", federation="standing", node_id=2, key="k2")
    state.admit_site("north", federation="other", node_id=3, key="k1")
    state.admit_site("north", federation="standing", node_id=4, key="k3")
    found = [(site.name, site.node_id, site.key) for site in state.admitted_sites("standing")]
    assert found == [("north", 4, "k3"), ("south", 2, "k2")]
    assert [site.node_id for site in state.admitted_sites("other")] == [3]
    assert state.admitted_sites("nowhere") == ()


def test_the_first_evidence_stays(state: State) -> None:
    assert state.save_drift("e", window="w1", site="a", summary={"n": 1})
    assert not state.save_drift("e", window="w1", site="a", summary={"n": 2})
    assert [record.summary for record in state.drift("e", "w1")] == [{"n": 1}]
    assert state.save_verdict("e", window="w2", verdict={"p": 0.2}, alarm=False)
    assert state.save_verdict("e", window="w1", verdict={"p": 0.001}, alarm=True)
    assert not state.save_verdict("e", window="w1", verdict={}, alarm=False)
    assert [(item.window, item.alarm) for item in state.verdicts("e")] == [("w2", False), ("w1", True)]


REPLACED = "INSERT OR REPLACE INTO {} SELECT * FROM {} LIMIT 1"  # deletes, and runs no trigger of DELETE


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE version_files SET sha256 = 'x'",
        "DELETE FROM version_files",
        REPLACED.format("version_files", "version_files"),
    ],
)
def test_what_was_registered_of_a_version_refuses_change(state: State, change: str) -> None:
    versions = RegisteredVersions(state.database)
    versions.add_files("m", 1, {"arrays.npz": "a" * 64})
    versions.add_files("m", 1, {"arrays.npz": "b" * 64})  # the first one holds
    versions.add_passport("m", 1, "# Model passport")
    with pytest.raises(DBAPIError, match="append-only"), state.database.engine.begin() as connection:
        connection.execute(text(change))
    assert versions.hashes("m", 1) == {"arrays.npz": "a" * 64}
    assert versions.passport("m", 1) == "# Model passport"
    versions.add_passport("m", 1, "# With a comparison")
    assert versions.passport("m", 1) == "# With a comparison"
    assert (versions.hashes("m", 2), versions.passport("m", 2)) == ({}, None)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE decisions SET reason = 'x'",
        "DELETE FROM decisions",
        REPLACED.format("decisions", "decisions"),
    ],
)
def test_decisions_refuse_change(state: State, change: str) -> None:
    state.record_decision("e", window="w", kind="promote", subject="2", by="A. Reviewer", reason="better")
    with pytest.raises(DBAPIError, match="append-only"), state.database.engine.begin() as connection:
        connection.execute(text(change))
    (decision,) = state.decisions("e")
    assert (decision.kind, decision.subject, decision.by, decision.reason) == (
        "promote",
        "2",
        "A. Reviewer",
        "better",
    )
    assert state.decisions("another") == ()


CLAIMER = """
import sys, time
from server.state.storage import open_state
with open_state(sys.argv[1]) as state:
    print("ready", flush=True)
    sys.stdin.readline()
    taken = []
    for slot in range(60) if sys.argv[2] == "a" else range(59, -1, -1):
        if state.claim("drift", str(slot), sys.argv[2]):
            taken.append(slot)
        time.sleep(0.002)  # SQLite's lock is not fair: give the other its turn
    print(*taken)
"""


def test_two_processes_share_out_the_slots(tmp_path: Path) -> None:
    """Both also open the empty database at once: one migrates, the other waits for it."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", CLAIMER, f"sqlite:///{tmp_path}/state.db"]
    processes = [subprocess.Popen([*command, owner], cwd=ROOT, **pipes) for owner in ("a", "b")]  # type: ignore[call-overload]
    assert [process.stdout.readline() for process in processes] == ["ready\n", "ready\n"]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    taken = [{int(slot) for slot in process.communicate(timeout=600)[0].split()} for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert len(taken[0]) + len(taken[1]) == 60
    assert taken[0] | taken[1] == set(range(60))
    assert taken[0]
    assert taken[1]


ENDLESS = """
import sys
from contract.experiment import Experiment
from server.state.records import RoundRecord
from server.state.storage import open_state
state = open_state(sys.argv[1])
found = state.load_checkpoint("r")
number = found[0] if found else 0
print("ready", flush=True)
while True:
    number += 1
    record = RoundRecord(round=number, cohort=("a",), counted=("a",))
    state.save_round("r", record, checkpoint=b"%d," % number * 20_000)
"""


def test_a_kill_at_any_moment_leaves_round_and_checkpoint_together(
    tmp_path: Path, experiment: Experiment
) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    with open_state(url) as state:
        _start(state, experiment)
        last = 0
        for attempt in range(3):
            with subprocess.Popen(
                [sys.executable, "-c", ENDLESS, url], cwd=ROOT, stdout=subprocess.PIPE
            ) as process:
                assert process.stdout is not None
                assert process.stdout.readline() == b"ready\n"
                while (state.load_checkpoint("r") or (0, b""))[0] <= last:
                    time.sleep(0.01)
                time.sleep(0.037 * attempt)
                os.kill(process.pid, signal.SIGKILL)
            found = state.load_checkpoint("r")
            assert found is not None
            rounds = [record.round for record in state.rounds("r")]
            assert rounds == list(range(1, found[0] + 1))
            assert found[1] == b"%d," % found[0] * 20_000
            assert found[0] > last
            last = found[0]


def test_a_reader_and_many_writers_do_not_fail(state: State) -> None:
    stop = threading.Event()

    def read() -> int:
        count = 0
        while not stop.is_set():
            count = len(state.decisions())
        return count

    def write(owner: int) -> None:
        for _ in range(20):
            state.record_decision("e", window="w", kind="none", subject="", by=str(owner), reason="")

    with ThreadPoolExecutor(5) as pool:
        reader = pool.submit(read)
        for writer in [pool.submit(write, owner) for owner in range(4)]:
            writer.result()
        stop.set()
        assert reader.result() >= 0
    assert len(state.decisions()) == 80


def test_a_full_disk_leaves_nothing_half_written(state: State, experiment: Experiment) -> None:
    _start(state, experiment)
    state.save_round("r", _round(1), checkpoint=b"small")
    state.database.engine.dispose()

    @event.listens_for(state.database.engine, "connect")
    def _fill(connection: object, _record: object) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]  # type: ignore[attr-defined]
        connection.execute(f"PRAGMA max_page_count={pages}")  # type: ignore[attr-defined]

    with pytest.raises(StorageError, match="disk of the state database is full"):
        state.save_round("r", _round(2), checkpoint=b"x" * 1_000_000)
    assert [record.round for record in state.rounds("r")] == [1]
    assert state.load_checkpoint("r") == (1, b"small")


def test_sqlite_is_opened_as_promised(state: State) -> None:
    with state.database.read() as connection:
        values = {name: connection.execute(text(f"PRAGMA {name}")).scalar() for name in
                  ("journal_mode", "foreign_keys", "busy_timeout")}  # fmt: skip
    assert values == {"journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 30_000}


def test_storage_loads_alembic_only_to_migrate(tmp_path: Path) -> None:
    code = (
        "import sys, json; from server.state.storage import open_state; "
        f"open_state('sqlite:///{tmp_path}/state.db'); print(json.dumps('alembic' in sys.modules))"
    )
    loaded = [
        json.loads(
            subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True).stdout
        )
        for _ in range(2)
    ]
    assert loaded == [True, False]


def test_a_ledger_may_only_grow(state: State) -> None:
    one, other = "a" * 64, "b" * 64
    state.remember_anchor("north", 5, one, federation="home")
    state.remember_anchor("north", 5, one, federation="home")
    state.remember_anchor("north", 7, other, federation="home")
    with pytest.raises(ReleaseError, match="that of 'north' is shorter than it was: 5 entries, and 7 before"):
        state.remember_anchor("north", 5, one, federation="home")
    with pytest.raises(ReleaseError, match="has 7 entries, as before, and ends otherwise"):
        state.remember_anchor("north", 7, one, federation="home")
    state.remember_anchor("north", 7, other, federation="home")  # nothing was noted of those
    state.remember_anchor("north", 1, one, federation="elsewhere")
    state.remember_anchor("south", 10**12, one, federation="home")


def test_an_operator_may_accept_an_older_ledger_and_a_new_site_begins_with_its_own(state: State) -> None:
    state.admit_site("north", federation="home", node_id=1, key="k")
    state.remember_anchor("north", 7, "a" * 64, federation="home")
    assert state.readmit_site("north", federation="home")
    state.remember_anchor("north", 2, "b" * 64, federation="home")
    state.dismiss_site("north", federation="home")
    state.admit_site("north", federation="home", node_id=2, key="other")
    state.remember_anchor("north", 1, "c" * 64, federation="home")
    assert not state.readmit_site("nobody", federation="home")


def test_rows_are_pinned_once_and_for_the_admitted_alone(state: State) -> None:
    def pinned(federation: str = "home") -> dict[str, int | None]:
        return {site.name: site.stated_rows for site in state.admitted_sites(federation)}

    state.admit_site("north", federation="home", node_id=1, key="k")
    state.admit_site("north", federation="other", node_id=1, key="k")
    state.admit_site("south", federation="home", node_id=2, key="k", stated_rows=50)
    state.pin_rows({"north": 10**12, "south": 7, "nobody": 3}, federation="home")
    assert pinned() == {"north": 10**12, "south": 50}
    state.pin_rows({"north": 9}, federation="home")
    assert pinned() == {"north": 10**12, "south": 50}
    assert pinned("other") == {"north": None}
    state.readmit_site("south", federation="home", stated_rows=70)
    state.readmit_site("north", federation="home")
    assert pinned() == {"north": None, "south": 70}
