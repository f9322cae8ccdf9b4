"""From what a run ended with to the passport that a reviewer reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from contract.releases import Metrics
from server.jobs import Job
from server.passport import ModelComparison, Passport, SitePassport
from server.records import RunRecord
from server.rounds import TrainingResult
from server.storage import State

__all__ = ["passport_of"]


def passport_of(
    job: Job, record: RunRecord, result: TrainingResult, state: State, comparison: ModelComparison | None
) -> Passport:
    """The passport of a run's model."""
    rounds = state.rounds(record.name)
    names = sorted({site for item in rounds for site in item.cohort} | set(result.replies))
    stated = {site.name: site.stated_rows for site in state.sites()}
    return Passport(
        experiment=job.experiment,
        run=record.name,
        status="succeeded" if result.complete else "partial: some rounds went on without some site",
        trigger=record.trigger,
        trained=record.started,
        code_hash=record.code_hash,
        rounds=result.rounds,
        sites={
            name: _site(
                name,
                result,
                stated.get(name),
                asked=sum(name in item.cohort for item in rounds),
                counted=sum(name in item.counted for item in rounds),
                failures=(item.failures.get(name) for item in rounds),
                metrics=result.site_metrics.get(name),
            )
            for name in names
        },
        overall=result.overall,
        windows=job.windows,
        comparison=comparison,
    )


def _site(
    name: str,
    result: TrainingResult,
    stated_rows: int | None,
    *,
    asked: int,
    counted: int,
    failures: Iterable[str | None],
    metrics: Metrics | None,
) -> SitePassport:
    reply = result.replies.get(name)
    return SitePassport(
        stated_rows=stated_rows,
        asked=asked,
        counted=counted,
        failures=Counter(reason for reason in failures if reason),
        private=reply.private if reply else True,
        spent_in_run=reply.spent_in_run if reply else None,
        spent_in_total=reply.spent_in_total if reply else None,
        mechanism=reply.mechanism if reply else "",
        metrics=metrics,
    )
