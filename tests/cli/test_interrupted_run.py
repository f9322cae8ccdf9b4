"""Ctrl-C in a run, or SIGTERM: what is printed goes on with it, whatever the run was started with."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic_core import SchemaError

from tests.cli.test_bad_input import EXPERIMENT, HEADER, ROWS, SITE
from tests.commands import plain_environment
from tests.commands import tidegate as tidegate_there

pytestmark = pytest.mark.e2e


def test_it_is_no_error_where_a_library_says_it_is_one(
    monkeypatch: pytest.MonkeyPatch, tidegate: Callable[..., str]
) -> None:
    """While pydantic makes a model, it hides an interrupt in an error of its own."""

    def load() -> None:
        raise SchemaError(
            'Error building "model" validator:\n  SchemaError: Field "role":\n  KeyboardInterrupt: '
        )

    monkeypatch.setattr("experiments.cli.main.app", load)
    assert tidegate("runs", "list", code=130) == "interrupted\n"


_TOLD = "go on where it stopped with: tidegate "
_OPTIONS = ("--site", "north/site.toml", "--site", "far south/site.toml", "--window", "w1")
_COMMAND = ["run", "my visits.toml", *_OPTIONS, "--yes"]
_SWALLOWS = """
import os, signal
from clients.gate import Gate
from experiments.cli.main import main

release, calls = Gate.release, []

def interrupted(*given, **named):
    calls.append(given)
    if len(calls) == 5:
        try:
            os.kill(os.getpid(), signal.KIND)
        except KeyboardInterrupt:
            raise RuntimeError("Error serializing to JSON: KeyboardInterrupt: ") from None
    return release(*given, **named)

Gate.release = interrupted
main()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With an experiment of two hundred rounds and two sites."""
    (tmp_path / "my visits.toml").write_text(EXPERIMENT.replace("rounds = 2", "rounds = 200"))
    for name in ("north", "far south"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "site.toml").write_text(SITE.replace('"north"', f'"{name[-5:]}"'))
        (tmp_path / name / "rows.csv").write_text("\n".join([HEADER, *ROWS]) + "\n")
    return tmp_path


@pytest.mark.parametrize("kind", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_the_command_that_is_printed_goes_on_with_the_run(folder: Path, kind: signal.Signals) -> None:
    with _started(folder, "-m", "experiments.cli.main", *_COMMAND) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if ": 2 of 200" in line:
                os.kill(process.pid, kind)
                break
        rest = process.stderr.read().splitlines()
        assert process.wait(300) == 130
    (told,) = [line for line in rest if line.startswith(_TOLD)]
    again = shlex.split(told.removeprefix(_TOLD))
    assert again[:-1] == ["run", "my visits.toml", *_OPTIONS, "--resume"]
    done = tidegate_there(folder, *again, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["run"], result["status"], result["rounds"]) == (again[-1], "succeeded", 200)


@pytest.mark.parametrize("kind", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_a_run_ends_though_a_library_swallows_the_interrupt(folder: Path, kind: signal.Signals) -> None:
    with _started(folder, "-c", _SWALLOWS.replace("KIND", kind.name), *_COMMAND) as process:
        said = process.communicate(timeout=300)[1]
        assert process.returncode == 130, said
    assert "Error serializing to JSON: KeyboardInterrupt" in said
    assert ": 4 of 200" not in said
    assert [line for line in said.splitlines() if line.startswith(_TOLD)]


def _started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env={**plain_environment(), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
