"""A thousand unmistakable values at the sites, and none of them anywhere else."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from flwr.app import Message

from clients.app import app
from contract.experiment import Experiment
from contract.experiment_file import parse_experiment
from experiments.runtimes.inline import InlineGrid
from server.app import run_job
from server.jobs.job import Job
from server.line.flower import assume_identity
from server.settings import ServerSettings, read_settings
from tests.cards import card_for
from tests.mlflow_database import lay_mlflow_database

pytestmark = [pytest.mark.e2e]

EXPERIMENT = """\
name = "canary"
[task]
time = "window"
label = { column = "ill" }
[[task.features]]
name = "level"
kind = "numeric"
low = 0
high = 100
[[task.features]]
name = "ward"
kind = "categorical"
categories = ["a", "b", "rest"]
other = "rest"
[strategy]
rounds = 3
learning_rate = 0.5
evaluate_every = 1
[privacy]
epsilon = 3.0
delta = 1e-4
evaluation_epsilon = 3.0
[drift]
epsilon = 2.0
false_alarm_rate = 0.01
[retraining]
persistence = 1
of = 1
cooldown = 0
windows = 1
"""

SITES = ("north", "south", "west")
ROWS = 400


class Canaries:
    """What was planted, and a search for it in any bytes."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.numbers: list[float] = []

    def text(self) -> str:
        self.texts.append(f"canary{len(self.texts):04d}Zq{os.urandom(4).hex()}")
        return self.texts[-1]

    def number(self) -> float:
        """An extreme that no other computation hits on, exact as a 64-bit and a 32-bit number."""
        self.numbers.append(float(np.float32(7.3e9 + len(self.numbers) * 131072.0)))
        return self.numbers[-1]

    def found(self, content: bytes) -> list[str]:
        """The canaries in these bytes, but for what keys and noise hold by chance.

        That is a number in four bytes, and its digits in the middle of another number's. One search for what
        all of a kind have in common: a search for each of a thousand takes minutes of a database.
        """
        texts = {text.decode() for text in re.findall(rb"canary\d{4}Zq[0-9a-f]{8}", content)}
        digits = {int(number) for number in re.findall(rb"(?<![\d.])\d{10}(?!\d)", content)}
        packed = {struct.pack("<d", number): number for number in self.numbers}
        last = {form[-2:] for form in packed}  # sign and exponent: one for all
        ends = [found.end() for two in last for found in re.finditer(re.escape(two), content)]
        binary = {packed.get(content[max(end - 8, 0) : end]) for end in ends}
        numbers = [str(number) for number in self.numbers if number in binary or int(number) in digits]
        return [text for text in self.texts if text in texts] + numbers

    def found_in_arrays(self, arrays: Iterable[np.ndarray[Any, Any]]) -> list[str]:
        """The canaries among the arrays' values, whatever their type."""
        values = {float(value) for array in arrays for value in np.asarray(array, np.float64).flat}
        return [str(number) for number in self.numbers if number in values]

    def found_under(self, folder: Path) -> dict[str, list[str]]:
        hits: dict[str, list[str]] = {}
        for path in folder.rglob("*"):
            if path.is_file():
                hits[str(path)] = self.found(path.read_bytes())
            if path.suffix == ".npz":
                with np.load(path) as arrays:
                    hits[str(path)] += self.found_in_arrays(arrays.values())
        return {path: found for path, found in hits.items() if found}


class RecordingGrid(InlineGrid):
    """The inline grid, keeping every reply's bytes as they would travel, and its arrays."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.sent: list[bytes] = []
        self.arrays: list[np.ndarray[Any, Any]] = []

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Answer the messages, and keep each reply deflated, object by object, as Flower sends it."""
        from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

        ids = super().push_messages(messages)
        for message_id in ids:
            objects = get_all_nested_objects(self._replies[message_id])
            self.sent.append(b"".join(item.deflate() for item in objects.values()))
            reply = self._replies[message_id].content["reply"]["reply"]
            self.arrays += safetensors.numpy.load(reply).values()
        return ids


@pytest.fixture
def canaries() -> Canaries:
    return Canaries()


@pytest.fixture
def sites(tmp_path: Path, canaries: Canaries) -> list[Path]:
    """Three sites; every third value of a row is a canary: a rare category, an extreme, a text beside."""
    return [_site(tmp_path / "sites" / name, name, number, canaries) for number, name in enumerate(SITES)]


def _site(folder: Path, name: str, seed: int, canaries: Canaries) -> Path:
    rng = np.random.default_rng(seed)
    lines = ["level,ward,ill,window,side,note"]
    for row in range(ROWS):
        window = "w1" if row < ROWS // 2 else "w2"
        level = canaries.number() if row % 3 == 0 else float(rng.uniform(0, 30 if window == "w1" else 100))
        ward = canaries.text() if row % 3 == 1 else "ab"[row % 2]
        note = canaries.text() if row % 3 == 2 else ""
        side = "holdout" if row % 4 == 0 else "train"
        lines.append(f"{level},{ward},{int(rng.random() < 0.4)},{window},{side},{note}")
    folder.mkdir(parents=True)
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    path = folder / "site.toml"
    path.write_text(
        f'name = "{name}"\nstated_rows = 300\n[data]\nkind = "csv"\npath = "rows.csv"\n'
        f"{card_for(parse_experiment(EXPERIMENT, where='canary'), holdout='side')}"
        "[policy]\nepsilon_cap = 50.0\n"
    )
    return path


@pytest.fixture
def settings(tmp_path: Path) -> ServerSettings:
    home = tmp_path / "server"
    lay_mlflow_database(home / "mlflow.db")
    return read_settings(
        {
            "TIDEGATE_HOME": str(home),
            "MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow.db",
            "TIDEGATE_ARTIFACT_ROOT": str(home / "artifacts"),
        }
    )


def jobs(experiment: Experiment) -> list[Job]:
    """Train and evaluate; then a drift check that leads to a retraining and a comparison."""
    return [
        Job(kind="train", run="run-1", experiment=experiment, windows=("w1",)),
        Job(kind="cycle", run="run-2", experiment=experiment, window="w2"),
    ]


def test_no_canary_is_in_any_message_or_in_anything_that_the_server_keeps(
    canaries: Canaries, sites: list[Path], settings: ServerSettings, tmp_path: Path
) -> None:
    assert len(canaries.texts) + len(canaries.numbers) >= 1000
    experiment = parse_experiment(EXPERIMENT, where="canary")
    sent: list[bytes] = []
    arrays: list[np.ndarray[Any, Any]] = []
    for job in jobs(experiment):
        grid = RecordingGrid(app, sites, job.to_run_config())
        assume_identity(grid.run_id)
        run_job(job, grid, settings)
        sent += grid.sent
        arrays += grid.arrays
    assert len(sent) == 3 * (3 + 1) + 3 * (1 + 3 + 1 + 1)  # train, evaluate; drift, train, evaluate, compare
    assert all(len(message) > 100 for message in sent)
    assert [canaries.found(message) for message in sent] == [[] for _ in sent]
    assert len(arrays) >= 3 * 3 * 2  # of each round in which a site trained: weight and bias
    assert canaries.found_in_arrays(arrays) == []
    assert canaries.found_under(settings.home) == {}
    at_the_sites = canaries.found_under(tmp_path / "sites")
    assert any(path.endswith("rows.csv") for path in at_the_sites)  # the search does find them


@pytest.mark.long
def test_no_canary_is_in_a_log_of_the_server_or_in_flowers_own_database(
    canaries: Canaries, sites: list[Path], settings: ServerSettings, deploy: Callable[[Job], None]
) -> None:
    deploy(jobs(parse_experiment(EXPERIMENT, where="canary"))[0])
    files = [path for path in settings.home.rglob("*") if path.is_file()]
    assert any(path.name == "superlink.log" for path in files)
    assert any(path.name == "superlink.db" for path in files)
    server_side = [path for path in files if not path.name.startswith("site-")]
    assert {str(path): hits for path in server_side if (hits := canaries.found(path.read_bytes()))} == {}


@pytest.fixture
def deploy(sites: list[Path], settings: ServerSettings) -> Callable[[Job], None]:
    """Run a job with real processes, the SuperLink keeping everything in a file."""
    from experiments.runtimes.deployment import add_site
    from server.federation import Federation, project_root
    from server.line.processes import Processes

    def run(job: Job) -> None:
        with Processes(logs=settings.home / "logs") as processes:
            federation = Federation(home=settings.home, settings=settings, processes=processes, lasting=True)
            control = federation.start_server()
            for name, path in zip(SITES, sites, strict=True):
                add_site(federation, name, path, control)
            federation.wait_for_sites(control, len(sites))
            ended = control.wait(control.submit(project_root(), job.to_run_config()))
            control.close()
            assert ended.completed, ended.details

    return run


def test_the_search_finds_every_one_of_many() -> None:
    canaries = Canaries()
    planted = [(canaries.text(), canaries.number()) for _ in range(500)]
    texts, numbers = [text for text, _ in planted], [str(number) for _, number in planted]
    for forms in (lambda number: repr(number).encode(), lambda number: struct.pack("<d", number)):
        content = b"".join(text.encode() + b"," + forms(number) + b"," for text, number in planted)
        assert canaries.found(content) == texts + numbers
        assert canaries.found(content[1:-4]) == texts[1:] + numbers[:-1]


def test_the_search_finds_numbers_in_every_form() -> None:
    canaries = Canaries()
    number = canaries.number()
    for form in (struct.pack("<d", number), repr(number).encode()):
        assert canaries.found(b"x" + form + b"y") == [str(number)]
    assert canaries.found(b"[1.5, %d, 2]" % int(number)) == [str(number)]
    assert canaries.found(b"0.%d81e-05" % int(number)) == []
    for kind in (np.float32, np.float64, np.int64):
        assert canaries.found_in_arrays([np.array([0.0, number], kind)]) == [str(number)]
    assert (
        canaries.found(subprocess.run([sys.executable, "-V"], capture_output=True, check=True).stdout) == []
    )
