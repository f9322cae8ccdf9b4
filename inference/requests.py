"""What a request for predictions may hold: held against the public schema, before a model runs.

A request that does not fit is refused whole, with the row, the field and the reason of each fault. A value of
a row is told back to nobody but whoever sent it. `partial` asks for what training does instead: a value
outside its range is taken as the nearer end of it where the task says so, and a row that does not fit has a
reason in the place of a prediction.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import numpy as np

from contract.experiment import CategoricalFeature, Experiment, NumericFeature
from contract.names import MISSING_TEXTS
from serving.values import numbers, texts

__all__ = [
    "ASKED",
    "LABELS",
    "MOST_ROWS",
    "Asked",
    "Complaint",
    "LabelRow",
    "Labels",
    "RefusedError",
    "Rows",
    "Schema",
    "decoded",
]

MOST_ROWS = 100_000
"""Rows of a request."""
_MOST_COMPLAINTS = 20
"""Faults that are told of a request; how many more there are is said."""
_LONGEST = 60
"""Characters of a value that are given back in a reason."""
_MANY = 16
"""Rows from which on a column is looked at as a whole first."""
_GREATEST = 1.7e308
_NOT_FINITE = "it is no finite number"


class Complaint(msgspec.Struct, frozen=True, omit_defaults=True):
    """One fault.

    Attributes:
        field: which value.
        reason: what is wrong, and what would be right.
        row: the number of its row, from 0; None where it is no row's.
    """

    field: str
    reason: str
    row: int | None = None


class RefusedError(Exception):
    """A request is refused: with which status, and why.

    Args:
        status: of HTTP.
        complaints: what is wrong.
    """

    def __init__(self, status: int, *complaints: Complaint) -> None:
        super().__init__(status)
        self.status, self.complaints = status, complaints


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /predict`: `rows` or `columns`.

    Attributes:
        rows: each by the names of the features.
        columns: of equal lengths, by the names of the features.
        partial: as the module says.
        explain: of a linear model, also what each feature adds.
    """

    rows: list[dict[str, Any]] | None = None
    columns: dict[str, list[Any]] | None = None
    partial: bool = False
    explain: bool = False


class LabelRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What came of a row: `id` is that of the answer, `row` its place in it."""

    id: str
    label: str | float
    row: int = 0


class Labels(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /labels`."""

    labels: list[LabelRow]


ASKED, LABELS = msgspec.json.Decoder(Asked), msgspec.json.Decoder(Labels)
_Body = TypeVar("_Body")


def decoded(content: bytes, decoder: msgspec.json.Decoder[_Body]) -> _Body:
    """A body as its type.

    Raises:
        RefusedError: it is none.
    """
    try:
        return decoder.decode(content)
    except msgspec.ValidationError as exc:  # "Expected `array`, got `int` - at `$.rows`"
        reason, _, where = str(exc).partition(" - at ")
        field = where.strip("`").removeprefix("$").removeprefix(".") or "the body"
        raise RefusedError(422, Complaint(field, reason)) from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise RefusedError(400, Complaint("the body", f"no JSON in UTF-8: {exc}")) from exc


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of a request as the graph takes them, and as they came.

    Attributes:
        count: of them.
        values: of each feature: numbers (NaN where one is missing), or texts (the empty one).
        given: what was sent, by feature: for the log.
        reasons: of each row why it does not fit, empty where it does; None where all do.
    """

    count: int
    values: Mapping[str, Any]
    given: Mapping[str, Sequence[Any]]
    reasons: Sequence[str] | None = None


class Schema:
    """The columns of a model, and what each of their values may be.

    Args:
        experiment: the model's.
    """

    def __init__(self, experiment: Experiment) -> None:
        self._task = experiment.task
        self._names = frozenset(one.name for one in self._task.features)
        self._known = {
            one.name: frozenset(one.categories)
            for one in self._task.features
            if isinstance(one, CategoricalFeature)
        }

    def read(self, asked: Asked) -> Rows:
        """The rows of a request.

        Raises:
            RefusedError: they do not fit the schema.
        """
        if asked.rows is not None and asked.columns is None:
            _require_count(len(asked.rows))
            names = {name for row in asked.rows for name in row}
            self._require_names(names)  # before a column is made of each: their number is anybody's
            return self.read_columns(_turned(asked.rows, names), len(asked.rows), partial=asked.partial)
        if asked.columns is not None and asked.rows is None:
            count = len(next(iter(asked.columns.values()), ()))
            return self.read_columns(asked.columns, count, partial=asked.partial)
        raise RefusedError(422, Complaint("the body", "it has either 'rows' or 'columns'"))

    def read_columns(self, given: Mapping[str, Sequence[Any]], count: int, *, partial: bool = False) -> Rows:
        """The rows of these columns. Errors as with `read`."""
        _require_count(count)
        self._require_names(given)
        complaints = [
            Complaint(name, f"it has {len(values):,} values, and others have {count:,}")
            for name, values in given.items()
            if len(values) != count
        ]
        if complaints:
            raise RefusedError(422, *complaints[:_MOST_COMPLAINTS])
        nested = [name for name, column in given.items() if {*map(type, column)} & {list, dict}]
        if nested:
            raise RefusedError(422, *(Complaint(name, "a value is a list or an object") for name in nested))
        values: dict[str, Sequence[Any]] = {}
        wrong: list[Complaint] = []
        for feature in self._task.features:
            column = given.get(feature.name)
            if column is None:
                column = [None] * count
            read = self._numbers if isinstance(feature, NumericFeature) else self._texts
            values[feature.name] = read(feature, column, wrong, partial)  # type: ignore[arg-type]
            if len(wrong) > _MOST_COMPLAINTS and not partial:
                break
        if wrong and not partial:
            shown = sorted(wrong, key=lambda one: one.row or 0)[:_MOST_COMPLAINTS]
            if len(wrong) > len(shown):
                shown.append(Complaint("the rows", f"{len(wrong) - len(shown):,} more faults, or more"))
            raise RefusedError(422, *shown)
        return Rows(count=count, values=values, given=given, reasons=_reasons(wrong, count))

    def require_label(self, label: str | float) -> str:
        """The label as a text, as a table of rows has it.

        Raises:
            RefusedError: it is no label of the task.
        """
        known = self._task.label
        if known.range is not None:
            low, high = known.range.low, known.range.high
            if isinstance(label, str) or not low <= label <= high:
                raise RefusedError(422, Complaint("label", f"it is a number from {low:g} to {high:g}"))
            return f"{label:.17g}"
        text = label if isinstance(label, str) else f"{label:.17g}"
        if text not in known.classes:
            raise RefusedError(422, Complaint("label", f"it is one of {', '.join(known.classes)[:500]}"))
        return text

    def _require_names(self, given: Collection[str]) -> None:
        strange = sorted(name for name in given if name not in self._names)
        if not strange:
            return
        complaints = []
        for name in strange[:_MOST_COMPLAINTS]:
            alike = difflib.get_close_matches(name[:200], self._names, n=1)
            nearest = f"; the nearest is '{alike[0]}'" if alike else ""
            complaints.append(Complaint(name[:200], f"the model has no such feature{nearest}"))
        raise RefusedError(422, *complaints)

    def _numbers(
        self, feature: NumericFeature, column: Sequence[Any], wrong: list[Complaint], partial: bool
    ) -> Any:
        low, high = feature.low, feature.high
        if len(column) > _MANY and {*map(type, column)} <= {float, int}:
            with suppress(OverflowError):
                whole = np.array(column, dtype=np.float64)
                if ((whole >= low) & (whole <= high)).all():
                    return whole
        clamps = partial and self._task.out_of_range != "leave-out"
        read = _numbers_of(column) if partial else {}
        found = list[float]()
        for row, value in enumerate(column):
            number, reason = _number(value, read)
            if reason and not (partial and feature.missing is not None):
                reason = f"{reason}: give one from {low:g} to {high:g}"
            elif number != number:  # noqa: PLR0124 - missing: NaN, or null
                reason = "" if feature.missing is not None else "it is missing, and nothing stands in for it"
            elif not low <= number <= high and not (clamps and abs(number) <= _GREATEST):
                reason = f"it is outside the public range, {low:g} to {high:g}"
                number = low
            if reason:
                wrong.append(Complaint(feature.name, reason, row))
            found.append(number)
        return found

    def _texts(
        self, feature: CategoricalFeature, column: Sequence[Any], wrong: list[Complaint], partial: bool
    ) -> Sequence[Any]:
        del partial
        known, found = self._known[feature.name], list[str]()
        if len(column) > _MANY and known.issuperset(column):
            return column
        read = _texts_of([value for value in column if value not in known], feature)
        for row, value in enumerate(column):
            text = value if type(value) is str and value in known else read[type(value), value]
            if text is None:
                text = ""
                if feature.missing is None:
                    wrong.append(Complaint(feature.name, "it is missing, and nothing stands in for it", row))
            elif text not in known:
                if feature.other is None:
                    listed = ", ".join(feature.categories)
                    reason = f"{_quoted(value)} is none of its categories: {listed[:300]}"
                    wrong.append(Complaint(feature.name, reason, row))
                text = feature.other or ""
            found.append(text)
        return found


def _require_count(count: int) -> None:
    if not 0 < count <= MOST_ROWS:
        words = f"there are {count:,} of them, and 1 to {MOST_ROWS:,} are taken"
        raise RefusedError(422, Complaint("the rows", words))


def _turned(rows: Sequence[Mapping[str, Any]], names: Collection[str]) -> dict[str, list[Any]]:
    """Columns of rows."""
    if len(rows) == 1:
        return {name: [value] for name, value in rows[0].items()}
    return {name: [row.get(name) for row in rows] for name in names}


def _number(value: Any, read: Mapping[tuple[type, Any], float]) -> tuple[float, str]:
    """A value as a number, NaN where it is missing; and why it is none.

    Args:
        value: as it came.
        read: texts that are read as those of a table are; none in a strict request.
    """
    if type(value) is float or type(value) is int:
        return (value, "") if abs(value) <= _GREATEST or value != value else (math.nan, _NOT_FINITE)  # noqa: PLR0124
    if value is None:
        return math.nan, ""
    if type(value) is bool:  # as a table of rows is read
        return float(value), ""
    number = read.get((type(value), value), math.inf)
    return (math.nan, f"{_quoted(value)} is no number") if math.isinf(number) else (number, "")


def _numbers_of(column: Sequence[Any]) -> dict[tuple[type, Any], float]:
    """What each text among the values is as a number, infinite where it is none: each text read once."""
    some = list({value for value in column if type(value) is str})
    read, unreadable = numbers(np.array(some, dtype=object), missing=MISSING_TEXTS)
    found = np.where(unreadable, math.inf, read).tolist()
    return {(str, value): number for value, number in zip(some, found, strict=True)}


def _texts_of(values: Sequence[Any], feature: CategoricalFeature) -> dict[tuple[type, Any], str | None]:
    """What each value is as a table's would be, None where it is missing: each read once."""
    some = list({(type(value), value): None for value in values})
    column = np.empty(len(some), dtype=object)
    column[:] = [value for _, value in some]
    read = texts(column, missing=MISSING_TEXTS, declared=feature.categories)
    return dict(zip(some, read.tolist(), strict=True))


def _quoted(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _reasons(wrong: Sequence[Complaint], count: int) -> list[str] | None:
    if not wrong:
        return None
    found = [""] * count
    for one in wrong:
        if one.row is not None and not found[one.row]:
            found[one.row] = f"{one.field}: {one.reason}"
    return found
