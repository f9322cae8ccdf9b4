"""Four schedulers on one database, killed at random: each window is checked once."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from server.state.schedules import Schedules
from server.state.storage import open_state
from tests.failure.federation import LONG
from tests.postgres import postgres

__all__ = ["postgres"]

pytestmark = [pytest.mark.e2e]

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2026, 3, 1, tzinfo=UTC)
WINDOWS, KILLS = (250, 30) if LONG else (40, 4)
"""Of each of four experiments; and the kills among them."""

SCHEDULER = """
import sys, time
from datetime import UTC, datetime, timedelta
from server.state.owner import this_process
from server.state.schedules import Schedules
from server.state.storage import open_state

url, log, experiments = sys.argv[1], sys.argv[2], sys.argv[3].split(",")
with open_state(url) as state, open(log, "a", buffering=1) as written:
    schedules = Schedules(state.database)
    while True:
        idle = True
        for experiment in experiments:
            now = datetime.now(UTC)
            taken = schedules.take(experiment, owner=this_process(), now=now, lease=timedelta(seconds=30))
            if taken is None:
                continue
            idle = False
            written.write(f"began {experiment} {taken.window} {time.time()}\\n")
            if schedules.settle(taken, "done", "quiet"):
                written.write(f"done {experiment} {taken.window} {time.time()}\\n")
        if idle:
            left = [one for name in experiments for one in schedules.checks(name) if one.state != "done"]
            if not left:
                break
            time.sleep(0.01)
"""


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.long)])
def test_four_schedulers_killed_at_random_share_windows(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    if kind == "postgresql":
        url = request.getfixturevalue("postgres")
    experiments = [f"{kind}-{number}" for number in range(4)]
    with open_state(url) as state:
        schedules = Schedules(state.database)
        for name in experiments:
            schedules.enter(name, [(f"w{number:03}", NOW) for number in range(WINDOWS)])
        dice, logs, kills = random.Random(7), [], 0
        running: list[subprocess.Popen[bytes]] = []

        def start() -> None:
            logs.append(tmp_path / f"{len(logs)}.log")
            command = [sys.executable, "-c", SCHEDULER, url, str(logs[-1]), ",".join(experiments)]
            running.append(subprocess.Popen(command, cwd=ROOT))

        try:
            for _ in range(4):
                start()
            end = time.monotonic() + 800
            while any(one.state != "done" for name in experiments for one in schedules.checks(name)):
                assert time.monotonic() < end, "the windows are not done"
                time.sleep(dice.uniform(0.2, 0.6))
                busy = [process for process in running if process.poll() is None]
                if kills < KILLS and len(busy) == 4:
                    dice.choice(busy).send_signal(signal.SIGKILL)
                    kills += 1
                    start()
            assert sum(process.wait(300) == 0 for process in running) == len(running) - kills
        finally:
            for process in running:
                process.kill()
                process.wait()
        left = [one for name in experiments for one in schedules.checks(name) if one.state != "done"]
    lines = [line.split()[:3] for log in logs if log.exists() for line in log.read_text().splitlines()]
    settled = Counter((experiment, window) for word, experiment, window in lines if word == "done")
    doubled = [window for window, times in settled.items() if times > 1]
    with capsys.disabled():
        print(f"\n{kind}: {4 * WINDOWS:,} windows, {kills} kills, {len(left)} lost, {len(doubled)} doubled")
    assert (left, doubled) == ([], [])
    assert kills > 0
    assert len(settled) >= 4 * WINDOWS - kills  # a killed one may have settled and not said so
