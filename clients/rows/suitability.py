"""How a site's rows suit an experiment, in exact counts: for the administrator, and nobody else.

Nothing of this is released, and nothing is charged for it. It must not be sent on: a count of rows is
a statement about persons.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from clients.rows.rows import Rows
from clients.rows.table import Fit, prepare
from contract.card import Card, CategoricalColumn
from contract.experiment import CategoricalFeature, Experiment, NumericFeature

__all__ = ["ColumnFit", "Persons", "Suitability", "WindowFit", "suitability"]


@dataclass(frozen=True, kw_only=True)
class ColumnFit:
    """What became of a column's values, on both sides of the hold-out.

    Attributes:
        name: the card's.
        role: `feature` or `label`.
        read: values that could be read.
        missing: those that were not there, or could not be read.
        unreadable: of these, those that were there and are no number.
        undeclared: values that the card does not declare, with their counts.
        other, filled, clamped: values that fell to the category for undeclared ones, were missing
            and got the stand-in, or were set to the nearer end of the range.
        left_out: rows left out for this column, by reason; one may count for several columns.
        not_on_card: categories of the experiment, or classes of its label, that the card does not declare, so
            that no row here can have them; without those that stand in for another value.
    """

    name: str
    role: str
    read: int
    missing: int
    unreadable: int
    undeclared: dict[str, int]
    other: int
    filled: int
    clamped: int
    left_out: dict[str, int]
    not_on_card: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class WindowFit:
    """Rows of one window and how many of them fit, by side; None is where a row names no window."""

    window: str | None
    train: int
    train_kept: int
    holdout: int
    holdout_kept: int


@dataclass(frozen=True, kw_only=True)
class Persons:
    """Whose rows these are.

    Attributes:
        count: how many persons.
        most_rows: the most rows of one.
        above: persons with more rows than the experiment uses of one.
        unnamed: rows that name nobody.
    """

    count: int
    most_rows: int
    above: int
    unnamed: int


@dataclass(frozen=True, kw_only=True)
class Suitability:
    """How the rows of some windows, or of all, suit an experiment.

    Attributes:
        rows: how many there are.
        columns: of the experiment, its label last.
        windows: rows by window; one line without a name where the card has no time.
        persons: None where the card names no person.
        there: every window that a row of the site names; empty where the card has no time.
    """

    rows: int
    columns: tuple[ColumnFit, ...]
    windows: tuple[WindowFit, ...]
    persons: Persons | None
    there: tuple[str, ...] = ()

    @property
    def train_kept(self) -> int:
        """Training rows that fit."""
        return sum(window.train_kept for window in self.windows)

    @property
    def holdout_kept(self) -> int:
        """Held-out rows that fit."""
        return sum(window.holdout_kept for window in self.windows)


def suitability(rows: Rows, experiment: Experiment, card: Card, windows: Collection[str] = ()) -> Suitability:
    """Count how the rows suit; the experiment must be one that the card offers.

    Args:
        rows: all of the site.
        experiment: what would be run.
        card: the site's.
        windows: those that it would be run on; none means all rows.
    """
    chosen = rows.of(windows)
    fit = prepare(chosen, experiment, card).fit
    label = experiment.task.label
    return Suitability(
        rows=len(chosen),
        columns=(
            *(
                _column(chosen, card, fit, feature.name, "feature", _listed(feature))
                for feature in experiment.task.features
            ),
            _column(chosen, card, fit, label.column, "label", label.classes),
        ),
        windows=tuple(_window(chosen, experiment, card, name) for name in _windows(chosen, windows)),
        persons=_persons(chosen, experiment.privacy.rows_per_person),
        there=()
        if rows.window is None
        else tuple(sorted({name for name in rows.window if name is not None})),
    )


def _listed(feature: NumericFeature | CategoricalFeature) -> tuple[str, ...]:
    """The categories that a row of a site has itself: a stand-in is the experiment's own."""
    if isinstance(feature, NumericFeature):
        return ()
    return tuple(name for name in feature.categories if name not in (feature.missing, feature.other))


def _column(rows: Rows, card: Card, fit: Fit, name: str, role: str, listed: Collection[str]) -> ColumnFit:
    values, not_on_card = rows.frame[name].to_numpy(), tuple[str, ...]()
    if values.dtype == np.float64:
        missing, undeclared = int(np.isnan(values).sum()), Counter[str]()
    else:
        column = card.column(name)
        known = frozenset(column.categories) if isinstance(column, CategoricalColumn) else frozenset()
        missing = sum(value is None for value in values)
        undeclared = Counter(value for value in values if value is not None and value not in known)
        not_on_card = tuple(value for value in listed if value not in known)
    return ColumnFit(
        name=name,
        role=role,
        read=len(rows) - missing,
        missing=missing,
        unreadable=int(rows.unreadable[name].sum()) if name in rows.unreadable else 0,
        undeclared=dict(undeclared.most_common()),
        other=fit.other.get(name, 0),
        filled=fit.filled.get(name, 0),
        clamped=fit.clamped.get(name, 0),
        left_out=fit.left_out.get(name, {}),
        not_on_card=not_on_card,
    )


def _windows(rows: Rows, asked: Collection[str]) -> list[str | None]:
    """Those that were asked for, else those of the rows, in the order of their names."""
    if asked:
        return list(dict.fromkeys(asked))
    if rows.window is None or not len(rows):
        return [None]
    return sorted(set(rows.window), key=lambda name: (name is None, name or ""))


def _window(rows: Rows, experiment: Experiment, card: Card, name: str | None) -> WindowFit:
    held = rows
    if rows.window is not None:
        held = rows.chosen(np.fromiter((one == name for one in rows.window), np.bool_, count=len(rows)))
    sides = {side: held.of((), holdout=side) for side in (False, True)}
    kept = {side: prepare(part, experiment, card).fit.kept for side, part in sides.items()}
    return WindowFit(
        window=name,
        train=len(sides[False]),
        train_kept=kept[False],
        holdout=len(sides[True]),
        holdout_kept=kept[True],
    )


def _persons(rows: Rows, rows_per_person: int) -> Persons | None:
    if rows.person is None:
        return None
    counts = Counter(name for name in rows.person if name is not None)
    return Persons(
        count=len(counts),
        most_rows=max(counts.values(), default=0),
        above=sum(count > rows_per_person for count in counts.values()),
        unnamed=sum(name is None for name in rows.person),
    )
