"""`tidegate sites …`: the sites of the federation, and what each offers."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["app", "list_sites"]

app = typer.Typer(no_args_is_help=True, help="The sites of the federation, and the card of each.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_sites(json: Json = False) -> None:
    """The sites that were admitted, whether each is connected now, and those that have answered."""
    from server.cli.here import pages, reading_here
    from terminal.output import say
    from terminal.site_tables import show_sites

    with reading_here() as reading:
        found = [one for page in pages(reading.sites) for one in page.sites]
    show_sites(found, json=json)
    if not json and any(one.connected is None for one in found):
        say("No server runs here now, so nobody is connected to it: `tidegate server up` starts one.")


@app.command()
def cards(
    name: Annotated[str, typer.Argument(help="This site's alone, with its columns.")] = "", json: Json = False
) -> None:
    """What each site offers: columns, kinds, ranges, windows, and the rows that it states.

    A card is what the site said in public when it asked to be let in.
    """
    from server.cli.here import pages, reading_here
    from terminal.site_tables import no_site, show_card, show_cards

    with reading_here() as reading:
        if not name:
            show_cards([one for page in pages(reading.cards) for one in page.cards], json=json)
            return
        found = reading.card(name)
    if found is None:
        raise no_site(name)
    show_card(found, json=json)
