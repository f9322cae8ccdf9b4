"""Versions of a model as a federation's server signs them, and the service as a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from contract.experiment import Experiment
from contract.model_statement import STATEMENT_FILE, ModelStatement, Service, sign_statement
from contract.model_version import ARRAYS_FILE, EXPERIMENT_FILE, GRAPH_FILE, sha256
from contract.models import model_shapes
from server.line.certificates import ServerFiles, make_server_files, models_signer
from server.registry.model_files import write_model
from serving.export.graph import joined, model_graph
from tests.commands import plain_environment
from tests.serving.test_prediction import experiment

NOW = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
ROW = {"age": 61, "cost": 3.5, "ward": "1", "sex": "f"}
SITE = """
name = "north"
stated_rows = 100
[data]
kind = "csv"
path = "rows.csv"
[serve]
{more}
"""


@dataclass(frozen=True)
class Federation:
    """Signs versions."""

    files: ServerFiles

    @property
    def authority(self) -> bytes:
        return self.files.authority.read_bytes()

    def version(
        self,
        folder: Path,
        *,
        version: int = 1,
        decision: int | None = 1,
        seed: int = 0,
        made: Experiment | None = None,
        graph: bool = True,
    ) -> Path:
        """A folder as `models fetch` writes it."""
        made = made or experiment()
        rng = np.random.default_rng(seed)
        arrays = {n: rng.normal(0, 0.7, s).astype(np.float32) for n, s in model_shapes(made).items()}
        folder.mkdir(parents=True, exist_ok=True)
        write_model(folder, arrays, made, about={})
        names = [ARRAYS_FILE, EXPERIMENT_FILE]
        if graph:
            (folder / GRAPH_FILE).write_bytes(joined(model_graph(made, arrays), made))
            names.append(GRAPH_FILE)
        service = None if decision is None else Service(number=decision, decided=NOW)
        said = ModelStatement(
            model=made.name,
            version=version,
            files={name: sha256((folder / name).read_bytes()) for name in names},
            signed=NOW,
            service=service,
        )
        envelope = json.dumps(sign_statement(said, *models_signer(self.files)))
        (folder / STATEMENT_FILE).write_text(envelope)
        return folder


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    return Federation(make_server_files(tmp_path_factory.mktemp("authority"), ["tidegate.example"], NOW))


@dataclass(frozen=True)
class Running:
    """The service, and how to ask it."""

    process: subprocess.Popen[str]
    url: str
    told: dict[str, Any]
    client: httpx.Client
    home: Path

    def predict(self, *rows: dict[str, Any], **more: Any) -> httpx.Response:
        return self.client.post("/predict", json={"rows": list(rows or (ROW,)), **more})

    @property
    def log(self) -> str:
        return (self.home / "tidegate" / "logs" / "inference.log").read_text()


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path, federation: Federation) -> Iterator[Start]:
    """Starts the service; all that were started end with the test."""
    running: list[Running] = []

    def begin(folder: Path, *options: str, more: str = "", verify: Any = True, **headers: str) -> Running:
        home = tmp_path / "site"
        (home / "keys").mkdir(parents=True, exist_ok=True)
        (home / "keys" / "ca.pem").write_bytes(federation.authority)
        (home / "site.toml").write_text(SITE.format(more=more))
        command = [sys.executable, "-m", "experiments.cli.main", "site", "serve", str(folder), "--port", "0"]
        process = subprocess.Popen(
            [*command, "--site", str(home / "site.toml"), "--json", *options],
            env=plain_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("}"):
                break
        if not lines:
            raise ChildProcessError(f"{process.wait(60)} {process.communicate()[1]}")
        told = json.loads("".join(lines))
        client = httpx.Client(base_url=told["url"], timeout=60, headers=headers, verify=verify)
        found = Running(process=process, url=told["url"], told=told, client=client, home=home)
        running.append(found)
        return found

    yield begin
    for one in running:
        one.client.close()
        if one.process.poll() is None:
            one.process.send_signal(signal.SIGTERM)
            one.process.wait(60)
        one.process.communicate()


@contextmanager
def asked_without_end(running: Running, threads: int = 4) -> Iterator[list[tuple[int, int]]]:
    """Meanwhile rows are predicted, each over a connection that stays; gives status and version of each."""
    found: list[tuple[int, int]] = []
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=running.url, timeout=60) as client:
            while not stop.is_set():
                answer = client.post("/predict", json={"rows": [ROW]})
                found.append((answer.status_code, answer.json().get("version", 0)))

    asking = [threading.Thread(target=ask) for _ in range(threads)]
    for one in asking:
        one.start()
    try:
        yield found
    finally:
        stop.set()
        for one in asking:
            one.join(60)
