"""A small federation for tests that start real processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from contract.experiment import Experiment
from contract.experiment_file import parse_experiment
from server.settings import ServerSettings, read_settings
from tests.cards import card_for
from tests.mlflow_database import lay_mlflow_database

SMALL = """\
name = "small"
[task]
time = "window"
label = {{ column = "ill" }}
[[task.features]]
name = "age"
kind = "numeric"
low = 0
high = 120
[[task.features]]
name = "ward"
kind = "categorical"
categories = ["a", "b"]
[model]
kind = "{kind}"
hidden = [4]
[strategy]
name = "{strategy}"
rounds = {rounds}
learning_rate = 0.5
server_momentum = 0.5
quorum = {quorum}
grace = 2.0
[privacy]
private = {private}
{seed}
epsilon = 2.0
"""


@pytest.fixture
def small() -> Callable[..., Experiment]:
    """Make a small experiment."""
    return _experiment


def _experiment(
    *,
    kind: str = "linear",
    strategy: str = "fedavg",
    rounds: int = 3,
    quorum: int = 3,
    private: bool = False,
) -> Experiment:
    text = SMALL.format(
        kind=kind,
        strategy=strategy,
        rounds=rounds,
        quorum=quorum,
        private=str(private).lower(),
        seed="" if private else "seed = 7",
    )
    return parse_experiment(text, where="small")


@pytest.fixture
def sites(tmp_path: Path) -> Callable[[str], list[Path]]:
    """Make three sites with the same rows each time, in a folder of that name."""

    def make(folder: str) -> list[Path]:
        return [
            make_site(tmp_path / folder / name, name, seed)
            for seed, name in enumerate(("north", "south", "west"))
        ]

    return make


@pytest.fixture
def settings(tmp_path: Path) -> Callable[[str], ServerSettings]:
    """Server settings with a home of that name."""

    def make(folder: str) -> ServerSettings:
        home = tmp_path / folder
        lay_mlflow_database(home / "mlflow.db")
        values = {
            "TIDEGATE_HOME": str(home),
            "MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow.db",
            "TIDEGATE_ARTIFACT_ROOT": str(home / "artifacts"),
        }
        return read_settings(values)

    return make


def make_site(folder: Path, name: str, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    age = rng.integers(0, 120, 120)
    ill = (rng.random(120) < age / 120).astype(int)
    lines = ["age,ward,ill,window,side"]
    lines += [
        f"{age[row]},{'ab'[row % 2]},{ill[row]},w1,{'holdout' if row % 4 == 0 else 'train'}"
        for row in range(120)
    ]
    folder.mkdir(parents=True)
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    path = folder / "site.toml"
    path.write_text(
        f'name = "{name}"\nstated_rows = 90\n[data]\nkind = "csv"\npath = "rows.csv"\n'
        f"{card_for(_experiment(), holdout='side')}"
        "[policy]\nrequire_private = false\n"
    )
    return path
