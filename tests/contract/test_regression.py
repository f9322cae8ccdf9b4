"""What a numeric label may be, and what a row adds to the sums of its errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import ExperimentError
from contract.experiment import Experiment
from contract.experiment_file import parse_experiment
from contract.regression import WEIGHTS, ErrorSums, weighed

FILE = """
name = "stay"
[task]
label = {{ column = "days", {label} }}
[[task.features]]
name = "age"
kind = "numeric"
low = 0
high = 120
{more}
"""


def experiment(label: str, more: str = "") -> Experiment:
    return parse_experiment(FILE.format(label=label, more=more), where="stay.toml")


def test_a_numeric_label_comes_back_from_json_as_the_same_plan() -> None:
    found = experiment('kind = "numeric", low = 1, high = 14, loss = "huber"')
    again = Experiment.model_validate_json(found.model_dump_json(), strict=True)
    assert again == found
    assert again.digest == found.digest
    assert (found.gate.metric, found.task.label.classes) == ("mae", ())


def test_a_categorical_label_is_written_as_before_there_were_numbers() -> None:
    found = experiment('classes = ["no", "yes"]')
    assert found.task.label.model_dump_json() == '{"column":"days","classes":["no","yes"]}'
    assert found.gate.metric == "brier"


@pytest.mark.parametrize(
    ("label", "more", "words"),
    [
        ('kind = "numeric"', "", "a numeric label needs its public range: write low and high"),
        ('kind = "numeric", low = 1', "", "a numeric label needs its public range: write low and high"),
        ('kind = "numeric", low = 3, high = 3', "", r"low \(3.0\) must be below high \(3.0\)"),
        ("low = 1, high = 14", "", "are for a number: add kind = 'numeric'"),
        ('kind = "numeric", low = 1, high = 9, classes = ["a", "b"]', "", "classes are for a categorical"),
        ('kind = "number"', "", r"'task.label.kind' = 'number': [^;]*'categorical' or 'numeric'\. Nothing"),
        ('kind = "numeric", low = 1, high = 9', '[gate]\nmetric = "auc"', "must be mae or rmse"),
        ('classes = ["a", "b"]', '[gate]\nmetric = "mae"', "is none of a categorical label"),
    ],
)
def test_a_wrong_label_is_one_sentence(label: str, more: str, words: str) -> None:
    with pytest.raises(ExperimentError, match=words):
        experiment(label, more)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(-0.5, 0.5)), min_size=1, max_size=20))
def test_no_row_adds_a_longer_vector_than_one_and_each_lies_on_the_grid(
    rows: list[tuple[float, float]],
) -> None:
    errors, labels = np.array(rows).T
    found = weighed(errors, labels)
    assert (np.linalg.norm(found, axis=1) <= 1).all()
    assert (found * 2**20 == np.rint(found * 2**20)).all()


def test_the_greatest_row_is_nearly_as_long_as_is_charged() -> None:
    assert 0.9999 < np.linalg.norm(weighed(np.array([1.0]), np.array([0.5]))) <= 1


def released(errors: np.ndarray, labels: np.ndarray, span: float = 10.0) -> ErrorSums:
    return ErrorSums(sums=weighed(errors, labels).sum(axis=0), noise_deviation=0.0, span=span)


def test_without_noise_the_figures_are_those_of_the_rows() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(0, 10, 500)
    predicted = np.clip(truth + rng.normal(0, 2, 500), 0, 10)
    found = released(np.abs(predicted - truth) / 10, truth / 10 - 0.5).metrics()
    assert found.rows == 500
    assert found.mae == pytest.approx(np.abs(predicted - truth).mean(), abs=1e-4)
    assert found.rmse == pytest.approx(np.sqrt(((predicted - truth) ** 2).mean()), abs=1e-4)
    assert found.r2 == pytest.approx(1 - ((predicted - truth) ** 2).mean() / truth.var(), abs=1e-4)


def test_sites_are_added_and_weighed() -> None:
    one, other = (
        released(np.full(rows, error), np.full(rows, 0.1)) for rows, error in ((10, 0.1), (30, 0.3))
    )
    assert (one + other).metrics().mae == pytest.approx(2.5, abs=1e-4)
    assert (one.times(3.0) + other).metrics().mae == pytest.approx(2.0, abs=1e-4)


def test_a_figure_that_its_noise_hides_is_none() -> None:
    clear = released(np.full(1000, 0.1), np.linspace(-0.5, 0.5, 1000))
    few = ErrorSums(sums=clear.sums, noise_deviation=200.0, span=10.0).metrics()
    assert all(math.isnan(value) for value in (few.mae, few.rmse, few.r2))
    assert few.as_dict() == {"rows": 1000}
    hidden = ErrorSums(sums=clear.sums, noise_deviation=40.0, span=10.0).metrics()
    assert math.isnan(hidden.mae), "an error of 1.0, give or take as much"
    below = np.where(np.arange(len(WEIGHTS)) == 1, -1.0, clear.sums)
    assert math.isnan(ErrorSums(sums=below, noise_deviation=1.0, span=10.0).metrics().mae), "and never 0.0"
    some = ErrorSums(sums=clear.sums, noise_deviation=27.0, span=10.0).metrics()
    assert math.isfinite(some.mae)
    assert math.isnan(some.rmse)
    assert math.isnan(some.r2)


def test_a_label_that_never_varies_has_no_r2() -> None:
    found = released(np.full(100, 0.1), np.full(100, 0.2)).metrics()
    assert math.isnan(found.r2)
    assert found.mae == pytest.approx(1.0, abs=1e-4)


def test_other_than_the_sums_is_none() -> None:
    with pytest.raises(ValueError, match=f"there are {len(WEIGHTS)} sums"):
        ErrorSums(sums=np.ones(3), noise_deviation=1.0, span=1.0)
