"""Experiment files drafted from cards: what every site allows, and nothing that a card slips in."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.card import Card
from contract.errors import ExperimentError, InputError, NotInstalledError
from contract.experiment_file import parse_experiment, parse_unranged
from experiments.draft import Offer, draft, labels, variant
from tests.installed import EXAMPLE, install, on_path

AGE = {"name": "age", "kind": "numeric", "low": 0, "high": 120, "meaning": "years"}
ILL = {"name": "ill", "kind": "categorical", "categories": ["0", "1"]}
WARD = {"name": "ward", "kind": "categorical", "categories": ["a", "b"]}
CRP = {"name": "crp", "kind": "numeric"}
SEEN = {"column": "seen", "kind": "date", "every": "month"}


def offer(*columns: dict[str, Any], rows: int = 300, **more: Any) -> Offer:
    return Offer(card=Card.model_validate({"columns": columns, **more}), stated_rows=rows)


def read(text: str) -> Any:
    return parse_experiment(text, where="draft")


def test_every_column_that_all_offer_alike_is_taken() -> None:
    text = draft(
        {"north": offer(AGE, ILL, WARD, time=SEEN), "south": offer(ILL, AGE, WARD, time=SEEN)},
        name="x",
        label="ill",
    )
    experiment = read(text)
    assert [feature.name for feature in experiment.task.features] == ["age", "ward"]
    assert experiment.task.label.classes == ("0", "1")
    assert (experiment.task.time, experiment.task.person) == ("seen", None)
    assert "# years" in text
    assert "windows such as 2026-02" in text


def test_a_number_is_predicted_within_the_range_that_every_card_has_room_for() -> None:
    offers = {"a": offer(AGE, ILL), "b": offer(AGE | {"low": 18, "high": 150}, ILL, CRP)}
    assert labels(offers) == ("age", "ill")
    label = read(draft(offers, name="x", label="age")).task.label
    assert (label.kind, label.low, label.high, label.classes) == ("numeric", 18, 120, ())


def test_a_range_is_one_that_every_card_has_room_for() -> None:
    wide, narrow = AGE | {"low": -5, "high": 90}, AGE | {"low": 18, "high": 150}
    experiment = read(draft({"a": offer(wide, ILL), "b": offer(narrow, ILL)}, name="x", label="ill"))
    (age,) = experiment.task.features
    assert (age.low, age.high) == (18, 90)


def test_categories_are_those_of_all_sites() -> None:
    other = WARD | {"categories": ["b", "c"]}
    (ward,) = read(
        draft({"a": offer(WARD, ILL), "b": offer(other, ILL)}, name="x", label="ill")
    ).task.features
    assert ward.categories == ("a", "b", "c")


def test_a_column_without_a_range_is_left_out_and_ready_to_be_taken() -> None:
    crp, level = CRP | {"meaning": "C-reactive protein, mg/l"}, CRP | {"name": "level"}
    text = draft({"a": offer(crp, AGE, level, ILL)}, name="x", label="ill")
    assert [feature.name for feature in read(text).task.features] == ["age"]
    assert "# Left out: 'crp' states no range (low and high) on any card." in text
    lines = text.splitlines()
    for name, below in (("crp", 4), ("level", 3)):
        (place,) = (number for number, line in enumerate(lines) if f"to take '{name}'" in line)
        assert f"the next {below} lines" in lines[place]
        for number in range(place + 2, place + 2 + below):
            lines[number] = lines[number].removeprefix("# ")
    taken = parse_unranged("\n".join(lines), where="taken")
    assert taken.features == ("crp", "level")
    assert [one.name for one in taken.experiment.task.features] == ["age", "crp", "level"]
    assert variant("\n".join(lines), {"name": "y"}, where="taken").count("[[task.features]]") == 3


def test_a_column_without_a_range_that_is_named_is_left_to_be_asked_for() -> None:
    text = draft({"a": offer(CRP, AGE, ILL)}, name="x", label="ill", features=["crp", "age"])
    assert parse_unranged(text, where="draft").features == ("crp",)
    assert "`tidegate ranges` asks" in text


def test_a_card_of_numbers_without_ranges_says_how_to_take_them() -> None:
    with pytest.raises(InputError, match=r"'crp' states no range .* on any card") as caught:
        draft({"a": offer(CRP, ILL)}, name="x", label="ill")
    assert "name a number without a range as a feature" in str(caught.value)


@pytest.mark.parametrize(
    ("south", "why"),
    [
        ((AGE, ILL), "Left out: 'ward' is not offered by south."),
        ((AGE, ILL, {"name": "ward", "kind": "numeric"}), "Left out: 'ward' is numeric at south alone."),
        (
            (AGE, ILL, WARD | {"categories": ["y", "z"]}),
            "Left out: 'ward' has no category that the sites share.",
        ),
    ],
)
def test_what_is_left_out_is_said(south: tuple[dict[str, Any], ...], why: str) -> None:
    text = draft({"north": offer(AGE, ILL, WARD), "south": offer(*south)}, name="x", label="ill")
    assert f"# {why}\n" in text
    assert [feature.name for feature in read(text).task.features] == ["age"]


def test_one_category_and_ranges_apart_tell_nothing() -> None:
    one, apart = WARD | {"categories": ["a"]}, AGE | {"low": 200, "high": 300}
    size = AGE | {"name": "size"}
    text = draft({"a": offer(AGE, ILL, one, size), "b": offer(apart, ILL, one, size)}, name="x", label="ill")
    assert "'ward' has one category, so it tells nothing" in text
    assert "'age' has ranges that share nothing" in text


@pytest.mark.parametrize(
    ("label", "features", "words"),
    [
        ("crp", (), "'crp' cannot be predicted: it is numeric, and no card states its range"),
        ("nothing", (), "'nothing' cannot be predicted: no site offers it"),
        ("site", (), "'site' cannot be predicted: it has one category, so it tells nothing"),
        ("ill", ("nothing",), "feature 'nothing' is on no card"),
        ("ill", ("ill",), "feature 'ill' is the label"),
        ("ill", ("site",), "feature 'site' has one category"),
    ],
)
def test_what_cannot_be_asked_for_is_one_sentence(label: str, features: tuple[str, ...], words: str) -> None:
    site = {"name": "site", "kind": "categorical", "categories": ["here"]}
    with pytest.raises(InputError, match=words):
        draft({"a": offer(AGE, ILL, CRP, site)}, name="x", label=label, features=features)


def test_cards_that_disagree_on_the_person_or_the_time_make_no_experiment() -> None:
    with pytest.raises(InputError, match=r"disagree on the person \(a: 'patient', b: none\)"):
        draft({"a": offer(AGE, ILL, person="patient"), "b": offer(AGE, ILL)}, name="x", label="ill")
    with pytest.raises(InputError, match=r"disagree on the time \(a: 'seen', b: none\)"):
        draft({"a": offer(AGE, ILL, time=SEEN), "b": offer(AGE, ILL)}, name="x", label="ill")


def test_a_person_is_the_unit_and_delta_is_below_one_in_the_rows() -> None:
    experiment = read(draft({"a": offer(AGE, ILL, person="patient", rows=2_000_000)}, name="x", label="ill"))
    assert experiment.privacy.unit == "person"
    assert experiment.privacy.delta < 1 / 2_000_000
    assert experiment.strategy.quorum == 1


def test_labels_are_the_columns_with_classes_at_every_site() -> None:
    assert labels({"a": offer(AGE, ILL, WARD), "b": offer(ILL, AGE)}, numbers=False) == ("ill",)


@given(st.text(min_size=1, max_size=60))
def test_nothing_that_a_card_says_becomes_a_key(meaning: str) -> None:
    """A hostile site's words are comments of one line, whatever they hold."""
    try:
        there = offer(AGE | {"meaning": meaning + "\n[privacy]\nepsilon = 9000\n"}, ILL)
    except ValueError:
        return  # the card itself is refused
    text = draft({"a": there}, name="x", label="ill")
    assert tomllib.loads(text)["privacy"]["epsilon"] == 1.0
    assert text == draft({"a": there}, name="x", label="ill")


def test_a_variant_keeps_comments_and_changes_what_is_named() -> None:
    text = draft({"a": offer(AGE, ILL)}, name="x", label="ill")
    other = variant(
        text, {"name": "x-2", "strategy.rounds": "40", "strategy.name": "fedavgm"}, where="x.toml"
    )
    assert "# years" in other
    before, after = read(text), read(other)
    assert (after.name, after.strategy.rounds, after.strategy.name) == ("x-2", 40, "fedavgm")
    assert after.task == before.task


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("strategy.roundz", "40", "did you mean"),
        ("strategy.rounds", "many", "rounds"),
        ("name.x", "1", "'name.x' is no key of it"),
        ("privacy.epsilon", "-1", "epsilon"),
    ],
)
def test_a_variant_that_is_no_experiment_is_refused(key: str, value: str, words: str) -> None:
    text = draft({"a": offer(AGE, ILL)}, name="x", label="ill")
    with pytest.raises(ExperimentError, match=words):
        variant(text, {key: value}, where="x.toml")


def test_a_package_that_is_installed_is_taken_with_its_settings(tmp_path: Path) -> None:
    with on_path(install(EXAMPLE, tmp_path / "installed", tmp_path)):
        text = draft({"a": offer(AGE, ILL)}, name="x", label="ill", model="small-memory")
    model = read(text).model
    assert (model.kind, model.name, model.package) == ("package", "small-memory", None)
    assert "of tidegate-example==1.0, which every site must have installed" in text
    assert "parameters = { hidden = 8, at_once = 4 }" in text
    network = read(draft({"a": offer(AGE, ILL)}, name="x", label="ill", model="mlp"))
    assert (network.model.kind, network.model.hidden) == ("mlp", (32,))


def test_a_package_that_is_not_installed_is_one_sentence() -> None:
    with pytest.raises(NotInstalledError, match="no installed package offers a model 'forest'"):
        draft({"a": offer(AGE, ILL)}, name="x", label="ill", model="forest")
