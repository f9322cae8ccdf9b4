"""A federation's server, asked as the owner of a profile. Needs no heavy library."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

from contract.experiment import Experiment
from contract.federation_api import Run, RunDetail, Runs, Site, SiteCard, Version
from experiments.planning.sites import PlannedSite, asked_of, of_cards, require_some
from experiments.planning.warnings import doubts, refusals
from scientist.connected import path_of
from scientist.connection import Connection
from scientist.federation import all_settings, cards_of, model_files, sites_of, submit, versions_of
from scientist.profiles import Profile
from scientist.progress import Step, steps_of
from scientist.signing import UNSIGNED, Signer
from scientist.watching import follow

__all__ = ["There"]


class There:
    """The server of a profile.

    Args:
        profile: says which, and who asks.
        key: what its owner signs runs with; None for runs that are not signed.
    """

    def __init__(self, profile: Profile, key: bytes | None) -> None:
        self._profile, self._key = profile, key

    @property
    def words(self) -> str:
        """Where this is, in a few words."""
        return f"the federation at {self._profile.url}, as {self._profile.person}"

    def sites(self) -> list[Site]:
        """The sites, and whether each is connected."""
        with self._connection() as connection:
            return sites_of(connection)

    def cards(self) -> list[SiteCard]:
        """What each site offers in public."""
        with self._connection() as connection:
            return cards_of(connection)

    def planned(self) -> list[PlannedSite]:
        """The sites that have stated their rows.

        Raises:
            InputError: none has.
        """
        return require_some(of_cards(self.cards()), where=self._profile.url)

    def chosen(self, experiment: Experiment) -> Experiment:
        """The experiment, with what it leaves to the recipe chosen for these sites."""
        with self._connection() as connection:
            return all_settings(experiment, connection)

    def doubts(self, experiment: Experiment, windows: Sequence[str]) -> tuple[str, ...]:
        """Why a run would be refused, learn little or tell nothing, a sentence each; from public facts."""
        cards = self.cards()
        sites = asked_of(experiment, of_cards(cards))
        refused = refusals(experiment, sites, windows, admitted=len(experiment.strategy.sites) or len(cards))
        return (*refused, *doubts(experiment, sites))

    def begin(self, experiment: Experiment, windows: Sequence[str], *, sign_days: int) -> str:
        """Sign an experiment and submit it; the run's name."""
        signer = None
        if self._key is not None:
            signer = Signer(profile=self._profile, key=self._key, days=sign_days)
        with self._connection() as connection:
            run = submit(connection, experiment, list(windows), signer=signer).run
        if signer is None:
            warnings.warn(UNSIGNED, stacklevel=4)
        return run

    def resume(self, run: str) -> None:
        """Go on with a run of one's own that failed or was stopped, from its last finished round."""
        with self._connection() as connection:
            connection.post(f"{path_of('runs', run)}/resume", RunDetail)

    def stop(self, run: str) -> None:
        """Stop a run of one's own, or take it out of the queue."""
        with self._connection() as connection:
            connection.post(f"{path_of('runs', run)}/stop", RunDetail)

    def runs(self, most: int) -> list[Run]:
        """The newest runs."""
        with self._connection() as connection:
            return list(connection.get("/v1/runs", Runs, limit=most).runs)

    def detail(self, run: str) -> RunDetail:
        """What is known of a run."""
        with self._connection() as connection:
            return connection.get(path_of("runs", run), RunDetail)

    def steps(self, run: str) -> Iterator[Step]:
        """What happens to a run until it ends, over cuts of the line and restarts of the server."""
        path_of("runs", run)
        with self._connection() as connection:
            yield from steps_of(follow(connection, run))

    def come_back(self, run: str) -> str:
        """How to come back to a run that one no longer follows."""
        return f"connect().run({run!r}).follow(), or in a terminal: tidegate runs watch {run}"

    def versions(self, model: str) -> list[Version]:
        """The versions of a model, oldest first."""
        with self._connection() as connection:
            return versions_of(connection, model)

    def files(self, model: str, version: int) -> dict[str, bytes]:
        """What a prediction by a version depends on, compared with the hashes of its record."""
        with self._connection() as connection:
            return model_files(connection, model, version)

    def _connection(self) -> Connection:
        """A fresh one for each question: a connection reads no more than a bounded number of bytes."""
        return Connection(self._profile.url, self._profile.token, self._profile.authority)
