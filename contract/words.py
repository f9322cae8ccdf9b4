"""Counts in sentences: one site is, two sites are."""

from __future__ import annotations

__all__ = ["counted", "verb"]


def counted(number: int, thing: str) -> str:
    """A number with its noun.

    >>> counted(1, "site"), counted(2, "site"), counted(1200, "training row")
    ('1 site', '2 sites', '1,200 training rows')
    """
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def verb(number: int, one: str, many: str) -> str:
    """The verb's form beside that number.

    >>> verb(1, "is", "are"), verb(0, "is", "are")
    ('is', 'are')
    """
    return one if number == 1 else many
