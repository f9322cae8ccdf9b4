"""Where a run is remembered: state database first, then the registry, then who watches.

The state database decides what a run was; the registry shows it. A registry
that is away ends a run only when a model version is to be registered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from contract.releases import Metrics
from server.exchange import Answers
from server.records import RoundRecord
from server.registry import Registry
from server.rounds import RoundReport
from server.storage import State

__all__ = ["RunMemory", "metric_names"]

Watch = Callable[[RoundReport], None]


class RunMemory:
    """What `server.rounds` needs to remember, for one run.

    Args:
        state: the state database.
        registry: MLflow.
        mlflow_run: the MLflow run that metrics go to.
        watch: is told of each round: a progress bar, a log.
    """

    def __init__(
        self, state: State, registry: Registry, mlflow_run: str, watch: Watch = lambda _: None
    ) -> None:
        self._state = state
        self._registry = registry
        self._mlflow_run = mlflow_run
        self._watch = watch

    def load_checkpoint(self, run: str) -> bytes | None:
        """The run's last checkpoint."""
        found = self._state.load_checkpoint(run)
        return None if found is None else found[1]

    def save_round(self, run: str, report: RoundReport, checkpoint: bytes) -> None:
        """Write round and checkpoint in one transaction, then publish the metrics."""
        self._state.save_round(run, _record(report), checkpoint=checkpoint)
        named = metric_names(report.site_metrics, report.overall, report.epsilon)
        named |= {"round/seconds": report.seconds, "round/sites_counted": float(len(report.counted))}
        self._registry.log_metrics(self._mlflow_run, named, step=report.round)
        self._watch(report)

    def site_names(self) -> dict[int, str]:
        """The name of each node that was heard of."""
        return {site.node_id: site.name for site in self._state.sites()}

    def record_answers(self, answers: Answers) -> None:
        """Remember which site answered from which node."""
        for site, reply in answers.replies.items():
            self._state.record_site(site, node_id=answers.nodes[site], stated_rows=reply.stated_rows)

    def counted(self, run: str) -> dict[str, int]:
        """In how many of the run's rounds each site counted, of those that were asked."""
        rounds = self._state.rounds(run)
        sites = {site for record in rounds for site in record.cohort}
        return {site: sum(site in record.counted for record in rounds) for site in sorted(sites)}


def metric_names(
    site_metrics: Mapping[str, Metrics], overall: Metrics | None, epsilon: Mapping[str, float]
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
    return RoundRecord(
        round=report.round,
        cohort=report.asked,
        counted=report.counted,
        failures=report.failures,
        metrics=metrics,
        seconds=report.seconds,
    )
