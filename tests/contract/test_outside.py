"""What is shown of text from outside is visible, on one line, and of a bounded length."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from contract.outside import shown
from tests.hostile import HOSTILE, require_harmless

anything = st.text(st.characters(), max_size=400)


@given(anything)
@example(HOSTILE)
def test_it_is_one_visible_line(text: str) -> None:
    line = shown(text)
    require_harmless(line)
    assert "\n" not in line
    line.encode()  # no half of a surrogate pair is left


@given(anything)
def test_what_is_visible_already_is_left_as_it_is(text: str) -> None:
    once = shown(text, limit=10_000)
    assert shown(once, limit=10_000) == once


@given(anything, st.integers(0, 400))
def test_only_the_length_of_the_text_is_told_beyond_the_limit(text: str, limit: int) -> None:
    line = shown(text, limit=limit)
    rest = len(text) - limit
    assert line.endswith(f"… ({rest:,} more)") if rest > 0 else line == shown(text, limit=10_000)
    assert len(line) <= 10 * limit + 30


def test_letters_of_any_language_are_left() -> None:
    assert shown("Zürich ε ≤ 1 東京 ‘x’ مرحبا") == "Zürich ε ≤ 1 東京 ‘x’ مرحبا"


def test_spaces_of_other_kinds_become_plain_ones() -> None:
    assert shown("a\u00a0b\u3000c") == "a b c"


def test_any_value_is_shown() -> None:
    assert shown(None) == "None"
    assert shown(3.5) == "3.5"
