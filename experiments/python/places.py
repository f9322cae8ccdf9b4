"""Where runs go on: a federation's server, or sites whose folders lie on this machine.

`Federation` and `Run` ask either of them alike; `there.py` and `here.py` are the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from contract.experiment import Experiment
from contract.federation_api import Run, RunDetail, Site, SiteCard, Version
from experiments.planning.sites import PlannedSite
from scientist.progress import Step

__all__ = ["Place"]


class Place(Protocol):
    """A server, or the sites here."""

    @property
    def words(self) -> str:
        """Where this is, in a few words."""

    def sites(self) -> list[Site]:
        """The sites, and whether each is connected."""

    def cards(self) -> list[SiteCard]:
        """What each site offers in public."""

    def planned(self) -> list[PlannedSite]:
        """The sites as a plan sees them: those that have stated their rows."""

    def chosen(self, experiment: Experiment) -> Experiment:
        """The experiment, with what it leaves to the recipe chosen for these sites."""

    def doubts(self, experiment: Experiment, windows: Sequence[str]) -> tuple[str, ...]:
        """Why a run would be refused, learn little or tell nothing, a sentence each; from public facts."""

    def begin(self, experiment: Experiment, windows: Sequence[str], *, sign_days: int) -> str:
        """Have an experiment run; the run's name. It goes on by itself."""

    def resume(self, run: str) -> None:
        """Go on with a run that failed or was stopped."""

    def stop(self, run: str) -> None:
        """Stop a run, or take it out of the queue."""

    def runs(self, most: int) -> list[Run]:
        """The newest runs."""

    def detail(self, run: str) -> RunDetail:
        """What is known of a run."""

    def steps(self, run: str) -> Iterator[Step]:
        """What happens to a run until it ends."""

    def come_back(self, run: str) -> str:
        """How to come back to a run that one no longer follows."""

    def versions(self, model: str) -> list[Version]:
        """The versions of a model, oldest first."""

    def files(self, model: str, version: int) -> dict[str, bytes]:
        """What a prediction by a version depends on, compared with the hashes of its record."""
