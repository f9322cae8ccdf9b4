"""MLflow's interface is one process, which makes the database; the server that waits keeps no MLflow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from server.line.processes import free_port
from tests.commands import plain_environment

_PROGRAM = """
import sys, psutil, urllib.request
from server.federation import Federation
from server.line.processes import Processes
from server.registry.registry_ui import ui_socket
from server.settings import read_settings
settings, port = read_settings(), int(sys.argv[1]) or None
with Processes(logs=settings.home / "logs") as processes:
    federation = Federation(home=settings.home, settings=settings, processes=processes)
    try:
        address = federation.start_ui(port, wait=True)
    except Exception as exc:
        print(type(exc).__name__, exc)
    else:
        socket = ui_socket(settings.home)
        print(urllib.request.urlopen(f"{address}/version").read() if port else socket.is_socket())
        print(len(psutil.Process().children(recursive=True)))
        print("mlflow" in sys.modules)
"""


def waited(tmp_path: Path, database: Path, port: int = 0) -> list[str]:
    environment = {
        **plain_environment(),
        "TIDEGATE_HOME": str(tmp_path),
        "MLFLOW_TRACKING_URI": f"sqlite:///{database}",
        "TIDEGATE_ARTIFACT_ROOT": str(tmp_path / "artifacts"),
    }
    command = [sys.executable, "-c", _PROGRAM, str(port)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=600)
    return done.stdout.splitlines()


@pytest.mark.parametrize("at_a_port", [True, False])
def test_the_database_is_made_and_mlflow_is_in_one_process_alone(at_a_port: bool, tmp_path: Path) -> None:
    version, processes, kept = waited(tmp_path, tmp_path / "mlflow.db", free_port() if at_a_port else 0)
    assert version == ("b'3.17.2'" if at_a_port else "True")
    assert (processes, kept) == ("1", "False")
    assert (tmp_path / "mlflow.db").stat().st_size > 0


def test_what_is_wrong_is_said_as_ever(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (said,) = waited(tmp_path, tmp_path / "file" / "mlflow.db")
    assert said.startswith("RegistryError")
    assert str(tmp_path / "file") in said
    assert "Traceback" not in (tmp_path / "logs" / "mlflow.log").read_text()
