"""An experiment file without ranges is a question, and no plan of a training."""

from __future__ import annotations

import pytest

from contract.errors import ExperimentError
from contract.experiment import NumericFeature
from contract.experiment_file import parse_experiment, parse_unranged
from contract.range_grid import LARGEST

TEXT = """\
name = "tiny"
[task]
label = { column = "ill" }
[[task.features]]
name = "age"
kind = "numeric"
low = 0
high = 120
[[task.features]]
name = "dose"
kind = "numeric"
[[task.features]]
name = "cost"
kind = "numeric"
transform = "log1p"
[[task.features]]
name = "sex"
kind = "categorical"
categories = ["f", "m"]
"""


def refusal(text: str) -> str:
    with pytest.raises(ExperimentError) as caught:
        parse_unranged(text, where="tiny.toml")
    return str(caught.value)


def test_features_without_a_range_are_asked_for_and_the_rest_stands() -> None:
    unranged = parse_unranged(TEXT, where="tiny.toml")
    assert unranged.features == ("dose", "cost")
    age, dose, cost, _ = unranged.experiment.task.features
    assert isinstance(age, NumericFeature)
    assert isinstance(dose, NumericFeature)
    assert isinstance(cost, NumericFeature)
    assert (age.low, age.high) == (0.0, 120.0)
    assert (dose.low, dose.high) == (-LARGEST, LARGEST)
    assert (cost.low, cost.high, cost.transform) == (0.0, LARGEST, "log1p")


def test_training_on_it_is_refused_with_the_command_that_asks() -> None:
    with pytest.raises(ExperimentError) as caught:
        parse_experiment(TEXT, where="tiny.toml")
    assert "features 'dose', 'cost' state no low and high" in str(caught.value)
    assert "tidegate ranges tiny.toml" in str(caught.value)


def test_a_file_with_every_range_asks_nothing() -> None:
    whole = TEXT.replace('"numeric"\n[[', '"numeric"\nlow = 0\nhigh = 9\n[[').replace(
        '"log1p"', '"log1p"\nlow = 0\nhigh = 9'
    )
    assert parse_unranged(whole, where="tiny.toml").features == ()
    assert parse_unranged(whole, where="x").experiment == parse_experiment(whole, where="x")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("low = 0\n", "", "key 'task.features[0].low' (of 'age') is missing"),
        ("high = 120\n", "", "key 'task.features[0].high' (of 'age') is missing"),
        ('name = "dose"', 'nmae = "dose"', "unknown key 'task.features[1].nmae'"),
        ('"log1p"', '"log2"', "task.features[2].transform"),
        ("[task]", "[task", "not valid TOML"),
        ('[[task.features]]\nname = "age"', "[task.features]\nage = 3", "TOML"),
    ],
)
def test_anything_else_that_is_wrong_is_refused_as_ever(old: str, new: str, words: str) -> None:
    assert old in TEXT
    assert words in refusal(TEXT.replace(old, new))


def test_features_that_are_no_tables_are_refused_by_the_types() -> None:
    for wrong in ("features = 3", "features = [1, 2]", 'features = ["age"]'):
        assert "task.features" in refusal(f'name = "x"\n[task]\nlabel = {{ column = "ill" }}\n{wrong}\n')
    assert "task" in refusal('name = "x"\ntask = 3\n')
