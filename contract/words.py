"""Words in sentences: one site is, two sites are; the first letter of one; what was decided on a version."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["DECIDED", "counted", "headed", "verb"]

DECIDED: Mapping[str, str] = {
    "propose": "proposed",
    "approve": "approved",
    "refuse": "refused",
    "promote": "put into service",
    "rollback": "put into service again",
    "restore": "put back",
}
"""The kinds of decision on a model version."""


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


def headed(words: str) -> str:
    """With a capital at the beginning, and all else as it is.

    >>> headed("the AUC is hidden"), headed("")
    ('The AUC is hidden', '')
    """
    return words[:1].upper() + words[1:]
