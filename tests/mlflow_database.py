"""An MLflow database that is made once: MLflow takes three seconds of a processor for each.

A copy of it lies where a test begins that is not about a first start; `make demo` and the tests of the README
start without.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

__all__ = ["lay_mlflow_database"]

_MAKE = "from contract.collector import collect_rarely; collect_rarely(); "
_MAKE += "import sys, pathlib; from server.registry.registry import Registry; "
_MAKE += "Registry(f'sqlite:///{sys.argv[1]}', pathlib.Path(sys.argv[1] + '-artifacts')).connect()"
_ROOT = Path(__file__).resolve().parents[1]

_shared: list[Path] = []


@pytest.fixture(scope="session", autouse=True)
def _mlflow_databases(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Where the workers of a test run find the one that the first of them made."""
    base = tmp_path_factory.getbasetemp()
    _shared.append(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base)


def lay_mlflow_database(path: Path) -> None:
    """Lay a fresh MLflow database there, unless there is one."""
    if path.exists():
        return
    made = _shared[-1] / "mlflow-database.db"
    with made.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # all workers begin with tests that need one
        if not made.exists():
            _make(made)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(made, path)


def _make(made: Path) -> None:
    with tempfile.TemporaryDirectory(dir=made.parent) as folder:
        fresh = Path(folder) / "mlflow.db"
        subprocess.run([sys.executable, "-c", _MAKE, str(fresh)], cwd=_ROOT, check=True)
        fresh.replace(made)
