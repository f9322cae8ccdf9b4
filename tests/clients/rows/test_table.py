from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.rows.table import Fit, Table, prepare
from contract.card import Card
from contract.experiment import CategoricalFeature, Experiment, Label, NumericFeature, Privacy, Task
from tests.rows_of_a_site import card_of, numeric, one_of, rows

AGE = NumericFeature(name="age", kind="numeric", low=20, high=100)
COST = NumericFeature(name="cost", kind="numeric", low=0, high=np.expm1(10.0), transform="log1p", missing=0)
WARD = CategoricalFeature(
    name="ward", kind="categorical", categories=("a", "b", "unknown"), missing="unknown"
)
CARD = card_of(numeric("age"), numeric("cost"), one_of("ward", "a", "b", "c"), one_of("ill", "no", "yes"))
NAMED = card_of(*CARD.model_dump()["columns"], person="patient")


def experiment(*features: Any, privacy: Privacy | None = None, **more: Any) -> Experiment:
    task = Task(
        label=Label(column="ill", classes=("no", "yes")), features=features or (AGE, COST, WARD), **more
    )
    return Experiment(name="small", task=task, privacy=privacy or Privacy())


def frame(number: int = 3, **columns: Any) -> pd.DataFrame:
    values = {"age": [20.0, 60.0, 100.0], "cost": [0.0, np.expm1(5.0), np.nan], "ward": ["b", None, "a"]}
    return pd.DataFrame({**values, "ill": ["no", "yes", "no"], **columns}).head(number)


def table(data: pd.DataFrame, *features: Any, card: Card = CARD, **more: Any) -> Table:
    return prepare(rows(data, card), experiment(*features, **more), card)


def test_the_encoding_by_hand() -> None:
    found = table(frame())
    expected = [[0, 0, 0, 1, 0], [0.5, 0.5, 0, 0, 1], [1, 0, 1, 0, 0]]
    np.testing.assert_allclose(found.features, expected, atol=1e-6)
    assert found.features.dtype == np.float32
    assert found.labels.tolist() == [0, 1, 0]
    assert found.labels.dtype == np.int64
    assert found.person is None
    assert found.fit == Fit(rows=3, kept=3, filled={"cost": 1, "ward": 1})


def test_symmetric_scaling_maps_every_input_to_its_double_less_one() -> None:
    found = table(frame(), scaling="symmetric")
    np.testing.assert_allclose(found.features, 2 * table(frame()).features - 1, atol=1e-6)
    assert found.features[0].tolist() == [-1, -1, -1, 1, -1]


def test_a_value_out_of_range_is_clamped_and_counted() -> None:
    found = table(frame(age=[-5.0, 500.0, 1e300]))
    assert found.features[:, 0].tolist() == [0, 1, 1]
    assert found.fit.clamped == {"age": 3}


def test_a_value_out_of_range_leaves_its_row_out_where_the_task_says_so() -> None:
    found = table(frame(age=[20.0, 101.5, 102.0]), out_of_range="leave-out")
    assert found.labels.tolist() == [0]
    assert found.fit.left_out == {"age": {"a value outside its range": 2}}
    assert found.fit.clamped == {}


def test_the_ends_of_the_range_are_inside() -> None:
    fit = table(frame(age=[20.0, 100.0, 100.0]), out_of_range="leave-out").fit
    assert (fit.kept, fit.clamped) == (3, {})


UNFIT = {
    "no number": ("age", [20.0, np.nan, 30.0], "a missing value", 1),
    "an infinite number": ("age", [20.0, np.inf, "x"], "a missing value", 2),
    "another category": ("ward", ["a", "b", "zz"], "a category that the card does not declare", 1),
    "a category of the card alone": (
        "ward",
        ["a", "b", "c"],
        "a category that the experiment does not list",
        1,
    ),
    "a category of the experiment alone": (
        "ward",
        ["a", "b", "unknown"],
        "a category that the card does not declare",
        1,
    ),
    "another label": ("ill", ["no", "maybe", "no"], "a label that is none of the classes", 1),
    "no label": ("ill", ["no", None, ""], "no label", 2),
}


@pytest.mark.parametrize(("column", "values", "reason", "number"), UNFIT.values(), ids=UNFIT)
def test_a_row_that_does_not_fit_is_left_out_by_itself(
    column: str, values: list[Any], reason: str, number: int
) -> None:
    found = table(frame(**{column: values}))
    assert found.fit.left_out == {column: {reason: number}}
    assert (found.fit.rows, found.fit.kept, len(found.labels)) == (3, 3 - number, 3 - number)
    assert found.features[0].tolist() == table(frame(**{column: values}).head(1)).features[0].tolist()


def test_a_row_may_be_left_out_for_several_reasons() -> None:
    found = table(frame(age=[None, 30.0, 40.0], ill=[None, "yes", "x"]))
    assert found.fit.kept == 1
    assert set(found.fit.left_out) == {"age", "ill"}


def test_a_missing_category_without_a_stand_in_leaves_its_row_out() -> None:
    strict = CategoricalFeature(name="ward", kind="categorical", categories=("a", "b"))
    found = table(frame(), strict)
    assert found.fit.left_out == {"ward": {"a missing value": 1}}
    assert found.features.tolist() == [[0, 1], [1, 0]]


def test_other_takes_what_is_not_declared() -> None:
    ward = CategoricalFeature(
        name="ward", kind="categorical", categories=("a", "rest"), missing="a", other="rest"
    )
    found = table(frame(), ward)
    assert found.features.tolist() == [[0, 1], [1, 0], [1, 0]]
    assert found.fit.other == {"ward": 1}


@pytest.mark.parametrize("label", ["no", None, "maybe"])
def test_rows_of_one_class_or_none_are_a_table(label: str | None) -> None:
    found = table(frame(ill=[label] * 3))
    assert len(found.labels) == (3 if label == "no" else 0)
    assert found.features.shape == (len(found.labels), 5)


def test_no_rows_are_a_table() -> None:
    found = table(frame(0))
    assert found.features.shape == (0, 5)
    assert found.fit == Fit()


def test_a_row_without_a_person_is_left_out_where_persons_count() -> None:
    data = frame(patient=["a", None, "a.0"])
    of_persons = table(data, card=NAMED, privacy=Privacy(unit="person"))
    assert of_persons.fit.left_out == {"patient": {"no person": 1}}
    assert of_persons.person is not None
    assert len(set(of_persons.person.tolist())) == 2
    assert len(of_persons.limited(1).labels) == 2


def test_persons_are_told_apart_letter_by_letter() -> None:
    """numpy's own texts take `a` and `a` with a NUL behind it for one."""
    of_persons = table(
        frame(patient=["1001", "1001.0", "1001\0"]),
        card=NAMED,
        privacy=Privacy(unit="person", rows_per_person=2),
    )
    assert of_persons.person is not None
    first, second, other = of_persons.person.tolist()
    assert first == second != other
    assert len(of_persons.limited(1).labels) == 2


@given(
    st.lists(
        st.tuples(
            st.floats() | st.none(),
            st.floats() | st.none(),
            st.sampled_from(["a", "b", "zz", None]),
            st.sampled_from(["no", "yes"]),
        ),
        min_size=1,
        max_size=20,
    ),
    st.floats(-1e6, 1e6),
    st.floats(1e-3, 1e6),
)
@settings(deadline=None)
def test_features_are_finite_and_within_one(drawn: list[Any], low: float, span: float) -> None:
    data = pd.DataFrame(drawn, columns=["age", "cost", "ward", "ill"]).astype({"age": float, "cost": float})
    age = NumericFeature(name="age", kind="numeric", low=low, high=low + span)
    found = table(data, age, COST, WARD)
    assert found.features.shape == (found.fit.kept, 5)
    assert np.isfinite(found.features).all()
    assert (np.abs(found.features) <= 1).all()


def test_a_hundred_thousand_rows_of_twenty_columns_take_seconds() -> None:
    rng = np.random.default_rng(3)
    numbers = [NumericFeature(name=f"n{i}", kind="numeric", low=-3, high=3) for i in range(16)]
    wards = [
        CategoricalFeature(name=f"c{i}", kind="categorical", categories=("a", "b", "c")) for i in range(4)
    ]
    data = pd.DataFrame({feature.name: rng.normal(size=100_000) for feature in numbers})
    for ward in wards:
        data[ward.name] = rng.choice(["a", "b", "c"], 100_000)
    data["ill"] = rng.choice(["no", "yes"], 100_000)
    card = card_of(
        *(numeric(feature.name) for feature in numbers),
        *(one_of(ward.name, "a", "b", "c") for ward in wards),
        one_of("ill", "no", "yes"),
    )
    began = time.process_time()
    found = table(data, *numbers, *wards, card=card)
    assert time.process_time() - began < 4
    assert found.features.shape == (100_000, 28)


NUMBERS = card_of(*CARD.model_dump()["columns"], numeric("days", 0, 100))
DAYS = Label(column="days", kind="numeric", low=0, high=10)


@pytest.mark.parametrize(
    ("out_of_range", "labels", "fit"),
    [
        ("clamp", [-1.0, 1.0], {"clamped": {"days": 1}, "left_out": {"days": {"no label": 1}}}),
        (
            "leave-out",
            [-1.0],
            {"left_out": {"days": {"no label": 1, "a value outside its range": 1}}},
        ),
    ],
)
def test_a_numeric_label_is_mapped_to_its_range(
    out_of_range: Any, labels: list[float], fit: dict[str, Any]
) -> None:
    task = Task(label=DAYS, features=(AGE,), out_of_range=out_of_range)
    found = prepare(
        rows(frame(days=[0.0, 25.0, None]), NUMBERS), Experiment(name="small", task=task), NUMBERS
    )
    assert found.labels.tolist() == labels
    assert found.labels.dtype == np.float32
    assert found.fit == Fit(rows=3, kept=len(labels), **fit)


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e400", "text", "", -1e308])
def test_any_value_of_a_numeric_label_is_bounded_or_left_out(value: object) -> None:
    task = Task(label=DAYS, features=(AGE,))
    found = prepare(
        rows(frame(days=[value, 5.0, 5.0]), NUMBERS), Experiment(name="small", task=task), NUMBERS
    )
    assert (np.abs(found.labels) <= 1).all()
    assert found.labels[-2:].tolist() == [0, 0]
