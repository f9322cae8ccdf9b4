"""How MLflow's user interface is started on this machine."""

from __future__ import annotations

import sys

from server.settings import ServerSettings, quiet_environment

__all__ = ["serve_command", "serve_environment"]


def serve_command(settings: ServerSettings, port: int) -> list[str]:
    """The command that serves the tracking database on 127.0.0.1:`port`.

    One worker: two processes and .5 GB, where MLflow's default is fifteen and 3.3 GB. The database's address
    is in `serve_environment`: it may hold a password, and a process list is for everybody.
    """
    return [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--artifacts-destination", settings.artifact_root.as_uri()),
    ]


def serve_environment(settings: ServerSettings) -> dict[str, str]:
    """What that command needs beside the environment: no job runners (28 s of start-up), no telemetry."""
    return {
        "MLFLOW_BACKEND_STORE_URI": settings.tracking_uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        **quiet_environment(),
    }
