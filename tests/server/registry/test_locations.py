"""A project whose folder was moved or copied: artifacts are found, and written where they belong."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from contract.errors import RegistryError
from contract.experiment import Experiment
from server.registry.locations import follow_move
from server.registry.registry import Registry
from server.state import sqlite_files
from tests.mlflow_database import lay_mlflow_database

ARRAYS = {"layers.0.weight": np.arange(3, dtype=np.float32)[None], "layers.0.bias": np.ones(1, np.float32)}


def registry_in(folder: Path) -> Registry:
    """As a new process has it: MLflow remembers for its process where a run's artifacts are."""
    from mlflow.tracking._tracking_service import utils

    utils._artifact_repos_cache.clear()
    lay_mlflow_database(folder / "mlflow.db")
    return Registry(f"sqlite:///{folder}/mlflow.db", folder / "artifacts")


def register(registry: Registry, experiment: Experiment, run_name: str) -> tuple[str, int]:
    run = registry.start_run(experiment, run_name=run_name)
    version = registry.register(experiment.name, run, ARRAYS, experiment=experiment, description="# A model")
    registry.finish_run(run, "succeeded")
    return run, version


def test_after_a_move_models_are_found_and_new_ones_written_here(
    tmp_path: Path, experiment: Experiment
) -> None:
    old, new = tmp_path / "the old place" / "mlruns", tmp_path / "new # ü" / "mlruns"
    run, version = register(registry_in(old), experiment, "before")
    new.parent.mkdir()
    old.rename(new)
    moved = registry_in(new)
    assert list(moved.load_arrays(experiment.name, version)) == list(ARRAYS)
    moved.log_text(run, "a decision", "later.txt")  # of a run from before the move
    later, second = register(moved, experiment, "after")
    assert list(moved.load_arrays(experiment.name, second)) == list(ARRAYS)
    assert not old.parent.joinpath("mlruns").exists()
    written = {path.relative_to(new).as_posix() for path in new.rglob("*") if path.is_file()}
    assert f"artifacts/{experiment.name}/{run}/artifacts/later.txt" in written
    assert any(name.startswith(f"artifacts/{experiment.name}/{later}/artifacts/model/") for name in written)
    assert b"the%20old%20place" not in dump(new / "mlflow.db")


def test_a_copy_does_not_touch_what_it_was_copied_from(tmp_path: Path, experiment: Experiment) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    register(registry_in(old), experiment, "before")
    shutil.copytree(old, new)
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    _, second = register(registry_in(new), experiment, "after")
    assert list(registry_in(new).load_arrays(experiment.name, second)) == list(ARRAYS)
    assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file()} == before


def test_who_looks_at_anothers_database_changes_nothing(tmp_path: Path, experiment: Experiment) -> None:
    _, version = register(registry_in(tmp_path / "demo"), experiment, "before")
    before = dump(tmp_path / "demo" / "mlflow.db")
    reviewer = Registry(f"sqlite:///{tmp_path}/demo/mlflow.db", tmp_path / "mine" / "artifacts")
    assert list(reviewer.load_arrays(experiment.name, version)) == list(ARRAYS)
    assert dump(tmp_path / "demo" / "mlflow.db") == before


def test_a_run_whose_artifacts_stayed_is_left(tmp_path: Path, experiment: Experiment) -> None:
    """The database alone was copied: what it speaks of is still there."""
    old, new = tmp_path / "old", tmp_path / "new"
    _, version = register(registry_in(old), experiment, "before")
    new.mkdir()
    shutil.copy(old / "mlflow.db", new)
    copied = registry_in(new)
    assert list(copied.load_arrays(experiment.name, version)) == list(ARRAYS)
    register(copied, experiment, "after")
    assert len(list((new / "artifacts" / experiment.name).iterdir())) == 1


@pytest.mark.parametrize(
    "place",
    ["s3://bucket/small", "mlflow-artifacts:/small", "file://host/x/small", "file:///x/other", "./small"],
)
def test_other_places_are_left(place: str, tmp_path: Path) -> None:
    lay_mlflow_database(tmp_path / "mlflow.db")
    connection = sqlite3.connect(tmp_path / "mlflow.db")
    connection.execute("INSERT INTO experiments (name, artifact_location) VALUES ('small', ?)", (place,))
    connection.commit()
    connection.close()
    assert follow_move(tmp_path / "mlflow.db", tmp_path / "artifacts") == 0


def test_there_may_be_no_database_yet_or_an_empty_one(tmp_path: Path) -> None:
    assert follow_move(tmp_path / "mlflow.db", tmp_path / "artifacts") == 0
    (tmp_path / "mlflow.db").touch()
    assert follow_move(tmp_path / "mlflow.db", tmp_path / "artifacts") == 0


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_files, "BUSY_SECONDS", 0.2)


@pytest.mark.usefixtures("quick")
def test_a_database_that_another_has_locked_is_said_at_once(tmp_path: Path) -> None:
    registry = registry_in(tmp_path)
    holder = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(RegistryError, match="another process has held MLflow's database") as raised:
        registry.connect()
    assert "Stop it" in raised.value.remedy
    assert str(tmp_path / "mlflow.db") in raised.value.where
    holder.execute("ROLLBACK")
    holder.close()
    registry.connect()


def test_one_that_is_locked_in_the_middle_is_said_too(tmp_path: Path, experiment: Experiment) -> None:
    registry = registry_in(tmp_path)
    registry.connect()
    holder = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(RegistryError, match="another process has held MLflow's database"):
        registry.start_run(experiment, run_name="r")
    holder.close()


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database " * 100)
    with pytest.raises(RegistryError, match=r"not MLflow's database, or is damaged"):
        Registry(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "artifacts").connect()


def dump(database: Path) -> bytes:
    connection = sqlite3.connect(database)
    try:
        return "\n".join(connection.iterdump()).encode()
    finally:
        connection.close()
