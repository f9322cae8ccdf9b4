"""Text as somebody hostile writes it, and what may be left of it where a person looks."""

from __future__ import annotations

__all__ = ["HOSTILE", "require_harmless"]

HOSTILE = "[/x][bold red]:bomb:\x1b[2J\x1b]8;;http://127.0.0.1/\x07\r\n\x9b31m\x7f\ud800\u202e\u2066\u2028<script>$\\frac{$"
"""Markup, escape sequences, line ends, marks that turn the direction, half of a pair, HTML, a formula."""


def require_harmless(told: str) -> None:
    """Every character is visible, or ends a line that we ended."""
    hidden = {letter for letter in told if not letter.isprintable() and letter != "\n"}
    assert not hidden, hidden
