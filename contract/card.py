"""A site's card: what its administrator says of the data, in public.

The card names the columns that an experiment may use, with their kind and range or
categories; which column is a person; which one tells the time, and so cuts the rows into
windows; how rows are held out for evaluation. An experiment chooses among what the card
offers. It cannot name another column, redefine a person, or cut time anew: so which rows
are meant, on which side of the hold-out they are and whose they are follows from the card
alone, whatever a message says.

Everything on a card is public. It is written from what is known of the data without
looking at them (a form, a code book, a clinical reference), never computed from rows.
"""

from __future__ import annotations

import datetime
import difflib
import hashlib
import json
import zoneinfo
from collections.abc import Collection, Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from contract.errors import CardError, InputError
from contract.experiment import CALENDAR, SEASONAL, CategoricalFeature, Experiment, Label, NumericFeature
from contract.names import ColumnName, Prose, Value
from contract.windows import Every, example_of, first_day, is_window, next_window

__all__ = ["Card", "CategoricalColumn", "Column", "Holdout", "NumericColumn", "Time"]

_WIDTH, _TIMES_THE_CARD = 1000, 4
"""Columns of a table that any experiment may have, and how many times those of the card."""

_OF_A_MACHINE = ("localtime", "posixrules", "posix/", "right/")
"""Zones that mean on each machine what was set up there: another setting would deal rows anew, unsaid."""

Number = Annotated[float, Field(ge=-1e15, le=1e15)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class NumericColumn(_Frozen):
    """A column of numbers.

    Attributes:
        name: as experiments name it.
        kind: `numeric`.
        meaning: what it is, with its unit.
        low, high: the public range; both left out where nobody knows one.
    """

    name: ColumnName
    kind: Literal["numeric"]
    meaning: Prose = ""
    low: Number | None = None
    high: Number | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if (self.low is None) != (self.high is None):
            raise ValueError("low and high go together")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        return self


class CategoricalColumn(_Frozen):
    """A column of one of some categories; a value that is none of them counts as undeclared.

    Attributes:
        name: as experiments name it.
        kind: `categorical`.
        categories: all that there can be.
        meaning: what it is.
    """

    name: ColumnName
    kind: Literal["categorical"]
    categories: tuple[Value, ...] = Field(min_length=1, max_length=10_000)
    meaning: Prose = ""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.categories)) != len(self.categories):
            raise ValueError("categories must be distinct")
        return self


Column = Annotated[NumericColumn | CategoricalColumn, Field(discriminator="kind")]


class Time(_Frozen):
    """How rows are cut into windows: by the values of a column.

    Attributes:
        column: such as `month` with `2026-01`, or `admitted` with `2026-01-31 08:30`.
        kind: each value of a `label` names a window; those of a `date` lie in calendar windows.
        every: how long a calendar window is.
        zone: the time zone (IANA) of the site, in which its days begin: for times that state another one.
        lag: days after the end of a calendar window until its rows are delivered. Before that nobody is
            answered on it.
    """

    column: ColumnName
    kind: Literal["label", "date"] = "label"
    every: Every | None = None
    zone: Annotated[str, Field(max_length=100)] = "UTC"
    lag: Annotated[int, Field(ge=0, le=366)] = 0

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.kind == "date" and self.every is None:
            raise ValueError("kind = 'date' needs every = 'day', 'week', 'month' or 'quarter'")
        if self.kind != "date" and (self.every is not None or self.lag):
            raise ValueError("every and lag are for dates: add kind = 'date'")
        why = f"zone '{self.zone}' is none: write one like Europe/Berlin"
        if self.zone.startswith(_OF_A_MACHINE):
            raise ValueError(why)
        try:
            zoneinfo.ZoneInfo(self.zone)
        except (OSError, ValueError, zoneinfo.ZoneInfoNotFoundError) as exc:  # OSError: a folder of zones
            raise ValueError(why) from exc
        return self

    @property
    def today(self) -> datetime.date:
        """The day that it is at the site."""
        return datetime.datetime.now(zoneinfo.ZoneInfo(self.zone)).date()

    def complaint(self, window: str, today: datetime.date | None = None) -> str:
        """Why nobody is answered on that window; empty where somebody may be.

        Args:
            window: as it is asked for.
            today: the day at the site; left out, a window that is not complete is none the less one.
        """
        if self.every is None:
            return ""
        if not is_window(window, self.every):
            example = example_of(self.every)
            return f"'{window}' is no {self.every} of '{self.column}': one is named like {example}"
        complete = self._complete_on(window, self.every)
        if today is None or today >= complete:
            return ""
        return f"'{window}' is complete from {complete} on, and today is {today}"

    def _complete_on(self, window: str, every: Every) -> datetime.date:
        try:
            return first_day(next_window(window, every), every) + datetime.timedelta(days=self.lag)
        except (InputError, OverflowError):  # the calendar ends before
            return datetime.date.max


class Holdout(_Frozen):
    """Which rows are for evaluation alone.

    Attributes:
        column: a column of `train` and `holdout`; a row with anything else is left out.
        share: without that column, the chance with which a keyed hash of a person, or of a
            record, holds it out.
        record: a column with a lasting id of the record, such as a visit's number, which alone is
            hashed; a row without one is left out. Of several rows with one id, one counts: the last
            that is delivered, of a database any. Where there is neither person nor record, all values
            of a row are hashed. One that changes later may move the row to the other side, so that
            all that is done to either side counts on both.
    """

    column: ColumnName | None = None
    share: Annotated[float, Field(ge=0.01, le=0.9)] = 0.3
    record: ColumnName | None = None

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if self.column is not None and self.record is not None:
            raise ValueError("column and record are two ways to say a row's side: leave one out")
        return self


class Card(_Frozen):
    """What a site offers.

    Attributes:
        description: of the data, for data scientists.
        columns: those that an experiment may use as features or as its label.
        person: the column that says whose a row is. Where there is one, the person is the
            privacy unit, and all rows of a person are on one side of the hold-out.
        time: how rows are cut into windows; without it there are no windows to ask for.
        holdout: which rows are for evaluation.
        draft: whether the card was drafted from rows and waits for public knowledge in the
            place of what the rows said. A site answers nobody on a draft.
    """

    description: Prose = ""
    columns: tuple[Column, ...] = Field(min_length=1, max_length=10_000)
    person: ColumnName | None = None
    time: Time | None = None
    holdout: Holdout = Holdout()
    draft: bool = False

    @model_validator(mode="after")
    def _whole(self) -> Self:
        names = [column.name for column in self.columns]
        names += [name for name in self._roles_of_columns if name is not None]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"column '{twice[0]}' is named twice: a column is one of columns, person, time or holdout"
            )
        if self.person is not None and self.holdout.column is not None:
            raise ValueError(
                "holdout.column cannot go with person, whose rows it may put on both sides: "
                "leave it out, and a keyed hash of the person decides"
            )
        if self.person is not None and self.holdout.record is not None:
            raise ValueError(
                "holdout.record cannot go with person, whose rows it would put on both sides: "
                "leave it out, and a keyed hash of the person decides"
            )
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Every column that is read, in a fixed order."""
        roles = (name for name in self._roles_of_columns if name is not None)
        return (*(column.name for column in self.columns), *roles)

    @property
    def _roles_of_columns(self) -> tuple[str | None, ...]:
        time = self.time.column if self.time else None
        return self.person, time, self.holdout.column, self.holdout.record

    @property
    def lasting_sides(self) -> bool:
        """Whether a record keeps its side of the hold-out whatever becomes of its other values."""
        return any(name is not None for name in (self.person, self.holdout.column, self.holdout.record))

    @property
    def dealt_by(self) -> tuple[str, ...]:
        """The columns whose values say in which window and on which side a record is."""
        roles = tuple(name for name in self._roles_of_columns if name is not None)
        if self.lasting_sides:
            return roles
        return (*(column.name for column in self.columns), *roles)

    @property
    def dealing(self) -> str:
        """Names how the card deals records into windows and sides; ranges and meanings do not matter.

        Categories do where a record's values are hashed: a value that is one is read letter by letter.
        """
        columns = [
            [column.name, column.kind, None if isinstance(column, NumericColumn) else column.categories]
            for column in self.columns
            if column.name in self.dealt_by
        ]
        time = None if self.time is None else self.time.model_dump(mode="json", exclude={"lag"})
        holdout = self.holdout.model_dump(mode="json")
        text = json.dumps([columns, self.person, time, holdout])
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def today(self) -> datetime.date | None:
        """The day at the site, where its windows are the calendar's."""
        return None if self.time is None else self.time.today

    def column(self, name: str) -> NumericColumn | CategoricalColumn | None:
        """The offered column of that name."""
        return next((column for column in self.columns if column.name == name), None)

    def require(
        self,
        experiment: Experiment,
        *,
        windows: Collection[str] = (),
        unranged: Collection[str] = (),
        today: datetime.date | None = None,
    ) -> None:
        """Refuse an experiment that asks for what the card does not offer. No row is read for it.

        Raises:
            CardError: with everything that does not fit (see `complaints`).
        """
        complaints = self.complaints(experiment, windows=windows, unranged=unranged, today=today)
        if complaints:
            raise CardError(
                "; ".join(complaints), remedy="Choose among what the card offers (`tidegate site card`)"
            )

    def complaints(
        self,
        experiment: Experiment,
        *,
        windows: Collection[str] = (),
        unranged: Collection[str] = (),
        today: datetime.date | None = None,
    ) -> list[str]:
        """What an experiment asks for and the card does not offer, a sentence each; none where it fits.

        Args:
            experiment: what is asked for.
            windows: the windows that it is asked on.
            unranged: features whose range is asked for: that of the experiment says nothing.
            today: the day at the site (`Time.today`), to refuse windows that are not complete.
        """
        return [
            *self._roles(experiment, windows, today),
            *self._columns(experiment, unranged),
            *self._width(experiment),
        ]

    def _roles(
        self, experiment: Experiment, windows: Collection[str], today: datetime.date | None
    ) -> list[str]:
        task, complaints = experiment.task, []
        time = None if self.time is None else self.time.column
        if task.time is not None and task.time != time:
            complaints.append(f"task.time = '{task.time}', and the card's time is {_named(time)}")
        if task.person is not None and task.person != self.person:
            complaints.append(
                f"task.person = '{task.person}', and the card's person is {_named(self.person)}"
            )
        if experiment.drift.reference == "same-season" and (self.time is None or self.time.every is None):
            complaints.append(
                f"{SEASONAL}, and the card's time is {_named(time)}, which has no calendar. {CALENDAR}"
            )
        if windows and time is None:
            complaints.append("windows are asked for, and the card has no time column")
        if self.time is not None:
            complaints += filter(None, (self.time.complaint(window, today) for window in windows))
        if experiment.privacy.unit == "person" and self.person is None:
            complaints.append("privacy.unit = 'person', and the card names no person")
        if experiment.privacy.unit == "record" and self.person is not None:
            complaints.append(f"privacy.unit = 'record', and the card's unit is the person ('{self.person}')")
        return complaints

    def _columns(self, experiment: Experiment, unranged: Collection[str]) -> list[str]:
        complaints = []
        for feature in experiment.task.features:
            column = self.column(feature.name)
            if column is None:
                meant = _nearest(feature.name, [column.name for column in self.columns])
                complaints.append(f"the card offers no column '{feature.name}'{meant}")
            elif column.kind != feature.kind:
                complaints.append(f"'{feature.name}' is {feature.kind}, and on the card {column.kind}")
            elif isinstance(feature, NumericFeature) and isinstance(column, NumericColumn):
                if feature.name not in unranged:
                    complaints += _outside(feature, column)
            elif isinstance(feature, CategoricalFeature) and isinstance(column, CategoricalColumn):
                complaints += _strange(feature.name, feature.categories, column)
        return [*complaints, *self._label(experiment.task.label)]

    def _label(self, label: Label) -> list[str]:
        column, numeric = self.column(label.column), label.range
        if numeric is not None and isinstance(column, NumericColumn):
            return _outside(numeric, column)
        if numeric is None and isinstance(column, CategoricalColumn):
            if len(column.categories) == 1:
                return [f"'{label.column}' has one category on the card, so there is nothing to predict"]
            return _strange(label.column, label.classes, column) or _alone(label, column)
        kind = CategoricalColumn if numeric is None else NumericColumn
        meant = _nearest(label.column, [item.name for item in self.columns if isinstance(item, kind)])
        return [f"the card offers no {label.kind} column '{label.column}' for the label{meant}"]

    def _width(self, experiment: Experiment) -> list[str]:
        """Each category is a column of the table: many that the card has not would cost memory a row.

        The most is public. Otherwise an experiment could choose how many rows the memory suffices for.
        """
        own = sum(1 if isinstance(one, NumericColumn) else len(one.categories) for one in self.columns)
        most = max(_WIDTH, _TIMES_THE_CARD * own)
        task = experiment.task
        wide = {"features": task.width, f"classes of '{task.label.column}'": len(task.label.classes)}
        return [
            f"the {name} have {width:,} columns, and on this card may have {most:,}: leave out categories"
            for name, width in wide.items()
            if width > most
        ]


def _nearest(name: str, known: Sequence[str]) -> str:
    """The known name that was probably meant, as the end of a sentence; empty where none is near."""
    found = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean '{found[0]}'?)" if found else ""


def _named(column: str | None) -> str:
    return "none" if column is None else f"'{column}'"


def _outside(feature: NumericFeature, column: NumericColumn) -> list[str]:
    if column.low is None or column.high is None or column.low <= feature.low < feature.high <= column.high:
        return []
    return [
        f"the range of '{feature.name}' is [{feature.low:g}, {feature.high:g}], "
        f"and on the card [{column.low:g}, {column.high:g}]"
    ]


def _alone(label: Label, column: CategoricalColumn) -> list[str]:
    """All rows that this site could train on would be of one class: nothing to tell apart, and paid for."""
    known = [one for one in label.classes if one in column.categories]
    if len(known) > 1:
        return []
    return [
        f"of task.label.classes the card has '{known[0]}' alone, so there is nothing to predict: it has "
        f"{', '.join(column.categories[:10])}"
    ]


def _strange(name: str, values: tuple[str, ...], column: CategoricalColumn) -> list[str]:
    """Other sites may have categories that this one has not; none in common is a mistake."""
    if set(values) & set(column.categories):
        return []
    return [f"'{name}' has none of the card's categories ({', '.join(column.categories[:10])})"]
