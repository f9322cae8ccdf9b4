"""`tidegate new FILE`: an experiment file drafted from what sites offer, or from another experiment file."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from experiments.draft import Offer

__all__ = ["new"]


def new(
    file: Annotated[Path, typer.Argument(help="The experiment file to write.")],
    site: Annotated[
        list[str] | None,
        typer.Option(help="A site.toml whose card to take, or a site of your profile's server; repeat."),
    ] = None,
    label: Annotated[str, typer.Option(help="The column to predict; asked for if left out.")] = "",
    feature: Annotated[
        list[str] | None, typer.Option(help="A column to predict it from; repeat. Without: all that fit.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="linear, mlp, or the name of a model of a package that is installed here.")
    ] = "",
    name: Annotated[str, typer.Option(help="Of the experiment; otherwise after the file.")] = "",
    origin: Annotated[
        Path | None, typer.Option("--from", help="An experiment file to write a variant of.")
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="With --from: KEY=VALUE, such as strategy.rounds=40; repeat."),
    ] = None,
) -> None:
    """Draft an experiment file from the sites' public cards, or as a variant of another."""
    from contract.errors import InputError
    from contract.experiment_file import parse_unranged
    from experiments.draft import draft, name_like, variant
    from terminal.experiment_files import read_text
    from terminal.new_files import require_new, write_new
    from terminal.output import say

    require_new(file)
    called = name or name_like(file.stem)
    if origin is not None:
        if site or label or feature or model:
            raise InputError(
                "--from takes everything from that file",
                where="the options",
                remedy="Leave --site, --label, --feature and --model out; change keys with --set",
            )
        text = variant(read_text(origin), {"name": called, **_changes(change or [])}, where=str(origin))
    else:
        if change:
            raise InputError(
                "--set goes with --from", where="the options", remedy="Edit the file once it is written"
            )
        offers = _offers(site or [])
        label = label or _chosen_label(offers)
        text = draft(offers, name=called, label=label, features=feature or [], model=model or "linear")
    write_new(file, text)
    unranged = parse_unranged(text, where=str(file)).features
    then = f"give {', '.join(unranged)} low and high, or `tidegate ranges {file}`" if unranged else ""
    say(f"wrote {file}: read it, change what you like, then {then or f'`tidegate run {file}`'}")


def _offers(sites: list[str]) -> Mapping[str, Offer]:
    """What these sites offer: of files on this machine, or else of the federation of the profile."""
    from contract.errors import InputError
    from scientist.connected import is_connected

    if any(one.endswith(".toml") for one in sites) or (sites and not is_connected()):
        return _offers_of_files([Path(one) for one in sites])
    if is_connected():
        return _offers_of_federation(sites)
    raise InputError(
        "no site is named, and there is no profile of a server",
        where="the options",
        remedy="Name each one's card with --site SITE.toml, or `tidegate connect` first",
    )


def _offers_of_files(paths: list[Path]) -> Mapping[str, Offer]:
    from clients.site_config import read_site_config
    from experiments.draft import Offer

    configs = [read_site_config(path) for path in paths]
    return {one.name: Offer(card=one.offered, stated_rows=one.stated_rows) for one in configs}


def _offers_of_federation(names: list[str]) -> Mapping[str, Offer]:
    from experiments.draft import offers_of
    from scientist.cli.sites import all_cards

    return offers_of(all_cards(), names, where="the server of your profile")


def _chosen_label(offers: Mapping[str, Offer]) -> str:
    """The only column with classes, or else the one that the person chooses."""
    from contract.errors import InputError
    from contract.outside import shown
    from experiments.draft import labels

    can = labels(offers)
    alone = labels(offers, numbers=False) or can
    if len(alone) == 1:
        return alone[0]
    listed = (
        ", ".join(shown(one) for one in can[:20])
        or "none: no column is offered by all with a range or two categories"
    )
    if not can or not sys.stdin.isatty():
        raise InputError(
            f"no column to predict is named; these can be: {listed}",
            where="the options",
            remedy="Add --label",
        )
    print(f"Columns that can be predicted: {listed}")
    return str(typer.prompt("Which one"))


def _changes(given: list[str]) -> dict[str, str]:
    from contract.errors import InputError

    changes = {}
    for one in given:
        key, equals, value = one.partition("=")
        if not (key.strip() and equals):
            raise InputError(
                f"'{one}' is no KEY=VALUE", where="--set", remedy="Write it like strategy.rounds=40"
            )
        changes[key.strip()] = value.strip()
    return changes
