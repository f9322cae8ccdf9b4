"""What is known in public of the sites of a planned run; of a site whose file lies here, its ledger too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from contract.card import Card
from contract.errors import InputError
from contract.experiment import Experiment
from contract.federation_api import SiteCard

__all__ = ["PlannedSite", "asked_of", "of_cards", "of_files", "require_some"]

_SHARE_UNKNOWN = 0.3
"""Held out of a site's rows where nobody says the share: a site's own default."""


@dataclass(frozen=True, kw_only=True)
class PlannedSite:
    """A site as a plan sees it, before it is asked anything.

    Attributes:
        name: its public name.
        stated_rows: its rough number of training rows.
        card: what it offers; None where that is not known.
        file: its site.toml, where that lies here.
    """

    name: str
    stated_rows: int
    card: Card | None = None
    file: Path | None = None

    @property
    def held_out_rows(self) -> int:
        """About how many rows it evaluates on: the card's share of all its rows, of which it states the rest.

        A column that says which rows are held out states no share: then it is taken for three tenths.
        """
        share = self.card.holdout.share if self.card is not None else _SHARE_UNKNOWN
        return round(self.stated_rows * share / (1 - share))

    @property
    def share_is_told(self) -> bool:
        """Whether the card says how many rows are held out."""
        return self.card is not None and self.card.holdout.column is None


def of_files(paths: Sequence[Path], *, drafts: bool = False) -> list[PlannedSite]:
    """The sites of these site.toml files.

    Args:
        paths: of the files.
        drafts: whether a site is taken that answers nobody yet, for it has no card, or a draft.

    Raises:
        SiteConfigError: one is missing or wrong, or answers nobody yet.
    """
    from clients.site_config import read_site_config

    found = []
    for path in paths:
        config = read_site_config(path)
        card = config.card if drafts else config.offered
        found.append(PlannedSite(name=config.name, stated_rows=config.stated_rows, card=card, file=path))
    return found


def of_cards(cards: Sequence[SiteCard]) -> list[PlannedSite]:
    """The admitted sites of a server that have stated their rows."""
    return [
        PlannedSite(name=one.site, stated_rows=one.stated_rows, card=one.card)
        for one in cards
        if one.stated_rows
    ]


def asked_of(experiment: Experiment, sites: Sequence[PlannedSite]) -> list[PlannedSite]:
    """Those that the experiment asks."""
    asked = experiment.strategy.sites
    return [one for one in sites if not asked or one.name in asked]


def require_some(sites: list[PlannedSite], *, where: str) -> list[PlannedSite]:
    """The sites, if there is one.

    Raises:
        InputError: there is none.
    """
    if not sites:
        raise InputError(
            "no site has stated its rows yet",
            where=where,
            remedy="Name each site's file with --site SITE.toml, or wait until sites have joined",
        )
    return sites
