"""How MLflow's user interface is started on this machine.

It asks nobody who they are. So where people come from other machines it listens at a Unix domain socket in a
folder that only the server's user may enter, and the API, which knows who asks, is the way to it. Without
that it listens at a port of this machine, for whoever is on it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from contract.errors import StorageError
from server.settings import ServerSettings, quiet_environment

__all__ = ["make_socket_folder", "serve_command", "serve_environment", "ui_socket"]

_SOCKET = "mlflow/mlflow.sock"
"""In the server's folder. MLflow is given this relative path: a socket's path has 107 bytes at most."""


def serve_command(port: int | None) -> list[str]:
    """The command that serves the tracking database on 127.0.0.1:`port`, in one process.

    What it serves is in `serve_environment`: the database's address may hold a password, and a process list
    is for everybody.

    Args:
        port: None for the socket; the command is then to be started in the server's folder.
    """
    place = ("--uds", _SOCKET) if port is None else ("--port", str(port))
    return [sys.executable, "-m", "server.registry.ui_process", *place]


def serve_environment(settings: ServerSettings) -> dict[str, str]:
    """What that command needs beside the environment: no job runners (28 s of start-up), no telemetry.

    Args:
        settings: name the database and the artifacts.
    """
    return {
        "MLFLOW_TRACKING_URI": settings.tracking_uri,
        "TIDEGATE_ARTIFACT_ROOT": str(settings.artifact_root),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        **quiet_environment(),
    }


def ui_socket(home: Path) -> Path:
    """Where MLflow listens in a server's folder, if at a socket."""
    return home / _SOCKET


def make_socket_folder(home: Path) -> None:
    """Make the folder that keeps others from the socket, which anybody may write to once they reach it.

    A socket that a killed server left there is removed.

    Raises:
        StorageError: it cannot be made, or is another user's.
    """
    folder = ui_socket(home).parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        ui_socket(home).unlink(missing_ok=True)
    except OSError as exc:
        raise StorageError(
            f"the folder of MLflow's socket cannot be made this user's alone: {exc.strerror}",
            where=str(folder),
            remedy="Remove what is there, and start the server again",
        ) from exc
