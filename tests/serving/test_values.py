"""What a value is: by one rule, for every source, of each value by itself."""

from __future__ import annotations

import datetime as dt
import math
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from contract.names import canonical
from serving.values import numbers, texts

NAN = math.nan
MISSING = ("", "NA", "NaN")


def text(value: object, **options: Any) -> str | None:
    found: str | None = texts(pd.Series([value], dtype=object), **{"missing": MISSING, **options})[0]
    return found


def number(value: object, **options: Any) -> tuple[float, int]:
    found, unreadable = numbers(pd.Series([value], dtype=object), **{"missing": MISSING, **options})
    return found[0], int(unreadable.sum())


AS_TEXT = [
    ("1", "1"),
    ("1.0", "1"),
    ("1.", "1"),
    (" 1001.000 ", "1001"),
    ("1001.5", "1001.5"),
    ("01", "01"),
    ("-3.0", "-3"),
    ("w1\0", "w1\0"),
    ("1\u00a0", "1"),
    ("Zu\u0308rich", "Zürich"),
    ("2026-03-02 00:00:00", "2026-03-02"),
    ("2026-03-02T00:00:00.000", "2026-03-02"),
    ("2026-03-02 00:00:00+01", "2026-03-02"),
    ("2026-03-02 00:00:01", "2026-03-02 00:00:01"),
    (1, "1"),
    (1.0, "1"),
    (-0.0, "0"),
    (1.5, "1.5"),
    (np.int64(7), "7"),
    (np.float32(7), "7"),
    (10**40, "1" + "0" * 40),
    (Decimal("1.00"), "1"),
    (Decimal("1.50"), "1.50"),
    (Decimal("1E+2"), "100"),
    (Decimal("12345678901234567.0"), "12345678901234567"),
    (Decimal("Infinity"), "Infinity"),
    ("1e+05", "100000"),
    ("1.50E1", "15"),
    ("1.5e0", "1.5e0"),
    ("1E50", "1E50"),
    ("12E4", "12E4"),
    ("1001,0", "1001,0"),
    ("12345678901234560", "12345678901234560"),
    (12345678901234561, "12345678901234561"),
    ("9007199254740991.0", "9007199254740991"),
    ("9007199254740992.0", None),
    ("1.234567890123456e+16", None),
    ("-1e+300", None),
    (2.0**53, None),
    (2.0**53 - 1, "9007199254740991"),
    (-(2.0**60), None),
    (np.float32(2**24), None),
    (np.float32(2**24 - 1), "16777215"),
    (True, "True"),
    (np.bool_(0), "False"),
    (b"ab", "ab"),
    (b"\xff", "\\xff"),
    (dt.date(2026, 3, 2), "2026-03-02"),
    (dt.datetime(2026, 3, 2), "2026-03-02"),
    (dt.datetime(2026, 3, 2, 8, 30), "2026-03-02 08:30:00"),
    (pd.Timestamp("2026-03-02"), "2026-03-02"),
    ([1], "[1]"),
    (math.inf, "inf"),
    ("", None),
    ("  ", None),
    (" NA ", None),
    (None, None),
    (NAN, None),
    (pd.NaT, None),
    (pd.NA, None),
    (Decimal("NaN"), None),
    (Decimal("sNaN"), None),
]


@pytest.mark.parametrize(("value", "expected"), AS_TEXT)
def test_a_text_has_one_form_whatever_type_it_came_in(value: object, expected: str | None) -> None:
    assert text(value) == expected


def test_a_whole_number_of_thousands_of_digits_is_a_text() -> None:
    assert text(10**5000) == f"{10**5000:x}"


class _Failing:
    """Of a driver: nothing can be asked of it."""

    def __str__(self) -> str:
        raise KeyError("no such zone")

    def __ne__(self, other: object) -> bool:
        raise RuntimeError

    __hash__ = None  # type: ignore[assignment]


class _FailingNumber(Decimal):
    def __float__(self) -> float:
        raise RuntimeError


class _Unshown(_Failing):
    def __ne__(self, other: object) -> bool:
        return False


def test_a_value_that_fails_to_say_what_it_is_is_missing() -> None:
    for value in (_Failing(), _Unshown()):
        assert text(value) is None
        number(value)
    assert number(_FailingNumber("1.5"))[1] == 1


def test_a_declared_category_is_never_missing_nor_rewritten() -> None:
    declared = ("NA", "1.0", "", "2026-03-02 00:00:00", " x")
    for category in declared:
        assert text(category, declared=declared) == category
    assert text(" NA ", declared=declared) == "NA"
    assert text("NaN", declared=declared) is None


def test_a_number_is_the_category_whose_form_it_has() -> None:
    """A card that was written as one program writes codes is right for what another writes."""
    for declared in (("1", "2"), ("1.0", "2.0")):
        for value in ("1", "1.0", "1.00", 1, 1.0, Decimal("1.0")):
            assert text(value, declared=declared) == declared[0]
    both = ("1", "1.0")
    assert [text(value, declared=both) for value in ("1", "1.0", "1.00", 1.0)] == ["1", "1.0", "1", "1"]


def test_what_stands_for_a_missing_value_does_in_every_form() -> None:
    for value in ("-9", "-9.0", -9, -9.0, " -9 "):
        assert text(value, missing=("-9",)) is None
        assert math.isnan(number(value, missing=("-9",))[0])
        assert number(value, missing=("-9",))[1] == 0
    typed, unreadable = numbers(pd.Series([-9.0, 3.0]), missing=("-9", "?"))
    np.testing.assert_array_equal(typed, [NAN, 3.0])
    assert not unreadable.any()
    assert number("-9")[0] == -9


AS_NUMBER = [
    ("1", 1, 0),
    (" 1.50 ", 1.5, 0),
    ("-.5e1", -5, 0),
    ("1.", 1, 0),
    ("True", 1, 0),
    ("false", 0, 0),
    (True, 1, 0),
    (np.bool_(1), 1, 0),
    (Decimal("2.5"), 2.5, 0),
    (2**60, 2.0**60, 0),
    (b"3", 3, 0),
    (np.float32(0.5), 0.5, 0),
    ("", NAN, 0),
    ("NA", NAN, 0),
    (None, NAN, 0),
    (NAN, NAN, 0),
    (pd.NA, NAN, 0),
    (Decimal("sNaN"), NAN, 0),
    ("1e400", NAN, 1),
    ("9" * 400, NAN, 1),
    ("inf", NAN, 1),
    ("nan", NAN, 1),
    ("1_000", NAN, 1),
    ("1,5", NAN, 1),
    ("1 5", NAN, 1),
    ("\u0663", NAN, 1),
    ("0x10", NAN, 1),
    ("1\0", NAN, 1),
    ("4O", NAN, 1),
    ("\ud800", NAN, 1),
    ("2026-03-02", NAN, 1),
    (math.inf, NAN, 1),
    (10**400, NAN, 1),
    (Decimal("1e400"), NAN, 1),
    (Decimal("Infinity"), NAN, 1),
    (1 + 0j, NAN, 1),
    (np.complex128(1), NAN, 1),
    (dt.date(2026, 3, 2), NAN, 1),
    ([1], NAN, 1),
    (np.array([1.0, 2.0]), NAN, 0),
]


@pytest.mark.parametrize(("value", "expected", "unreadable"), AS_NUMBER)
def test_a_number_is_finite_or_missing(value: object, expected: float, unreadable: int) -> None:
    found = number(value)
    np.testing.assert_array_equal(found, (expected, unreadable))


def test_the_decimal_sign_is_the_sites_own() -> None:
    assert number("1,5", decimal=",") == (1.5, 0)
    assert number("-9,0", decimal=",", missing=("-9",))[1] == 0
    for value in ("1.5", "1.234,5", "1,2,3"):
        assert number(value, decimal=",")[1] == 1
    assert number(1.5, decimal=",") == (1.5, 0)


def test_an_id_has_one_form_whatever_the_decimal_sign() -> None:
    for value in ("1001", "1001,0", "1001.0", "1,001e+03", 1001, 1001.0):
        assert text(value, decimal=",") == "1001"
    assert text("1,50", decimal=",") == "1,50"
    assert text("01,0", decimal=",") == "01"
    assert text("9007199254740992,0", decimal=",") is None
    assert text("-9,0", decimal=",", missing=("-9",)) is None


@given(st.integers(min_value=-(2**53) + 1, max_value=2**53 - 1), st.sampled_from([".", ","]))
def test_whole_numbers_that_a_float_holds_are_one_id_in_every_form(value: int, sign: str) -> None:
    forms = [f"{value}", f"{value}.0", repr(float(value)), f"{value:.16e}", f"{value:.1f}"]
    found = {text(form.replace(".", sign), decimal=sign) for form in forms} - {"-0"}
    assert found == {str(value)}
    assert {text(value), text(float(value)), text(Decimal(value))} == {str(value)}


@given(st.text(max_size=20))
@example("1.0\u0301")
@example(" \u0301")
def test_the_form_of_a_form_is_itself(value: str) -> None:
    assert canonical(canonical(value)) == canonical(value)
    assert text(value) in {None, canonical(value)}


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.decimals(),
    st.sampled_from([Decimal("1.5"), Decimal("1.50"), Decimal(1), Decimal("1.0"), 1, 1.0, True, "1", "1.0"]),
    st.text(max_size=4),
    st.binary(max_size=4),
    st.dates(),
    st.datetimes(timezones=st.none() | st.timezones()),
    st.lists(st.integers(), max_size=2),
    st.sampled_from([*(value for value, _ in AS_TEXT), *(value for value, *_ in AS_NUMBER)]),
)


@given(st.lists(ANYTHING, max_size=6))
@settings(deadline=None)
def test_each_value_is_read_by_itself(values: list[object]) -> None:
    """Equal values of two forms (1.5 and 1.50; one moment in two zones) do not lend each other theirs."""
    column = pd.Series(np.fromiter(values, dtype=object, count=len(values)), dtype=object)
    found = texts(column, missing=MISSING, declared=("1", "NA")).tolist()
    assert found == [text(value, declared=("1", "NA")) for value in values]
    read, unreadable = numbers(column, missing=MISSING)
    alone = [number(value) for value in values]
    np.testing.assert_array_equal(read, [one for one, _ in alone])
    assert unreadable.sum() == sum(count for _, count in alone)
    assert not np.isinf(read).any()
