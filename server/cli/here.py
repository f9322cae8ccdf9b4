"""The server that has its state here, for commands that can also ask another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from contract.experiment import Experiment
    from server.api.reading import Page, Reading
    from server.settings import ServerSettings

__all__ = ["pages", "reading_here", "with_all_settings"]


class _Paged(Protocol):
    @property
    def more(self) -> bool: ...


PageOf = TypeVar("PageOf", bound=_Paged)


@contextmanager
def reading_here(settings: ServerSettings | None = None) -> Iterator[Reading]:
    """What the API would read, of the state that is here.

    Args:
        settings: of the server; without, those of the environment.

    Raises:
        InputError: there is no server here.
    """
    from server.api.reading import Reading
    from server.federation import running_control, running_federation
    from server.registry.registry import Registry
    from server.settings import read_settings
    from server.state.storage import open_known_state

    settings = settings or read_settings()
    with open_known_state(settings.state_url) as state:
        yield Reading(
            state=state,
            registry=Registry(settings.tracking_uri, settings.artifact_root),
            control=lambda: running_control(settings),
            federation=running_federation(settings),
        )


def pages(ask: Callable[[Page], PageOf]) -> Iterator[PageOf]:
    """The pages of a list, one after the other."""
    from contract.federation_api import MOST_ITEMS
    from server.api.reading import Page

    skip = 0
    while True:
        page = ask(Page(skip=skip, limit=MOST_ITEMS))
        yield page
        if not page.more:
            return
        skip += MOST_ITEMS


def with_all_settings(experiment: Experiment) -> Experiment:
    """The experiment, with what it leaves to the recipe (`contract.recipe`) chosen for the admitted sites.

    Raises:
        InputError: it leaves something to the recipe, and there is no server here.
    """
    from contract.recipe import asked_rows, needs_recipe, with_recipe

    if not needs_recipe(experiment):
        return experiment
    with reading_here() as reading:
        sites = [one for page in pages(reading.sites) for one in page.sites]
    rows = {one.name: one.stated_rows for one in sites if one.admitted}
    return with_recipe(experiment, asked_rows(experiment, rows))
