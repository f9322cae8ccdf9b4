"""Every row adds exactly 1 to exactly one cell of every feature: the sensitivity argument."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.errors import DataError
from contract.experiment import CategoricalFeature, Label, NumericFeature, Task
from monitoring.binning import count_features, feature_bins, l2_sensitivity

TASK = Task(
    label=Label(column="visits", classes=("0", "1")),
    features=(
        NumericFeature(name="age", kind="numeric", low=0, high=100, missing=50),
        NumericFeature(name="income", kind="numeric", low=0, high=math.expm1(4), transform="log1p"),
        CategoricalFeature(name="plan", kind="categorical", categories=("1", "2", "free"), other="free"),
    ),
)

anything = st.one_of(st.none(), st.floats(), st.integers(-(2**60), 2**60), st.text(max_size=5), st.booleans())
row = st.tuples(anything, anything, anything, anything)


def table(rows: list[tuple[object, ...]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["age", "income", "plan", "visits"], dtype=object)


@settings(deadline=None)
@given(rows=st.lists(row, max_size=6), bins=st.integers(2, 12))
def test_every_row_adds_one_to_one_cell_of_every_feature(rows: list[tuple[object, ...]], bins: int) -> None:
    counts = count_features(table(rows), TASK, bins)
    assert list(counts) == ["age", "income", "plan", "visits"]
    for values in counts.values():
        assert values.sum() == len(rows)
        assert (values >= 0).all()


@settings(deadline=None)
@given(rows=st.lists(row, max_size=6), one=row)
def test_one_row_more_moves_the_counts_by_the_stated_sensitivity(
    rows: list[tuple[object, ...]], one: tuple[object, ...]
) -> None:
    before, after = count_features(table(rows), TASK, 7), count_features(table([*rows, one]), TASK, 7)
    moved = math.sqrt(sum(((after[name] - before[name]) ** 2).sum() for name in after))
    assert moved == pytest.approx(l2_sensitivity(TASK))


def test_a_person_of_three_equal_rows_moves_them_three_times_as_far() -> None:
    counts = count_features(table([(30, 5, "1", 0)] * 3), TASK, 5)
    moved = math.sqrt(sum((values**2).sum() for values in counts.values()))
    assert moved == pytest.approx(l2_sensitivity(TASK, rows_per_unit=3))


def test_numbers_fall_where_they_should() -> None:
    ages = [0, 19.99, 20, 99, 100, -5, 250, math.inf, -math.inf, None, "many"]
    frame = table([(age, 0, "1", 0) for age in ages])
    assert count_features(frame, TASK, 5)["age"].tolist() == [4, 1, 0, 0, 4, 2]


def test_bins_are_equal_after_the_transform() -> None:
    incomes = [math.expm1(value) for value in (0.5, 1.5, 1.6, 2.5, 3.5)]
    frame = table([(1, income, "1", 0) for income in incomes])
    assert count_features(frame, TASK, 4)["income"].tolist() == [1, 2, 1, 1, 0]


def test_categories_have_cells_for_the_undeclared_and_the_missing() -> None:
    plans = ["free", "1", 1, 1.0, np.float64(2), "platinum", None, math.nan]
    frame = table([(1, 1, plan, plan) for plan in plans])
    counts = count_features(frame, TASK, 3)
    assert counts["plan"].tolist() == [3, 1, 1, 1, 2]
    assert counts["visits"].tolist() == [0, 3, 3, 2]


def test_a_label_that_is_not_there_yet_is_not_an_undeclared_one() -> None:
    labels = ["0", None, "1", math.nan, "", "2"]
    counts = count_features(table([(1, 1, "1", label) for label in labels]), TASK, 3)
    assert counts["visits"].tolist() == [1, 1, 2, 2]


def test_integer_categories_survive_a_missing_value_that_turns_them_into_decimals() -> None:
    frame = pd.DataFrame({"age": [1, 2], "income": [1, 2], "plan": [1, None], "visits": [0, 1]})
    assert frame["plan"].dtype == np.float64
    assert count_features(frame, TASK, 3)["plan"].tolist() == [1, 0, 0, 0, 1]


@pytest.mark.parametrize("bins", [2, 10])
def test_every_count_has_a_named_cell(bins: int) -> None:
    counts = count_features(table([]), TASK, bins)
    named = {item.feature: item.cells for item in feature_bins(TASK, bins)}
    assert {name: len(cells) for name, cells in named.items()} == {
        name: len(values) for name, values in counts.items()
    }


def test_cells_are_named_on_the_scale_of_the_data() -> None:
    age, income, plan, label = feature_bins(TASK, 2)
    assert age.cells == ("[0, 50)", "[50, 100]", "missing")
    assert income.cells == ("[0, 6.389)", "[6.389, 53.6]", "missing")
    assert plan.cells == ("1", "2", "free", "undeclared", "missing")
    assert label.cells == ("0", "1", "undeclared", "missing")


def test_a_column_that_is_not_there_is_named() -> None:
    with pytest.raises(DataError, match="column 'plan' is missing"):
        count_features(table([]).drop(columns="plan"), TASK, 3)


def test_a_numeric_label_has_the_cells_of_its_range() -> None:
    label = Label(column="visits", kind="numeric", low=0, high=10)
    task = TASK.model_copy(update={"label": label})
    assert feature_bins(task, 2)[-1].cells == ("[0, 5)", "[5, 10]", "missing")
    counts = count_features(table([(1, 1, "1", value) for value in (0, 7, 99, None, "x")]), task, 2)
    assert counts["visits"].tolist() == [1, 2, 2]
