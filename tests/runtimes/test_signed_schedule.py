"""Real sites that name a scientist: a run that is stopped and resumed, and a schedule round the loop."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from clients.code import installed_code_hash
from clients.site import Site
from clients.site_config import read_site_config
from contract.experiment import Experiment
from contract.experiment_file import parse_experiment
from contract.mandate import Mandate, authority_digest, mandate_for, public_key_of, sign_mandate
from contract.names import name_run
from contract.standing import Standing
from server.federation import running_control, running_federation
from server.registry.registry import CHAMPION, Registry
from server.run_queue import RunQueue
from server.schedule import WindowChecks
from server.state.records import RunRecord, ScheduleRecord, WindowCheck
from server.state.schedules import Schedules
from server.state.storage import State, open_state
from tests.cards import card_for
from tests.failure.conftest import home_of
from tests.failure.federation import HurtFederation
from tests.runtimes.conftest import SMALL

pytestmark = [pytest.mark.e2e]

TRAINED, CALM, TURNED = "2026-W01", "2026-W02", "2026-W03"
"""The week of the first version; one in which all is as before; one in which age means the contrary."""
SITES = ("north", "south")
KEY = Ed25519PrivateKey.generate()
LONG = 600.0


def plan() -> Experiment:
    text = SMALL.format(
        kind="linear", strategy="fedavg", rounds=6, quorum=2, private="false", seed="seed = 7"
    )
    text = text.replace("grace = 2.0", "grace = 2.0\nround_timeout = 600.0")
    retraining = "[retraining]\npersistence = 1\nof = 1\ncooldown = 0\nwindows = 1\n"
    return parse_experiment(f"{text}\n[drift]\nfalse_alarm_rate = 0.0001\n{retraining}", where="small")


def rows(seed: int) -> str:
    rng, lines = np.random.default_rng(seed), ["age,ward,ill,window,side"]
    age = rng.integers(0, 60, 120)
    ill = (rng.random(120) < age / 60).astype(int)
    for row in range(120):
        end = f"{'holdout' if row % 4 == 0 else 'train'}"
        lines += [f"{age[row]},{'ab'[row % 2]},{ill[row]},{week},{end}" for week in (TRAINED, CALM)]
        lines.append(f"{age[row] + 60},{'ab'[row % 2]},{1 - ill[row]},{TURNED},{end}")
    return "\n".join(lines) + "\n"


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[HurtFederation]:
    """A server and two sites, each of which names the scientist."""
    places = []
    for seed, name in enumerate(SITES):
        folder = tmp_path / "sites" / name
        folder.mkdir(parents=True)
        (folder / "rows.csv").write_text(rows(seed))
        (folder / "site.toml").write_text(
            f'name = "{name}"\nstated_rows = 90\n[data]\nkind = "csv"\npath = "rows.csv"\n'
            f"{card_for(plan(), holdout='side')}[storage]\ndrift_reports = false\n"
            f'[policy]\nrequire_private = false\n[policy.scientists]\nada = "{public_key_of(KEY)}"\n'
        )
        places.append(folder / "site.toml")
    hurt = HurtFederation(home_of(tmp_path / "home"), places, tmp_path / "logs")
    try:
        hurt.start()
        yield hurt
    finally:
        hurt.close()


def mandate(run: str, **more: Any) -> Mandate:
    values = {"code": installed_code_hash(), "scientist": "ada"}
    return mandate_for(plan(), run=run, expires=datetime.now(UTC) + timedelta(days=1), **values | more)


def entries(federation: HurtFederation, kind: str) -> list[list[Any]]:
    """Of each site's ledger."""
    found = []
    for path in federation.sites.values():
        with closing(Site(read_site_config(path)).ledger) as ledger:
            found.append([entry for entry in ledger.entries() if entry.kind == kind])
    return found


def work_until(queue: RunQueue, true: Callable[[], object]) -> None:
    end = time.monotonic() + LONG
    while not true():
        assert time.monotonic() < end
        queue.look()
        time.sleep(0.2)


def record(state: State, run: str) -> RunRecord:
    found = state.run(run)
    assert found is not None
    return found


def train_with_a_stop(federation: HurtFederation, state: State, signed: Mandate) -> int:
    """A signed run that is stopped after a round and resumed, as the API does it; its version."""
    settings = federation.settings
    with federation.control() as control:
        queue = RunQueue(
            state=state,
            control=control,
            federation=running_federation(settings),
            at_once=1,
            say=print,
        )
        submissions, run = queue.submissions, signed.run
        submissions.add(
            plan(),
            person="ada",
            federation=queue.federation,
            windows=[TRAINED],
            run=run,
            mandate=sign_mandate(signed, KEY),
        )
        assert queue.look()
        work_until(queue, lambda: state.rounds(run) or not submissions.active(queue.federation))
        assert submissions.stop(run, by="ada")
        work_until(queue, lambda: not submissions.active(queue.federation))
        state.end_dead_runs()
        made = len(state.rounds(run))
        assert 1 <= made < plan().strategy.rounds
        assert submissions.resume(run)
        work_until(
            queue,
            lambda: not submissions.active(queue.federation) and not submissions.places(queue.federation),
        )
    found = record(state, run)
    assert found.status == "succeeded", found.error
    assert [set(one.counted) for one in state.rounds(run)] == [set(SITES)] * plan().strategy.rounds
    assert found.model_version is not None
    return found.model_version


def test_a_signed_run_and_a_signed_schedule_go_round_the_loop(federation: HurtFederation) -> None:
    settings, experiment = federation.settings, plan()
    run, schedule = name_run("small"), name_run("small")
    authority = authority_digest((settings.home / "certificates" / "ca.pem").read_text())
    of_run = mandate(run, windows=(TRAINED,), authority=authority)
    weeks = Standing(every="week", first=CALM, last=TURNED, tries=2, drift_epsilon=0.5, reference=(TRAINED,))
    of_schedule = mandate(schedule, covers=weeks, authority=authority)
    with open_state(settings.state_url) as state:
        version = train_with_a_stop(federation, state, of_run)
        registry = Registry(settings.tracking_uri, settings.artifact_root)
        registry.set_alias("small", CHAMPION, version)
        state.record_decision(
            "small", window="", kind="promote", subject=f"version {version}", by="rita", reason="r"
        )
        schedules = Schedules(state.database)
        schedules.add(ScheduleRecord.of(experiment, every="week", first=CALM))
        schedules.enter("small", [(week, datetime.now(UTC)) for week in (CALM, TURNED)])
        checks = WindowChecks(
            state=state,
            control=lambda: running_control(settings),
            stop=threading.Event(),
            say=print,
            retries=(),
        )

        def check(week: str) -> WindowCheck:
            found = checks.check(experiment, week)
            assert found is not None
            return found

        unsigned = check(CALM)
        assert unsigned.state == "not judged"
        assert "policy" in unsigned.detail
        schedules.sign("small", sign_mandate(of_schedule, KEY))
        quiet, turned = check(CALM), check(TURNED)
        assert (quiet.state, quiet.run) == ("done", f"{schedule}-{CALM}-1")
        assert "quiet; decision: none" in quiet.detail
        assert turned.state == "done", turned.detail
        result = json.loads(record(state, f"{schedule}-{TURNED}-1").result or "{}")
        assert (result["decision"], result["trained_on"]) == ("retrain", [TURNED])
        assert result["run"] == f"{schedule}-{TURNED}-1-challenger"  # judged, whichever way
    for charged in entries(federation, "reserve"):
        asked = [(entry.plan, entry.request) for entry in charged]
        assert len(set(asked)) == len(asked)  # what was resumed was not charged again
        signed_by = {
            entry.request: entry.body["mandate"] for entry in charged if "/reference/" not in entry.plan
        }
        for request, by in signed_by.items():
            assert by == (of_run if request.startswith(run) else of_schedule).digest
        assert {entry.body["mandate"] for entry in charged} == {of_run.digest, of_schedule.digest}
