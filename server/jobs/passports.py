"""From what a run ended with to the passport that a reviewer reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from contract.releases import CalibrationBin, ScoreHistogram
from server.jobs.diagnosis import diagnosis_of
from server.jobs.job import Job
from server.registry.passport import ModelComparison, Passport, SitePassport, size_band
from server.rounds import TrainingResult, pooled_scores
from server.state.participation import kind_of
from server.state.records import RoundRecord, RunRecord
from server.state.storage import State

__all__ = ["passport_of"]


def passport_of(
    job: Job,
    record: RunRecord,
    result: TrainingResult,
    state: State,
    comparison: ModelComparison | None,
    parent: int | None,
) -> Passport:
    """The passport of a run's model."""
    rounds = state.rounds(record.name)
    heard = {site for item in rounds for site in (*item.cohort, *item.failures)}
    names = sorted(heard | set(result.replies) | set(result.failures))
    stated = {site.name: site.stated_rows for site in state.sites()}
    return Passport(
        experiment=job.experiment,
        run=record.name,
        status="succeeded" if result.complete else "partial: not every site counted throughout",
        trigger=record.trigger,
        trained=record.started,
        code_hash=record.code_hash,
        rounds=result.rounds,
        sites={name: _site(name, result, stated.get(name), rounds) for name in names},
        overall=result.overall,
        windows=job.windows,
        diagnosis=diagnosis_of(job.experiment, result, rounds).sentences,
        not_measurable=_not_measurable(result),
        comparison=comparison,
        parent=parent,
        calibration=_calibration(result),
    )


def _calibration(result: TrainingResult) -> tuple[CalibrationBin, ...]:
    together = pooled_scores(result.scores)
    return together.calibration() if isinstance(together, ScoreHistogram) else ()


def _not_measurable(result: TrainingResult) -> dict[str, dict[str, str]]:
    together = pooled_scores(result.scores)
    found = {site: scores.reasons() for site, scores in sorted(result.scores.items())}
    return {**found, "all sites": {} if together is None else together.reasons()}


def _site(
    name: str, result: TrainingResult, stated_rows: int | None, rounds: Sequence[RoundRecord]
) -> SitePassport:
    reply = result.replies.get(name)
    counted_in = tuple(item.round for item in rounds if name in item.counted)
    return SitePassport(
        stated_rows=size_band(stated_rows),
        asked=sum(name in item.cohort for item in rounds),
        counted=len(counted_in),
        counted_in=counted_in,
        failures=Counter(kind_of(item.failures[name]) for item in rounds if name in item.failures),
        missing_at_end=result.failures.get(name, ""),
        private=reply.private if reply else True,
        spent_in_run=reply.spent_in_run if reply else None,
        spent_in_total=reply.spent_in_total if reply else None,
        mechanism=reply.mechanism if reply else "",
        metrics=result.site_metrics.get(name),
    )
