"""`tidegate sites …` of the federation of the profile."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contract.experiment import Experiment
    from contract.federation_api import SiteCard

__all__ = ["all_cards", "cards", "list_sites", "with_all_settings"]

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
    from contract.federation_api import Cards
    from scientist.connected import connect

    with connect() as connection:
        return [one for page in connection.pages("/v1/cards", Cards, limit=_CARDS) for one in page.cards]


def with_all_settings(experiment: Experiment) -> Experiment:
    """The experiment, with what it leaves to the recipe (`contract.recipe`) chosen for the server's sites.

    And with the version of its model's package that is installed here, where it states none.
    """
    from contract.installed_models import with_package
    from contract.recipe import asked_rows, needs_recipe, with_recipe

    experiment = with_package(experiment)
    if not needs_recipe(experiment):
        return experiment
    rows = {one.site: one.stated_rows for one in all_cards()}
    return with_recipe(experiment, asked_rows(experiment, rows))
