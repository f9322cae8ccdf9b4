"""Kill, cut, fill, slow down and confuse a federation of real processes: no work is lost, nothing paid twice.

The short form is part of `make long`; `make failure` runs the long one
(TIDEGATE_FAILURE=long): fifty runs with processes killed, cuts of up to five minutes.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from contract.code import BUNDLED_PACKAGES
from server.federation import project_root
from server.jobs.job import Job
from server.line.flower import TOO_LONG, TOO_MANY_PARTS
from server.registry.registry import Registry
from server.state.participation import NOT_UNDERSTOOD
from server.state.records import RunRecord
from server.state.storage import open_state
from tests.failure.conftest import plan, train
from tests.failure.federation import LONG, Account, HurtFederation

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(3600 if LONG else 900)]

faults = pytest.mark.xdist_group("faults")
kills = pytest.mark.xdist_group("kills") if LONG else faults
"""In the long form two workers, each with a federation of its own: these take as long as those."""

Unharmed = Callable[[Job, RunRecord], Account]
Tally = Callable[[Account], Account]

KINDS = ("agent", "worker", "SuperLink", "ServerApp", "everything")
RUNS = (
    [
        pytest.param(number, KINDS, marks=pytest.mark.xdist_group(f"kills-{number % 2}"))
        for number in range(50)
    ]
    if LONG
    else [
        pytest.param(1, KINDS, marks=kills),
    ]
)
FEW = 12


def kill(federation: HurtFederation, kind: str, job: Job, rng: random.Random) -> None:
    site = rng.choice(sorted(federation.sites))
    {
        "agent": lambda: federation.kill_agent(site),
        "worker": lambda: federation.kill_worker(site),
        "SuperLink": lambda: federation.kill_superlink(job),
        "ServerApp": lambda: federation.kill_server_app(job),
        "everything": lambda: federation.kill_everything(job),
    }[kind]()


@pytest.mark.parametrize(("number", "among"), RUNS)
def test_a_run_goes_on_whichever_process_is_killed(
    number: int, among: tuple[str, ...], federation: HurtFederation, unharmed: Unharmed
) -> None:
    """The short form kills each of these once; the long one up to five, whichever.

    In `make test` a SuperLink is killed in test_lasting_state.py, a server in the middle of its run in
    test_kill_and_resume.py.
    """
    rounds_of_run = 30
    experiment, rng = plan(rounds=rounds_of_run), random.Random(number)
    job = train(f"killed-{number}", experiment)
    kinds = rng.choices(among, k=rng.randint(1, 5)) if LONG else rng.sample(among, k=len(among))
    rounds = sorted(rng.sample(range(1, rounds_of_run - 2), k=len(kinds)))
    federation.submit(job)
    for after, kind in zip(rounds, kinds, strict=True):
        federation.wait_for_round(job.run, after)
        time.sleep(rng.uniform(0, 0.3))
        kill(federation, kind, job, rng)
    record = federation.finish(job)
    assert [len(one.counted) for one in federation.rounds(job.run)] == [3] * rounds_of_run
    account = unharmed(job, record)
    assert account.again <= 2 * sum(kind in ("agent", "worker", "everything") for kind in kinds) * 3


@faults
def test_a_site_that_dies_and_stays_away_is_named_and_the_quorum_goes_on(
    federation: HurtFederation, tally: Tally
) -> None:
    experiment = plan(rounds=4, quorum=2, grace=0.5)
    job = train("died", experiment)
    federation.submit(job)
    federation.wait_for_round(job.run, 2)
    federation.kill_agent("west", again=False)
    record = federation.finish(job)
    with open_state(federation.settings.state_url) as state:
        history = [item for item in state.participation(job.run) if item.site == "west"]
    last = federation.rounds(job.run)[-1]
    assert (dict(last.failures), last.counted) == ({"west": "no answer"}, ("north", "south"))
    assert record.status == "partial"
    assert "west: no answer in rounds" in record.error
    assert (history[0].state, history[-1].state) == ("counted", "connected")
    assert history[-1].kind == "evaluate"
    assert json.loads(str(record.result))["missing"] == {"west": "no answer"}
    registry = Registry(federation.settings.tracking_uri, federation.settings.artifact_root)
    passport = next(
        one.description for one in registry.versions("small") if one.version == record.model_version
    )
    assert "INCOMPLETE" in passport
    assert "west" in passport
    account = federation.account(job.run)
    # The worker ends what it has begun when its agent dies: that one answer comes too late to count.
    assert len(account.lost) <= 1
    account.lost.clear()
    tally(account)


CUTS = [(how, seconds) for seconds in (1.0, 30.0, 300.0) for how in ("reset", "silent")]


@faults
@pytest.mark.parametrize("cuts", [[cut] for cut in CUTS] if LONG else [[("reset", 1.0), ("silent", 3.0)]])
def test_a_run_goes_on_when_the_network_is_back(
    cuts: list[tuple[str, float]], federation: HurtFederation, unharmed: Unharmed
) -> None:
    experiment = plan(rounds=FEW, timeout=900 if LONG else 400)
    job = train("cut-" + "-".join(f"{how}{seconds:g}" for how, seconds in cuts), experiment)
    federation.submit(job)
    for number, (how, seconds) in enumerate(cuts, start=1):
        federation.wait_for_round(job.run, 3 * number)
        with federation.cut(how, seconds):
            reached = len(federation.rounds(job.run))
        assert reached < FEW, "the cut came too late to cut anything"
    record = federation.finish(job, 900)
    assert unharmed(job, record).again == 0


@kills
def test_a_site_ten_times_slower_is_waited_for_where_the_quorum_needs_it(
    federation: HurtFederation, unharmed: Unharmed
) -> None:
    experiment = plan(rounds=FEW)
    job = train("slow", experiment)
    with federation.slowed("west", 10):
        federation.submit(job)
        record = federation.finish(job)
    assert unharmed(job, record).again == 0


@faults
def test_a_site_that_joins_in_round_five_counts_from_then_on(
    federation: HurtFederation, tally: Tally
) -> None:
    """With real processes.

    In one process: `test_a_site_that_joins_late_counts_from_then_on` (tests/server/test_rounds.py) and
    `test_a_late_site_counts_from_then_on_and_the_passport_says_in_which_rounds` (tests/server/jobs).
    """
    rounds = 3 * FEW  # some seconds: it goes on when round 4 has been seen
    experiment = plan(rounds=rounds, quorum=2, grace=30.0)
    job = train("joined", experiment)
    federation.stop_site("west")
    federation.wait_for_absence("west")  # otherwise it is asked, and answers late what no longer counts
    federation.hurt("west is away until round 5")
    federation.submit(job)
    federation.wait_for_round(job.run, 4)
    with federation.held("north"):  # all rounds together take less time than a site's start
        federation.start_site("west")
        federation.wait_for_presence("west")
    record = federation.finish(job)
    done = federation.rounds(job.run)
    west = [one.round for one in done if "west" in one.counted]
    missing = {one.round: dict(one.failures) for one in done if not {"north", "south"} <= set(one.counted)}
    assert not missing
    assert west == list(range(west[0], rounds + 1))
    assert west[0] >= 5
    assert record.status == "partial"
    tally(federation.account(job.run))


@faults
def test_a_full_disk_costs_time_and_nothing_else(federation: HurtFederation, unharmed: Unharmed) -> None:
    """A site waits for room, and is asked again; a server ends at a checkpoint, and goes on from it."""
    experiment = plan(rounds=FEW)
    job = train("full", experiment)
    federation.submit(job)
    federation.wait_for_round(job.run, 3)
    federation.hurt("the disk of west is full")
    with federation.disks["west"].full():
        time.sleep(2)
        stuck = len(federation.rounds(job.run))
        time.sleep(2)
        assert len(federation.rounds(job.run)) == stuck < FEW
    assert "Free disk space" in federation.log_of("west")
    federation.wait_for_round(job.run, stuck + 1)
    federation.hurt("the disk of the server is full")
    with federation.disks["server"].full():
        time.sleep(4)
        assert len(federation.rounds(job.run)) < FEW
    federation.repair()
    record = federation.finish(job, resumes=2)
    unharmed(job, record)


WRONG = {
    2: "nan",
    3: "shape",
    4: "dtype",
    5: "huge",
    6: "twice",
    7: "stale",
    9: "many parts",
    10: "a long part",
}


@faults
def test_wrong_updates_are_refused_with_their_reason_and_the_others_go_on(
    federation: HurtFederation, tally: Tally
) -> None:
    experiment = plan(rounds=11, quorum=2, grace=25.0)
    job = train("wrong", experiment)
    federation.stop_site("west")
    federation.start_rogue("west", WRONG)
    federation.wait_for_sites(3)
    for name in WRONG.values():
        federation.hurt(f"west sends a reply that is wrong: {name}")
    federation.submit(job)
    with federation.memory_of_server_app() as peak:
        federation.wait_for_round(job.run, 1)
        status, taken = federation.flood(10 * 2**30)
        record = federation.finish(job)
    assert status == 413
    assert taken < 2**26
    federation.stop_site("west")
    rounds = {one.round: one for one in federation.rounds(job.run)}
    assert all({"north", "south"} <= set(one.counted) for one in rounds.values())
    reasons = {number: one.failures.get("west", "") for number, one in rounds.items()}
    assert [number for number, one in rounds.items() if "west" in one.counted] == [1, 6, 8, 11], reasons
    assert "update refused" in reasons[2]
    assert "finite" in reasons[2]
    for number in (3, 4):
        assert "update refused" in reasons[number], reasons
    assert reasons[5], reasons
    assert "old reply" in reasons[7], reasons
    assert (reasons[9], reasons[10]) == (TOO_MANY_PARTS, TOO_LONG)
    kept = [
        *federation.settings.home.glob("superlink.db*"),
        *federation.settings.home.glob("superlink.db-parts/*"),
    ]
    assert sum(path.stat().st_size for path in kept) < 2**25
    assert record.status == "partial"
    assert peak() < 2 * 2**30
    account = federation.account(job.run)
    refused = [number for number in WRONG if number != 6]
    assert account.lost == [
        f"west: {job.run}/train/{number} was answered and does not count" for number in refused
    ]
    account.lost.clear()  # these were meant not to count
    tally(account)


GARBAGE = ("no protobuf", "another kind", "unknown kind", "array of objects")
GARBAGE += ("no records", "texts", "numbers", "arrays")


@faults
def test_what_is_no_message_or_no_reply_costs_its_site_the_round_and_nobody_else(
    federation: HurtFederation, tally: Tally
) -> None:
    """Through Flower's own SuperLink: it stores whatever bytes a site gives it."""
    experiment = plan(
        rounds=len(GARBAGE) + 2, quorum=2, grace=20.0
    )  # of others none is left out for its time
    job = train("garbage", experiment)
    federation.stop_site("west")
    federation.start_rogue("west", dict(enumerate(GARBAGE, start=2)))
    federation.wait_for_sites(3)
    for name in GARBAGE:
        federation.hurt(f"west sends what is no reply: {name}")
    federation.submit(job)
    record = federation.finish(job)
    federation.stop_site("west")
    rounds = federation.rounds(job.run)
    assert all({"north", "south"} <= set(one.counted) for one in rounds)
    reasons = {GARBAGE[one.round - 2]: one.failures["west"] for one in rounds if "west" not in one.counted}
    assert list(reasons) == list(GARBAGE), reasons
    assert set(reasons.values()) <= {NOT_UNDERSTOOD, "no answer"}, reasons
    assert reasons["no protobuf"] == NOT_UNDERSTOOD
    assert record.status == "partial"
    account = federation.account(job.run)
    account.lost.clear()  # these were meant not to count
    tally(account)


@faults
def test_a_run_that_its_operator_stops_says_so_and_goes_on_when_it_is_resumed(
    federation: HurtFederation, unharmed: Unharmed
) -> None:
    experiment = plan(rounds=FEW)
    job = train("stopped", experiment)
    federation.submit(job)
    federation.wait_for_round(job.run, 2)
    federation.hurt("the run is stopped")
    federation.stop_run()
    federation.wait(lambda: federation.status(job.run) != "running", "end of the run")
    assert federation.status(job.run) == "stopped"
    assert len(federation.rounds(job.run)) < FEW
    federation.submit(job)
    unharmed(job, federation.finish(job))


@kills
def test_a_site_killed_in_the_middle_of_its_reply_sends_it_again(
    federation: HurtFederation, unharmed: Unharmed
) -> None:
    """Flower has the reply's envelope, and none of what is in it."""
    experiment = plan(rounds=FEW)
    job = train("half", experiment)
    federation.stop_site("west")
    federation.start_rogue("west", {3: "half"})
    federation.wait_for_sites(3)
    federation.submit(job)
    federation.wait(lambda: federation.agent("west") is None, "death of west")
    federation.hurt("kill -9 of west when half of its reply was sent")
    federation.start_site("west")
    record = federation.finish(job)
    assert unharmed(job, record).again == 0


@faults
def test_a_server_with_other_code_is_refused_at_every_site_and_pays_nothing(
    federation: HurtFederation, unharmed: Unharmed, tmp_path: Path
) -> None:
    experiment = plan(rounds=FEW)
    job = train("other-code", experiment)
    federation.submit(job)
    federation.wait_for_round(job.run, 3)
    other = copy_of_the_project(tmp_path / "other")
    federation.kill_server_app(job, project=other)
    federation.wait(federation.flower_has_finished, "end of the other code's run", pause=1.0)
    failed = federation.record(job.run)
    assert failed is not None
    assert failed.status == "failed"
    assert all(f"{site} (input)" in failed.error for site in federation.sites), failed.error
    reached = len(federation.rounds(job.run))
    federation.submit(job)
    record = federation.finish(job)
    assert 3 <= reached < FEW
    assert unharmed(job, record).again == 0


def copy_of_the_project(folder: Path) -> Path:
    """The project as it would be after an update of the server alone."""
    root = project_root()
    for package in BUNDLED_PACKAGES:
        shutil.copytree(root / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / file, folder)
    changed = folder / "clients" / "keys.py"
    changed.write_text(changed.read_text() + "\n# a later version\n")
    return folder
