"""A served API: real TLS on loopback, a real state database; no SuperLink."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from contract.experiment import Experiment
from server.api.serving import serve_api
from server.line.certificates import ServerFiles, make_server_files
from server.line.processes import free_port
from server.server_file import ServerFile
from server.settings import ServerSettings, read_settings
from server.state.people import People
from server.state.storage import State, open_state
from server.state.submissions import Submissions
from tests.mlflow_database import lay_mlflow_database
from tests.server.federation import plan


@dataclass
class Served:
    """An API that listens."""

    settings: ServerSettings
    file: ServerFile
    files: ServerFiles
    state: State
    asked: threading.Event

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.file.api_port}"

    @property
    def people(self) -> People:
        return People(self.state.database)

    @property
    def submissions(self) -> Submissions:
        return Submissions(self.state.database)

    @property
    def log(self) -> str:
        return (self.settings.home / "logs" / "api.log").read_text()

    def client(self, token: str = "", headers: Mapping[str, str] | None = None) -> httpx.Client:
        tls = ssl.create_default_context(cafile=str(self.files.authority))
        shown = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(
            verify=tls, base_url=self.url, headers={**shown, **(headers or {})}, trust_env=False, timeout=300
        )


@contextmanager
def serving(home: Path, port: int) -> Iterator[Served]:
    """Serve from this home at this port."""
    lay_mlflow_database(home / "mlflow.db")
    settings = read_settings(
        {
            "TIDEGATE_HOME": str(home),
            "MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow.db",
            "TIDEGATE_ARTIFACT_ROOT": str(home / "artifacts"),
        }
    )
    file = ServerFile(hosts=("127.0.0.1",), listen="127.0.0.1", api_port=port, gateway_port=1)
    files = make_server_files(home / "certificates", file.names)
    asked = threading.Event()
    with open_state(settings.state_url) as state, serve_api(settings, file, files, asked=asked):
        yield Served(settings=settings, file=file, files=files, state=state, asked=asked)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path / "home", free_port()) as found:
        yield found


@pytest.fixture
def experiment() -> Experiment:
    return plan()


def submission(experiment: Experiment, **more: Any) -> dict[str, Any]:
    return {"experiment": experiment.model_dump_json(), **more}
