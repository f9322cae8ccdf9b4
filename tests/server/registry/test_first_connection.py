"""A standing server finds MLflow's database in order without keeping MLflow in its memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.commands import plain_environment

_PROGRAM = """
import sys
from server.registry.first_connection import connect_apart
from server.registry.registry import Registry
from server.settings import read_settings
settings = read_settings()
try:
    connect_apart(Registry(settings.tracking_uri, settings.artifact_root))
except Exception as exc:
    print(type(exc).__name__, exc)
print("mlflow" in sys.modules)
"""


def connected(tmp_path: Path, database: Path) -> list[str]:
    environment = {
        **plain_environment(),
        "TIDEGATE_HOME": str(tmp_path),
        "MLFLOW_TRACKING_URI": f"sqlite:///{database}",
        "TIDEGATE_ARTIFACT_ROOT": str(tmp_path / "artifacts"),
    }
    command = [sys.executable, "-c", _PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=600)
    return done.stdout.splitlines()


def test_the_database_is_made_and_mlflow_is_not_kept(tmp_path: Path) -> None:
    assert connected(tmp_path, tmp_path / "mlflow.db") == ["False"]
    assert (tmp_path / "mlflow.db").stat().st_size > 0


def test_what_is_wrong_is_said_as_ever(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said, _ = connected(tmp_path, tmp_path / "file" / "mlflow.db")
    assert said.startswith("RegistryError")
    assert str(tmp_path / "file") in said
