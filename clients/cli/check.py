"""`tidegate site check`: how the site's rows fit an experiment, for its administrator alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clients.cli.ledger import Json, SiteFile
from terminal.window_option import WindowNames

if TYPE_CHECKING:
    from rich.table import Table

    from clients.rows.late_rows import Late
    from clients.rows.rows import Reading
    from clients.rows.suitability import ColumnFit, Persons, Suitability
    from clients.site_config import SiteConfig
    from contract.card import Card
    from contract.experiment import Experiment

__all__ = ["check"]

_PRIVATE = "Exact counts of private rows, for you alone: do not send them on."
_MOST_VALUES = 20
_MOST_WINDOWS = 60
_LISTED_WINDOWS = 10
_HEADINGS = ("read", "missing", "no\nnumber", "unde-\nclared", "to\nother", "filled", "clamped", "left\nout")


def check(
    file: SiteFile,
    experiment_file: Annotated[Path, typer.Argument(help="The experiment file to be approved.")],
    window: WindowNames = None,
    json: Json = False,
) -> None:
    """How the rows fit an experiment: what is read, filled, clamped and left out, by column. Stays here."""
    from clients.rows.late_rows import UsedWindows
    from clients.rows.rows import read_rows
    from clients.rows.sources import check_source, other_encodings
    from clients.rows.suitability import suitability
    from clients.site import open_site
    from clients.site_config import holdout_key
    from contract.experiment_file import parse_unranged
    from terminal.experiment_files import read_text
    from terminal.output import print_json, say

    config = open_site(file).config
    card = config.card or config.offered  # the second says what to do where there is none
    asked = parse_unranged(read_text(experiment_file), where=str(experiment_file))
    experiment, windows = asked.experiment, tuple(window or ())
    _require_offered(card, experiment, windows, asked.features, site=config.name, json=json)
    encodings = other_encodings(config)
    for sentence in () if json else encodings:
        say(sentence, "yellow")
    check_source(config, card)
    key = holdout_key(config.storage)
    rows = read_rows(config, card, key=key)
    found = suitability(rows, experiment, card, windows)
    late = UsedWindows(config=config, card=card, key=key).late(rows)
    if json:
        values = _values(config, experiment, windows, rows.reading, found)
        of_late = {name: vars(one) for name, one in late.items()}
        print_json({**values, "late": of_late, "other_encodings": encodings})
    else:
        _show(config, experiment, windows, rows.reading, found, late)
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

    complaints = card.complaints(experiment, windows=windows, unranged=unranged, today=card.today)
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
        "draft": config.is_draft,
        "asked": list(windows),
        "lines_left_out": reading.left_out,
        "lines_left_out_by_cause": {
            place: [asdict(lines) for lines in causes] for place, causes in reading.unfit.items()
        },
        "without_side": reading.without_side,
        "repeated": reading.repeated,
        "undated": reading.undated,
        **asdict(found),
        "kept": {"train": found.train_kept, "holdout": found.holdout_kept},
    }


def _show(
    config: SiteConfig,
    experiment: Experiment,
    windows: tuple[str, ...],
    reading: Reading,
    found: Suitability,
    late: dict[str, Late],
) -> None:
    from contract.words import counted, verb
    from terminal.output import console, say

    say(_PRIVATE, "bold yellow")
    named = f"window {', '.join(windows)}" if windows else "all windows"
    rows = counted(found.rows, "row")
    console.print(_columns(found, title=f"{experiment.name} at site {config.name}: {rows} of {named}"))
    scope = " in all windows" if windows else ""
    late_words = [one.words(name) for name, one in late.items()]
    for sentence in (*_sentences(config, experiment, reading, found, scope), *late_words):
        say(sentence)
    _show_windows(found)
    kept = (
        f"{counted(found.train_kept, 'training row')} and {counted(found.holdout_kept, 'held-out row')} "
        f"{verb(found.train_kept + found.holdout_kept, 'fits', 'fit')}."
    )
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
    config: SiteConfig, experiment: Experiment, reading: Reading, found: Suitability, scope: str
) -> Iterator[str]:
    """What the table does not say.

    Args:
        scope: names all rows, where the table is of some windows: what is left out as it is read is in none.
    """
    from clients.rows.unfit_lines import sentences
    from contract.words import counted, verb

    yield from sentences(reading.unfit)
    if reading.without_side and config.card is not None:
        holdout = config.card.holdout
        were = verb(reading.without_side, "was", "were")
        rows = counted(reading.without_side, "row")
        why = (
            f"'{holdout.column}' says neither train nor holdout"
            if holdout.record is None
            else f"'{holdout.record}' has no value, so that nobody knows which record it is"
        )
        yield f"{rows}{scope} {were} left out: {why}."
    if reading.repeated and config.card is not None:
        were = verb(reading.repeated, "was", "were")
        rows = counted(reading.repeated, "row")
        yield (
            f"{rows}{scope} {were} left out: '{config.card.holdout.record}' names a "
            "record that has another row, and one row of a record counts. If each row is a record of its "
            "own, name a column in card.holdout.record that no two rows share."
        )
    if reading.undated and config.card is not None and config.card.time is not None:
        are = verb(reading.undated, "is", "are")
        form = config.data.date_format or "2026-01-31 or 2026-01-31 08:30"
        yield (
            f"{counted(reading.undated, 'row')} {are} in no window: '{config.card.time.column}' is no date "
            f"like {form}. If it is written otherwise, say how with data.date_format."
        )
    for column in found.columns:
        yield from _sentences_of(column)
    if found.persons is not None and found.rows:
        yield _persons(found.persons, experiment.privacy.rows_per_person)


def _sentences_of(column: ColumnFit) -> Iterator[str]:
    from contract.outside import shown
    from contract.words import counted, verb

    if column.left_out:
        reasons = ", ".join(f"{count} for {reason}" for reason, count in column.left_out.items())
        yield f"'{column.name}' leaves rows out: {reasons}."
    if column.unreadable:
        they = verb(column.unreadable, "that is no number; it counts", "that are no number; they count")
        yield (
            f"'{column.name}' has {counted(column.unreadable, 'value')} {they} as missing. "
            "data.decimal and data.missing in site.toml say how numbers are written."
        )
    if column.undeclared:
        most = list(column.undeclared.items())[:_MOST_VALUES]
        values = ", ".join(f"{shown(value, limit=40)} ({count})" for value, count in most)
        more = len(column.undeclared) - len(most)
        more_words = f" and {more} more" if more else ""
        yield f"'{column.name}' has values that the card does not declare: {values}{more_words}."
    if column.not_on_card:
        names = ", ".join(f"'{shown(name, limit=40)}'" for name in column.not_on_card[:_MOST_VALUES])
        more = len(column.not_on_card) - _MOST_VALUES
        yield (
            f"Of '{column.name}' the experiment lists {names}{f' and {more} more' if more > 0 else ''}, "
            f"{verb(len(column.not_on_card), 'which is', 'which are')} not on the card: no row here has "
            f"{verb(len(column.not_on_card), 'it', 'them')}. Is it spelt as on the card?"
        )


def _persons(persons: Persons, rows_per_person: int) -> str:
    from contract.words import counted, verb

    sentence = (
        f"{counted(persons.count, 'person')}, with at most {counted(persons.most_rows, 'row')} each; the "
        f"experiment uses at most {rows_per_person} of each, and "
        f"{counted(persons.above, 'person')} {verb(persons.above, 'has', 'have')} more."
    )
    unnamed = f"{counted(persons.unnamed, 'row')} {verb(persons.unnamed, 'names', 'name')}"
    return sentence + (f" {unnamed} no person." if persons.unnamed else "")


def _show_windows(found: Suitability) -> None:
    from rich.text import Text

    from contract.outside import shown
    from contract.words import counted
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
        more = counted(len(found.windows) - _MOST_WINDOWS, "window")
        say(f"and {more} more; name those of interest with --window.")
    empty = [one.window for one in found.windows if one.window is not None and not one.train + one.holdout]
    for name in empty:
        say(f"No row says '{name}': the window has no row here.", "red")
    if empty:
        say(_windows_there(found.there))


def _windows_there(names: Sequence[str]) -> str:
    from contract.outside import shown

    if not names:
        return "No row names any window."
    last = ", ".join(f"'{shown(name, limit=100)}'" for name in names[-_LISTED_WINDOWS:])
    more = len(names) - _LISTED_WINDOWS
    words = f"The last {_LISTED_WINDOWS} of {len(names):,} windows" if more > 0 else "The windows"
    return f"{words} that rows name, for you alone: {last}."
