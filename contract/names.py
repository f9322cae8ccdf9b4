"""How things are named across the boundary, and how a value of a row becomes a text.

A name in a message may end in a ledger, a table, a log or a page, and the name of a
window chooses rows. So each kind of name has one pattern, checked where a message is
parsed, and a window's rows are chosen by the very text that names its data block: two
texts are one window only if they are equal, letter by letter.
"""

from __future__ import annotations

import re
import secrets
import unicodedata
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, Field

__all__ = [
    "EXACT",
    "IN_WORDS",
    "MISSING_TEXTS",
    "ColumnName",
    "Digest",
    "ExperimentName",
    "PersonName",
    "Prose",
    "RunName",
    "SiteName",
    "Value",
    "WindowName",
    "canonical",
    "challenger_run",
    "is_inexact",
    "is_run_of",
    "name_run",
]

EXACT = 2**53
"""From here on a float (IEEE 754, 64 bits) has one value for several whole numbers."""

MISSING_TEXTS = ("", "NA", "NaN")
"""What stands for a missing value in a text, where nobody says otherwise."""

_WHOLE = re.compile(r"([+-]?\d+)\.0*", re.ASCII)
_WITH_COMMA = re.compile(r"([+-]?\d+)[.,]0*", re.ASCII)
_SCIENTIFIC = re.compile(r"[+-]?\d(?:[.,]\d*[eE][+-]?|[eE][+-])\d{1,3}", re.ASCII)
"""As programs write a float: one digit first, then a decimal sign or a signed exponent. `1E50` is a code."""
_MIDNIGHT = re.compile(r"(\d{4}-\d\d-\d\d)[T ]00:00(?::00(?:\.0+)?)?(?:Z|[+-]\d\d(?::?\d\d)?)?", re.ASCII)

_WITH_BLANKS = r"^[A-Za-z0-9](?:[A-Za-z0-9 ._-]{0,98}[A-Za-z0-9._-])?$"
_WITHOUT = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$"
_DIGEST = r"^[0-9a-f]{64}$"
_SMALL = r"^[a-z0-9][a-z0-9-]{0,62}$"
IN_WORDS = {
    _WITH_BLANKS: "at most 100 letters (A to z), digits, blanks, '.', '_' and '-', first a letter or digit",
    _WITHOUT: "at most 200 letters (A to z), digits, '.', '_' and '-', first a letter or digit",
    _SMALL: "at most 63 small letters (a to z), digits and '-', the first no '-'",
    _DIGEST: "64 small hex digits: write the whole digest that `tidegate site cost` prints",
}
"""What each pattern allows, for whoever wrote something else."""

SiteName = Annotated[str, Field(pattern=_WITH_BLANKS)]
"""Public name of a site."""

RunName = Annotated[str, Field(pattern=_WITHOUT)]
"""Name of a run."""

ExperimentName = Annotated[str, Field(pattern=_SMALL)]
"""Name of an experiment, or of the data set that it is for."""

Digest = Annotated[str, Field(pattern=_DIGEST)]
"""What names an experiment: SHA-256 of its plan."""


def name_run(experiment: str, *, at: datetime | None = None) -> str:
    """A new run's name: the experiment, the moment in UTC, four random hexadecimal digits."""
    moment = (at or datetime.now(UTC)).astimezone(UTC)
    return f"{experiment}-{moment:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def is_run_of(experiment: str, run: str) -> bool:
    """Whether `name_run` may have named a run of that experiment so.

    >>> is_run_of("heart", name_run("heart")), is_run_of("heart", "heart-2026-W05")
    (True, False)
    """
    begin, digits = f"{experiment}-", re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}", re.ASCII)
    return run.startswith(begin) and digits.fullmatch(run.removeprefix(begin)) is not None


def challenger_run(run: str) -> str:
    """The name of the training that a drift check's run may lead to."""
    return f"{run}-challenger"


def canonical(text: str, *, decimal: str = ".") -> str:
    """The one form of an id, a category or a time: without blanks around it, a whole number without decimals.

    What writes a table turns 1001 into `1001.0` as soon as one value of the column is missing, a large
    number into `1.001e+16`, and a day into its midnight; what types a letter with its accent writes one
    character or two (Unicode NFC).

    Args:
        text: as the source has it.
        decimal: the source's decimal sign. Beside a comma a point is one too: a column of mixed types is
            written with points whatever was asked for.

    >>> canonical(" 1001.0 "), canonical("01"), canonical("1.50"), canonical("w1"), canonical("1.5e+03")
    ('1001', '01', '1.50', 'w1', '1500')
    >>> canonical("2026-03-02 00:00:00"), canonical("2026-03-02 08:30:00")
    ('2026-03-02', '2026-03-02 08:30:00')
    >>> canonical("1001,0"), canonical("1001,0", decimal=",")
    ('1001,0', '1001')
    """
    text = unicodedata.normalize("NFC", text).strip()
    if found := (_WITH_COMMA if decimal == "," else _WHOLE).fullmatch(text) or _MIDNIGHT.fullmatch(text):
        return found.group(1)
    whole = _scientific(text, decimal)
    return text if whole is None else str(whole)


def is_inexact(text: str, *, decimal: str = ".") -> bool:
    """Whether a whole number is written as a float is, and so large that a float has one form for several.

    >>> is_inexact("9007199254740992.0"), is_inexact("9007199254740992"), is_inexact("9.1e15")
    (True, False, True)
    """
    text = unicodedata.normalize("NFC", text).strip()
    found = (_WITH_COMMA if decimal == "," else _WHOLE).fullmatch(text)
    if found:
        digits = found.group(1).lstrip("+-").lstrip("0")
        return len(digits) > 16 or (len(digits) == 16 and int(digits) >= EXACT)
    whole = _scientific(text, decimal)
    return whole is not None and abs(whole) >= EXACT


def _scientific(text: str, decimal: str) -> int | None:
    """The whole number of a text with an exponent; None where it is none."""
    if _SCIENTIFIC.fullmatch(text) is None or ("," in text and decimal != ","):
        return None
    mantissa, _, exponent = text.replace(",", ".").lower().partition("e")
    whole, _, decimals = mantissa.partition(".")
    decimals = decimals.rstrip("0")
    shift = int(exponent) - len(decimals)
    if not int(whole + decimals):
        return 0
    return int(whole + decimals) * 10**shift if shift >= 0 else None


def _is_canonical(text: str) -> str:
    if canonical(text) != text:
        raise ValueError(f"write it as '{canonical(text)}', the form in which rows are read")
    return text


def _is_printable(text: str) -> str:
    """Letters of any script, and blanks between them; no control, format or surrogate characters."""
    if text != text.strip():
        raise ValueError("begins or ends with a blank")
    if any(unicodedata.category(letter) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"} for letter in text):
        raise ValueError("holds a character that cannot be printed")
    return text


WindowName = Annotated[
    str,
    Field(pattern=_WITH_BLANKS),
    AfterValidator(_is_canonical),
]
"""Name of a window: the value that its rows have in the card's time column."""

ColumnName = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_is_printable)]
"""Name of a column, as the card has it."""

Value = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_is_printable)]
"""A category or a class."""

PersonName = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_is_printable)]
"""Name of a person who may speak to a server."""


def _is_prose(text: str) -> str:
    for line in text.split("\n"):
        _is_printable(line.strip())
    return text


Prose = Annotated[str, Field(max_length=10_000), AfterValidator(_is_prose)]
"""A text for people."""
