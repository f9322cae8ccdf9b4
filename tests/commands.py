"""`tidegate …` in a process of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.forked import run_forked
from tests.mlflow_database import lay_mlflow_database

__all__ = ["plain_environment", "tidegate"]


def plain_environment() -> dict[str, str]:
    """This process's, without what would make a command use other folders than its defaults."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("TIDEGATE", "MLFLOW"))}


def tidegate(
    place: Path, *arguments: str, before: Callable[[], None] | None = None, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in the folder; `before` runs ahead of it in its process, `more` is in its environment."""
    if arguments[0] == "run":
        lay_mlflow_database(place / "mlruns" / "mlflow.db")
    environment = {**plain_environment(), "OMP_NUM_THREADS": "1", **more}
    return run_forked(place, arguments, environment, before=before)
