"""Text from outside: how a terminal, a log, a page or a picture may show it.

A name, a value or a sentence that came in a message, a file or a database may hold
anything: sequences that clear a screen, marks that turn the direction of writing,
line ends that forge a line of a log. Whatever shows such text passes it through `shown`
first; Markdown, HTML and pictures then add the escaping of their own language.
"""

from __future__ import annotations

import unicodedata

__all__ = ["shown"]

_LONGEST = 300


def shown(value: object, *, limit: int = _LONGEST) -> str:
    r"""The value as one line of visible characters; the same again if it is one already.

    Spaces of every kind become the plain one. What no eye can see is written as Python
    writes it: control characters, line ends, invisible marks, those that turn the direction
    of writing, half surrogate pairs, private and unassigned characters.

    Args:
        value: from outside.
        limit: characters that are shown; how many more there are is said.

    >>> print(shown("north\x1b[2J\r\n[red]\u202e\ud800"), shown("w" * 9000, limit=3))
    north\x1b[2J\r\n[red]\u202e\ud800 www… (8,997 more)
    """
    text = str(value)
    line = text[:limit]
    if not line.isprintable():
        line = "".join(letter if letter.isprintable() else _visible(letter) for letter in line)
    return line if len(text) <= limit else f"{line}… ({len(text) - limit:,} more)"


def _visible(letter: str) -> str:
    if unicodedata.category(letter) == "Zs":
        return " "
    return letter.encode("unicode_escape").decode()
