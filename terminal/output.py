"""What a person or a program sees: tables and progress on a terminal, JSON when asked for."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

__all__ = ["Steps", "console", "figure", "print_json", "print_table", "quiet_flower"]

console = Console()
errors = Console(stderr=True)


def print_json(value: object) -> None:
    """One JSON value on standard output."""
    print(json.dumps(value, indent=2, default=str))


def print_table(
    headings: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None
) -> None:
    """A table on standard output."""
    table = Table(*headings, title=title, title_justify="left", header_style="bold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console.print(table)


def figure(value: float | None, digits: int = 3) -> str:
    """A number for a table; a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def quiet_flower() -> None:
    """Keep Flower's own log lines off the terminal; ours say what a person needs."""
    import logging

    import flwr.app  # noqa: F401 - it sets its own level when it is imported

    logging.getLogger("flwr").setLevel(logging.ERROR)
    logging.getLogger("flwr").propagate = False


class Steps:
    """A progress bar on a terminal, plain lines elsewhere, nothing with `--json`."""

    def __init__(self, what: str, total: int, *, silent: bool = False) -> None:
        self._what, self._total, self._silent = what, total, silent
        self._bar: Progress | None = None
        self._shown = 0
        if sys.stderr.isatty() and not silent:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
            )
            self._bar = Progress(*columns, console=errors, transient=True)
            self._task = self._bar.add_task(what, total=total)
            self._bar.start()

    def show(self, done: int, note: str = "") -> None:
        """Say how far it is."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, description=f"{self._what} {note}")
        elif not self._silent and done != self._shown:
            self._shown = done
            print(f"{self._what}: {done} of {self._total} {note}".rstrip(), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Take the bar off the terminal."""
        if self._bar is not None:
            self._bar.stop()


def metrics_rows(summary: Mapping[str, Any]) -> list[tuple[object, ...]]:
    """Rows of a run's result: a site each, then all sites."""
    rows: list[tuple[object, ...]] = []
    for site, spent in sorted(summary["privacy"].items()):
        metrics = summary["metrics"]["sites"].get(site, {})
        private = summary["private"]
        rows.append(
            (
                site,
                f"{summary['rounds_counted'].get(site, 0)} of {summary['rounds']}",
                *(figure(metrics.get(name)) for name in ("log_loss", "brier", "auc", "accuracy")),
                figure(spent["epsilon_in_run"], 2) if private else "[red]not private[/red]",
                figure(spent["epsilon_in_total"], 2) if private else "[red]∞[/red]",
            )
        )
    overall = summary["metrics"]["overall"]
    rows.append(
        (
            "all sites",
            "",
            *(figure(overall.get(name)) for name in ("log_loss", "brier", "auc", "accuracy")),
            "",
            "",
        )
    )
    return rows
