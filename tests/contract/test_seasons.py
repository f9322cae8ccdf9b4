"""Which of the windows that a model was trained on a window is compared with."""

from __future__ import annotations

import datetime
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import CardError, ExperimentError, InputError
from contract.experiment import Drift, Experiment
from contract.experiment_file import parse_experiment
from contract.windows import Every, season_of, window_of
from server.jobs.job import Job
from tests.contract.test_experiment_file import GOOD
from tests.rows_of_a_site import card_of, numeric, one_of

ALL, SEASONS = Drift(), Drift(reference="same-season")
DIGEST = "56a2186c4cd0a6f935932a3d7401e24b3a26fe49bc4c6689ca81a074fd72c9bd"
"""Of the file without them."""
MONTHS = st.builds("{:04}-{:02}".format, st.integers(2020, 2026), st.integers(1, 12))
WINDOWS = st.lists(MONTHS, max_size=12, unique=True).map(tuple)


def asked(reference: str = "same-season") -> Experiment:
    text = f'{GOOD}unit = "person"\n[drift]\nreference = "{reference}"\n'
    return parse_experiment(text, where="tiny.toml")


@given(st.dates(datetime.date(1, 1, 5), datetime.date(9999, 12, 20)), st.sampled_from(get_args(Every)))
def test_a_day_is_in_the_season_of_its_window(day: datetime.date, every: Every) -> None:
    season = season_of(window_of(day, every))
    if every == "quarter":
        assert season == f"Q{(day.month - 1) // 3 + 1}"
        return
    middle = day - datetime.timedelta(day.weekday() - 3) if every == "week" else day
    names = "January February March April May June July August September October November December"
    assert season == names.split()[middle.month - 1]


@pytest.mark.parametrize("label", ["base", "w1", "", "2026", "2026-13", "2026-w05", "Q1", "2026-Q5"])
def test_a_label_has_no_season(label: str) -> None:
    with pytest.raises(InputError, match="no day, week, month or quarter"):
        season_of(label)
    ALL.require_seasons([label])
    assert ALL.reference_of([label], ("base", label)) == ("base", label)
    for trained in ((), ("2026-01",)):
        with pytest.raises(InputError, match="Seasons need calendar windows") as caught:
            SEASONS.reference_of([label], trained)
        assert caught.value.exit_code == 2
    with pytest.raises(InputError):
        SEASONS.reference_of(["2026-01"], ("2026-02", label))


def test_a_window_is_compared_with_its_season_of_every_year() -> None:
    trained = ("2024-12", "2025-01", "2025-02", "2026-01")
    assert SEASONS.reference_of(["2027-01"], trained) == ("2025-01", "2026-01")
    assert SEASONS.reference_of(["2027-02"], trained) == ("2025-02",)
    assert ALL.reference_of(["2027-02"], trained) == trained
    weeks = ("2025-W05", "2025-W06", "2025-W09", "2025-W10")
    assert SEASONS.reference_of(["2026-W07"], weeks) == ("2025-W06", "2025-W09")
    assert SEASONS.reference_of(["2027-Q3"], ("2025-Q3", "2025-Q4", "2026-Q3")) == ("2025-Q3", "2026-Q3")


def test_a_season_that_was_not_trained_on_is_compared_with_all() -> None:
    assert SEASONS.reference_of(["2026-07"], ("2026-01", "2026-02")) == ("2026-01", "2026-02")
    assert SEASONS.reference_of(["2026-07"], ()) == ()


@given(MONTHS, WINDOWS)
def test_a_reference_is_of_trained_windows_and_is_its_own_reference(
    window: str, trained: tuple[str, ...]
) -> None:
    found = SEASONS.reference_of([window], trained)
    assert set(found) <= set(trained)
    assert bool(found) == bool(trained)
    assert SEASONS.reference_of([window], found) == found
    same = {one[-2:] == window[-2:] for one in found}
    assert len(same) <= 1  # never of this season and of others
    assert found in SEASONS.references(trained)  # and so it is in what `site cost` says


def test_every_reference_that_there_may_be_is_named_once() -> None:
    assert ALL.references(("2025-01", "2025-02")) == (("2025-01", "2025-02"),)
    assert SEASONS.references(("2025-01", "2025-02")) == (("2025-01",), ("2025-02",), ("2025-01", "2025-02"))
    assert SEASONS.references(("2025-01", "2026-01")) == (("2025-01", "2026-01"),)
    year = tuple(f"2025-{month:02}" for month in range(1, 13))
    assert SEASONS.references(year) == tuple((window,) for window in year)
    assert SEASONS.references(("2025-Q1", "2025-Q2", "2025-Q3", "2025-Q4"))[-1] == ("2025-Q4",)
    assert SEASONS.references(()) == ((),)


def test_a_file_that_names_no_reference_keeps_its_digest() -> None:
    """By it sites have approved the experiment, and have released references: paid for once."""
    assert parse_experiment(GOOD, where="x").digest == DIGEST
    plain = f'{GOOD}[drift]\nreference = "all-windows"\n'
    assert parse_experiment(plain, where="x").digest == DIGEST
    seasonal = parse_experiment(f'{GOOD}[drift]\nreference = "same-season"\n', where="x")
    assert seasonal.digest != DIGEST
    assert Experiment.model_validate_json(seasonal.model_dump_json(), strict=True) == seasonal


def test_another_word_is_refused() -> None:
    with pytest.raises(ExperimentError, match=r"drift\.reference"):
        asked("same season")


def test_a_card_without_a_calendar_refuses_and_says_what_to_do() -> None:
    columns = (numeric("age", 0, 120), one_of("sex", "f", "m"), one_of("ill", "0", "1"))
    cards = {
        "label": {"column": "month"},  # whose values may look like months
        "date": {"column": "month", "kind": "date", "every": "month"},
    }
    for kind, time in cards.items():
        card = card_of(*columns, person="patient", time=time)
        if kind == "date":
            card.require(asked(), windows=("2026-01",))
            continue
        card.require(asked("all-windows"), windows=("2026-01",))
        with pytest.raises(CardError, match=r"no calendar\. Seasons need calendar windows: let the card say"):
            card.require(asked(), windows=("2026-01",))
    with pytest.raises(CardError, match="time is none, which has no calendar"):
        card_of(*columns, person="patient").require(asked())


def test_no_run_begins_with_a_window_that_has_no_season() -> None:
    for fields in ({"windows": ("base",)}, {"window": "w2"}, {"windows": ("2026-01", "base")}):
        Job(kind="train", run="r", experiment=asked("all-windows"), **fields)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="has no season") as caught:
            Job(kind="train", run="r", experiment=asked(), **fields)  # type: ignore[arg-type]
        assert caught.value.exit_code == 2
