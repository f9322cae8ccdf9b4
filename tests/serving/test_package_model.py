"""A version of a package's model: predicted where the package is, and one sentence where it is not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from clients.mechanisms.models import module_for
from contract.errors import InputError, NotInstalledError
from contract.experiment import Experiment, Model
from contract.experiment_file import parse_experiment_json
from contract.installed_models import with_package
from contract.models import initial_arrays
from server.registry.model_files import write_model
from serving.export.graph import PROBABILITIES, joined, model_graph
from serving.prediction import Predictor
from tests.installed import EXAMPLE, built, install, on_path

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


_LAYER = """
from dataclasses import dataclass
import numpy as np

@dataclass(frozen=True)
class Family:
    def parameters(self, *, inputs, classes):
        return {"weight": (1, inputs), "bias": (1,)}

    def initial(self, rng, *, inputs, classes):
        return {"weight": rng.normal(size=(1, inputs)).astype(np.float32), "bias": np.ones(1, np.float32)}

    def build(self, *, inputs, classes):
        import torch
        return torch.nn.Linear(inputs, 1)

    def loss(self, outputs, labels):
        return None

    def judged(self, outputs):
        return 2 * outputs
"""


def test_its_graph_is_made_by_torch_s_exporter(tmp_path: Path, version: tuple[Path, Experiment]) -> None:
    there = install(built(tmp_path / "source", name="one-layer", source=_LAYER), tmp_path / "there", tmp_path)
    model = Model.model_validate({"kind": "package", "name": "one-layer"})
    with on_path(there):
        made = with_package(version[1].model_copy(update={"model": model}))
        arrays = initial_arrays(made, np.random.default_rng(0))
        found = Predictor(experiment=made, arrays=arrays).predict(COLUMNS)
        content = joined(model_graph(made, arrays), made)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (chances,) = session.run([PROBABILITIES], {name: one.reshape(-1, 1) for name, one in COLUMNS.items()})
    np.testing.assert_allclose(chances[:, 1], found.probabilities["yes"], atol=1e-5)


def test_a_graph_that_is_for_one_number_of_rows_is_none(
    version: tuple[Path, Experiment], example: Path
) -> None:
    with on_path(example):
        predictor = Predictor.of(version[0])
        with pytest.raises(InputError, match="makes no graph of it"):
            model_graph(predictor.experiment, predictor.arrays)


def test_elsewhere_one_sentence_says_what_it_needs(version: tuple[Path, Experiment]) -> None:
    with pytest.raises(NotInstalledError, match=r"pip install tidegate-example==1\.0"):
        Predictor.of(version[0])
