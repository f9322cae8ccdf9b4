"""Names have one pattern each, checked where a message is parsed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from contract.names import ColumnName, Prose, RunName, SiteName, Value, WindowName, canonical

KINDS: dict[str, Any] = {
    "site": SiteName,
    "run": RunName,
    "window": WindowName,
    "column": ColumnName,
    "value": Value,
    "prose": Prose,
}
GOOD = {
    "site": ["north", "North Clinic 2", "a.b_c-d"],
    "run": ["r", "heart-20260302.1"],
    "window": ["w1", "2026-03", "2026", "week 9", "base", "1.5"],
    "column": ["age", "Age (years)", "größe", "年齢"],
    "value": ["1", "1.0", "NA", ">50K", "icu/er", "<script>", "' OR 1"],
    "prose": ["", "Two\nlines.", "50 % are <b>not</b> bold"],
}
PATHS = ["../../../../../scratch/www/index", "/etc/passwd", "a/b", "a\\b", "..", ".hidden", "~", "C:", "a\0"]
HIDDEN = ["\x1b[2J", "a\x07", "a\u202eb", "\ud800", "a\u200bb", "a\x00", "a\x85b", "a\u2028b"]
BAD = {
    "site": [*PATHS, *HIDDEN, "", " a", "a ", "a\n", "é", "x" * 101, "[/x]"],
    "run": [*PATHS, *HIDDEN, "", "a b", "a\n", "x" * 201],
    "window": [
        *PATHS,
        *HIDDEN,
        "",
        "w1\n",
        " w1",
        "w1 ",
        "w1\0",
        "2020.0",
        "2020.",
        "x" * 101,
        "[/x]",
        "w1,w2",
    ],
    "column": [*HIDDEN, "", " a", "a ", "a\nb", "x" * 201],
    "value": [*HIDDEN, "", " a", "a\t", "x" * 201],
    "prose": [*HIDDEN, "x" * 10_001],
}


def accepts(kind: str, name: object) -> bool:
    try:
        TypeAdapter(KINDS[kind]).validate_python(name, strict=True)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_names_that_people_give_are_names(kind: str) -> None:
    assert [name for name in GOOD[kind] if not accepts(kind, name)] == []


@pytest.mark.parametrize("kind", KINDS)
def test_paths_escapes_and_what_nobody_sees_are_none(kind: str) -> None:
    assert [name for name in BAD[kind] if accepts(kind, name)] == []
    assert not accepts(kind, 1)
    assert not accepts(kind, None)


@given(st.text(max_size=10))
def test_a_window_has_the_one_form_of_what_it_names(name: str) -> None:
    if accepts("window", name):
        assert canonical(name) == name
        assert not set(name) & set("/\\\0\n:")
    if accepts("value", name):
        assert name.isprintable() or " " in name or "\u3000" in name or not name.isascii()


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("1001.0", "1001"),
        (" 1001 ", "1001"),
        ("1001.", "1001"),
        ("-1.00", "-1"),
        ("1.50", "1.50"),
        ("1e3", "1e3"),
        ("01.0", "01"),
        ("v1.0", "v1.0"),
        ("1.0.0", "1.0.0"),
        ("\u0661.0", "\u0661.0"),
        ("2026-03-02T00:00", "2026-03-02"),
        ("2026-03-02 00:00:00.000000Z", "2026-03-02"),
        ("2026-03-02 00:00:00.5", "2026-03-02 00:00:00.5"),
        ("e\u0301", "é"),
    ],
)
def test_one_form_by_hand(text: str, form: str) -> None:
    assert canonical(text) == form
