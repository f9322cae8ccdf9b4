"""Where a run is remembered: state database first, then the registry, then who watches.

The state database decides what a run was; the registry shows it. A registry
that is away ends a run only when a model version is to be registered.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from contract.messages import Anchor
from contract.regression import Measured
from server.rounds import RoundReport
from server.state.participation import WAITING, SiteStatus, Step
from server.state.records import RoundRecord
from server.state.storage import State

__all__ = ["RunMemory", "metric_names"]

Watch = Callable[[RoundReport], None]
Publish = Callable[[Mapping[str, float], int], None]
Waits = Callable[[Step, Sequence[str]], None]
"""Is told for which sites' administrators an exchange waits."""

_LIVE_SECONDS = 0.25
"""How often the state of an exchange that goes on is written. A faster one is written when it has ended."""


class RunMemory:
    """What `server.rounds` needs to remember, for one run.

    Args:
        state: the state database.
        publish: is given the figures of each round, for MLflow.
        watch: is told of each round: a progress bar, a log.
        admitted: gives the admitted site of each node, as it is now.
        turn: of the process that runs it, as `State.take_over` gave it.
        federation: to which sites are admitted by key, and are held over all its runs to the rows that they
            stated first; None where nobody is, in one process.
        waits: is told for whose approval an exchange waits.
    """

    def __init__(
        self,
        state: State,
        publish: Publish = lambda _named, _step: None,
        watch: Watch = lambda _: None,
        admitted: Callable[[], Mapping[int, str]] = dict,
        turn: int | None = None,
        *,
        federation: str | None = None,
        waits: Waits = lambda _step, _sites: None,
    ) -> None:
        self._state = state
        self._publish = publish
        self._watch = watch
        self._admitted = admitted
        self._turn = turn
        self._federation, self._waits = federation, waits
        self._heard: dict[int, str] = {}
        self._stated: dict[str, int] | None = None
        self._shown: tuple[Step, Mapping[str, SiteStatus]] | None = None
        self._written = 0.0

    def load_checkpoint(self, run: str) -> bytes | None:
        """The run's last checkpoint."""
        found = self._state.load_checkpoint(run)
        return None if found is None else found[1]

    def save_round(self, run: str, report: RoundReport, checkpoint: bytes) -> None:
        """Write round and checkpoint in one transaction, then publish the metrics."""
        self._state.save_round(run, _record(report), checkpoint=checkpoint, turn=self._turn)
        named = metric_names(report.site_metrics, report.overall, report.epsilon)
        named |= {
            f"site/{site}/clipped_share": found.share
            for site, found in report.clipped.items()
            if not found.reason
        }
        named |= {"round/seconds": report.seconds, "round/sites_counted": float(len(report.counted))}
        sites = {*report.asked, *report.failures}
        named |= {f"site/{site}/counted": float(site in report.counted) for site in sites}
        self._publish(named, report.round)
        self._watch(report)

    def admitted(self) -> dict[int, str]:
        """The site that a node must answer as: the admitted one, or the one it answered as in this run."""
        return {**self._heard, **self._admitted()}

    def site_names(self) -> dict[int, str]:
        """The name of each node that was heard of, in whatever run."""
        return {site.node_id: site.name for site in self._state.sites()}

    def stated_rows(self, run: str) -> dict[str, int]:
        """The rows that each site must state: as at its admission, or as in this run, before a kill too."""
        if self._stated is None:
            self._stated = self._at_admission()
            for item in self._state.participation(run):
                if item.stated_rows is not None:
                    self._stated.setdefault(item.site, item.stated_rows)
        return self._stated

    def _at_admission(self) -> dict[str, int]:
        if self._federation is None:
            return {}
        sites = self._state.admitted_sites(self._federation)
        return {site.name: site.stated_rows for site in sites if site.stated_rows is not None}

    def remember_anchor(self, site: str, anchor: Anchor | None) -> None:
        """Note where an admitted site's ledger ends; one that does not say it any more has an empty one.

        Raises:
            ReleaseError: it was longer before.
        """
        if self._federation is not None:
            ends = anchor or Anchor(entries=0, head="")
            self._state.remember_anchor(site, ends.entries, ends.head, federation=self._federation)

    def record_sites(self, step: Step, sites: Mapping[str, SiteStatus], *, ended: bool) -> None:
        """Write how far each site came: when the exchange has ended; before, a few times a second."""
        now = time.monotonic()
        if not ended:
            before = self._shown
            if before is None or before[0] != step:
                self._shown, self._written = (step, {}), now
                return
            if before[1] == sites or now - self._written < _LIVE_SECONDS:
                return
        self._write(step, sites)
        if ended:
            self._remember(step, sites)

    def _write(self, step: Step, sites: Mapping[str, SiteStatus]) -> None:
        self._state.record_participation(step, sites)
        self._shown, self._written = (step, dict(sites)), time.monotonic()

    def wait_for_approval(self, step: Step, sites: Mapping[str, SiteStatus]) -> None:
        """Write how far each site came, and say for whose approval the exchange waits.

        However soon after the last writing: nothing changes now until it goes on.
        """
        self._write(step, sites)
        self._waits(step, [site for site, status in sites.items() if status.reason == WAITING])

    def counted(self, run: str) -> dict[str, int]:
        """In how many of the run's rounds each site counted, of all that were asked or should have been."""
        rounds = self._state.rounds(run)
        sites = {site for record in rounds for site in (*record.cohort, *record.failures)}
        return {site: sum(site in record.counted for record in rounds) for site in sorted(sites)}

    def _remember(self, step: Step, sites: Mapping[str, SiteStatus]) -> None:
        stated, new = self.stated_rows(step.run), {}
        for site, status in sites.items():
            if status.node is not None and status.stated_rows is not None:
                self._heard[status.node] = site
                if site not in stated:
                    stated[site] = new[site] = status.stated_rows
        if new and self._federation is not None:
            self._state.pin_rows(new, federation=self._federation)


def metric_names(
    site_metrics: Mapping[str, Measured], overall: Measured | None, epsilon: Mapping[str, float]
) -> dict[str, float]:
    """MLflow's names for the figures of a round or an evaluation."""
    named = {
        f"site/{site}/{name}": value
        for site, metrics in site_metrics.items()
        for name, value in metrics.as_dict().items()
    }
    if overall is not None:
        named |= {f"overall/{name}": value for name, value in overall.as_dict().items()}
    return named | {f"privacy/{site}/epsilon": value for site, value in epsilon.items()}


def _record(report: RoundReport) -> RoundRecord:
    metrics: dict[str, Any] = {
        "sites": {site: asdict(metrics) for site, metrics in report.site_metrics.items()},
        "overall": None if report.overall is None else asdict(report.overall),
        "epsilon": {site: value if math.isfinite(value) else None for site, value in report.epsilon.items()},
    }
    if report.clipped:
        metrics["clipped"] = {site: asdict(found) for site, found in report.clipped.items()}
    return RoundRecord(
        round=report.round,
        cohort=report.asked,
        counted=report.counted,
        failures=report.failures,
        metrics=metrics,
        seconds=report.seconds,
    )
