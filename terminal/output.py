"""What a person or a program sees: sentences, tables and progress on a terminal, JSON when asked for.

What is shown may come from outside: the name of a run, a site or a window, a value, an
error's words. `say`, `print_table` and `cell` pass it through `contract.outside.shown`; a
`Screen` takes no text for markup, and lets no control character through that came another way.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from unicodedata import category

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.segment import Segment, Segments
from rich.table import Table
from rich.text import Text

from contract.epsilon import delta_words, epsilon_words
from contract.figures import METRICS, Figure, figures_of
from contract.outside import shown
from terminal.interrupts import require_going

if TYPE_CHECKING:
    from contract.experiment import Experiment

__all__ = [
    "Screen",
    "Steps",
    "cell",
    "console",
    "figure",
    "figures_of_run",
    "hidden_metrics",
    "measured",
    "metrics_headings",
    "metrics_rows",
    "print_json",
    "print_table",
    "print_uncut",
    "quiet_flower",
    "say",
    "say_recipe",
    "table_of",
    "times",
]

_SENTENCE = 5000
_ENDLESS = 100_000
"""The width of a table that no terminal bounds, in columns."""
_NARROWEST = 10
"""Columns that a cell has at least where it is folded; with less a table is stacked."""


class Screen(Console):
    """A console for text from outside: none of it is markup, an emoji's name or a terminal's command."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich renders it, with `�` for what no eye can see."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(_visible(text), style)


console = Screen()
errors = Screen(stderr=True)


def say(sentence: object, style: str = "") -> None:
    """A sentence on standard output; a terminal breaks it where it is too long."""
    console.print(Text(shown(sentence, limit=_SENTENCE), style), soft_wrap=True)


def say_recipe(experiment: Experiment, *, silent: bool = False) -> None:
    """What was chosen for an experiment that leaves settings to the recipe, and why."""
    if experiment.strategy.reason and not silent:
        say(experiment.strategy.reason)


def print_json(value: object) -> None:
    """One JSON value on standard output."""
    print(json.dumps(value, indent=2, default=str), flush=True)


def print_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str | None = None,
    unbroken: Collection[str] = (),
) -> None:
    """A table on standard output, of which nothing is ever cut: see `table_of`."""
    print_uncut(table_of(headings, rows, title=title, unbroken=unbroken))


def table_of(
    headings: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str | None = None,
    unbroken: Collection[str] = (),
) -> RenderableType:
    """A table whose long cells go on in the next line; on a terminal too narrow for that, a list.

    Args:
        headings: of the columns.
        rows: a cell is a `Text` of our own making, or any value, shown as one line.
        title: above it.
        unbroken: headings of columns of short texts (a time, a count) that stay on one line.
    """
    heading = None if title is None else shown(title)
    cells = [[value if isinstance(value, Text) else cell(value) for value in row] for row in rows]
    table = Table(title=heading, title_justify="left", header_style="bold")
    for name in headings:
        table.add_column(name, overflow="fold", no_wrap=name in unbroken)
    for row in cells:
        table.add_row(*row)
    if not console.is_terminal or _narrowest(headings, cells, unbroken) <= console.width:
        return table
    return _stacked(headings, cells, heading)


def print_uncut(renderable: RenderableType) -> None:
    """Print a table, or what holds tables: within a terminal's width, and as wide as it is elsewhere."""
    if console.is_terminal:
        console.print(renderable)
        return
    endless = console.options.update(max_width=_ENDLESS)
    console.print(Segments(list(console.render(renderable, endless))), crop=False, soft_wrap=True, end="")


def times(moments: Sequence[str]) -> tuple[str, list[str]]:
    """Times in ISO 8601 for a column: a heading, and each to the second.

    On a terminal the year stands in the heading if all are of one.
    """
    years = {moment[:4] for moment in moments}
    short = console.is_terminal and len(years) == 1
    heading = f"{min(years)}, UTC" if short else "when (UTC)"
    return heading, [moment[5 if short else 0 : 19].replace("T", " ") for moment in moments]


def _narrowest(headings: Sequence[str], cells: Sequence[Sequence[Text]], unbroken: Collection[str]) -> int:
    """Columns that the table needs to be read: of a terminal, its lines included."""
    options = console.options.update(max_width=_ENDLESS)
    width = 1
    for number, name in enumerate(headings):
        column = (Text(name), *(row[number] for row in cells))
        longest = max(Measurement.get(console, options, text).maximum for text in column)
        width += 3 + (longest if name in unbroken else min(longest, _NARROWEST))
    return width


def _stacked(headings: Sequence[str], cells: Sequence[Sequence[Text]], title: str | None) -> RenderableType:
    """A row after the other, a cell a line."""
    parts = [] if title is None else [Text(title, "italic", overflow="fold")]
    for row in cells:
        filled = [(name, value) for name, value in zip(headings, row, strict=True) if value.plain]
        parts += [
            Text.assemble(("" if number else "– "), (f"{name}: " if name else ""), value, overflow="fold")
            for number, (name, value) in enumerate(filled)
        ]
    return Group(*parts)


def cell(value: object, style: str = "") -> Text:
    """A value from outside as a cell of a table."""
    return Text(shown(value), style)


def figure(value: float | None, digits: int = 3) -> str:
    """A number for a table; a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def quiet_flower() -> None:
    """Keep Flower's own log lines off the terminal; ours say what a person needs."""
    import flwr.app  # noqa: F401 - it sets its own level when it is imported

    logging.getLogger("flwr").setLevel(logging.ERROR)
    logging.getLogger("flwr").propagate = False


class Steps:
    """A progress bar on a terminal, plain lines elsewhere, nothing with `--json`."""

    def __init__(self, what: str, total: int, *, silent: bool = False) -> None:
        self._what, self._total, self._silent = what, total, silent
        self._bar: Progress | None = None
        self._shown = (0, "")
        if sys.stderr.isatty() and not silent:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
            )
            self._bar = Progress(*columns, console=errors, transient=True)
            self._task = self._bar.add_task(shown(what), total=total)
            self._bar.start()

    def show(self, done: int, note: str = "") -> None:
        """Say how far it is.

        Raises:
            KeyboardInterrupt: the command was told to end before, and a library hid it.
        """
        require_going()
        what, note = shown(self._what), shown(note)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, description=f"{what} {note}")
        elif not self._silent and (done, note) != self._shown:
            self._shown = (done, note)
            print(f"{what}: {done} of {self._total} {note}".rstrip(), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Take the bar off the terminal."""
        if self._bar is not None:
            self._bar.stop()


def metrics_headings(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """Of `metrics_rows`, with the δ at which each ε holds."""
    deltas = sorted({delta_words(spent["delta"]) for spent in summary["privacy"].values()})
    at = f" (δ {', '.join(deltas)})" if summary["private"] and deltas else ""
    return (
        "site",
        "rounds",
        *(one.word for one in figures_of_run(summary)),
        f"ε in run{at}",
        f"ε in total{at}",
    )


def figures_of_run(summary: Mapping[str, Any]) -> tuple[Figure, ...]:
    """The figures that a run's result has; one that was stored before there were others does not say."""
    return figures_of(summary.get("figures", ()))


def hidden_metrics(summary: Mapping[str, Any]) -> bool:
    """Whether a run's result has no metric of all sites that is a number."""
    found = (summary["metrics"]["overall"].get(one.name) for one in figures_of_run(summary))
    return all(value is None or not math.isfinite(value) for value in found)


def metrics_rows(summary: Mapping[str, Any]) -> list[tuple[object, ...]]:
    """Rows of a run's result: a site each, then all sites."""
    rows: list[tuple[object, ...]] = []
    figures = figures_of_run(summary)
    for site, spent in sorted(summary["privacy"].items()):
        metrics = summary["metrics"]["sites"].get(site, {})
        private = summary["private"]
        rows.append(
            (
                site,
                f"{summary['rounds_counted'].get(site, 0)} of {summary['rounds']}",
                *(measured(metrics, one.name) for one in figures),
                epsilon_words(spent["epsilon_in_run"]) if private else Text("not private", "red"),
                epsilon_words(spent["epsilon_in_total"]) if private else Text("∞", "red"),
            )
        )
    overall = summary["metrics"]["overall"]
    rows.append(
        (
            "all sites",
            "",
            *(measured(overall, one.name) for one in figures),
            "",
            "",
        )
    )
    return rows


def measured(metrics: Mapping[str, float], name: str) -> str:
    """One of a site's figures, with its standard error; words where there is none."""
    value, error = metrics.get(name), metrics.get(f"{name}_error")
    if value is None or not math.isfinite(value):
        return "too noisy" if "rows" in metrics else "not evaluated"
    return METRICS[name].told(value, error)


def _visible(text: str) -> str:
    return text if text.isprintable() else "".join(map(_visible_letter, text))


def _visible_letter(letter: str) -> str:
    if letter == "\n" or letter.isprintable():
        return letter
    return " " if category(letter) == "Zs" else "�"
