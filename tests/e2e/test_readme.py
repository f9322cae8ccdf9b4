"""Every command of the README is run, in its order, in a copy of the project."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STANDING = ("Ctrl-C stops", "is connected to")
"""What a command that stays in the background prints once it stands."""


def commands() -> list[str]:
    """The lines of the README's bash blocks."""
    blocks = re.findall(r"^```bash\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    return [line for block in blocks for line in block.strip().splitlines()]


@pytest.fixture
def background() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in reversed(started):
        os.killpg(process.pid, signal.SIGINT)
    for process in started:
        process.wait(timeout=300)


@pytest.mark.e2e
def test_every_command_of_the_readme_works(tmp_path: Path, background: list[subprocess.Popen[bytes]]) -> None:
    shutil.copytree(
        ROOT / "experiments", tmp_path / "experiments", ignore=shutil.ignore_patterns("__pycache__")
    )
    assert len(commands()) > 10
    for number, command in enumerate(commands()):
        if command.endswith("&"):
            background.append(start(command.removesuffix("&"), tmp_path, tmp_path / f"{number}.log"))
        else:
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=tmp_path,
                env=environment(tmp_path),
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def start(command: str, folder: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a command that stays, and wait until it says that it stands."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=folder,
            env=environment(folder),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    end = time.monotonic() + 600
    while not any(word in log.read_text(errors="replace") for word in STANDING):
        assert process.poll() is None, log.read_text(errors="replace")
        assert time.monotonic() < end, log.read_text(errors="replace")
        time.sleep(0.1)
    return process


def environment(folder: Path) -> dict[str, str]:
    """Ours, with profiles of its own: one for a server that has ended would mislead later tests."""
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("TIDEGATE_HOME", "MLFLOW_"))
    }
    return {
        **kept,
        "XDG_CONFIG_HOME": str(folder / "config"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}",
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }
