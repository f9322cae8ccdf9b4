"""`tidegate sites …` of the federation of the profile."""

from __future__ import annotations

__all__ = ["cards", "list_sites"]

_CARDS = 50
"""Of a page: that is the most that a server gives."""


def list_sites(*, json: bool) -> None:
    """Its sites."""
    from contract.federation_api import Sites
    from scientist.connected import connect
    from terminal.site_tables import show_sites

    with connect() as connection:
        found = [one for page in connection.pages("/v1/sites", Sites) for one in page.sites]
    show_sites(found, json=json)


def cards(*, name: str, json: bool) -> None:
    """What they offer."""
    from contract.federation_api import Cards, SiteCard
    from scientist.connected import connect, path_of
    from terminal.site_tables import show_card, show_cards

    with connect() as connection:
        if name:
            show_card(connection.get(f"{path_of('sites', name)}/card", SiteCard), json=json)
            return
        found = [one for page in connection.pages("/v1/cards", Cards, limit=_CARDS) for one in page.cards]
    show_cards(found, json=json)
