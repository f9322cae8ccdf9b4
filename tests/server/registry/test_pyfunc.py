"""A registered version is a model that MLflow loads, where neither torch nor a site's libraries are."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from contract.experiment import Experiment
from contract.experiment_file import parse_experiment_json
from contract.models import model_shapes
from server.registry.model_files import write_model
from server.registry.registry import Registry
from serving.prediction import Predictor
from tests.commands import plain_environment
from tests.installations import modules

ROOT = Path(__file__).resolve().parents[3]
FEATURES = [
    {"name": "age", "kind": "numeric", "low": 20, "high": 100},
    {"name": "ward", "kind": "categorical", "categories": ["1", "2", "none"], "missing": "none"},
]


def made(**label: object) -> Experiment:
    task = {"label": {"column": "ill", **label}, "features": FEATURES}
    return parse_experiment_json(json.dumps({"name": "small", "task": task}), where="small")


def arrays(experiment: Experiment) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(size=shape).astype(np.float32) for name, shape in model_shapes(experiment).items()
    }


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    mlruns = tmp_path_factory.mktemp("mlruns")
    registry = Registry(f"sqlite:///{mlruns}/mlflow.db", mlruns / "artifacts")
    registry.connect()
    yield registry
    logging.getLogger("alembic").setLevel(logging.NOTSET)


def register(registry: Registry, name: str, experiment: Experiment) -> int:
    run = registry.start_run(experiment, run_name=name)
    return registry.register(name, run, arrays(experiment), experiment=experiment, description="")


_LOAD = """
import json, sys
refused = set(json.loads(sys.argv[1]))
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Without())
import mlflow, pandas, warnings
mlflow.set_tracking_uri(sys.argv[2])
model = mlflow.pyfunc.load_model(sys.argv[3])
# whole numbers, as `pandas.read_csv` gives them
frame = pandas.DataFrame({"age": [30, 90, 50], "ward": [1, 2, 7]}, index=[7, 8, 9])
found = model.predict(frame)
print(json.dumps({
    "found": json.loads(found.to_json(orient="split")),
    "example": json.loads(model.predict(model.input_example).to_json(orient="records")),
    "inputs": model.metadata.get_input_schema().input_names(),
    "outputs": model.metadata.get_output_schema().input_names(),
}))
"""


@pytest.mark.parametrize(
    "label",
    [
        pytest.param({}, id="classes"),
        pytest.param({"kind": "numeric", "low": 0, "high": 10}, id="number", marks=pytest.mark.long),
    ],
)
def test_mlflow_loads_it_with_the_least_installation(
    registry: Registry, label: dict[str, object], tmp_path: Path
) -> None:
    experiment = made(**label)
    name = f"loaded-{len(label)}"
    version = register(registry, name, experiment)
    refused = sorted((modules("site") | modules("simulation")) - modules("predict") - modules("server"))
    assert {"torch", "opacus", "evidently"} <= set(refused)
    uri = f"models:/{name}/{version}"
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, json.dumps(refused), registry.tracking_uri, uri],
        cwd=tmp_path, env={**plain_environment(), "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert "WARNING" not in done.stderr
    told = json.loads(done.stdout)
    columns = {"age": np.array([30, 90, 50]), "ward": np.array([1, 2, 7])}
    ours = Predictor(experiment=experiment, arrays=arrays(experiment)).predict(columns).columns()
    assert told["found"]["columns"] == told["outputs"] == list(ours)
    assert told["found"]["index"] == [7, 8, 9]
    assert told["inputs"] == ["age", "ward"]
    for place, name in enumerate(ours):
        for row, value in enumerate(ours[name].tolist()):
            found = told["found"]["data"][row][place]
            if isinstance(value, float) and not np.isnan(value):
                assert found == pytest.approx(value, abs=1e-6)
            else:
                assert found == (None if isinstance(value, float) else value)
    assert told["found"]["data"][2][-1] == "ward: a category that the experiment does not list"
    assert told["example"][0]["reason"] == ""


def test_the_example_has_no_row_behind_it(tmp_path: Path) -> None:
    write_model(tmp_path, arrays(made()), made(), about={})
    example = json.loads((tmp_path / "input_example.json").read_text())
    assert example == {"columns": ["age", "ward"], "data": [[60.0, "1"]]}
