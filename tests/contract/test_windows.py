"""Calendar windows: each day is in one of each kind, and each has one name."""

from __future__ import annotations

import datetime
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import InputError
from contract.windows import Every, first_day, is_window, next_window, window_of

KINDS = get_args(Every)
DAYS = st.dates(min_value=datetime.date(1000, 1, 1), max_value=datetime.date(9990, 1, 1))


@given(DAYS, st.sampled_from(KINDS))
def test_a_day_is_in_the_window_that_begins_before_it_and_ends_after_it(
    day: datetime.date, every: Every
) -> None:
    name = window_of(day, every)
    assert first_day(name, every) <= day < first_day(next_window(name, every), every)
    assert window_of(first_day(name, every), every) == name
    assert name < next_window(name, every)


@given(st.text(alphabet="0123456789-WQ ", max_size=11), st.sampled_from(KINDS))
def test_a_window_has_one_name(text: str, every: Every) -> None:
    """What is taken for a window is what the calendar calls it: no other text names the same rows."""
    if is_window(text, every):
        assert window_of(first_day(text, every), every) == text


@pytest.mark.parametrize(
    ("text", "every"),
    [
        ("2026-W5", "week"),
        ("2026-w05", "week"),
        ("2025-W53", "week"),
        ("2026-W00", "week"),
        ("2026-13", "month"),
        ("2026-1", "month"),
        ("2026-01 ", "month"),
        ("٢٠٢٦-01", "month"),
        ("2026-Q5", "quarter"),
        ("2026-02-30", "day"),
        ("0000-01", "month"),
        ("2026-02", "week"),
        ("", "day"),
    ],
)
def test_another_text_is_none_and_the_error_shows_one(text: str, every: Every) -> None:
    assert not is_window(text, every)
    with pytest.raises(InputError, match=f"is no {every}: one is named like 2026-"):
        first_day(text, every)


def test_after_the_calendars_last_window_there_is_none() -> None:
    with pytest.raises(InputError, match="there is no quarter after"):
        next_window("9999-Q4", "quarter")
