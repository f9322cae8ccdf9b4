"""What `tidegate sites` shows, of a server that runs here or of another."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from contract.card import Card, CategoricalColumn, NumericColumn
from contract.errors import InputError
from contract.federation_api import Site, SiteCard
from contract.words import counted
from terminal.output import cell, print_json, print_table, say
from terminal.parts import Table, print_parts

__all__ = ["card_in_words", "columns_table", "no_site", "show_card", "show_cards", "show_sites"]

_SHOWN_CATEGORIES = 20


def show_sites(sites: Sequence[Site], *, json: bool) -> None:
    """The sites that were admitted, whether each is connected, and those that have answered."""
    if json:
        print_json([one.model_dump() for one in sites])
        return
    if not sites:
        say("No site was admitted yet: `tidegate server invite NAME` makes a token for one.")
        return
    print_table(
        ("site", "connected", "stated rows", "admitted", "first answer", "last answer"),
        (
            (
                one.name,
                {None: "?", True: cell("yes", "green"), False: cell("no", "yellow")}[one.connected],
                one.stated_rows or "–",
                _moment(one.admitted_at),
                _moment(one.first_answer),
                _moment(one.last_answer),
            )
            for one in sites
        ),
    )


def show_cards(cards: Sequence[SiteCard], *, json: bool) -> None:
    """A line for each site's card."""
    if json:
        print_json([one.model_dump(mode="json") for one in cards])
        return
    if not cards:
        say("No site was admitted yet: `tidegate server invite NAME` makes a token for one.")
        return
    print_table(
        ("site", "stated rows", "card", "as of"),
        (
            (
                one.site,
                "–" if one.stated_rows is None else f"{one.stated_rows:,}",
                card_in_words(one.card) if one.card is not None else "none here: ask the site",
                _moment(one.asked),
            )
            for one in cards
        ),
        unbroken=("as of",),
    )
    say("`tidegate sites cards NAME` shows a card with its columns.")


def show_card(found: SiteCard, *, json: bool) -> None:
    """A site's card, with its columns."""
    if json:
        print_json(found.model_dump(mode="json"))
        return
    card = found.card
    if card is None:
        say(f"'{found.site}' has given the server no card: ask its administrator.")
        return
    for line in card.description.splitlines():
        say(line)
    print_parts([columns_table(card.columns, title=f"{found.site}, as of {_moment(found.asked)}")])
    rows = "" if found.stated_rows is None else f"about {found.stated_rows:,} rows to train on; "
    say(f"{rows}privacy unit: {'record' if card.person is None else f'person ({card.person})'}")
    say(f"windows: {_windows(card)}")
    say(f"held out for evaluation: {_holdout(card)}")


def columns_table(columns: Sequence[NumericColumn | CategoricalColumn], *, title: str) -> Table:
    """The columns of a card."""
    return Table(
        headings=("column", "kind", "values", "meaning"),
        rows=tuple((one.name, one.kind, _values(one), one.meaning) for one in columns),
        title=title,
    )


def card_in_words(card: Card) -> str:
    """A card in one line."""
    windows = "no windows" if card.time is None else f"windows of '{card.time.column}'"
    unit = "record" if card.person is None else "person"
    words = f"{counted(len(card.columns), 'column')}, unit {unit}, {windows}"
    about = " ".join(card.description.split())
    return f"{about[:100]}{'…' if len(about) > 100 else ''} ({words})" if about else words


def no_site(name: str) -> InputError:
    """That no site of that name is admitted."""
    return InputError(
        f"no site '{name}' is admitted", where="NAME", remedy="`tidegate sites list` lists the sites"
    )


def _values(column: NumericColumn | CategoricalColumn) -> str:
    if isinstance(column, NumericColumn):
        known = column.low is not None and column.high is not None
        return f"{column.low:g} to {column.high:g}" if known else "no range: `tidegate ranges` asks for one"
    first = ", ".join(column.categories[:_SHOWN_CATEGORIES])
    left = len(column.categories) - _SHOWN_CATEGORIES
    return f"{first}, and {left:,} more" if left > 0 else first


def _windows(card: Card) -> str:
    time = card.time
    if time is None:
        return "none: the card has no time column"
    if time.every is None:
        return f"the values of '{time.column}'"
    lag = f", complete after {counted(time.lag, 'day')}" if time.lag else ""
    return f"each {time.every} of '{time.column}', in the time zone {time.zone}{lag}"


def _holdout(card: Card) -> str:
    if card.holdout.column is not None:
        return f"as '{card.holdout.column}' says"
    unit = "records" if card.person is None else "persons"
    return f"{card.holdout.share:.0%} of the {unit}"


def _moment(at: datetime | None) -> str:
    return "–" if at is None else f"{at:%Y-%m-%d %H:%M}"
