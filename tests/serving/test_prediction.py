"""A prediction reads, encodes and computes as training does; what does not fit has a reason."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.mechanisms.models import module_for
from clients.rows.table import prepare
from contract.errors import InputError
from contract.experiment import Experiment
from contract.experiment_file import parse_experiment_json
from contract.models import model_shapes
from serving.forward import outputs_of
from serving.prediction import Predictions, Predictor
from tests.rows_of_a_site import card_of, numeric, one_of, rows

AGE = {"name": "age", "kind": "numeric", "low": 20, "high": 100}
COST = {"name": "cost", "kind": "numeric", "low": 0, "high": 22026, "transform": "log1p", "missing": 0}
WARD = {"name": "ward", "kind": "categorical", "categories": ["1", "2", "none"], "missing": "none"}
SEX = {"name": "sex", "kind": "categorical", "categories": ["f", "m"]}
CARD = card_of(
    numeric("age"), numeric("cost"), one_of("ward", "1", "2", "none"), one_of("sex", "f", "m"),
    one_of("ill", "no", "yes", "maybe"), numeric("days"),
)  # fmt: skip
LABELS = {
    "two classes": {"column": "ill", "classes": ["no", "yes"]},
    "three classes": {"column": "ill", "classes": ["no", "yes", "maybe"]},
    "a number": {"column": "days", "kind": "numeric", "low": 1, "high": 15},
}
FAMILIES: list[dict[str, Any]] = [
    {"kind": "linear"},
    {"kind": "mlp", "hidden": [7, 5]},
    {"kind": "cnn", "image": [1, 9, 6]},
    {"kind": "cnn", "image": [2, 8, 8]},
]


def experiment(model: Any = FAMILIES[0], label: Any = LABELS["two classes"], **task: Any) -> Experiment:
    features: Any = [AGE, COST, WARD, SEX]
    if model["kind"] == "cnn":
        channels, height, width = model["image"]
        features = [
            {"name": f"p{number}", "kind": "numeric", "low": 0, "high": 1}
            for number in range(channels * height * width)
        ]
    whole = {"name": "small", "model": model, "task": {"label": label, "features": features, **task}}
    return parse_experiment_json(json.dumps(whole), where="small")


def predictor(made: Experiment, seed: int = 0) -> Predictor:
    rng = np.random.default_rng(seed)
    arrays = {
        name: rng.normal(0, 0.7, shape).astype(np.float32) for name, shape in model_shapes(made).items()
    }
    return Predictor(experiment=made, arrays=arrays)


def frame(**columns: Any) -> pd.DataFrame:
    values = {"age": [20, 61, 100], "cost": ["3.5", "NA", "7"], "ward": [1.0, None, 2.0], "sex": [*"fmf"]}
    return pd.DataFrame({**values, **columns})


def predict(made: Experiment, raw: pd.DataFrame, **more: Any) -> Predictions:
    return predictor(made).predict({str(name): raw[name] for name in raw.columns}, **more)


@pytest.mark.parametrize("label", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("model", FAMILIES, ids=lambda model: f"{model['kind']} {model.get('image', '')}")
def test_numpy_and_torch_compute_the_same(model: Any, label: Any) -> None:
    made = experiment(model, label)
    features = np.random.default_rng(1).uniform(-1, 1, (300, made.task.width)).astype(np.float32)
    arrays = predictor(made).arrays
    ours = outputs_of(made.model, arrays, features)
    with torch.no_grad():
        theirs = module_for(made, arrays)(torch.from_numpy(features)).numpy()
    assert ours.shape == theirs.shape
    scale = np.maximum(1, np.abs(theirs))
    assert np.max(np.abs(ours - theirs) / scale) <= 1e-5


@pytest.mark.parametrize("scaling", ["unit", "symmetric"])
@pytest.mark.parametrize("label", LABELS.values(), ids=LABELS)
def test_a_row_is_prepared_as_at_a_site(label: Any, scaling: str) -> None:
    made = experiment(label=label, scaling=scaling)
    raw = frame(ill=["no", "yes", "no"], days=[1, 3, 9])
    table = prepare(rows(raw, CARD), made, CARD)
    assert table.fit.kept == 3
    with torch.no_grad():
        logits = module_for(made, predictor(made).arrays)(torch.from_numpy(table.features)).double()
    found = predict(made, raw)
    assert found.reason.tolist() == ["", "", ""]
    if label.get("kind") == "numeric":
        expected = 1 + (logits[:, 0].clamp(-1, 1) + 1) / 2 * 14
        np.testing.assert_allclose(found.prediction.astype(float), expected, atol=1e-4)
        assert found.probabilities == {}
        return
    if len(label["classes"]) == 2:
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
    chances = torch.softmax(logits, dim=1).numpy()
    for place, name in enumerate(label["classes"]):
        np.testing.assert_allclose(found.probabilities[name], chances[:, place], atol=1e-5)
    assert found.prediction.tolist() == [label["classes"][place] for place in chances.argmax(axis=1)]


VALUES = st.one_of(
    st.sampled_from(["", "NA", "1", "1.0", " 2 ", "f", "m", "none", "x", "1e3", "-5", "1_0", "٣", "inf"]),
    st.integers(-200, 200), st.floats(), st.none(), st.booleans(),
)  # fmt: skip


@settings(deadline=None)
@given(
    values=st.lists(st.tuples(VALUES, VALUES, VALUES, VALUES), min_size=1, max_size=8), leave=st.booleans()
)
def test_a_site_and_a_prediction_leave_the_same_rows_out(values: list[Any], leave: bool) -> None:
    made = experiment(out_of_range="leave-out" if leave else "clamp")
    names = ["age", "cost", "ward", "sex"]
    raw = pd.DataFrame(values, columns=names, dtype=object)
    raw["ill"], raw["days"] = "no", 1
    found = predict(made, raw)
    fits = [reason == "" for reason in found.reason]
    table = prepare(rows(raw, CARD), made, CARD)
    assert sum(fits) == table.fit.kept
    with torch.no_grad():
        logits = module_for(made, predictor(made).arrays)(torch.from_numpy(table.features))[:, 0]
    np.testing.assert_allclose(found.probabilities["yes"][fits], torch.sigmoid(logits), atol=1e-5)
    assert [value is None for value in found.prediction] == [not fit for fit in fits]
    assert np.isnan(found.probabilities["yes"]).tolist() == [not fit for fit in fits]


UNFIT = {
    "missing": ({"age": [20, None, 100]}, "age: a missing value"),
    "no number": ({"age": [20, "many", 100]}, "age: a value that is no number"),
    "another category": ({"sex": ["f", "x", "f"]}, "sex: a category that the experiment does not list"),
    "a missing category": ({"sex": ["f", "NA", "f"]}, "sex: a missing value"),
}


@pytest.mark.parametrize(("columns", "reason"), UNFIT.values(), ids=UNFIT)
def test_a_row_that_does_not_fit_has_a_reason_and_the_others_their_prediction(
    columns: Any, reason: str
) -> None:
    found = predict(experiment(), frame(**columns))
    assert found.reason.tolist() == ["", reason, ""]
    assert found.prediction[1] is None
    whole = predict(experiment(), frame())
    for place in (0, 2):
        assert found.prediction[place] == whole.prediction[place]
        assert found.probabilities["yes"][place] == whole.probabilities["yes"][place]


def test_out_of_range_is_clamped_or_left_out_as_the_task_says() -> None:
    raw = frame(age=[20, 400, 100])
    assert predict(experiment(), raw).probabilities["yes"][1] == pytest.approx(
        predict(experiment(), frame(age=[20, 100, 100])).probabilities["yes"][1]
    )
    left = predict(experiment(out_of_range="leave-out"), raw)
    assert left.reason.tolist() == ["", "age: a value outside its range", ""]


def test_texts_for_a_missing_value_and_the_decimal_sign_are_said() -> None:
    raw = frame(age=["20,5", "-9", "99,5"])
    found = predict(experiment(), raw, missing=("NA", "-9"), decimal=",")
    assert found.reason.tolist() == ["", "age: a missing value", ""]


def test_a_number_stays_in_the_range_in_which_it_was_judged() -> None:
    made = experiment(label=LABELS["a number"])
    wild = {name: np.full(shape, 1e6, np.float32) for name, shape in model_shapes(made).items()}
    found = Predictor(experiment=made, arrays=wild).predict({str(name): frame()[name] for name in frame()})
    assert found.prediction.tolist() == [15, 15, 15]


def test_no_rows_have_no_predictions() -> None:
    found = predict(experiment(), frame().head(0))
    assert found.prediction.tolist() == []
    assert list(found.columns()) == ["prediction", "probability_no", "probability_yes", "reason"]
    assert predictor(experiment()).told == tuple(found.columns())


def test_a_frame_is_taken_as_it_is() -> None:
    made, raw = experiment(), frame()
    assert predictor(made).predict(raw).reason.tolist() == ["", "", ""]  # type: ignore[arg-type]


def test_a_feature_without_a_column_is_named() -> None:
    with pytest.raises(
        InputError, match=r"no column 'age', which the model '\w+' needs \(2 are lacking in all\)"
    ):
        predict(experiment(), frame().drop(columns=["age", "sex"]))
