"""What a card is, and what it offers an experiment: settled without a row."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from contract.card import Card
from contract.errors import CardError, RefusalCode
from contract.experiment import CategoricalFeature, Experiment, Label, NumericFeature, Privacy, Task
from tests.rows_of_a_site import card_of, numeric, one_of

AGE, WARD, ILL = numeric("age", 0, 120), one_of("ward", "1", "2"), one_of("ill", "0", "1")
CARD = card_of(AGE, WARD, ILL, time={"column": "month"})
OF_PERSONS = card_of(AGE, WARD, ILL, time={"column": "month"}, person="patient")
AGES = NumericFeature(name="age", kind="numeric", low=0, high=100)
WARDS = CategoricalFeature(name="ward", kind="categorical", categories=("2", "3"))


def experiment(
    *features: Any, label: Label | None = None, person: bool = False, by: str | None = None, **task: Any
) -> Experiment:
    return Experiment(
        name="small",
        task=Task(label=label or Label(column="ill"), features=features or (AGES, WARDS), person=by, **task),
        privacy=Privacy(unit="person" if person else "record"),
    )


def refusal(card: Card, asked: Experiment, **more: Any) -> str:
    with pytest.raises(CardError) as caught:
        card.require(asked, **more)
    assert caught.value.code == RefusalCode.CARD
    assert caught.value.remedy
    return str(caught.value)


def test_an_experiment_chooses_among_what_the_card_offers() -> None:
    CARD.require(experiment())
    CARD.require(experiment(AGES, time="month"), windows=("2026-01", "nothing yet"))
    OF_PERSONS.require(experiment(person=True))
    OF_PERSONS.require(experiment(AGES, person=True, by="patient"))
    wide = AGES.model_copy(update={"low": -1e6})
    CARD.require(experiment(wide), unranged=("age",))
    card_of(numeric("age"), ILL).require(experiment(wide))


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (experiment(NumericFeature(name="dose", kind="numeric", low=0, high=1)), "offers no column 'dose'"),
        (
            experiment(NumericFeature(name="agee", kind="numeric", low=20, high=90)),
            "offers no column 'agee' (did you mean 'age'?)",
        ),
        (experiment(NumericFeature(name="month", kind="numeric", low=0, high=1)), "offers no column 'month'"),
        (
            experiment(NumericFeature(name="ward", kind="numeric", low=0, high=1)),
            "'ward' is numeric, and on the card",
        ),
        (
            experiment(CategoricalFeature(name="age", kind="categorical", categories=("1", "2"))),
            "'age' is categorical",
        ),
        (
            experiment(AGES.model_copy(update={"high": 121.0})),
            "the range of 'age' is [0, 121], and on the card [0, 120]",
        ),
        (experiment(AGES.model_copy(update={"low": -1.0})), "the range of 'age' is [-1, 100]"),
        (
            experiment(WARDS.model_copy(update={"categories": ("a", "b")})),
            "'ward' has none of the card's categories",
        ),
        (
            experiment(WARDS.model_copy(update={"categories": ("1.0", "2.0")})),
            "none of the card's categories (1, 2)",
        ),
        (experiment(label=Label(column="ward2")), "'ward2' for the label (did you mean 'ward'?)"),
        (experiment(WARDS, label=Label(column="age")), "no categorical column 'age' for the label"),
        (
            experiment(label=Label(classes=("a", "b"), column="ill")),
            "'ill' has none of the card's categories",
        ),
        (experiment(time="week"), "task.time = 'week', and the card's time is 'month'"),
        (experiment(person=True), "the card names no person"),
        (experiment(person=True, by="patient"), "task.person = 'patient', and the card's person is none"),
    ],
)
def test_what_the_card_does_not_offer_is_refused(asked: Experiment, sentence: str) -> None:
    assert sentence in refusal(CARD, asked)


def test_whose_rows_they_are_the_card_says() -> None:
    assert "the card's unit is the person ('patient')" in refusal(OF_PERSONS, experiment())
    other = experiment(person=True, by="age2")
    assert "task.person = 'age2', and the card's person is 'patient'" in refusal(OF_PERSONS, other)


def test_windows_need_a_time_column() -> None:
    timeless = card_of(AGE, WARD, ILL)
    timeless.require(experiment())
    assert "the card has no time column" in refusal(timeless, experiment(), windows=("2026-01",))
    assert "the card's time is none" in refusal(timeless, experiment(time="month"))


def test_everything_that_does_not_fit_is_said_at_once() -> None:
    message = refusal(CARD, experiment(AGES.model_copy(update={"high": 500.0}), time="week"))
    assert "task.time" in message
    assert "the range of 'age'" in message


@pytest.mark.parametrize(
    ("card", "sentence"),
    [
        ({"columns": []}, "at least 1"),
        ({"columns": [AGE, AGE]}, "column 'age' is named twice"),
        ({"columns": [AGE], "person": "age"}, "column 'age' is named twice"),
        ({"columns": [AGE], "time": {"column": "age"}}, "column 'age' is named twice"),
        ({"columns": [AGE], "person": "p", "time": {"column": "p"}}, "column 'p' is named twice"),
        ({"columns": [AGE], "holdout": {"column": "age"}}, "column 'age' is named twice"),
        ({"columns": [AGE], "holdout": {"record": "age"}}, "column 'age' is named twice"),
        ({"columns": [AGE], "holdout": {"record": "a", "column": "b"}}, "two ways to say a row's side"),
        (
            {"columns": [AGE], "person": "p", "holdout": {"record": "a"}},
            "holdout.record cannot go with person",
        ),
        (
            {"columns": [AGE], "person": "p", "holdout": {"column": "side"}},
            "holdout.column cannot go with person",
        ),
        ({"columns": [AGE], "holdout": {"share": 0.95}}, "less than or equal to 0.9"),
        ({"columns": [AGE], "time": {"column": "m", "kind": "week"}}, "label"),
        ({"columns": [numeric("age", 0)]}, "low and high go together"),
        ({"columns": [numeric("age", 2, 1)]}, "must be below high"),
        ({"columns": [numeric("age", 0, float("inf"))]}, "finite"),
        ({"columns": [one_of("ward", "a", "a")]}, "distinct"),
        ({"columns": [one_of("ward", "a\x1b[2J")]}, "cannot be printed"),
        ({"columns": [AGE], "descripton": "x"}, "Extra inputs"),
    ],
)
def test_a_card_that_contradicts_itself_is_refused(card: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence.replace("(", r"\(")):
        Card.model_validate(card)


def test_a_card_names_every_column_that_is_read() -> None:
    assert OF_PERSONS.names == ("age", "ward", "ill", "patient", "month")
    assert card_of(AGE, holdout={"column": "side"}).names == ("age", "side")
    assert CARD.column("age") == CARD.columns[0]
    assert CARD.column("month") is None
    assert Card.model_validate_json(OF_PERSONS.model_dump_json()) == OF_PERSONS


def test_dealing_follows_from_what_decides_windows_and_sides_alone() -> None:
    dealing = CARD.dealing
    assert CARD.model_copy(update={"description": "visits"}).dealing == dealing
    assert card_of(numeric("age"), WARD, ILL, time={"column": "month"}).dealing == dealing
    others = [
        OF_PERSONS,
        card_of(AGE, WARD, ILL),
        card_of(AGE, ILL, time={"column": "month"}),
        card_of(AGE, WARD, ILL, time={"column": "week"}),
        card_of(AGE, WARD, ILL, time={"column": "month"}, holdout={"share": 0.2}),
    ]
    assert len({dealing, *(card.dealing for card in others)}) == 6


def many(number: int, *first: str) -> tuple[str, ...]:
    return (*first, *(f"x{place}" for place in range(number - len(first))))


def test_a_table_has_no_more_columns_than_the_card_gives_reason_for() -> None:
    """Each takes memory in every row; of undeclared categories a server has as many as it likes."""
    fits = CategoricalFeature(name="ward", kind="categorical", categories=many(999, "1"))
    CARD.require(experiment(AGES, fits))
    wide = fits.model_copy(update={"categories": many(1000, "1")})
    assert "the features have 1,001 columns, and on this card may have 1,000" in refusal(
        CARD, experiment(AGES, wide)
    )
    classes = Label(column="ill", classes=many(1001, "0", "1"))
    assert "the classes of 'ill' have 1,001 columns" in refusal(CARD, experiment(label=classes))
    large = card_of(AGE, one_of("ward", *many(500, "1")), ILL)
    large.require(experiment(AGES, fits.model_copy(update={"categories": many(2000, "1")})))
    assert "may have 2,012" in refusal(
        large, experiment(AGES, fits.model_copy(update={"categories": many(2012, "1")}))
    )
