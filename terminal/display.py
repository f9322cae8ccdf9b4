"""How results show themselves: HTML in a notebook, plain text elsewhere. A text may come from outside.

All HTML is made by `terminal.markup`, which escapes each text; a picture is a PNG within the page, so that
nothing is fetched. Plain text is laid out by the same tables as a command's.
"""

from __future__ import annotations

import base64
import importlib
import io
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from contract.errors import InputError
from contract.outside import shown
from terminal.markup import Content, Html, image, table, tag
from terminal.output import Screen, table_of
from terminal.parts import Part, Sentence

__all__ = ["Live", "Picture", "Shown", "html_of", "text_of"]

_NO_PLOT = "A plot needs matplotlib, which is not installed: pip install 'tidegate[notebook]'"
_SENTENCE = 5000
"""Characters of a sentence that are shown."""
_NARROW, _ENDLESS = 60, 100_000
"""Columns of plain text at least on a terminal, and where none bounds them."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A plot, drawn where it is shown; in plain text it is named.

    Attributes:
        draw: makes its PNG.
        alt: what it shows, for who cannot see it.
    """

    draw: Callable[[], bytes]
    alt: str


Shown = Part | Picture


def html_of(parts: Sequence[Shown]) -> str:
    """The parts as a fragment of HTML that runs nothing and fetches nothing."""
    return str(tag("div", *map(_html, parts), class_="tidegate"))


def text_of(parts: Sequence[Shown]) -> str:
    """The parts as lines of visible characters; of a picture, what it shows."""
    width = max(_NARROW, shutil.get_terminal_size().columns) if sys.stdout.isatty() else _ENDLESS
    file = io.StringIO()
    screen = Screen(file=file, width=width, force_terminal=False, force_jupyter=False, no_color=True)
    for part in parts:
        if isinstance(part, Sentence):
            screen.print(Text(shown(part.words, limit=_SENTENCE)), soft_wrap=True)
        elif isinstance(part, Picture):
            screen.print(Text(shown(f"[plot: {part.alt}]")), soft_wrap=True)
        else:
            screen.print(table_of(part.headings, part.rows, title=part.title or None))
    return file.getvalue().rstrip("\n")


def _html(part: Shown) -> Html:
    if isinstance(part, Sentence):
        words: Content = shown(part.words, limit=_SENTENCE)
        return tag("p", tag("strong", words) if part.style else words)
    if isinstance(part, Picture):
        return _drawn(part)
    rows = [[_cell(value) for value in row] for row in part.rows]
    return table(part.title, part.headings, rows, empty="none")


def _drawn(picture: Picture) -> Html:
    """The picture, or where it cannot be drawn, why: what it goes with is shown all the same."""
    try:
        png = picture.draw()
    except (InputError, ModuleNotFoundError):
        return tag("p", _NO_PLOT)
    return image(base64.b64encode(png).decode("ascii"), alt=picture.alt)


def _cell(value: object) -> Content:
    return "–" if value is None else shown(value.plain if isinstance(value, Text) else value)


class Live:
    """How far a run is, in the output of a notebook's cell; anywhere else nothing is shown.

    Args:
        run: its name.
        of: how many rounds it has; 0 where that is not known.
    """

    def __init__(self, run: str, of: int) -> None:
        self._run, self._of = run, of
        self._bar = _Bar(run=run, done=0, of=of, words="")
        self._handle = _display(self._bar)

    def show(self, done: int | None, words: str) -> None:
        """Say which round has ended, if one has, and what else there is to say."""
        done = self._bar.done if done is None else done
        self._bar = _Bar(run=self._run, done=done, of=self._of, words=words)
        if self._handle is not None:
            self._handle.update(self._bar)


@dataclass(frozen=True, kw_only=True)
class _Bar:
    run: str
    done: int
    of: int
    words: str

    @property
    def _said(self) -> str:
        rounds = f"{self.done} of {self.of} rounds" if self.of else f"{self.done} rounds"
        return f"{self.run}: {rounds} {self.words}".rstrip()

    def __repr__(self) -> str:
        return shown(self._said)

    def _repr_html_(self) -> str:
        bar = tag("progress", value=self.done, max=max(1, self.of))
        return str(tag("div", bar, " ", self._said, class_="tidegate"))


def _display(content: object) -> Any:
    """Show something in the cell that runs; None where there is no notebook."""
    ipython = sys.modules.get("IPython")  # a notebook has imported it; nothing else needs it
    shell = None if ipython is None else ipython.get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    return importlib.import_module("IPython.display").display(content, display_id=True)
