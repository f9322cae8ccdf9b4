"""MLflow's user interface in one process: `python -m server.registry.ui_process --port N`, or `--uds PATH`.

`mlflow server` is two: its command line, which imports MLflow to prepare the database, and uvicorn, which it
starts and then only waits for. That is twice the processor time (5 s more), and 350 MB more memory for as
long as a server stands. Here the database is opened as a run opens it (`Registry.connect`: made, migrated,
artifacts found after a move), and MLflow's own `_run_server` says what uvicorn is to serve and in which
environment. Its `_exec_cmd`, by which it would start another process, is replaced by what does the same in
this one.

What it serves is named in the environment (`server.registry.registry_ui`).
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from contract.collector import collect_rarely
from contract.errors import TidegateError
from contract.outside import shown
from server.registry.registry import Registry
from server.settings import ServerSettings, apply_quiet_environment, read_settings

__all__ = ["main"]


def main() -> None:
    """Open MLflow's database, then serve it until a signal; one sentence and code 1 where that fails."""
    collect_rarely()
    apply_quiet_environment()
    settings = read_settings()
    try:
        Registry(settings.tracking_uri, settings.artifact_root).connect()
    except TidegateError as exc:
        print(f"error: {shown(exc, limit=5000)}", file=sys.stderr)
        sys.exit(exc.exit_code)
    kind, place = sys.argv[1:]
    serve(settings, port=int(place) if kind == "--port" else None, socket=place)


def serve(settings: ServerSettings, *, port: int | None, socket: str) -> NoReturn:
    """Serve what these settings name until a signal.

    Args:
        settings: name the database and the artifacts.
        port: of 127.0.0.1.
        socket: the path of a Unix domain socket, in the place of the port where that is None.
    """
    import mlflow.server

    library: Any = mlflow.server
    library._exec_cmd = _become
    library._run_server(
        file_store_path=settings.tracking_uri,
        registry_store_uri=settings.tracking_uri,
        default_artifact_root="mlflow-artifacts:/",
        serve_artifacts=True,
        artifacts_only=False,
        artifacts_destination=settings.artifact_root.as_uri(),
        host="127.0.0.1",
        port=port or 0,
        workers=1,
        uvicorn_opts=shlex.join(["--uds", socket] if port is None else []),
    )
    raise SystemExit("MLflow served nothing")


def _become(command: Sequence[str], *, extra_env: Mapping[str, str], **_: object) -> NoReturn:
    """Do in this process what `python -m uvicorn …` would do in another."""
    from uvicorn.main import main as uvicorn

    os.environ.update(extra_env)
    uvicorn(command[command.index("uvicorn") + 1 :])
    sys.exit(0)


if __name__ == "__main__":
    main()
