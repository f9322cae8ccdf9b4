import json
import logging
import math
import os
import socket
import sqlite3
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt

from contract.errors import AddressError, RegistryError
from contract.experiment import Experiment
from contract.releases import Metrics
from server.registry.passport import Passport, SitePassport, render, size_band
from server.registry.registry import CHAMPION, Registry
from server.registry.registry_ui import serve_command, serve_environment
from server.settings import ServerSettings

ARRAYS = {
    "layers.0.weight": np.arange(3, dtype=np.float32)[None],
    "layers.0.bias": np.ones(1, dtype=np.float32),
}


@pytest.fixture(scope="module")
def mlruns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One MLflow for the module: making its database costs seconds."""
    return tmp_path_factory.mktemp("mlruns")


@pytest.fixture(scope="module")
def shared(mlruns: Path) -> Iterator[Registry]:
    registry = Registry(f"sqlite:///{mlruns}/mlflow.db", mlruns / "artifacts")
    registry.connect()
    yield registry
    logging.getLogger("alembic").setLevel(logging.NOTSET)


def _rows(mlruns: Path, query: str, *values: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(mlruns / "mlflow.db")
    try:
        return connection.execute(query, values).fetchall()
    finally:
        connection.close()


def _passport(experiment: Experiment, run: str) -> str:
    metrics = Metrics(log_loss=0.47, brier=0.15, auc=0.66, accuracy=0.8, rows=100)
    site = SitePassport(stated_rows=size_band(5000), asked=10, counted=10, metrics=metrics)
    return render(
        Passport(
            experiment=experiment,
            run=run,
            status="succeeded",
            trigger="a data scientist",
            trained=datetime(2026, 11, 24, tzinfo=UTC),
            code_hash="c0de",
            rounds=10,
            sites={"plan-a": site},
            overall=metrics,
        )
    )


def test_a_run_holds_the_whole_plan(shared: Registry, mlruns: Path, experiment: Experiment) -> None:
    run = shared.start_run(experiment, run_name="whole", tags={"job": "train"}, params={"sites": 4})
    shared.finish_run(run, "succeeded")
    params = dict(_rows(mlruns, "SELECT key, value FROM params WHERE run_uuid = ?", run))
    assert params["task.features.age.high"] == "100.0"
    assert params["task.features.sex.categories"] == "f, m"
    assert params["privacy.seed"] == "none"
    assert params["strategy.rounds"] == "10"
    assert params["sites"] == "4"
    tags = dict(_rows(mlruns, "SELECT key, value FROM tags WHERE run_uuid = ?", run))
    assert tags["tidegate.experiment_digest"] == experiment.digest
    assert tags["tidegate.status"] == "succeeded"
    assert _rows(mlruns, "SELECT name, status FROM runs WHERE run_uuid = ?", run) == [("whole", "FINISHED")]


def test_a_hundred_and_more_parameters_are_logged(
    shared: Registry, mlruns: Path, experiment: Experiment
) -> None:
    wanted = {f"extra/{number}": number for number in range(250)}
    run = shared.start_run(experiment, run_name="many", params=wanted)
    params = _rows(mlruns, "SELECT key FROM params WHERE run_uuid = ? AND key LIKE 'extra/%'", run)
    assert len(params) == 250


def test_metrics_arrive_live_and_all_by_the_end(
    shared: Registry, mlruns: Path, experiment: Experiment
) -> None:
    run = shared.start_run(experiment, run_name="metrics")
    query = "SELECT key, step, value FROM metrics WHERE run_uuid = ? ORDER BY step, key"
    time.sleep(0.6)
    shared.log_metrics(run, {"site/plan-a/log_loss": 0.5, "auc": math.nan}, step=1)
    assert _rows(mlruns, query, run) == [("site/plan-a/log_loss", 1, 0.5)]
    for step in range(2, 31):
        shared.log_metrics(run, {"site/plan-a/log_loss": 1 / step, "ε at höme": 1.0}, step=step)
    shared.finish_run(run, "partial")
    rows = _rows(mlruns, query, run)
    assert len(rows) == 1 + 2 * 29
    assert ("_ at h_me", 30, 1.0) in rows
    assert shared.resume_run(run) == 30
    assert _rows(mlruns, "SELECT status FROM runs WHERE run_uuid = ?", run) == [("RUNNING",)]
    shared.finish_run(run, "failed")
    assert _rows(mlruns, "SELECT status FROM runs WHERE run_uuid = ?", run) == [("FAILED",)]


def test_metrics_cost_milliseconds_a_round(shared: Registry, experiment: Experiment) -> None:
    """Beside one write of .5 s worth of rounds: a round that only waits costs next to nothing."""
    run = shared.start_run(experiment, run_name="quick")
    shared.flush()
    metrics = {f"site/{number}/log_loss": 0.5 for number in range(25)}
    began = time.process_time()
    for step in range(30):
        shared.log_metrics(run, metrics, step=step)
    assert (time.process_time() - began) / 30 < 0.010
    shared.finish_run(run, "succeeded")
    assert shared.resume_run(run) == 29


def test_lineage_has_no_values(shared: Registry, mlruns: Path, experiment: Experiment) -> None:
    run = shared.start_run(experiment, run_name="lineage")
    digest = "ab" * 32
    shared.log_dataset(run, name="plan-a", digest=digest, schema={"age": "double"}, source="plan-a")
    (found,) = _rows(
        mlruns, "SELECT name, digest, dataset_source, dataset_schema, dataset_profile FROM datasets"
    )
    assert found[:2] == ("plan-a", digest[:36])
    assert json.loads(str(found[2])) == {"site": "plan-a"}
    assert json.loads(str(found[3])) == {
        "mlflow_colspec": [{"name": "age", "type": "double", "required": True}]
    }
    assert found[4] is None


def test_artifacts_lie_under_the_root(
    shared: Registry, mlruns: Path, experiment: Experiment, tmp_path: Path
) -> None:
    run = shared.start_run(experiment, run_name="artifacts")
    (tmp_path / "plan.toml").write_text("name = 'x'")
    shared.log_file(run, tmp_path / "plan.toml", folder="inputs")
    shared.log_figure_bytes(run, b"\x89PNG", "curve.png")
    shared.log_text(run, "# Passport ε", "passport.md")
    home = mlruns / "artifacts" / experiment.name / run / "artifacts"
    assert (home / "inputs" / "plan.toml").read_text() == "name = 'x'"
    assert (home / "plots" / "curve.png").read_bytes() == b"\x89PNG"
    assert (home / "passport.md").read_text(encoding="utf-8") == "# Passport ε"


def test_two_versions_and_an_alias_that_moves(shared: Registry, experiment: Experiment) -> None:
    name = "two-versions"
    assert shared.versions(name) == ()
    assert shared.champion(name) is None
    texts = []
    for number in (1, 2):
        run = shared.start_run(experiment, run_name=f"train-{number}")
        texts.append(_passport(experiment, f"train-{number}"))
        arrays = {key: value * number for key, value in ARRAYS.items()}
        given = shared.register(
            name, run, arrays, experiment=experiment, description=texts[-1], tags={"n": "1"}
        )
        again = shared.register(name, run, arrays, experiment=experiment, description="again")
        assert given == again == number
        shared.finish_run(run, "succeeded")
    assert shared.champion(name) is None
    shared.set_alias(name, CHAMPION, 1)
    assert shared.champion(name) == 1
    shared.set_alias(name, CHAMPION, 2)
    assert shared.champion(name) == 2
    first, second = shared.versions(name)
    assert (first.version, first.aliases, second.aliases) == (1, (), (CHAMPION,))
    assert [first.description, second.description] == texts
    assert first.tags["n"] == "1"
    loaded = shared.load_arrays(name, 2)
    assert list(loaded) == list(ARRAYS)
    assert all(np.array_equal(loaded[key], ARRAYS[key] * 2) for key in ARRAYS)
    html = MarkdownIt("commonmark").enable("table").render(second.description)
    assert "<h1>Model passport: rand-health</h1>" in html
    assert html.count("<table>") == html.count("</table>") == 6
    shared.describe(name, 1, "superseded")
    assert shared.versions(name)[0].description == "superseded"


def test_changed_bytes_are_not_loaded(shared: Registry, mlruns: Path, experiment: Experiment) -> None:
    run = shared.start_run(experiment, run_name="tampered")
    version = shared.register("tampered", run, ARRAYS, experiment=experiment, description="")
    (path,) = (mlruns / "artifacts" / experiment.name / run).rglob("arrays.npz")
    path.write_bytes(path.read_bytes().replace(b"\x00\x00\x80?", b"\x00\x00\x00@", 1))
    with pytest.raises(RegistryError, match="not those that were registered"):
        shared.load_arrays("tampered", version)


def test_mlflows_refusal_is_ours(shared: Registry) -> None:
    with pytest.raises(RegistryError, match="MLflow refused"):
        shared.load_arrays("unknown", 1)
    with pytest.raises(RegistryError, match="MLflow refused"):
        shared.set_alias("unknown", CHAMPION, 1)


def test_a_server_that_is_away_is_named_at_once(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        began = time.monotonic()
        with pytest.raises(AddressError, match="cannot be reached") as raised:
            Registry(f"http://me:secret@127.0.0.1:{port}", tmp_path).connect()
    assert time.monotonic() - began < 10
    assert raised.value.where == f"http://127.0.0.1:{port}"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RegistryError, match="files cannot be used") as raised:
        Registry(f"sqlite:///{tmp_path}/file/mlflow.db", tmp_path / "artifacts").connect()
    assert str(tmp_path / "file") in raised.value.where


def test_the_interface_shows_the_passport_and_the_model(
    shared: Registry, mlruns: Path, experiment: Experiment, tmp_path: Path
) -> None:
    run = shared.start_run(experiment, run_name="shown")
    shared.register("shown", run, ARRAYS, experiment=experiment, description="# Shown")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = ServerSettings(
        home=tmp_path, state_url="", tracking_uri=shared.tracking_uri, artifact_root=shared.artifact_root
    )
    log = (tmp_path / "log").open("wb")
    with (
        log,
        subprocess.Popen(
            serve_command(port),
            env={**os.environ, **serve_environment(settings)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        ) as server,
    ):
        try:
            address = f"http://127.0.0.1:{port}"
            _until_healthy(f"{address}/health")
            found = json.loads(_get(f"{address}/ajax-api/2.0/mlflow/model-versions/get?name=shown&version=1"))
            assert found["model_version"]["description"] == "# Shown"
            plan = _get(f"{address}/get-artifact?path=model/experiment.json&run_uuid={run}")
            assert Experiment.model_validate_json(plan) == experiment
            remote = Registry(address, tmp_path / "elsewhere")
            assert list(remote.load_arrays("shown", 1)) == list(ARRAYS)
        finally:
            os.killpg(server.pid, 15)


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310 - our own server
        return bytes(answer.read())


def _until_healthy(url: str) -> None:
    for _ in range(300):
        try:
            _get(url)
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
        else:
            return
    pytest.fail("MLflow's server did not answer within a minute")
