from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.rows.sources import HOLDOUT
from clients.rows.table import Table, prepare, require_two_classes, select
from contract.errors import DataError
from contract.experiment import CategoricalFeature, Label, NumericFeature, Task

KEY = bytes(range(32))
AGE = NumericFeature(name="age", kind="numeric", low=20, high=100)
COST = NumericFeature(name="cost", kind="numeric", low=0, high=np.expm1(10.0), transform="log1p", missing=0)
WARD = CategoricalFeature(
    name="ward", kind="categorical", categories=("a", "b", "unknown"), missing="unknown"
)


def task(*features: Any, **more: Any) -> Task:
    return Task(
        label=Label(column="ill", classes=("no", "yes")), features=features or (AGE, COST, WARD), **more
    )


def frame(rows: int = 3, **columns: Any) -> pd.DataFrame:
    values = {"age": [20.0, 60.0, 100.0], "cost": [0.0, np.expm1(5.0), np.nan], "ward": ["b", None, "a"]}
    return pd.DataFrame({**values, "ill": ["no", "yes", "no"], **columns}).head(rows)


def refusal(data: pd.DataFrame, the_task: Task) -> str:
    with pytest.raises(DataError) as caught:
        prepare(data, the_task, key=KEY)
    assert caught.value.remedy
    return str(caught.value)


def test_the_encoding_by_hand() -> None:
    table = prepare(frame(), task(), key=KEY)
    expected = [[0, 0, 0, 1, 0], [0.5, 0.5, 0, 0, 1], [1, 0, 1, 0, 0]]
    np.testing.assert_allclose(table.features, expected, atol=1e-6)
    assert table.features.dtype == np.float32
    assert table.labels.tolist() == [0, 1, 0]
    assert table.labels.dtype == np.int64
    assert table.person is None
    assert table.window is None


def test_symmetric_scaling_maps_every_input_to_its_double_less_one() -> None:
    table = prepare(frame(), task(scaling="symmetric"), key=KEY)
    np.testing.assert_allclose(table.features, 2 * prepare(frame(), task(), key=KEY).features - 1, atol=1e-6)
    assert table.features[0].tolist() == [-1, -1, -1, 1, -1]


def test_a_value_out_of_range_is_clamped_and_counted() -> None:
    table = prepare(frame(age=[-5.0, 500.0, np.inf]), task(), key=KEY)
    assert table.features[:, 0].tolist() == [0, 1, 1]
    assert table.clamped == {"age": 3}


def test_a_value_out_of_range_is_refused_where_the_task_says_so() -> None:
    message = refusal(frame(age=[20.0, 101.5, 102.0]), task(out_of_range="refuse"))
    assert "row 2: column 'age' holds 101.5, outside its public range [20, 100] (and 1 more rows)" in message


def test_the_ends_of_the_range_are_inside() -> None:
    assert prepare(frame(age=[20.0, 100.0, 100.0]), task(out_of_range="refuse"), key=KEY).clamped == {}


@pytest.mark.parametrize(
    ("column", "values", "sentence"),
    [
        ("age", [20.0, np.nan, 30.0], "row 2: column 'age' holds a missing value"),
        (
            "ward",
            ["a", "b", "zz"],
            "row 3: column 'ward' holds the category 'zz', which the task does not declare",
        ),
        ("ill", ["no", "maybe", "no"], "row 2: column 'ill' holds the label 'maybe'"),
        ("ill", ["no", "yes", None], "row 3: column 'ill' holds the label None"),
    ],
)
def test_what_the_task_does_not_allow_is_refused(column: str, values: list[Any], sentence: str) -> None:
    assert sentence in refusal(frame(**{column: values}), task())


def test_a_missing_category_without_a_stand_in_is_refused() -> None:
    strict = CategoricalFeature(name="ward", kind="categorical", categories=("a", "b"))
    assert "row 2: column 'ward' holds a missing value" in refusal(frame(), task(strict))


def test_other_takes_what_is_not_declared() -> None:
    ward = CategoricalFeature(
        name="ward", kind="categorical", categories=("a", "rest"), missing="a", other="rest"
    )
    assert prepare(frame(), task(ward), key=KEY).features.tolist() == [[0, 1], [1, 0], [1, 0]]


def test_a_label_of_one_class_is_refused() -> None:
    with pytest.raises(DataError, match="fewer than two classes"):
        require_two_classes(prepare(frame(ill=["no"] * 3), task(), key=KEY))
    require_two_classes(prepare(frame(), task(), key=KEY))


def test_the_sites_own_column_decides_the_side() -> None:
    sides = frame(**{HOLDOUT: ["train", "holdout", "train"]})
    assert prepare(sides, task(), key=KEY).holdout.tolist() == [False, True, False]
    assert "row 1: column 'data.holdout_column' holds 'test'" in refusal(
        frame(**{HOLDOUT: ["test"] * 3}), task()
    )


def many(rows: int, seed: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "age": rng.uniform(0, 120, rows),
            "cost": rng.exponential(1000, rows),
            "ward": rng.choice(["a", "b"], rows),
            "ill": rng.choice(["no", "yes"], rows),
            "patient": rng.integers(0, rows // 5 + 1, rows).astype(str),
            "week": rng.choice(["w01", "w02"], rows),
        }
    )


def test_the_hash_holds_out_its_share_and_depends_on_the_key() -> None:
    one, other = (prepare(many(20_000), task(), key=key).holdout for key in (KEY, KEY[::-1]))
    assert abs(one.mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 20_000)
    assert abs((one & other).mean() - 0.09) < 5 * np.sqrt(0.09 * 0.91 / 20_000)


@given(st.integers(2, 40), st.integers(0, 10**6), st.data())
@settings(max_examples=60, deadline=None)
def test_removing_a_record_moves_no_other(rows: int, seed: int, data: st.DataObject) -> None:
    whole, gone = many(rows, seed), data.draw(st.integers(0, rows - 1))
    for the_task in (task(), task(time="week"), task(person="patient")):
        before = prepare(whole, the_task, key=KEY).holdout
        after = prepare(whole.drop(index=gone).reset_index(drop=True), the_task, key=KEY).holdout
        assert np.delete(before, gone).tolist() == after.tolist()


def test_order_and_undeclared_neighbours_do_not_matter() -> None:
    whole = many(500)
    order = np.random.default_rng(2).permutation(500)
    before = prepare(whole, task(), key=KEY)
    after = prepare(whole.iloc[order].reset_index(drop=True), task(), key=KEY)
    assert before.holdout[order].tolist() == after.holdout.tolist()


def test_all_rows_of_a_person_are_on_one_side() -> None:
    table = prepare(many(2_000), task(person="patient"), key=KEY)
    assert table.person is not None
    sides = pd.Series(table.holdout).groupby(table.person).nunique()
    assert (sides == 1).all()
    assert 0 < table.holdout.mean() < 1


def test_a_row_without_a_person_is_refused() -> None:
    data = many(10)
    data.loc[3, "patient"] = None
    assert "row 4: column 'patient' holds a missing value" in refusal(data, task(person="patient"))


@given(
    st.lists(
        st.tuples(
            st.floats(allow_nan=False),
            st.floats() | st.none(),
            st.sampled_from(["a", "b", "unknown", None]),
            st.sampled_from(["no", "yes"]),
        ),
        min_size=1,
        max_size=20,
    ),
    st.floats(-1e6, 1e6),
    st.floats(1e-3, 1e6),
)
@settings(deadline=None)
def test_features_are_finite_and_within_one(rows: list[Any], low: float, span: float) -> None:
    data = pd.DataFrame(rows, columns=["age", "cost", "ward", "ill"]).astype({"age": float, "cost": float})
    age = NumericFeature(name="age", kind="numeric", low=low, high=low + span)
    features = prepare(data, task(age, COST, WARD), key=KEY).features
    assert features.shape == (len(rows), 5)
    assert np.isfinite(features).all()
    assert np.abs(features).max() <= 1


def chosen(table: Table) -> int:
    return len(table.labels)


def test_select_parts_windows_and_sides() -> None:
    table = prepare(many(1_000), task(time="week"), key=KEY)
    parts = [select(table, (week,), holdout=side) for week in ("w01", "w02") for side in (True, False)]
    assert sum(map(chosen, parts)) == 1_000
    assert all(chosen(part) > 0 for part in parts)
    assert set(parts[0].window.tolist()) == {"w01"}  # type: ignore[union-attr]
    assert chosen(select(table, (), holdout=True)) == int(table.holdout.sum())
    assert chosen(select(table, ("w09",), holdout=False)) == 0


def test_windows_without_a_time_column_are_refused() -> None:
    with pytest.raises(DataError, match="names no time column"):
        select(prepare(frame(), task(), key=KEY), ("w01",), holdout=False)


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
    began = time.process_time()
    table = prepare(data, task(*numbers, *wards), key=KEY)
    assert time.process_time() - began < 4
    assert table.features.shape == (100_000, 28)
