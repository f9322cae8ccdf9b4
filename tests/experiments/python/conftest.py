"""Sites on this machine, and a federation's server, for the same calls."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import Experiment, Federation, connect
from tests.cli.conftest import tidegate
from tests.mlflow_database import lay_mlflow_database
from tests.runtimes.conftest import SMALL, make_site
from tests.scientist.conftest import standing

__all__ = ["standing", "tidegate"]

ROWS = {"age": [90, 10, None], "ward": ["a", "b", "a"]}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Federation:
    """Two sites in a folder that nobody has run anything in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("TIDEGATE_HOME", "MLFLOW_TRACKING_URI", "TIDEGATE_ARTIFACT_ROOT", "TIDEGATE_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    lay_mlflow_database(tmp_path / "mlruns" / "mlflow.db")
    files = [make_site(tmp_path / name, name, seed) for seed, name in enumerate(("north", "south"))]
    return connect(sites=files)


def small(*, rounds: int = 3, private: bool = True, quorum: int = 2) -> Experiment:
    text = SMALL.format(
        kind="linear",
        strategy="fedavg",
        rounds=rounds,
        quorum=quorum,
        private=str(private).lower(),
        seed="evaluation_epsilon = 4.0" if private else "seed = 7",
    )
    return Experiment.from_text(text)
