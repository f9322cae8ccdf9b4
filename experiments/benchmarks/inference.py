"""The inference service beside `mlflow models serve` and FastAPI with torch: one model in one run.

Each server is alone on the first core while it is measured, and what asks is on another one. Ours verifies
the version's signature at its start, checks each value against the public schema and writes each answer into
its log; the two others do none of it.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from contract.errors import RoundError
from contract.experiment import Experiment, Model
from contract.model_statement import STATEMENT_FILE, ModelStatement, Service, sign_statement
from contract.model_version import ARRAYS_FILE, EXPERIMENT_FILE, GRAPH_FILE, sha256
from contract.models import initial_arrays
from experiments.benchmarks.load import Connection, at_rate, request_of, without_pause
from experiments.benchmarks.measurement import Measurement
from server.line.certificates import ServerFiles, make_server_files, models_signer
from server.line.processes import free_port
from server.registry.model_files import write_model
from serving.drawn_rows import drawn_columns
from serving.export.variants import choose, variants_of
from terminal.experiment_files import read_experiment

__all__ = ["measure"]

_ROOT = Path(__file__).resolve().parents[2]
_SECONDS, _CONNECTIONS, _TRIES = 4.0, 16, 3
_ROWS, _BATCHES = 10_000, 7
_RATE, _RATE_SECONDS = 200.0, 10.0
_START_SECONDS, _REST_SECONDS = 120.0, 3.0
_SITE = 'name = "north"\nstated_rows = 100\n[data]\nkind = "csv"\npath = "rows.csv"\n'
_CNN = (1, 28, 28)

Progress = Callable[[int, str], None]


def measure(told: Progress) -> list[Measurement]:
    """The table of `tidegate bench inference`."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        files = make_server_files(home / "authority", ["127.0.0.1"], _now())
        experiment = read_experiment(_ROOT / "experiments" / "heart-disease.toml")
        mlp = experiment.model_copy(update={"model": Model(kind="mlp", hidden=(32, 16))})
        folder = _version(home / "version", mlp, files)
        rows = _rows(mlp, _ROWS)
        found: dict[str, dict[str, float]] = {}
        for number, (server, start, body) in enumerate(_servers(home, folder, files)):
            told(5 + 25 * number, f"({server})")
            found[server] = _measured(start, body, rows)
        told(80, "(convolutions)")
        return [*_lines(found), *_cnn()]


def _measured(
    start: Callable[[], Any], body: Callable[[list[dict[str, Any]]], bytes], rows: list[dict[str, Any]]
) -> dict[str, float]:
    began = time.perf_counter()
    with start() as (process, url):
        found = {"start": time.perf_counter() - began, "small": _memory(process)}
        one, many = body(rows[:1]), body(rows)
        without_pause(url, one, connections=_CONNECTIONS, seconds=0.5)
        found["rate"] = statistics.median(
            without_pause(url, one, connections=_CONNECTIONS, seconds=_SECONDS) for _ in range(_TRIES)
        )
        found["alone"] = without_pause(url, one, connections=1, seconds=_SECONDS)
        times = at_rate(url, one, rate=_RATE, seconds=_RATE_SECONDS)
        found["p99"] = 1000 * float(np.quantile(times, 0.99))
        connection = Connection.to(url)
        batches = [connection.ask(request_of(url, many)) for _ in range(_BATCHES)]
        connection.open.close()
        found["batch"] = _ROWS / statistics.median(batches[1:])
        time.sleep(_REST_SECONDS)
        found["memory"] = _memory(process)
    return found


def _memory(process: psutil.Process) -> float:
    """Megabytes of it and its children; a page that several share counts once."""
    family = [process, *process.children(recursive=True)]
    return float(sum(one.memory_full_info().pss for one in family) / 1e6)


def _lines(found: dict[str, dict[str, float]]) -> list[Measurement]:
    ours, mlflow, fastapi = (found[name] for name in ("Tidegate", "mlflow models serve", "FastAPI and torch"))
    lines = []
    for key, words, goals in (
        ("rate", f"one row over HTTP, {_CONNECTIONS} connections", (8.0, 4.0)),
        ("alone", "one row over HTTP, one connection", (8.0, 4.0)),
        ("batch", f"{_ROWS:,} rows in a request, rows", (3.0, 3.0)),
    ):
        for name, theirs, goal in (
            ("mlflow models serve", mlflow, goals[0]),
            ("FastAPI and torch", fastapi, goals[1]),
        ):
            lines.append(
                Measurement(
                    name=f"{words}: over {name}",
                    ours=ours[key] / theirs[key],
                    theirs=1.0,
                    unit="times as many a second",
                    goal=goal,
                    at_least=True,
                    note=f"{ours[key]:,.0f} and {theirs[key]:,.0f} a second",
                )
            )
    note = "the two others: {:.1f} and {:.1f}"
    return [
        *lines,
        Measurement(
            name=f"one row at {_RATE:.0f} requests a second, 99 of 100 within",
            ours=ours["p99"],
            theirs=min(mlflow["p99"], fastapi["p99"]),
            unit="ms",
            goal=5.0,
            note=note.format(mlflow["p99"], fastapi["p99"]),
        ),
        *(
            Measurement(
                name=f"memory of the service, {when}",
                ours=ours[key],
                theirs=min(mlflow[key], fastapi[key]),
                unit="MB",
                goal=120.0,
                note=note.format(mlflow[key], fastapi[key]),
            )
            for key, when in (("small", "once it answers"), ("memory", f"after {_BATCHES} long requests"))
        ),
        Measurement(
            name="from the command to the first answer",
            ours=ours["start"],
            theirs=min(mlflow["start"], fastapi["start"]),
            unit="s",
            goal=2.0,
            note=note.format(mlflow["start"], fastapi["start"]),
        ),
    ]


def _cnn() -> list[Measurement]:
    """The chosen form of a network of convolutions beside float32."""
    pixels = [
        {"name": f"p{place}", "kind": "numeric", "low": 0, "high": 1} for place in range(_CNN[1] * _CNN[2])
    ]
    whole = {
        "name": "digits",
        "model": {"kind": "cnn", "image": _CNN},
        "task": {"label": {"column": "digit", "classes": [*"0123456789"]}, "features": pixels},
    }
    experiment = Experiment.model_validate(whole)
    arrays = initial_arrays(experiment, np.random.default_rng(0))
    variants = variants_of(experiment, arrays)
    choice, plain = choose(variants), variants[0]
    kept = choice.variant is plain
    note = choice.reason
    return [
        Measurement(
            name="network of convolutions: float32 over the chosen form, time of a row",
            ours=plain.milliseconds / choice.variant.milliseconds,
            theirs=None,
            unit="ratio",
            goal=1.0 if kept else 2.0,
            at_least=True,
            note=note,
        ),
        Measurement(
            name="network of convolutions: the chosen form over float32, bytes",
            ours=choice.variant.size / plain.size,
            theirs=None,
            unit="ratio",
            goal=1.0 if kept else 0.27,
        ),
    ]


def _servers(
    home: Path, folder: Path, files: ServerFiles
) -> Iterator[tuple[str, Callable[[], Any], Callable[[list[dict[str, Any]]], bytes]]]:
    site = home / "site"
    (site / "keys").mkdir(parents=True)
    (site / "keys" / "ca.pem").write_bytes(files.authority.read_bytes())
    (site / "site.toml").write_text(_SITE)

    def ours() -> Any:
        port = free_port()
        command = ["-m", "experiments.cli.main", "site", "serve", str(folder), "--port", str(port)]
        return _running([*command, "--site", str(site / "site.toml")], port, "/predict", "/healthz", home)

    def mlflow() -> Any:
        port = free_port()
        command = ["-m", "mlflow", "models", "serve", "-m", str(folder), "--env-manager", "local"]
        return _running([*command, "--port", str(port)], port, "/invocations", "/ping", home)

    def fastapi() -> Any:
        port = free_port()
        command = ["-m", "uvicorn", "experiments.benchmarks.inference_fastapi:app", "--port", str(port)]
        return _running(
            [*command, "--no-access-log"], port, "/predict", "/docs", home, TIDEGATE_BENCH_FOLDER=str(folder)
        )

    def as_rows(rows: list[dict[str, Any]]) -> bytes:
        return json.dumps({"rows": rows}).encode()

    def as_split(rows: list[dict[str, Any]]) -> bytes:
        split = {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}
        return json.dumps({"dataframe_split": split}).encode()

    yield "Tidegate", ours, as_rows
    yield "mlflow models serve", mlflow, as_split
    yield "FastAPI and torch", fastapi, as_rows


@contextmanager
def _running(
    command: list[str], port: int, path: str, ready: str, home: Path, **more: str
) -> Iterator[tuple[psutil.Process, str]]:
    """A server on the first core, once it answers."""
    url = f"http://127.0.0.1:{port}"
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # MLflow starts uvicorn
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PATH": programs,
        "PYTHONPATH": str(_ROOT),
        **more,
    }
    first = min(os.sched_getaffinity(0))
    with (
        (home / "server.log").open("ab") as log,
        subprocess.Popen(
            ["taskset", "-c", str(first), sys.executable, *command],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        ) as process,
    ):
        try:
            _wait(url + ready, process, home)
            yield psutil.Process(process.pid), url + path
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _wait(url: str, process: subprocess.Popen[bytes], home: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(url, timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.01)
    raise RoundError(f"a server did not start: {(home / 'server.log').read_text()[-1000:]}")


def _version(folder: Path, experiment: Experiment, files: ServerFiles) -> Path:
    """A signed version, whose parameters are drawn."""
    folder.mkdir()
    arrays = initial_arrays(experiment, np.random.default_rng(0))
    write_model(folder, arrays, experiment, about={})
    (folder / GRAPH_FILE).write_bytes(choose(variants_of(experiment, arrays)).variant.content)
    said = ModelStatement(
        model=experiment.name,
        version=1,
        files={
            name: sha256((folder / name).read_bytes()) for name in (ARRAYS_FILE, EXPERIMENT_FILE, GRAPH_FILE)
        },
        signed=_now(),
        service=Service(number=1, decided=_now()),
    )
    (folder / STATEMENT_FILE).write_text(json.dumps(sign_statement(said, *models_signer(files))))
    return folder


def _rows(experiment: Experiment, count: int) -> list[dict[str, Any]]:
    columns = drawn_columns(experiment.task, count, np.random.default_rng(1))
    lists = {name: values.tolist() for name, values in columns.items()}
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=1)
