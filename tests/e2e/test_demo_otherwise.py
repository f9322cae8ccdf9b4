"""The demo without the change, and the demo that somebody interrupts half way."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from server.state.storage import open_state

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(1800)]


def start_demo(place: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "experiments.cli.main", "demo", "--folder", str(place / "demo")]
    with (place / "output.json").open("wb") as output, (place / "story.txt").open("wb") as story:
        return subprocess.Popen([*command, *options], stdout=output, stderr=story)


def test_the_same_weeks_without_the_change_lead_to_no_retraining(tmp_path: Path) -> None:
    process = start_demo(tmp_path, "--no-drift", "--weeks", "6", "--json")
    assert process.wait(timeout=1500) == 0, (tmp_path / "story.txt").read_text()
    result = json.loads((tmp_path / "output.json").read_text())
    assert result["ok"]
    checks = {step["name"]: step for step in result["steps"]}
    assert checks["nothing is retrained"]["ok"]
    assert checks["weeks"]["detail"] == "6 weeks checked"
    with open_state(f"sqlite:///{tmp_path}/demo/server/state.db") as state:
        verdicts = state.verdicts("rand-health")
        decisions = [item.kind for item in state.decisions("rand-health")]
        versions = [run.model_version for run in state.runs("rand-health") if run.model_version is not None]
    assert len(verdicts) == 6
    assert "retrain" not in decisions
    assert versions == [1]
    assert set(result["weeks"]) == {"champion", "frozen"}
    assert {"tidegate demo", "tidegate --help"} <= {goal["name"] for goal in result["goals"]}


def test_ctrl_c_in_the_middle_of_training_ends_every_process(tmp_path: Path) -> None:
    process = start_demo(tmp_path)
    wait_for_rounds(tmp_path, process, 2)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 6  # the SuperLink, its ServerApp's, four agents
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=300) == 130
    _, alive = psutil.wait_procs(children, timeout=120)
    assert alive == []
    said = (tmp_path / "story.txt").read_text()
    assert said.strip().splitlines()[-1] == "interrupted"
    assert "Traceback" not in said


def wait_for_rounds(place: Path, process: subprocess.Popen[bytes], count: int) -> None:
    database, end = place / "demo" / "server" / "state.db", time.monotonic() + 600
    while True:
        assert process.poll() is None, (place / "story.txt").read_text()
        assert time.monotonic() < end, (place / "story.txt").read_text()
        if database.exists():
            with open_state(f"sqlite:///{database}") as state:
                runs = state.runs("rand-health")
                if runs and len(state.rounds(runs[0].name)) >= count:
                    return
        time.sleep(0.3)
