"""One real demo for all end-to-end tests: its processes stand while they look at it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.connections import watched_environment
from tests.forked import run_forked

PICTURES = Path(os.environ["TIDEGATE_PICTURES"]) if "TIDEGATE_PICTURES" in os.environ else None
"""Where `scripts/pictures` wants the README's pictures."""


@dataclass(frozen=True)
class StandingDemo:
    """A demo that has told its story and is still up."""

    folder: Path
    result: dict[str, Any]
    process: subprocess.Popen[bytes]
    connections: Path

    def environment(self) -> dict[str, str]:
        """What a reviewer or operator sets to look at it."""
        return {
            **os.environ,
            "TIDEGATE_HOME": str(self.folder / "server"),
            "TIDEGATE_STATE_URL": f"sqlite:///{self.folder}/server/state.db",
            "MLFLOW_TRACKING_URI": self.result["tracking_uri"],
        }

    def tidegate(self, *arguments: str) -> str:
        """Run a command and give what it printed."""
        done = run_forked(Path.cwd(), arguments, self.environment())
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandingDemo]:
    place = tmp_path_factory.mktemp("demo")
    folder = place / "demo"
    environment, connections = watched_environment(place)
    with (place / "output.txt").open("wb") as output:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "experiments.cli.main",
                "demo",
                "--folder",
                str(folder),
                "--weeks",
                "8" if PICTURES is None else "10",
                "--keep",
            ],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    end = time.monotonic() + 600
    while not (folder / "result.json").exists():
        assert process.poll() is None, (place / "output.txt").read_text()
        assert time.monotonic() < end, (place / "output.txt").read_text()
        time.sleep(0.5)
    time.sleep(0.5)
    result = json.loads((folder / "result.json").read_text())
    yield StandingDemo(folder=folder, result=result, process=process, connections=connections)
    if process.poll() is None:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Press Ctrl-C; give what is left of its children after it has ended."""
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=300)
    _, alive = psutil.wait_procs(children, timeout=120)
    return alive
