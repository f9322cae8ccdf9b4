"""A draft of a site's card from its rows, as TOML that its administrator corrects.

A card is written from public knowledge; what it would look like is quicker said by the rows. So
the draft is marked twice: `draft = true`, with which the site answers nobody, and a comment at
each line whose content came from rows. The name of a column that a card cannot hold (a control
character, a mark that turns the direction of writing) appears in a comment alone, escaped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clients.rows.guesses import (
    Categories,
    LeftOut,
    Numbers,
    Seen,
    are_dates,
    are_sides,
    are_windows,
    date_format_of,
    guess,
    is_name,
    like_ids,
    person_of,
    record_of,
)
from clients.rows.parts import instead
from clients.rows.sources import column_names, other_encodings, read_source, source_files
from clients.rows.unfit_lines import UnfitLines, sentences
from clients.site_config import REPLACE, SiteConfig
from contract.card import Card, CategoricalColumn
from contract.errors import DataError
from contract.outside import shown
from contract.words import counted
from serving.values import numbers, texts

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Draft", "draft_card", "draft_of"]

_GUESS = f"{REPLACE} guessed"
_FROM_ROWS = f"# {REPLACE} from the rows; write what is publicly known"
_NO_VALUE_READ = "no row that was read has a value; others were not read, see NOT READ above"
_COMMENT_AT = 32  # the column at which comments begin
_WIDEST = 100


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A drafted card.

    Attributes:
        text: TOML with a `[card]` table.
        rows: how many rows were looked at.
        left_out: the columns that are not offered, and why: by the card's names, or the source's.
        unfit: lines that are no rows and were not looked at, by file and cause.
        other_encodings: what to do about files that are not in the encoding that the site names.
    """

    text: str
    rows: int
    left_out: dict[str, str] = field(default_factory=dict)
    unfit: dict[str, tuple[UnfitLines, ...]] = field(default_factory=dict)
    other_encodings: tuple[str, ...] = ()


def draft_card(config: SiteConfig) -> Draft:
    """A card for the rows of a site.

    Raises:
        DataError: the source cannot be read, has no row or no column that a card can offer.
    """
    import pandas as pd

    encodings = other_encodings(config)
    try:
        names, left_out = _columns(config)
    except DataError as exc:
        if not encodings:
            raise
        raise DataError(exc.what, where=exc.where, remedy=encodings[0]) from exc
    reading = Card(
        columns=tuple(CategoricalColumn(name=name, kind="categorical", categories=("-",)) for name in names)
    )
    parts = read_source(config, reading)
    frame = pd.concat([part.frame for part in parts], ignore_index=True)
    unfit = {part.name: part.unfit for part in parts if part.unfit}
    if frame.empty:
        why = " ".join(sentences(unfit)) or "Deliver them, and draft again"
        raise DataError("there are no rows", where=_where(config), remedy=why.rstrip("."))
    source = config.data
    seen = [
        _seen(frame[name], name, (*source.na_values, *source.missing.get(name, ())), source.decimal)
        for name in names
    ]
    where = _where(config)
    return draft_of(seen, len(frame), left_out=left_out, where=where, unfit=unfit, encodings=encodings)


def draft_of(
    columns: list[Seen],
    rows: int,
    *,
    left_out: dict[str, str],
    where: str,
    unfit: dict[str, tuple[UnfitLines, ...]] | None = None,
    encodings: tuple[str, ...] = (),
) -> Draft:
    """A card of columns.

    Args:
        columns: those that a card can name.
        rows: how many rows there were.
        left_out: other columns, and why they are left out.
        where: the site, for the error.
        unfit: lines that are no rows, by file and cause.
        encodings: what to do about files in another encoding.

    Raises:
        DataError: none of the columns can be offered.
    """
    unfit = unfit or {}
    side = next((seen for seen in columns if are_sides(seen)), None)
    time = next((seen for seen in columns if are_windows(seen) and seen is not side), None)
    dates = [seen for seen in columns if are_dates(seen)]
    time = time or (dates[0] if len(dates) == 1 else None)
    others = [seen for seen in columns if seen not in (side, time)]
    person = person_of(others)
    record = record_of(others, rows) if person is side is None else None
    offered: dict[str, Numbers | Categories] = {}
    for seen in columns:
        found = None if seen in (side, time, person, record) else guess(seen)
        if isinstance(found, LeftOut):
            left_out[seen.name] = found.why if seen.texts or not unfit else _NO_VALUE_READ
        elif found is not None:
            offered[seen.name] = found
    if person is not None:
        left_out[person.name] = f"{like_ids(person)}; guessed as `person`"
    if person is not None and side is not None:
        left_out[side.name] = (
            "a person's rows are on one side; it can be the hold-out of a card without person"
        )
    if record is not None:
        left_out[record.name] = f"{like_ids(record)}; guessed as `holdout.record`"
    if not offered:
        reasons = "; ".join(f"'{shown(name, limit=60)}': {why}" for name, why in left_out.items())
        raise DataError(
            f"no column can be offered ({shown(reasons, limit=600)})",
            where=where,
            remedy="Write [card] by hand, or deliver columns of numbers and categories",
        )
    lines = [
        *_head(rows, unfit, encodings),
        *_roles(person, time, side, record, dates),
        *(line for name, found in offered.items() for line in _column(name, found)),
        *_left_out(left_out),
    ]
    return Draft(
        text="\n".join(lines) + "\n", rows=rows, left_out=left_out, unfit=unfit, other_encodings=encodings
    )


def _columns(config: SiteConfig) -> tuple[list[str], dict[str, str]]:
    """The card's names of the columns that every file has once, and why others are left out."""
    headers = _headers(config)
    for place, header in headers.items():
        _require_separated(config, place, header)
    present = list(dict.fromkeys(column for header in headers.values() for column in header))
    for name, source in config.data.columns.items():
        if source not in present:
            raise DataError(
                f"data.columns says that '{name}' is '{source}', no column{instead(source, present)}",
                where=_where(config),
                remedy="Correct it in site.toml",
            )
    own = {source: name for name, source in config.data.columns.items()}
    names: list[str] = []
    left_out: dict[str, str] = {}
    for column in present:
        lacking = [place for place, header in headers.items() if column not in header]
        if any(header.count(column) > 1 for header in headers.values()):
            left_out[column] = "it is there more than once"
        elif lacking:
            left_out[column] = f"{lacking[0]} has no such column"
        elif not is_name(own.get(column, column)):
            left_out[column] = "no card can name it; give it another name under data.columns in site.toml"
        elif own.get(column, column) in names:
            left_out[column] = "another column has its name under data.columns"
        else:
            names.append(own.get(column, column))
    if not names:
        raise DataError(
            "there is no column that a card can name",
            where=_where(config),
            remedy="Deliver a header, or give names under data.columns in site.toml",
        )
    return names, left_out


def _require_separated(config: SiteConfig, place: str, header: list[str]) -> None:
    """Refuse a file whose columns are all one, because another sign stands between them."""
    sign = next((sign for sign in ";\t|," if len(header) == 1 and sign in header[0]), None)
    if config.data.kind == "csv" and sign is not None:
        raise DataError(
            f"all columns are one, '{shown(header[0], limit=60)}'",
            where=f"site '{config.name}', {place}",
            remedy=f"Set data.separator = {json.dumps(sign)} in site.toml",
        )


def _headers(config: SiteConfig) -> dict[str, list[str]]:
    """The columns of each file, or of the one table."""
    if config.data.kind == "sql":
        return {config.data.table or "data.query": column_names(config)}
    found = {}
    for path in source_files(config.data):
        one = config.data.model_copy(update={"path": str(path)})
        found[path.name] = column_names(config.model_copy(update={"data": one}))
    return found


def _where(config: SiteConfig) -> str:
    place = config.data.table or "data.query" if config.data.kind == "sql" else Path(str(config.data.path))
    return f"site '{config.name}', {place}"


def _seen(column: pd.Series, name: str, missing: tuple[str, ...], decimal: str) -> Seen:
    words = texts(column, missing=missing, decimal=decimal)
    there = np.fromiter((word is not None for word in words), np.bool_, count=len(words))
    figures, _ = numbers(column, missing=missing, decimal=decimal)
    return Seen(name=name, texts=list(words[there]), numbers=figures[there])


# -- TOML -----------------------------------------------------------------------------------


def _head(rows: int, unfit: dict[str, tuple[UnfitLines, ...]], encodings: tuple[str, ...]) -> Iterator[str]:
    yield f"# What this site offers. Drafted from {counted(rows, 'row')}: correct it before anybody sees it."
    yield from (f"# NOT TEXT: {sentence}" for sentence in encodings)
    for sentence in sentences(unfit):
        yield f"# NOT READ: {shown(sentence, limit=1000)}"
    yield "# Everything on a card is public. Where a line says REPLACE, put what is publicly known (a form,"
    yield "# a code book, a clinical reference) in the place of what the rows said, and remove the comment."
    yield "[card]"
    yield _line("draft = true", "the site answers nobody until this line is gone")
    yield _line('description = ""', "what the rows are, for data scientists")


def _roles(
    person: Seen | None, time: Seen | None, side: Seen | None, record: Seen | None, dates: list[Seen]
) -> Iterator[str]:
    if person is None:
        yield '# person = "…"                 the column that says whose a row is, where a person has several'
    else:
        why = f"{_GUESS}, for ids that repeat; remove this comment if each is one person, else the line"
        yield _line(f"person = {_string(person.name)}", why)
    if time is None:
        yield '# time = { column = "…" }        a column whose values name windows, such as 2026-01'
        for seen in dates:
            yield f"# or: {_calendar(seen)}"
            yield from _date_format(seen)
    elif not are_windows(time):
        yield f"# {_GUESS}, for its dates. Remove this comment if each month of them (or day,"
        yield "# week, quarter) is to be a window of its own, else the line"
        yield _calendar(time)
        yield from _date_format(time)
    else:
        why = f"{_GUESS}; remove this comment if each value names one window, else the line"
        yield _line(f"time = {{ column = {_string(time.name)} }}", why)
    if person is None and side is not None:
        why = f"{_GUESS}, for its values train and holdout; remove this comment if it is so"
        yield _line(f"holdout = {{ column = {_string(side.name)} }}", why)
    elif person is not None:
        yield _line("holdout = { share = 0.3 }", "the chance of a person to be kept for evaluation")
    elif record is not None:
        yield f"# {_GUESS}, for ids that no two rows share. Remove this comment if each row is another"
        yield "# person's and keeps its id; if a person may get a second row, write"
        yield f"# person = {_string(record.name)} and holdout = {{ share = 0.3 }} instead."
        yield _line(
            f"holdout = {{ share = 0.3, record = {_string(record.name)} }}",
            "the chance of a record to be kept for evaluation",
        )
    else:
        yield "# With record = a column of lasting ids, training and evaluation pay for their own rows only;"
        yield "# without, a row whose values change may change sides, and each is charged to both."
        yield _line("holdout = { share = 0.3 }", "the chance of a record to be kept for evaluation")


def _calendar(seen: Seen) -> str:
    return f'time = {{ column = {_string(seen.name)}, kind = "date", every = "month" }}'


def _date_format(seen: Seen) -> Iterator[str]:
    if form := date_format_of(seen):
        yield f"#     with date_format = {_string(form)} under [data], if days are written so"


def _column(name: str, found: Numbers | Categories) -> Iterator[str]:
    yield ""
    yield "[[card.columns]]"
    yield f"name = {_string(name)}"
    yield _line('kind = "numeric"' if isinstance(found, Numbers) else 'kind = "categorical"', found.note)
    yield _line('meaning = ""', "what it is, with its unit or its codes")
    if isinstance(found, Categories):
        yield from _list(found.values)
    elif found.low is None or found.high is None:
        yield "# low = …, high = …             the public range; without one, nobody can be told a range"
    else:
        yield _line(f"low = {found.low!r}", _FROM_ROWS[2:])
        yield _line(f"high = {found.high!r}", _FROM_ROWS[2:])


def _list(values: tuple[str, ...]) -> Iterator[str]:
    inside = ", ".join(_string(value) for value in values)
    if len(inside) < _WIDEST:
        yield _FROM_ROWS
        yield f"categories = [{inside}]"
        return
    yield f"categories = [  {_FROM_ROWS}"
    yield from (f"    {_string(value)}," for value in values)
    yield "]"


def _left_out(reasons: dict[str, str]) -> Iterator[str]:
    if reasons:
        yield ""
        yield "# Not offered:"
        yield from (f"#   '{shown(name, limit=100)}': {shown(why)}" for name, why in reasons.items())


def _line(code: str, comment: str) -> str:
    return f"{code:<{_COMMENT_AT - 1}} # {comment}" if comment else code


def _string(text: str) -> str:
    """A TOML string: JSON's escapes are TOML's."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
