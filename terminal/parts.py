"""What a result says, as sentences and tables: a command prints them, a notebook shows them as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Part", "Sentence", "Table", "print_parts"]


@dataclass(frozen=True)
class Sentence:
    """A sentence.

    Attributes:
        words: it may hold text from outside.
        style: of a terminal, such as `yellow`; a notebook shows one that has any in bold.
    """

    words: str
    style: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table, of which any cell may hold text from outside.

    Attributes:
        headings: of the columns.
        rows: a cell is a `rich.text.Text` of our own making, or any value, shown as one line.
        title: above it.
        unbroken: headings of columns of short texts that stay on one line.
    """

    headings: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    title: str = ""
    unbroken: tuple[str, ...] = ()


Part = Sentence | Table


def print_parts(parts: Sequence[Part]) -> None:
    """Print them on standard output, one after the other."""
    from terminal.output import print_table, say

    for part in parts:
        if isinstance(part, Sentence):
            say(part.words, part.style)
        else:
            print_table(part.headings, part.rows, title=part.title or None, unbroken=part.unbroken)
