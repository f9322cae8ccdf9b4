"""In a real kernel: the tutorial from its first cell to its last, and what Ctrl-C does to a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel

from scripts.tutorial import NOTEBOOK, cells_digest, shape
from tests.commands import plain_environment
from tests.experiments.python.conftest import small
from tests.runtimes.conftest import make_site

ROOT = Path(__file__).resolve().parents[3]


def stored() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_the_outputs_are_of_todays_cells() -> None:
    notebook = stored()
    nbformat.validate(notebook)
    assert notebook["metadata"]["tidegate"]["cells"] == cells_digest(notebook), (
        "make them anew: .venv/bin/python scripts/tutorial.py"
    )
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] for cell in cells)
    assert not [output for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]
    assert NOTEBOOK.stat().st_size < 500_000
    changed = json.loads(json.dumps(notebook))
    changed["cells"][2]["source"] += "\n"
    assert cells_digest(changed) != cells_digest(notebook)


@pytest.mark.e2e
@pytest.mark.long
def test_the_tutorial_runs_and_says_what_it_is_stored_to_say(tmp_path: Path) -> None:
    """`make test` holds the stored outputs against the cells that they are of, and does from Python what the
    cells do (tests/experiments/python)."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "tutorial.py"), "--into", str(tmp_path / "run.ipynb")],
        env={**plain_environment(), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    found = nbformat.read(tmp_path / "run.ipynb", as_version=4)
    assert shape(found) == shape(stored())
    outputs = "".join(shape(found))
    assert "stderr" not in outputs
    assert outputs.count("<img") == 3


_SETUP = """
from pathlib import Path
from experiments import Experiment, connect
federation = connect(sites=["north/site.toml", "south/site.toml"])
run = Experiment.from_file("small.toml").run(federation, yes=True)
"""


class Kernel:
    """A kernel in a folder, and what its cells have shown."""

    def __init__(self, place: Path, environment: dict[str, str]) -> None:
        self.manager, self.client = start_new_kernel(cwd=str(place), env=environment)

    def run(self, code: str, *, interrupt_at: str = "") -> str:
        """Run a cell to its end; interrupt it once a message holds that text."""
        self.client.execute(code)
        told, deadline = "", time.monotonic() + 300
        while time.monotonic() < deadline:
            message = self.client.get_iopub_msg(timeout=300)
            kind, content = message["msg_type"], message["content"]
            text = "".join(content.get("traceback", [])) + content.get("text", "")
            text += "".join(map(str, content.get("data", {}).values()))
            told += text
            if interrupt_at and interrupt_at in text:
                self.manager.interrupt_kernel()
                interrupt_at = ""
            if kind == "status" and content["execution_state"] == "idle":
                return told
        raise TimeoutError(told)

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    for seed, name in enumerate(("north", "south")):
        make_site(tmp_path / name, name, seed)
    small(rounds=60).save(tmp_path / "small.toml")
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    found = Kernel(tmp_path, {**plain_environment(), "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"})
    yield found
    found.close()


@pytest.mark.e2e
@pytest.mark.long
def test_an_interrupt_ends_the_waiting_and_not_the_run(kernel: Kernel) -> None:
    assert kernel.run(_SETUP) == ""
    told = kernel.run("run.follow()", interrupt_at=": 2 of 60 rounds")
    assert "KeyboardInterrupt" in told
    assert "the run goes on. Come back with: run.follow()" in told
    assert "'running'" in kernel.run("run.status")
    told = kernel.run("run.follow()")
    assert "60 of 60 rounds" in told
    assert "succeeded" in told
    assert "<table" in told
    assert "data:image/png" in told
    assert "Error" not in told
