"""`tidegate site card`: what the site says of its data in public; drafted, shown, signed, verified."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clients.cli.ledger import Json, Key

if TYPE_CHECKING:
    from rich.table import Table

    from clients.card import PublicCard
    from clients.site_config import SiteConfig
    from contract.card import Card, Column, Time

__all__ = ["card", "card_in_words"]

_SHOWN_CATEGORIES = 12


def card(
    file: Annotated[Path, typer.Argument(help="The site's site.toml; with --public-key, a signed card.")],
    write: Annotated[
        bool, typer.Option("--write", help="Append the draft to site.toml, which has no card yet.")
    ] = False,
    sign: Annotated[
        Path | None, typer.Option(help="Write the card into this file, signed with the site's key.")
    ] = None,
    key: Key = None,
    public_key: Annotated[
        Path | None, typer.Option(help="Check a signed card: the site's node.pub, had from elsewhere.")
    ] = None,
    json: Json = False,
) -> None:
    """Draft the site's public card from the rows; once there is one, show, sign or check it."""
    from clients.site_config import read_site_config
    from contract.errors import InputError

    if public_key is not None:
        _check_signed(file, public_key, json=json)
        return
    if file.suffix.lower() == ".json":
        raise InputError(
            "a signed card is checked with a key", where=str(file), remedy="Name it: --public-key NODE.pub"
        )
    config = read_site_config(file)
    if config.card is None and sign is None:
        _draft(file, config, write=write, json=json)
    elif write:
        raise InputError(
            "site.toml has a card already",
            where=str(file),
            remedy="Edit it; to draft anew, first remove [card] and every [[card.columns]]",
        )
    elif sign is not None:
        _sign(file, config, sign, key or file.parent / "keys" / "node.key", json=json)
    else:
        _show(file, config, json=json)


def card_in_words(config: SiteConfig) -> str:
    """One line for `tidegate site status`."""
    from contract.words import counted

    card = config.card
    if card is None:
        return "none, so the site answers nobody: `tidegate site card FILE --write` drafts one"
    words = f"{counted(len(card.columns), 'column')}, unit {'record' if card.person is None else 'person'}, "
    words += "no windows" if card.time is None else f"windows of '{card.time.column}'"
    return f"a DRAFT, so the site answers nobody; {words}" if config.is_draft else words


def _draft(file: Path, config: SiteConfig, *, write: bool, json: bool) -> None:
    from dataclasses import asdict

    from clients.rows.draft import draft_card
    from clients.rows.unfit_lines import sentences
    from clients.site_config import marked_lines
    from contract.words import counted, verb
    from terminal.output import print_json, say

    draft = draft_card(config)
    if write:
        _append(file, draft.text)
    if json:
        values = {"site": config.name, "rows": draft.rows, "left_out": draft.left_out, "written": write}
        lines = {place: [asdict(item) for item in causes] for place, causes in draft.unfit.items()}
        print_json({**values, "lines_left_out": lines, "toml": draft.text})
    elif write:
        marks, absent = len(marked_lines(draft.text)), len(draft.left_out)
        for sentence in (*draft.other_encodings, *sentences(draft.unfit)):
            say(sentence, "yellow")
        say(
            f"wrote a draft of {counted(draft.rows, 'row')} into {file}: "
            f"{counted(marks, 'line')} {verb(marks, 'says', 'say')} REPLACE, "
            f"{counted(absent, 'column')} {verb(absent, 'is', 'are')} not offered"
        )
        say(
            f"next: put public knowledge in their place; `tidegate site card {file}` shows what is left to do"
        )
    else:
        print(draft.text, end="")


def _append(file: Path, draft: str) -> None:
    """Replaces the file by itself and the draft, if that is a whole site.toml; never half-written."""
    import shutil

    from clients.site_config import SiteConfig
    from contract.errors import InputError, SiteConfigError
    from contract.experiment_file import parse_toml
    from contract.whole_file import written_aside

    path = file.resolve()
    text = path.read_text(encoding="utf-8")
    text = f"{text.rstrip()}\n\n{draft}"
    parse_toml(text, SiteConfig, where=f"{file} with the draft", error=SiteConfigError)
    try:
        with written_aside(path, text.encode()) as aside:
            shutil.copymode(path, aside)
            aside.replace(path)
    except OSError as exc:
        raise InputError(
            f"cannot be written: {exc.strerror}",
            where=str(file),
            remedy="Make its folder writable for this user",
        ) from exc


def _public(config: SiteConfig) -> PublicCard:
    from clients.card import PublicCard

    assert config.card is not None  # the caller has looked  # noqa: S101
    return PublicCard(site=config.name, stated_rows=config.stated_rows, card=config.card)


def _show(file: Path, config: SiteConfig, *, json: bool) -> None:
    from terminal.output import print_json, say

    public, marks = _public(config), config.to_replace
    if json:
        print_json({**public.model_dump(mode="json"), "lines_to_replace": marks})
        return
    _print(public)
    if marks:
        say(f"Still to be replaced in {file}: line {', '.join(map(str, marks))}.", "yellow")
    if config.is_draft:
        until = "`draft = true` is gone from [card]" if public.card.draft else "these lines are replaced"
        say(f"A DRAFT: the site answers nobody until {until}.", "bold yellow")


def _sign(file: Path, config: SiteConfig, path: Path, key: Path, *, json: bool) -> None:
    from json import dumps

    from clients.card import signed_card
    from clients.keys import fingerprint, read_private_key
    from terminal.new_files import write_new
    from terminal.output import print_json, say

    _ = config.offered  # refuses a draft
    private = read_private_key(key)
    envelope = dumps(signed_card(_public(config), private), indent=1) + "\n"
    write_new(path, envelope)
    signer = fingerprint(private.public_key())
    if json:
        print_json({"site": config.name, "path": str(path), "fingerprint": signer})
    else:
        say(f"wrote {path}, signed with {signer}")


def _check_signed(file: Path, public_key: Path, *, json: bool) -> None:
    from clients.card import read_signed_card
    from clients.keys import fingerprint, read_public_key
    from terminal.output import print_json, say

    key = read_public_key(public_key)
    public = read_signed_card(file, key)
    if json:
        print_json({"holds": True, "fingerprint": fingerprint(key), **public.model_dump(mode="json")})
        return
    _print(public)
    say(f"It holds: the given key signed it ({fingerprint(key)}).", "green")


def _print(public: PublicCard) -> None:
    from contract.outside import shown
    from contract.words import counted
    from terminal.output import console, say

    card = public.card
    facts = {
        "site": f"{public.site}, {counted(public.stated_rows, 'row')} stated",
        "about": " ".join(card.description.split()) or "–",
        "person": "none: the privacy unit is the record"
        if card.person is None
        else f"'{card.person}': the privacy unit is the person",
        "time": "none: there are no windows to ask for" if card.time is None else _time(card.time),
        "hold-out": _held_out(card),
    }
    width = max(map(len, facts))
    for name, words in facts.items():
        say(f"{name:<{width}}  {shown(words, limit=1000)}")
    console.print(_columns(card))


def _time(time: Time) -> str:
    from contract.windows import example_of
    from contract.words import counted

    if time.every is None:
        return f"'{time.column}': each of its values is a window"
    example = example_of(time.every)
    lag = f", complete {counted(time.lag, 'day')} after its end" if time.lag else ""
    return f"'{time.column}', a date in {time.zone}: each {time.every} is a window, such as {example}{lag}"


def _held_out(card: Card) -> str:
    if card.holdout.column is not None:
        return f"'{card.holdout.column}' says train or holdout"
    if card.person is not None:
        return f"{card.holdout.share:.0%} of the persons, by a keyed hash of '{card.person}'"
    if card.holdout.record is not None:
        return f"{card.holdout.share:.0%} of the records, by a keyed hash of '{card.holdout.record}'"
    return (
        f"{card.holdout.share:.0%} of the records, by a keyed hash of all values; one that changes later may "
        "change sides, so that training and evaluation are charged to both"
    )


def _columns(card: Card) -> Table:
    from rich.table import Table
    from rich.text import Text

    from contract.outside import shown

    table = Table(header_style="bold")
    for heading in ("column", "kind", "range or categories", "meaning"):
        table.add_column(heading, overflow="fold")
    for column in card.columns:
        cells = (column.name, column.kind, _values(column), " ".join(column.meaning.split()) or "–")
        table.add_row(*(Text(shown(cell, limit=1000)) for cell in cells))
    return table


def _values(column: Column) -> str:
    if column.kind == "numeric":
        return "no public range" if column.low is None else f"{column.low:g} … {column.high:g}"
    named = ", ".join(column.categories[:_SHOWN_CATEGORIES])
    more = len(column.categories) - _SHOWN_CATEGORIES
    return f"{named} and {more} more" if more > 0 else named
