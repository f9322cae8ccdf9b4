"""`tidegate sites …` of the federation of the profile."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contract.experiment import Experiment
    from contract.federation_api import SiteCard

__all__ = ["all_cards", "cards", "list_sites", "with_all_settings"]


def list_sites(*, json: bool) -> None:
    """Its sites."""
    from scientist.connected import connect
    from scientist.federation import sites_of
    from terminal.site_tables import show_sites

    with connect() as connection:
        show_sites(sites_of(connection), json=json)


def cards(*, name: str, json: bool) -> None:
    """What they offer."""
    from contract.federation_api import SiteCard
    from scientist.connected import connect, path_of
    from terminal.site_tables import show_card, show_cards

    if not name:
        show_cards(all_cards(), json=json)
        return
    with connect() as connection:
        show_card(connection.get(f"{path_of('sites', name)}/card", SiteCard), json=json)


def all_cards() -> list[SiteCard]:
    """What each of its sites offers."""
    from scientist.connected import connect
    from scientist.federation import cards_of

    with connect() as connection:
        return cards_of(connection)


def with_all_settings(experiment: Experiment) -> Experiment:
    """The experiment, with what it leaves to the recipe (`contract.recipe`) chosen for the server's sites.

    And with the version of its model's package that is installed here, where it states none.
    """
    from scientist.connected import connect
    from scientist.federation import all_settings

    with connect() as connection:
        return all_settings(experiment, connection)
