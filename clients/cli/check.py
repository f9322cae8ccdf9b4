"""`tidegate site check`: how the site's rows fit an experiment, for its administrator alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clients.cli.ledger import Json, SiteFile

if TYPE_CHECKING:
    from rich.table import Table

    from clients.rows.rows import Reading
    from clients.rows.suitability import ColumnFit, Persons, Suitability
    from clients.site_config import SiteConfig
    from contract.card import Card
    from contract.experiment import Experiment

__all__ = ["check"]

_PRIVATE = "Exact counts of private rows, for you alone: do not send them on."
_MOST_VALUES = 20
_MOST_WINDOWS = 60
_HEADINGS = ("read", "missing", "no\nnumber", "unde-\nclared", "to\nother", "filled", "clamped", "left\nout")


def check(
    file: SiteFile,
    experiment_file: Annotated[Path, typer.Argument(help="The experiment file to be approved.")],
    window: Annotated[
        list[str] | None, typer.Option(help="Look at this window's rows; repeat for more.")
    ] = None,
    json: Json = False,
) -> None:
    """How the rows fit an experiment: what is read, filled, clamped and left out, by column. Stays here."""
    from clients.rows.rows import read_rows
    from clients.rows.sources import check_source
    from clients.rows.suitability import suitability
    from clients.site import open_site
    from clients.site_config import holdout_key
    from contract.experiment_file import parse_unranged
    from terminal.experiment_files import read_text
    from terminal.output import print_json

    config = open_site(file).config
    card = config.card or config.offered  # the second says what to do where there is none
    asked = parse_unranged(read_text(experiment_file), where=str(experiment_file))
    experiment, windows = asked.experiment, tuple(window or ())
    _require_offered(card, experiment, windows, asked.features, site=config.name, json=json)
    check_source(config, card)
    rows = read_rows(config, card, key=holdout_key(config.storage))
    found = suitability(rows, experiment, card, windows)
    if json:
        print_json(_values(config, experiment, windows, rows.reading, found))
    else:
        _show(config, experiment, windows, rows.reading, found)
    _ = config.offered  # a draft: the rows fit, and still nobody is answered


def _require_offered(
    card: Card,
    experiment: Experiment,
    windows: tuple[str, ...],
    unranged: tuple[str, ...],
    *,
    site: str,
    json: bool,
) -> None:
    """Print each complaint of the card as its own line, then refuse."""
    from contract.errors import CardError
    from terminal.output import print_json, say

    complaints = card.complaints(experiment, windows=windows, unranged=unranged)
    if complaints:
        if json:
            print_json({"site": site, "experiment": experiment.name, "complaints": complaints})
        else:
            for complaint in complaints:
                say(f"- {complaint}", "yellow")
        raise CardError(
            f"the card does not offer what '{experiment.name}' asks for ({len(complaints)} "
            f"{'complaint' if len(complaints) == 1 else 'complaints'})",
            where=f"site '{site}'",
            remedy="Change the experiment, or the card if it is wrong (`tidegate site card` shows it)",
        )


def _values(
    config: SiteConfig, experiment: Experiment, windows: tuple[str, ...], reading: Reading, found: Suitability
) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "private": _PRIVATE,
        "site": config.name,
        "experiment": experiment.name,
        "digest": experiment.digest,
        "draft": config.card is not None and config.card.draft,
        "asked": list(windows),
        "lines_left_out": reading.left_out,
        "without_side": reading.without_side,
        **asdict(found),
        "kept": {"train": found.train_kept, "holdout": found.holdout_kept},
    }


def _show(
    config: SiteConfig, experiment: Experiment, windows: tuple[str, ...], reading: Reading, found: Suitability
) -> None:
    from terminal.output import console, say

    say(_PRIVATE, "bold yellow")
    named = f"window {', '.join(windows)}" if windows else "all windows"
    console.print(
        _columns(found, title=f"{experiment.name} at site {config.name}: {found.rows} rows of {named}")
    )
    for sentence in _sentences(config, experiment, reading, found):
        say(sentence)
    _show_windows(found)
    kept = f"{found.train_kept} training rows and {found.holdout_kept} held-out rows fit."
    say(kept, "green" if found.train_kept and found.holdout_kept else "bold red")
    if not found.train_kept or not found.holdout_kept:
        say("Where no row fits, the site answers with noise alone, and is charged for it.", "yellow")
    say("What it would cost: `tidegate site cost` with the same arguments.")


def _columns(found: Suitability, *, title: str) -> Table:
    from rich.text import Text

    from contract.outside import shown

    table = _table(shown(title))
    table.add_column("column", overflow="fold")
    for heading in _HEADINGS:
        table.add_column(heading, justify="right")
    for column in found.columns:
        numbers = (
            column.read,
            column.missing,
            column.unreadable,
            sum(column.undeclared.values()),
            column.other,
            column.filled,
            column.clamped,
            sum(column.left_out.values()),
        )
        name = Text(shown(column.name), "bold" if column.role == "label" else "")
        table.add_row(name, *(str(number or "·") for number in numbers))
    return table


def _table(title: str = "") -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    return Table(
        title=Text(title, "bold") if title else None,
        title_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )


def _sentences(
    config: SiteConfig, experiment: Experiment, reading: Reading, found: Suitability
) -> Iterator[str]:
    for place, count in reading.left_out.items():
        yield f"{place}: {count} lines do not fit the file's header and were left out."
    if reading.without_side:
        side = config.card.holdout.column if config.card else None
        yield f"{reading.without_side} rows were left out: '{side}' says neither train nor holdout."
    for column in found.columns:
        yield from _sentences_of(column)
    if found.persons is not None:
        yield _persons(found.persons, experiment.privacy.rows_per_person)


def _sentences_of(column: ColumnFit) -> Iterator[str]:
    from contract.outside import shown

    if column.left_out:
        reasons = ", ".join(f"{count} for {reason}" for reason, count in column.left_out.items())
        yield f"'{column.name}' leaves rows out: {reasons}."
    if column.unreadable:
        yield (
            f"'{column.name}' has {column.unreadable} values in all rows that are no number; they count as "
            "missing. data.decimal and data.missing in site.toml say how numbers are written."
        )
    if column.undeclared:
        most = list(column.undeclared.items())[:_MOST_VALUES]
        values = ", ".join(f"{shown(value, limit=40)} ({count})" for value, count in most)
        more = len(column.undeclared) - len(most)
        more_words = f" and {more} more" if more else ""
        yield f"'{column.name}' has values that the card does not declare: {values}{more_words}."


def _persons(persons: Persons, rows_per_person: int) -> str:
    sentence = (
        f"{persons.count} persons, of whom one has {persons.most_rows} rows; the experiment uses at most "
        f"{rows_per_person} of each, and {persons.above} persons have more."
    )
    return sentence + (f" {persons.unnamed} rows name no person." if persons.unnamed else "")


def _show_windows(found: Suitability) -> None:
    from rich.text import Text

    from contract.outside import shown
    from terminal.output import console, say

    table = _table()
    table.add_column("window", overflow="fold")
    for heading in ("training rows", "that fit", "held-out rows", "that fit"):
        table.add_column(heading, justify="right")
    for window in found.windows[:_MOST_WINDOWS]:
        numbers = (window.train, window.train_kept, window.holdout, window.holdout_kept)
        name = "–" if window.window is None else shown(window.window, limit=100)
        table.add_row(Text(name), *map(str, numbers), style="" if window.train or window.holdout else "red")
    console.print(table)
    if len(found.windows) > _MOST_WINDOWS:
        say(f"and {len(found.windows) - _MOST_WINDOWS} windows more; name those of interest with --window.")
    for window in found.windows:
        if window.window is not None and not window.train + window.holdout:
            say(f"No row says '{window.window}'.", "red")
