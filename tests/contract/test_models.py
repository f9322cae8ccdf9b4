"""Where a model begins: at nothing, or at what is publicly known of the label."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from contract.errors import ExperimentError
from contract.experiment import Experiment
from contract.experiment_file import parse_experiment_json
from contract.models import initial_arrays

MODELS = [{"kind": "linear"}, {"kind": "mlp", "hidden": [4]}, {"kind": "cnn", "image": [1, 4, 4]}]


def experiment(model: object, **label: object) -> Experiment:
    features = [{"name": f"p{number}", "kind": "numeric", "low": 0, "high": 1} for number in range(16)]
    task = {"label": {"column": "ill", **label}, "features": features}
    return parse_experiment_json(json.dumps({"name": "small", "task": task, "model": model}), where="small")


@pytest.mark.parametrize("model", MODELS, ids=lambda model: str(model["kind"]))
def test_the_output_begins_at_the_public_share(model: object) -> None:
    stated = initial_arrays(experiment(model, positive_share=0.03), np.random.default_rng(0))
    without = initial_arrays(experiment(model), np.random.default_rng(0))
    changed = [name for name in stated if not np.array_equal(stated[name], without[name])]
    assert len(changed) == 1
    assert changed[0].endswith("bias")
    assert stated[changed[0]] == pytest.approx(math.log(0.03 / 0.97))


def test_a_file_without_it_keeps_its_digest() -> None:
    assert "positive_share" not in experiment(MODELS[0]).model_dump_json()


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ({"positive_share": 0.1, "classes": ["a", "b", "c"]}, "two classes"),
        ({"positive_share": 0}, "positive_share"),
        ({"positive_share": 1}, "positive_share"),
    ],
)
def test_what_is_no_share_is_refused(label: dict[str, object], said: str) -> None:
    with pytest.raises(ExperimentError, match=said):
        experiment(MODELS[0], **label)
