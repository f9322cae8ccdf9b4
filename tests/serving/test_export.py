"""A version's ONNX graph takes raw columns and tells what the model tells, of rows that do not fit too."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch

from clients.mechanisms.models import module_for
from contract.experiment import Experiment, NumericFeature
from serving.drawn_rows import drawn_columns
from serving.export.graph import MODEL_INPUT, OPSET, input_names, joined, model_graph
from serving.export.variants import Choice, Variant, choose, variants_of
from serving.prediction import Predictor
from tests.serving.test_prediction import AGE, COST, FAMILIES, LABELS, SEX, WARD, experiment, predictor

Columns = dict[str, npt.NDArray[Any]]


def session_of(content: bytes) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def told(made: Experiment, content: bytes, columns: Columns) -> dict[str, Any]:
    session, names = session_of(content), input_names(made.task)
    feed = {names[name]: values.reshape(-1, 1) for name, values in columns.items()}
    outputs = [one.name for one in session.get_outputs()]
    return dict(zip(outputs, session.run(None, feed), strict=True))


def whole(model: Predictor) -> bytes:
    return joined(model_graph(model.experiment, model.arrays), model.experiment)


def spoiled(columns: Columns, made: Experiment, rng: np.random.Generator) -> Columns:
    """A third of the values missing, beyond the range, or in no list."""
    found = {name: values.copy() for name, values in columns.items()}
    for feature in made.task.features:
        values = found[feature.name]
        wrong = rng.random(len(values)) < 0.3
        if isinstance(feature, NumericFeature):
            values[wrong] = rng.choice([np.nan, feature.low - 1, feature.high + 7.5], wrong.sum())
        else:
            values[wrong] = rng.choice(np.array(["", "strange"], object), wrong.sum())
    return found


@pytest.mark.parametrize("label", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("model", FAMILIES, ids=lambda model: f"{model['kind']} {model.get('image', '')}")
def test_the_model_is_torch_s_to_a_hundred_thousandth(model: Any, label: Any) -> None:
    made = experiment(model, label)
    ours = predictor(made)
    features = np.random.default_rng(1).uniform(-1, 1, (300, made.task.width)).astype(np.float32)
    content = model_graph(made, ours.arrays).SerializeToString()
    (found,) = session_of(content).run(None, {MODEL_INPUT: features})
    with torch.no_grad():
        theirs = module_for(made, ours.arrays)(torch.from_numpy(features)).numpy()
    assert np.max(np.abs(found - theirs) / np.maximum(1, np.abs(theirs))) <= 1e-5


OTHER = {**WARD, "other": "2"}
TASKS: list[dict[str, Any]] = [
    {"scaling": scaling, "out_of_range": outside, "features": features}
    for scaling in ("unit", "symmetric")
    for outside in ("clamp", "leave-out")
    for features in ([AGE, COST, WARD, SEX], [SEX, OTHER, AGE], [WARD, SEX], [COST, AGE])
]


@pytest.mark.parametrize("label", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("task", TASKS)
def test_preprocessing_is_in_the_graph(task: Any, label: Any) -> None:
    made = experiment({"kind": "mlp", "hidden": [7]}, label, **task)
    ours, rng = predictor(made), np.random.default_rng(2)
    columns = spoiled(drawn_columns(made.task, 400, rng), made, rng)
    found = told(made, whole(ours), columns)
    expected = ours.predict(columns, missing=("",))
    fits = expected.reason == ""
    assert 10 < fits.sum() < 400 or made.task.out_of_range == "clamp"
    np.testing.assert_array_equal(found["fits"][:, 0], fits)
    if made.task.label.range is not None:
        numbers = np.array([np.nan if one is None else one for one in expected.prediction], float)
        np.testing.assert_allclose(found["prediction"][:, 0], numbers, atol=2e-4)
        return
    chances = np.stack(list(expected.probabilities.values()), axis=1)
    np.testing.assert_allclose(found["probabilities"], chances, atol=1e-5)
    assert found["prediction"][:, 0].tolist() == [one or "" for one in expected.prediction]


def test_a_feature_may_have_the_name_of_an_output() -> None:
    made = experiment(features=[{**AGE, "name": "prediction"}, SEX])
    columns = drawn_columns(made.task, 5, np.random.default_rng(0))
    found = told(made, whole(predictor(made)), columns)
    assert found["prediction"].shape == (5, 1)


def test_it_says_its_opset_and_is_the_same_each_time() -> None:
    model = predictor(experiment())
    assert whole(model) == whole(model)
    read = onnx.load_model_from_string(whole(model))
    assert {one.domain: one.version for one in read.opset_import}[""] == OPSET
    assert {one.key: one.value for one in read.metadata_props} == {
        "tidegate.experiment_sha256": model.experiment.digest
    }


def test_a_small_model_stays_float32() -> None:
    ours = predictor(experiment())
    choice = choose(variants_of(ours.experiment, ours.arrays))
    assert choice.variant.name == "float32"
    assert "nothing to save" in choice.reason


@pytest.mark.parametrize(
    "model", [{"kind": "mlp", "hidden": [300, 200]}, {"kind": "cnn", "image": [1, 24, 24]}]
)
def test_every_form_is_made_and_measured(model: Any) -> None:
    made = experiment(model, LABELS["three classes"])
    ours = predictor(made)
    if model["kind"] == "cnn":
        ours.arrays["output.weight"].flat[:] *= 0.1
    found = variants_of(made, ours.arrays)
    columns = drawn_columns(made.task, 100, np.random.default_rng(3))
    for one in found:
        assert told(made, one.content, columns)["probabilities"].shape == (100, 3)
    if len(found) == 1:
        assert found[0].size < 2**17
        return
    assert [one.name for one in found] == ["float32", "int8 static", "int8 dynamic"]
    assert all(one.milliseconds > 0 for one in found)
    assert all(one.size < 0.5 * found[0].size for one in found[1:])
    assert found[0].changed == 0


def variant(
    name: str, size: int, milliseconds: float, changed: float = 0.0, farthest: float = 0.0
) -> Variant:
    return Variant(
        name=name, content=b"", size=size, milliseconds=milliseconds, changed=changed, farthest=farthest
    )


@pytest.mark.parametrize(
    ("others", "chosen"),
    [
        ([("static", 30, 0.4, 0.001), ("dynamic", 26, 4.0, 0.0)], "static"),
        ([("static", 30, 0.4, 0.006)], "float32"),
        ([("static", 30, 0.6, 0.0)], "float32"),
        ([("static", 26, 0.9, 0.0)], "static"),
        ([("static", 26, 1.1, 0.0), ("dynamic", 26, 0.8, 0.0)], "dynamic"),
        ([("static", 26, 0.4, 0.0, 0.03)], "float32"),
    ],
)
def test_the_rule(others: list[tuple[Any, ...]], chosen: str) -> None:
    choice: Choice = choose((variant("float32", 100, 1.0), *(variant(*one) for one in others)))
    assert choice.variant.name == chosen
    assert len(choice.measured) == 1 + len(others)
