"""Lines of a CSV file that are no rows: why, and which come first. For the administrator alone.

Which lines are rows is decided line by line (`clients.rows.csv_files`); nothing here changes it. But a
value that goes on over several lines leaves a trail: a line that opens a quotation mark, and lines
below it that close it. Where these lines together are one row, that is said, for then
`data.line_breaks` reads them. Where they are not, the quotation mark is a stray one, and with
`data.line_breaks` it would take good rows with it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from contract.outside import shown
from contract.words import counted, verb

__all__ = ["Cause", "LineSorter", "UnfitLines", "sentences"]

Cause = Literal["line break", "quotation mark", "repeated header", "number of values"]

_FIRST = 5
_LONGEST_VALUE = 200
"""Lines; what is left open over more of them is no value."""


@dataclass(frozen=True, kw_only=True)
class UnfitLines:
    """Lines of one file that were left out for one cause.

    Attributes:
        cause: `line break` where a value goes on over lines, `quotation mark` where one is open or
            stray, `repeated header` in the midst of joined files, `number of values` for any other.
        count: how many lines.
        first: the numbers of the first ones, counted from 1; of a value over several lines, that of the
            line in which it opens.
        columns: how many the header has.
    """

    cause: Cause
    count: int
    first: tuple[int, ...]
    columns: int

    def sentence(self, place: str) -> str:
        """What is wrong where, and what to do."""
        lines = counted(self.count, "line")
        left_out = f"{shown(place)}: {lines} {verb(self.count, 'was', 'were')} left out"
        named = f"the first: {_named(self.first)}" if self.first[1:] else _named(self.first)
        match self.cause:
            case "line break":
                more = self.first[1:]
                others = f" ({_named(more)} {verb(len(more), 'does', 'do')} so too)" if more else ""
                return (
                    f"{left_out}, for values go on over several lines: line {self.first[0]} opens a "
                    f"quotation mark that a later line closes{others}. "
                    "Set data.line_breaks = true in site.toml."
                )
            case "quotation mark":
                return (
                    f"{left_out}, most likely for a stray quotation mark ({named}). Correct the file: "
                    "where values may go on over lines, such a mark takes the lines below with it."
                )
            case "repeated header":
                return f"{left_out}: a repeated header ({named}). Nothing is to be done."
            case "number of values":
                return (
                    f"{left_out} for too few or too many values ({named}); the header has {self.columns}. "
                    f"Correct the file, or leave {verb(self.count, 'it', 'them')} out."
                )


@dataclass(kw_only=True)
class LineSorter:
    """Takes each line that does not fit, and what is between; sorts them by cause.

    Args:
        columns: how many the header has.
        separator: between them.
    """

    columns: int
    separator: str
    _counts: dict[Cause, int] = field(default_factory=dict)
    _first: dict[Cause, list[int]] = field(default_factory=dict)
    _open: list[tuple[int, str, bool]] = field(default_factory=list)  # number, text, whether it is a row

    @property
    def waits(self) -> bool:
        """Whether a quotation mark is open, so that rows matter too."""
        return bool(self._open)

    def enter(self, cause: Cause, number: int) -> None:
        """A line whose cause is plain."""
        self._give_up()
        self._add(cause, number)

    def unfit(self, number: int, line: str, *, is_broken: bool) -> None:
        """A line that is no row.

        Args:
            number: of the line.
            line: its text.
            is_broken: whether its quotation marks do not match.
        """
        odd = line.count('"') % 2 == 1
        if self._open:
            self._open.append((number, line, False))
            if not odd and len(self._open) <= _LONGEST_VALUE:
                return
            if odd and self._is_one_row():
                self._close()
                return
            self._open.pop()
            self._give_up()
        if odd and is_broken:
            self._open.append((number, line, False))
        else:
            self._add("quotation mark" if is_broken else "number of values", number)

    def row(self, number: int, line: str) -> None:
        """A row below an open quotation mark: it closes it, or shows that the mark is a stray one."""
        self._open.append((number, line, True))
        if line.count('"') % 2 == 1 and self._is_one_row():
            self._close()
        else:
            self._open.pop()
            self._give_up()

    def found(self) -> tuple[UnfitLines, ...]:
        """What was sorted, once the file has ended."""
        self._give_up()
        return tuple(
            UnfitLines(cause=cause, count=count, first=tuple(self._first[cause]), columns=self.columns)
            for cause, count in self._counts.items()
        )

    def _is_one_row(self) -> bool:
        text = [line for _, line, _ in self._open]
        try:
            records = list(csv.reader(text, delimiter=self.separator, strict=True))
        except csv.Error:
            return False
        return len(records) == 1 and len(records[0]) == self.columns

    def _close(self) -> None:
        """The lines are one value's."""
        self._add("line break", self._open[0][0], sum(not is_row for _, _, is_row in self._open))
        self._open.clear()

    def _give_up(self) -> None:
        """The first of the open lines has a stray mark; each of the others is one by itself."""
        for place, (number, _, _) in enumerate(self._open):
            self._add("number of values" if place else "quotation mark", number)
        self._open.clear()

    def _add(self, cause: Cause, number: int, count: int = 1) -> None:
        self._counts[cause] = self._counts.get(cause, 0) + count
        first = self._first.setdefault(cause, [])
        if len(first) < _FIRST:
            first.append(number)


def _named(numbers: tuple[int, ...]) -> str:
    return f"{verb(len(numbers), 'line', 'lines')} {', '.join(map(str, numbers))}"


def sentences(unfit: dict[str, tuple[UnfitLines, ...]]) -> Iterator[str]:
    """A sentence a file and cause."""
    for place, causes in unfit.items():
        yield from (lines.sentence(place) for lines in causes)
