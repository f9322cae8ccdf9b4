"""From the drift summaries of the sites to one verdict on a window.

Each site is judged by itself, and all sites together by their counts added up
over shared bins. Both are needed: one drifted site of five drowns in the pool,
and a small shift everywhere shows in no single site.

A check of a site (and the pooled check) raises a false alarm with a chance of at
most `drift.false_alarm_rate` over all its features together. So with S sites a
clean window raises some alarm with a chance of at most (S + 1) times that rate,
and the retraining policy waits for alarms to persist.

A site's counts are its own word. Within what its stated rows allow it can raise an
alarm of its own, and then the verdict says that all rests on it (`rests_on`). It has no
part in what the others show by themselves, and in the pool it weighs no more than the
caller lets it (`weights`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from contract.errors import ReleaseError, RoundError
from contract.experiment import Drift
from contract.releases import DriftSummary
from contract.verdicts import POOLED, FeatureVerdict, SiteVerdict, Verdict
from monitoring.detectors import Stratum, draws_for, holm, homogeneity, total_variation

__all__ = ["form_verdict"]


def form_verdict(
    summaries: Mapping[str, DriftSummary],
    *,
    drift: Drift,
    rng: np.random.Generator,
    weights: Mapping[str, float] = MappingProxyType({}),
    reference: str = "",
) -> Verdict:
    """Judge each site and all together.

    Args:
        summaries: of the same window and bins, by site.
        drift: the promised false-alarm rate.
        rng: for the simulated null distributions.
        weights: for how much a row of a site counts in the pool; 1 if it is not named.
        reference: as `Verdict.reference`.

    Raises:
        RoundError: no site answered.
        ReleaseError: summaries are of different windows or bins, or hold what is not a number.
    """
    first = _first(summaries)
    _check(first, summaries)
    sites = tuple(
        _judge(site, {site: summary}, drift=drift, rng=rng) for site, summary in sorted(summaries.items())
    )

    def together(some: Mapping[str, DriftSummary]) -> SiteVerdict:
        return _judge(POOLED, some, drift=drift, rng=rng, weights=weights)

    pooled = SiteVerdict(site=POOLED, features=sites[0].features) if len(sites) == 1 else together(summaries)
    in_alarm = [site.site for site in sites if site.alarm]
    alone = in_alarm[0] if len(in_alarm) == 1 and len(sites) > 1 else ""
    if alone and pooled.alarm and len(sites) > 2:
        others = {site: summary for site, summary in summaries.items() if site != alone}
        alone = "" if together(others).alarm else alone
    return Verdict(
        window=first.window,
        reference_window=first.reference_window,
        false_alarm_rate=drift.false_alarm_rate,
        sites=sites,
        pooled=pooled,
        rests_on=alone,
        reference=reference,
    )


def _judge(
    site: str,
    summaries: Mapping[str, DriftSummary],
    *,
    drift: Drift,
    rng: np.random.Generator,
    weights: Mapping[str, float] = MappingProxyType({}),
) -> SiteVerdict:
    strata = _strata(summaries, weights)
    draws = draws_for(drift.false_alarm_rate, len(strata))
    p_values = {feature: homogeneity(counts, rng=rng, draws=draws) for feature, counts in strata.items()}
    drifted = holm(p_values, drift.false_alarm_rate)
    return SiteVerdict(
        site=site,
        features=tuple(
            FeatureVerdict(
                feature=feature,
                p_value=p_values[feature],
                distance=total_variation(counts),
                drifted=feature in drifted,
            )
            for feature, counts in strata.items()
        ),
    )


def _strata(
    summaries: Mapping[str, DriftSummary], weights: Mapping[str, float]
) -> dict[str, tuple[Stratum, ...]]:
    strata: dict[str, tuple[Stratum, ...]] = {}
    for site, summary in summaries.items():
        for counts in summary.features:
            stratum = Stratum(
                reference=counts.reference,
                current=counts.current,
                reference_deviation=summary.reference_deviation,
                current_deviation=summary.current_deviation,
                weight=weights.get(site, 1.0),
            )
            strata[counts.feature] = (*strata.get(counts.feature, ()), stratum)
    return strata


def _first(summaries: Mapping[str, DriftSummary]) -> DriftSummary:
    if not summaries:
        raise RoundError("no site answered the drift check", remedy="See that the sites' agents are running")
    return next(iter(summaries.values()))


def _check(first: DriftSummary, summaries: Mapping[str, DriftSummary]) -> None:
    for site, summary in summaries.items():
        if (summary.window, _shape(summary)) != (first.window, _shape(first)):
            raise ReleaseError(
                "the drift summary is of another window, or over other bins, than those of the other sites",
                where=f"site {site}",
                remedy="Run the same experiment and version at every site",
            )
        if not all(np.isfinite((*item.reference, *item.current)).all() for item in summary.features):
            raise ReleaseError("the drift summary holds a count that is not a number", where=f"site {site}")


def _shape(summary: DriftSummary) -> tuple[tuple[str, int, int], ...]:
    return tuple((item.feature, len(item.reference), len(item.current)) for item in summary.features)
