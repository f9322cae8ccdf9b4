"""What a column of the rows seems to be: guesses for a draft of the card, which its administrator corrects.

Nothing here leaves the site: a draft is not answered on, and what it took from the rows is marked in it.
"""

from __future__ import annotations

import datetime
import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from contract.names import ColumnName, Value, WindowName
from contract.outside import shown
from contract.words import counted

__all__ = [
    "Categories",
    "LeftOut",
    "Numbers",
    "Seen",
    "are_dates",
    "are_sides",
    "are_windows",
    "date_format_of",
    "guess",
    "is_name",
    "like_ids",
    "person_of",
    "record_of",
]

_FEW = 10
"""Whole numbers or texts of at most so many kinds are categories."""
_MOST_CATEGORIES = 200
_SOME = 200
"""Different values that are looked at to tell how dates are written."""
_BOUND = 1e15  # of a card's numbers

_DATE = re.compile(
    r"(?:\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4})(?:[T ]\d{1,2}:\d{2}.*)?"
    r"|(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])",
    re.ASCII,
)
_DATE_FORMATS = tuple(
    day + time
    for day in ("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%Y/%m/%d", "%Y%m%d", "%d.%m.%y", "%d/%m/%y")
    for time in ("", " %H:%M", " %H:%M:%S")
)
_PERIOD = re.compile(r"\d{4}-(?:0[1-9]|1[0-2]|W[0-5]\d|Q[1-4])", re.ASCII)
_CODE = re.compile(r"[A-Za-z]{1,6}[-_]?\d{3,}[A-Za-z]?", re.ASCII)
_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)
_PERIOD_NAMES = frozenset({"window", "month", "week", "quarter", "year", "period", "wave", "batch"})
_MONTH = re.compile(r"(?:19|20)\d\d(?:0[1-9]|1[0-2])", re.ASCII)
_PERSONS = (
    "patient|person|client|customer|subject|member|household|donor|insured|user|"
    "kunde|versichert|mitglied|proband|teilnehmer|haushalt|spender"
)
_PERSON = re.compile(
    rf"{_PERSONS}|(?:^|[\W_])pat(?:nr|no|id|$|[\W_])|(?:^|[\W_])(?:mrn|pid|ssn|svnr|ahv)(?:$|[\W_])", re.I
)
"""Names of columns that say whose a row is."""
_PERSON_ALONE = re.compile(rf"(?:{_PERSONS})(?:s|n|en|in|er|e)?", re.I)
_ID = re.compile(
    r"(?:^|[\W_])(?i:ids?|nr|no|number|nummer|key|uuid|guid|mrn|pid|ssn|iban|svnr|ahv)$"
    r"|[a-z](?:ID|Id|Nr|No)$|^(?i:id)(?:[\W_]|$)"
)
_ID_JOINED = re.compile(
    rf"(?:{_PERSONS}|pat|case|visit|encounter|admission|stay|hadm|record|row|account|acct|order|contract|"
    r"policy|invoice|study|site|hospital|device|sample)s?(?:id|no|number|key)|.*(?:nr|nummer)",
    re.I,
)
"""Names of ids: in words of their own (`visit_id`, `Fall-Nr`), or joined to what they number (`patnr`)."""
_LONG_NUMBER = re.compile(r"[1-9]\d{4,}", re.ASCII)


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """The values of a column, those that are not missing.

    Attributes:
        name: the column's, for the card.
        texts: each as a text, in its one form.
        numbers: each as a number; NaN where it is none.
    """

    name: str
    texts: list[str]
    numbers: npt.NDArray[np.float64]

    @cached_property
    def counts(self) -> Counter[str]:
        """How often each text is there."""
        return Counter(self.texts)

    @cached_property
    def readable(self) -> npt.NDArray[np.float64]:
        """Those that are numbers."""
        return self.numbers[~np.isnan(self.numbers)]

    @property
    def whole(self) -> bool:
        """Whether all are whole numbers."""
        return len(self.readable) == len(self.texts) and bool((self.readable % 1 == 0).all())


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """A column of numbers, its range rounded outward; without one where the rows say none."""

    low: float | None
    high: float | None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Categories:
    """A column of few values."""

    values: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A column that is not offered, and why."""

    why: str


def is_name(text: str) -> bool:
    """Whether a card can name a column so."""
    return _allowed(_COLUMN_NAME, text)


def are_dates(seen: Seen) -> bool:
    """Whether nearly all values are dates."""
    return bool(seen.texts) and _share(seen, _DATE) >= 0.9


def date_format_of(seen: Seen) -> str:
    """How dates that are not as in ISO 8601 are written, for `data.date_format`; empty where nothing fits."""
    some = list(seen.counts)[:_SOME]
    fitting = (form for form in _DATE_FORMATS if all(_is_written(text, form) for text in some))
    return next(fitting, "") if some else ""


def are_sides(seen: Seen) -> bool:
    """Whether the column deals rows to the hold-out."""
    return set(seen.counts) == {"train", "holdout"}


def are_windows(seen: Seen) -> bool:
    """Whether each value could name a window: by the column's name, or by its form (`2026-01`)."""
    if not seen.texts or len(seen.counts) > max(_FEW, len(seen.texts) // 5):
        return False
    named = seen.name.lower() in _PERIOD_NAMES or all(_PERIOD.fullmatch(text) for text in seen.counts)
    return named and all(_allowed(_WINDOW_NAME, text) for text in seen.counts)


def person_of(columns: list[Seen]) -> Seen | None:
    """The column whose ids repeat and look most like persons'."""
    candidates = [seen for seen in columns if _has_ids(seen) and len(seen.counts) < len(seen.texts)]
    return max(
        candidates,
        key=lambda seen: (_PERSON.search(seen.name) is not None, len(seen.counts)),
        default=None,
    )


def record_of(columns: list[Seen], rows: int) -> Seen | None:
    """The column with an id of its own in each row: named like ids, or written like them."""
    candidates = [
        seen
        for seen in columns
        if len(seen.counts) == len(seen.texts) == rows
        and not are_dates(seen)
        and (_has_ids(seen) or _is_key(seen))
    ]
    return max(candidates, key=_has_ids, default=None)


def like_ids(seen: Seen) -> str:
    """Why a column of ids is not offered."""
    present, kinds = len(seen.texts), len(seen.counts)
    repeats = "" if kinds < present else ", each in one row"
    return f"like ids ({kinds:,} different in {counted(present, 'row')}{repeats})"


def guess(seen: Seen) -> Numbers | Categories | LeftOut:
    """What the column seems to be."""
    why = _no_feature(seen)
    if why:
        return LeftOut(why=why)
    present, kinds = len(seen.texts), len(seen.counts)
    if len(seen.readable) >= 0.8 * present:
        coded = seen.whole and kinds <= _FEW and np.ptp(seen.readable) < 2 * _FEW
        counted = len(seen.counts) > 2 and all(text.isdigit() for text in seen.counts)
        return _categories(seen, _NUMBERED if counted else "") if coded else _numbers(seen)
    if kinds <= _FEW or (kinds <= _MOST_CATEGORIES and present >= 5 * kinds):
        return _categories(seen, "")
    return LeftOut(why=f"{kinds:,} different texts in {present:,} rows are no categories")


def _no_feature(seen: Seen) -> str:
    """Why no experiment could use the column; empty where one could."""
    present, kinds = len(seen.texts), len(seen.counts)
    if not present:
        return "no row has a value"
    if are_dates(seen):
        return "dates: deliver what matters of them as a number (an age, days since) or as a label (2026-01)"
    if _has_ids(seen) or _is_key(seen):
        return like_ids(seen)
    if len(seen.readable) < 0.5 * present and _share(seen, _COMMA) >= 0.5:
        return 'numbers with a decimal comma: set data.decimal = "," and draft again'
    if kinds > _FEW and np.mean([text.count(" ") for text in seen.counts]) >= 2:
        return "free text"
    return ""


_NUMBERED = "few whole numbers; if they count or measure something, make it numeric with low and high"

_COLUMN_NAME: TypeAdapter[str] = TypeAdapter(ColumnName)
_WINDOW_NAME: TypeAdapter[str] = TypeAdapter(WindowName)
_VALUE: TypeAdapter[str] = TypeAdapter(Value)


def _allowed(kind: TypeAdapter[str], text: str) -> bool:
    try:
        kind.validate_python(text)
    except ValidationError:
        return False
    return True


def _is_written(text: str, form: str) -> bool:
    try:
        datetime.datetime.strptime(text, form)
    except ValueError:
        return False
    return True


def _share(seen: Seen, pattern: re.Pattern[str]) -> float:
    return sum(pattern.fullmatch(text) is not None for text in seen.texts) / max(1, len(seen.texts))


def _has_ids(seen: Seen) -> bool:
    """Named like ids, written like codes, or long whole numbers that name rather than measure."""
    present, kinds = len(seen.texts), len(seen.counts)
    numeric = len(seen.readable) >= 0.5 * present
    if not present or are_dates(seen):
        return False
    if numeric and (seen.readable % 1 == 0).mean() < 0.9:  # measured, with decimals
        return False
    of_person = _PERSON.search(seen.name) is not None
    name = seen.name.strip(" .:#")
    if _ID.search(name) or _ID_JOINED.fullmatch(name):
        return kinds > _FEW or of_person
    if numeric:
        return kinds > _FEW and (_PERSON_ALONE.fullmatch(seen.name) is not None or _is_numbering(seen))
    if kinds < max(_FEW, 0.05 * present):
        return False
    return (of_person and kinds > 0.2 * present) or (kinds > 0.1 * present and _share(seen, _CODE) >= 0.9)


def _is_numbering(seen: Seen) -> bool:
    """Whole numbers that repeat, of five digits or more and all of one length, as if they were dealt out:
    they lie close together; or they have six or more digits, and are not rounder than chance.
    """
    kinds = [text for text in seen.counts if _LONG_NUMBER.fullmatch(text)]
    lengths = {len(text) for text in kinds}
    if len(kinds) < 0.9 * len(seen.counts) or len(lengths) > 1 or len(seen.counts) == len(seen.texts):
        return False
    if _share(seen, _MONTH) >= 0.9:
        return False
    close = len(kinds) > 0.5 * (np.ptp([int(text) for text in kinds]) + 1)
    return bool(close) or (lengths != {5} and sum(text[-1] == "0" for text in kinds) < 0.3 * len(kinds))


def _is_key(seen: Seen) -> bool:
    """A value of its own in nearly each row: a word, a long number, or a running one."""
    present, kinds = len(seen.texts), len(seen.counts)
    if present <= _FEW or kinds < 0.9 * present:
        return False
    if not len(seen.readable):
        return not any(" " in text for text in seen.counts)
    if not seen.whole:
        return False
    running = present >= 100 and kinds == present and bool(np.ptp(seen.readable) < 2 * present)
    return running or bool((np.abs(seen.readable) >= 1e8).mean() > 0.9)


def _numbers(seen: Seen) -> Numbers:
    low, high = _rounded_outward(float(seen.readable.min()), float(seen.readable.max()))
    note = ""
    if unreadable := len(seen.texts) - len(seen.readable):
        strange = [text for text, number in zip(seen.texts, seen.numbers, strict=True) if math.isnan(number)]
        text, count = Counter(strange).most_common(1)[0]
        note = f"{unreadable} of {len(seen.texts)} values are no number"
        if count > 1:  # a mark for a missing value, most likely
            note += f"; if '{shown(text, limit=20)}' says missing, name it under data.missing"
    return Numbers(low=low, high=high, note=note)


def _rounded_outward(low: float, high: float) -> tuple[float | None, float | None]:
    """To one digit of the span: the file need not repeat the extremes. None where that has no sense."""
    span = high - low
    if not 1e-12 < span < _BOUND or max(abs(low), abs(high)) > _BOUND / 10:
        return None, None
    exponent = math.floor(math.log10(span))
    step = 10.0**exponent
    digits = max(0, -exponent)
    below = min(low, round(math.floor(low / step) * step, digits))
    above = max(high, round(math.ceil(high / step) * step, digits))
    return below + 0.0, above + 0.0


def _categories(seen: Seen, note: str) -> Categories | LeftOut:
    values = [text for text in seen.counts if _allowed(_VALUE, text)]
    if not values:
        return LeftOut(why="its values are too long, or cannot be printed")
    if strange := len(seen.counts) - len(values):
        note = f"{strange} values that are too long or cannot be printed were left out"
    return Categories(values=tuple(sorted(values, key=_order)), note=note)


def _order(text: str) -> tuple[bool, float, str]:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    return (True, 0.0, text) if math.isnan(number) else (False, number, text)
