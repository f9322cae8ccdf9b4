"""The drift schedule with a site that is away, one without its rows, and an operator who loses patience."""

from __future__ import annotations

import json
import os
import shlex
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
from server.state.storage import open_state
from tests.commands import plain_environment
from tests.failure.conftest import home_of, lay_out
from tests.failure.federation import HurtFederation
from tests.runtimes.conftest import SMALL

pytestmark = [pytest.mark.e2e]

TEXT = SMALL.format(
    kind="linear", strategy="fedavg", rounds=1, quorum=2, private="true", seed="round_timeout = 600.0"
).replace(
    "[privacy]\nprivate = true\nround_timeout = 600.0", "round_timeout = 600.0\n[privacy]\nprivate = true"
)


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[HurtFederation]:
    """A server with a champion, and two sites of which `south` was stopped."""
    places = lay_out(tmp_path / "sites")[:2]
    for path in places:
        rows = path.with_name("rows.csv")
        w1 = rows.read_text().splitlines()
        rows.write_text("\n".join([*w1, *(line.replace(",w1,", ",w2,") for line in w1[1:])]) + "\n")
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
def schedule(place: Path, *arguments: str) -> Iterator[Command]:
    """A scheduler, ended at the latest with the block."""
    command = Command(place, *(arguments or ("server", "schedule", "small.toml", "--window", "w2")))
    try:
        yield command
        assert not [line for line in command.lines if "instances" in line or "Traceback" in line]
    finally:
        if command.process.poll() is None:
            command.process.kill()
        command.ended(10)


def test_who_is_missing_is_said_and_what_failed_is_tried_again(
    federation: HurtFederation, tmp_path: Path
) -> None:
    (tmp_path / "small.toml").write_text(TEXT)
    with schedule(tmp_path) as command:
        assert command.said("window w2: waiting for south (not connected), up to 10 min", 40), command.lines
        began = time.monotonic()
        os.kill(command.process.pid, signal.SIGTERM)
        assert command.ended(20) == 0
        assert time.monotonic() - began < 5
        assert "its check goes on at the server, as run small-w2-" in command.lines[-1]
    with schedule(tmp_path) as command:
        assert command.said("it is being checked, as run small-w2-", 20), command.lines
        os.kill(command.process.pid, signal.SIGINT)
        assert command.ended(20) == 130
    rows = federation.sites["south"].with_name("rows.csv")
    away = rows.rename(rows.with_name("away"))
    federation.start_site("south")
    with schedule(tmp_path) as command:
        assert command.ended(90) == 1, command.lines
        assert [line for line in command.lines if "missing: south (source)" in line]
        (again,) = (line for line in command.lines if line.startswith("try again with: tidegate "))
    away.rename(rows)
    with schedule(tmp_path, *shlex.split(again)[4:]) as command:
        assert command.ended(90) == 0, command.lines
        assert command.lines[0].startswith("window w2: failed before (the drift check of window 'w2' needs 2")
        assert command.lines[1] == "window w2: tried again: what a site has answered is not charged again"
        assert command.lines[-1] == "window w2: done: quiet; decision: none"
    with schedule(tmp_path) as command:
        assert command.ended(30) == 0
        assert command.lines == ["window w2: done before: quiet; decision: none"]
    with open_state(federation.settings.state_url) as state:
        (run,) = (run for run in state.runs("small") if run.job == "cycle")
    assert run.status == "succeeded"
    federation.stop_site("north")
    ledger = Site(read_site_config(federation.sites["north"])).ledger
    assert len(ledger.plans(run.name)) == 1
    ledger.close()
    assert federation.account(run.name).doubled == []
