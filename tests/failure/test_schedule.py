"""Drift checks with a site that is away, one without rows, a hasty operator, a killed scheduler."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clients.site import Site
from clients.site_config import read_site_config
from contract.experiment_file import parse_experiment
from server.federation import project_root
from server.state.records import ScheduleRecord
from server.state.schedules import Schedules
from server.state.storage import open_state
from tests.commands import plain_environment
from tests.failure.conftest import home_of, lay_out
from tests.failure.federation import HurtFederation
from tests.runtimes.conftest import SMALL

pytestmark = [pytest.mark.e2e]

TEXT = SMALL.format(
    kind="linear", strategy="fedavg", rounds=1, quorum=2, private="true", seed="round_timeout = 600.0"
).replace(
    "[privacy]\nprivate = true\nround_timeout = 600.0",
    # one false alarm in ten thousand checks: the windows hold the same rows, and these tests say so
    "round_timeout = 600.0\n[drift]\nfalse_alarm_rate = 0.0001\n[privacy]\nprivate = true",
)


WEEKS = ("2026-W01", "2026-W02", "2026-W03")


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[HurtFederation]:
    """A server with a champion, and two sites of which `south` was stopped."""
    places = lay_out(tmp_path / "sites")[:2]
    for path in places:
        rows = path.with_name("rows.csv")
        w1 = rows.read_text().splitlines()
        more = [line.replace(",w1,", f",{name},") for name in ("w2", *WEEKS) for line in w1[1:]]
        rows.write_text("\n".join([*w1, *more]) + "\n")
        path.write_text(f"{path.read_text()}[storage]\ndrift_reports = false\n")
    settings = home_of(tmp_path / "home")
    experiment = parse_experiment(TEXT, where="small")
    with open_state(settings.state_url) as state:
        state.start_run("first", experiment=experiment, job="train", trigger="test", code_hash="c0de")
        state.link_run("first", model_version=1, result=json.dumps({"windows": ["w1"]}))
        state.finish_run("first", "succeeded")
        state.record_decision("small", window="", kind="promote", subject="version 1", by="p", reason="r")
    hurt = HurtFederation(settings, places, tmp_path / "logs")
    try:
        hurt.start()
        hurt.stop_site("south")
        yield hurt
    finally:
        hurt.close()


class Command:
    """A command of the operator, and the lines that it has printed so far."""

    def __init__(self, place: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "experiments.cli.main", *arguments],
            cwd=place,
            env={**plain_environment(), "OMP_NUM_THREADS": "1", "TIDEGATE_HOME": str(place / "home")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(line.rstrip("\n") for line in iter(self.process.stdout.readline, ""))

    def said(self, words: str, seconds: float) -> bool:
        """Whether it says that within so many seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            if any(words in line for line in list(self.lines)):
                return True
            time.sleep(0.1)
        return any(words in line for line in list(self.lines))

    def ended(self, seconds: float) -> int:
        """Its exit code."""
        code = self.process.wait(seconds)
        self._reader.join()
        return code


@contextmanager
def checking(place: Path) -> Iterator[Command]:
    """Somebody checks window w2 by hand; ended at the latest with the block."""
    command = Command(place, "drift", "check", "small.toml", "w2")
    try:
        yield command
        assert not [line for line in command.lines if "Traceback" in line]
    finally:
        if command.process.poll() is None:
            command.process.kill()
        command.ended(300)


def test_who_is_missing_is_said_and_what_failed_is_tried_again(
    federation: HurtFederation, tmp_path: Path
) -> None:
    (tmp_path / "small.toml").write_text(TEXT)
    with checking(tmp_path) as command:
        assert command.said("window w2: waiting for south (not connected), up to 10 min", 300), command.lines
        os.kill(command.process.pid, signal.SIGTERM)
        assert command.ended(300) == 130
        assert "its check goes on at the server, as run small-w2-" in command.lines[-2]
    with checking(tmp_path) as command:
        assert command.said("it is being checked, as run small-w2-", 300), command.lines
        os.kill(command.process.pid, signal.SIGINT)
        assert command.ended(300) == 130
    rows = federation.sites["south"].with_name("rows.csv")
    away = rows.rename(rows.with_name("away"))
    federation.start_site("south")
    with checking(tmp_path) as command:
        assert command.ended(600) == 1, command.lines
        assert [
            line for line in command.lines if line.startswith("error: ") and "missing: south (source)" in line
        ]
    away.rename(rows)
    with checking(tmp_path) as command:
        assert command.ended(600) == 0, command.lines
        assert (
            command.lines[0] == "small, window w2: tried again: what a site has answered is not charged again"
        )
        assert command.lines[-1] == "small, window w2: done: quiet; decision: none"
    with checking(tmp_path) as command:
        assert command.ended(300) == 0
        assert command.lines == ["small, window w2: done: quiet; decision: none"]
    with open_state(federation.settings.state_url) as state:
        (run,) = (run for run in state.runs("small") if run.job == "cycle")
    assert run.status == "succeeded"
    require_one_charge(federation, run.name)


SCHEDULER = """
import sys, threading
from server.schedule import run_schedules
from server.settings import read_settings
run_schedules(read_settings(), say=lambda words: print(words, flush=True), stop=threading.Event())
"""


@pytest.mark.long
def test_a_schedule_goes_on_whichever_scheduler_is_killed(federation: HurtFederation, tmp_path: Path) -> None:
    """Two schedulers work; the one that checks is killed each time, and another is started in its place."""
    experiment = parse_experiment(TEXT, where="small")
    federation.start_site("south")
    federation.wait_for_sites(2)
    running: dict[int, subprocess.Popen[bytes]] = {}
    environment = {**plain_environment(), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(project_root())}
    environment["TIDEGATE_HOME"] = str(federation.settings.home)

    def start() -> None:
        command = [sys.executable, "-c", SCHEDULER]
        process = subprocess.Popen(command, cwd=tmp_path, env=environment)
        running[process.pid] = process

    with open_state(federation.settings.state_url) as state:
        schedules = Schedules(state.database)
        schedules.add(ScheduleRecord.of(experiment, every="week", first=WEEKS[0], pace=0.1))
        try:
            start()
            start()
            for week in WEEKS:
                federation.wait(lambda week=week: holder(schedules, week) is not None, f"scheduler of {week}")
                owner = holder(schedules, week)
                if owner in running:
                    federation.hurt(f"kill -9 of the scheduler that checks {week}")
                    running[owner].kill()
                    running.pop(owner).wait()
                    start()
            done = lambda: {one.window for one in schedules.checks("small") if one.state == "done"}  # noqa: E731
            federation.wait(lambda: done() >= set(WEEKS), "end of the checks", 600)
        finally:
            for process in running.values():
                process.kill()
                process.wait()
        runs = {one.window: one.run for one in schedules.checks("small") if one.window in WEEKS}
        assert [item.window for item in state.verdicts("small")][:3] == list(WEEKS)
    assert federation.faults
    for run in runs.values():
        require_one_charge(federation, run)


def holder(schedules: Schedules, week: str) -> int | None:
    """The number of the process that checks a window, or has."""
    owners = [one.owner for one in schedules.checks("small") if one.window == week and one.run]
    found = re.search(r"process (\d+)", owners[0]) if owners else None
    return int(found[1]) if found else None


def require_one_charge(federation: HurtFederation, run: str) -> None:
    federation.stop_site("north")
    ledger = Site(read_site_config(federation.sites["north"])).ledger
    assert len(ledger.plans(run)) == 1
    ledger.close()
    assert federation.account(run).doubled == []
