"""A version of a package's model: predicted where the package is, and one sentence where it is not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from clients.mechanisms.models import module_for
from contract.errors import NotInstalledError
from contract.experiment import Experiment
from contract.experiment_file import parse_experiment_json
from contract.installed_models import with_package
from contract.models import initial_arrays
from server.registry.model_files import write_model
from serving.prediction import Predictor
from tests.installed import EXAMPLE, install, on_path

COLUMNS = {f"p{number}": np.linspace(0, 1, 5) for number in range(6)}


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scratch = tmp_path_factory.mktemp("example")
    return install(EXAMPLE, scratch / "installed", scratch)


@pytest.fixture
def version(tmp_path: Path, example: Path) -> tuple[Path, Experiment]:
    features = [{"name": name, "kind": "numeric", "low": 0, "high": 1} for name in COLUMNS]
    whole = {
        "name": "small",
        "task": {"label": {"column": "ill", "classes": ["no", "yes"]}, "features": features},
        "model": {"kind": "package", "name": "small-memory"},
    }
    with on_path(example):
        experiment = with_package(parse_experiment_json(json.dumps(whole), where="small"))
        write_model(tmp_path, initial_arrays(experiment, np.random.default_rng(0)), experiment, about={})
    return tmp_path, experiment


def test_it_is_predicted_where_the_package_is(version: tuple[Path, Experiment], example: Path) -> None:
    folder, experiment = version
    with on_path(example):
        predictor = Predictor.of(folder)
        found = predictor.predict(COLUMNS)
        rows = np.stack(list(COLUMNS.values()), axis=1).astype(np.float32)
        with torch.no_grad():
            wanted = torch.sigmoid(module_for(experiment, predictor.arrays)(torch.from_numpy(rows)))[:, 0]
        nothing = predictor.predict({name: values[:0] for name, values in COLUMNS.items()})
    np.testing.assert_allclose(found.probabilities["yes"], wanted.numpy(), atol=1e-6)
    assert len(nothing.prediction) == 0


def test_elsewhere_one_sentence_says_what_it_needs(version: tuple[Path, Experiment]) -> None:
    with pytest.raises(NotInstalledError, match=r"pip install tidegate-example==1\.0"):
        Predictor.of(version[0])
