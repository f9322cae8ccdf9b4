"""A federation, as one has it in Python: its sites and cards, runs and models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from contract.federation_api import SiteCard
from contract.outside import shown
from experiments.installation import telling_what_is_missing
from experiments.python.comparison import Comparison
from experiments.python.model import Model
from experiments.python.places import Place
from experiments.python.run import Run
from terminal.display import Shown, html_of, text_of
from terminal.parts import Sentence, Table
from terminal.site_tables import card_in_words, columns_table

__all__ = ["Cards", "Federation"]

_RUNS = 20


class Federation:
    """A federation that one is connected to; `connect` makes it.

    Args:
        place: the server, or the sites here.
    """

    def __init__(self, place: Place) -> None:
        self.place = place

    @telling_what_is_missing
    def cards(self) -> Cards:
        """What its sites offer in public: columns, kinds, ranges, windows, stated rows."""
        return Cards(cards=tuple(self.place.cards()))

    @telling_what_is_missing
    def runs(self, most: int = _RUNS) -> list[Run]:
        """The newest runs, at most 200."""
        return [Run(self.place, one.name) for one in self.place.runs(most)]

    @telling_what_is_missing
    def run(self, name: str) -> Run:
        """A run that was begun before.

        Raises:
            InputError: there is none of that name.
        """
        self.place.detail(name)
        return Run(self.place, name)

    @telling_what_is_missing
    def versions(self, model: str) -> list[int]:
        """The versions of a model, oldest first; it has the name of its experiment."""
        return [one.version for one in self.place.versions(model)]

    @telling_what_is_missing
    def model(self, name: str, version: int) -> Model:
        """A registered version of a model, fetched and compared with the hashes of its record.

        Raises:
            InputError: there is no such version.
            TidegateError: what was sent is not what was registered.
        """
        return Model.of(self.place.files(name, version), name=name, version=version)

    @telling_what_is_missing
    def compare(self, *runs: str) -> Comparison:
        """The results of these runs side by side, by their names."""
        return Comparison(runs=tuple(self.place.detail(name) for name in runs))

    def _parts(self) -> list[Shown]:
        rows = tuple(
            (one.name, {None: "?", True: "yes", False: "no"}[one.connected], one.stated_rows)
            for one in self.place.sites()
        )
        table = Table(headings=("site", "connected", "stated rows"), rows=rows, title=self.place.words)
        return [table]

    def __repr__(self) -> str:
        return text_of(self._parts())

    def _repr_html_(self) -> str:
        return html_of(self._parts())


@dataclass(frozen=True, kw_only=True, repr=False)
class Cards(Sequence[SiteCard]):
    """What sites offer in public, a `SiteCard` each.

    Attributes:
        cards: of the sites.
    """

    cards: tuple[SiteCard, ...]

    def __len__(self) -> int:
        return len(self.cards)

    def __getitem__(self, place: int | slice) -> SiteCard | tuple[SiteCard, ...]:  # type: ignore[override]
        return self.cards[place]

    def _parts(self) -> list[Shown]:
        rows = tuple(
            (one.site, one.stated_rows, card_in_words(one.card) if one.card is not None else "none here")
            for one in self.cards
        )
        parts: list[Shown] = [Table(headings=("site", "stated rows", "card"), rows=rows, title="Sites")]
        kinds = {one.card.columns: one for one in self.cards if one.card is not None}
        for columns in kinds:
            sites = [one.site for one in self.cards if one.card is not None and one.card.columns == columns]
            parts.append(columns_table(columns, title=f"Columns at {shown(', '.join(sites))}"))
        return parts if self.cards else [Sentence("No site has joined yet.")]

    def __repr__(self) -> str:
        return text_of(self._parts())

    def _repr_html_(self) -> str:
        return html_of(self._parts())
