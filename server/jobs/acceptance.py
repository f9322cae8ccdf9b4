"""Whether a challenger may become the champion: the experiment's gate, applied to noisy figures.

For log loss, the Brier score and the mean absolute error the sites release a paired difference with its
squares, so its error is known, of noise and rows together. AUC, accuracy and RMSE are compared from the two
evaluations, each with its own error: they are of the same rows, so the error of their difference is less than
the one that is taken.

A difference counts where it passes two standard errors. So of two models that are equally good one is
accepted in its turn in no more than one case of twenty, as `tests/statistical/test_acceptance.py` counts at
three scales of noise. And a site is one of three:

    not worse   surely no worse than the gate allows
    worse       surely worse than that: the challenger is not accepted
    unknown     noise and few rows hide it, which is not "not worse": the gate says what becomes of such sites
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Literal

import numpy as np

from contract.experiment import Gate
from contract.figures import METRICS, PAIRED, Estimate
from contract.messages import Reply
from contract.regression import ErrorSums, Measured, Scores
from contract.releases import LOG_LOSS_SPAN, Comparison
from server.exchange.weights import row_weights
from server.jobs.verdicts import ERRORS

__all__ = ["Acceptance", "SiteVerdict", "judge"]

SiteVerdict = Literal["not worse", "worse", "unknown"]

_FOUR_OF_FIVE = 0.8416
"""Standard errors above the bound that a gain must have to pass it in four of five cases."""
_LEAST_ERROR = 1e-9
"""Stands for an error of 0, by which nothing can be weighed."""
_UNKNOWN = Estimate(value=math.nan, error=math.nan)


@dataclass(frozen=True, kw_only=True)
class Acceptance:
    """What the gate says, and the figures that it looked at.

    Attributes:
        accepted: whether the challenger may be promoted.
        reason: one sentence for a reviewer.
        by_site, overall: metrics of (champion, challenger) on the same rows.
        gain: mean gain a row, over all sites; positive where the challenger is better.
        error: standard error of `gain`, of noise and rows.
        findable: the gain that the gate would accept in four of five cases, at this error.
        sites: what is known of each.
        gains: the mean gain a row by site, with its error; in the metric's own unit, as `gain` is.
    """

    accepted: bool
    reason: str
    by_site: Mapping[str, tuple[Measured, Measured]]
    overall: tuple[Measured, Measured] | None
    gain: float
    error: float
    findable: float
    sites: Mapping[str, SiteVerdict]
    gains: Mapping[str, Estimate]


def judge(replies: Mapping[str, Reply], gate: Gate) -> Acceptance:
    """Apply the gate to the comparisons that the sites released."""
    released = _Released(replies, gate)
    gains = {site: released.gain([site]) for site in released.judged}
    gain = released.gain(released.judged)
    sites = {site: _site_verdict(found, gate) for site, found in gains.items()}
    fails = _failure(gate, gain, sites, gains)
    return Acceptance(
        accepted=not fails,
        reason=_reason(gate, gain, fails, sites, gains),
        by_site={site: released.metrics([site]) for site in released.pairs},
        overall=released.metrics(released.pairs) if released.pairs else None,
        gain=gain.value,
        error=gain.error,
        findable=_findable(gate, gain),
        sites=sites,
        gains=gains,
    )


def _findable(gate: Gate, gain: Estimate) -> float:
    return gate.min_improvement + (ERRORS + _FOUR_OF_FIVE) * gain.error


class _Released:
    """What the sites released, and what it comes to over any of them."""

    def __init__(self, replies: Mapping[str, Reply], gate: Gate) -> None:
        self._metric = gate.metric
        self.pairs = {
            site: (reply.scores, reply.challenger_scores)
            for site, reply in replies.items()
            if reply.scores is not None and reply.challenger_scores is not None
        }
        self.comparisons = {
            site: reply.comparison for site, reply in replies.items() if reply.comparison is not None
        }
        spans = (one.span for one, _ in self.pairs.values() if isinstance(one, ErrorSums))
        self._unit = LOG_LOSS_SPAN if gate.metric == "log_loss" else next(spans, 1.0)

    @property
    def judged(self) -> Collection[str]:
        """The sites that the gate's metric is known of."""
        return (self.comparisons if self._is_paired else self.pairs).keys()

    @property
    def _is_paired(self) -> bool:
        return self._metric in PAIRED and bool(self.comparisons)

    def gain(self, sites: Collection[str]) -> Estimate:
        """How much better the challenger is over the rows of these sites; NaN of none."""
        if not sites:
            return _UNKNOWN
        if self._is_paired:
            found = self.comparison(sites)
            return Estimate(value=found.mean_gain, error=found.error).times(self._unit)
        champion, challenger = self.metrics(sites)
        values = [float(getattr(one, self._metric)) for one in (champion, challenger)]
        errors = [float(getattr(one.errors, self._metric, math.nan)) for one in (champion, challenger)]
        better = values[1] - values[0] if METRICS[self._metric].higher else values[0] - values[1]
        return Estimate(value=better, error=math.hypot(*errors))

    def comparison(self, sites: Collection[str]) -> Comparison:
        """The sum of the paired differences: squares that noise has put below 0 make no other's less."""
        found = {site: self.comparisons[site] for site in sites}
        weights = row_weights({site: one.rows for site, one in found.items()})
        return reduce(
            add,
            (replace(one, squares=max(0.0, one.squares)).times(weights[site]) for site, one in found.items()),
        )

    def metrics(self, sites: Collection[str]) -> tuple[Measured, Measured]:
        """Of champion and challenger, over the rows of these sites."""
        pairs = {site: self.pairs[site] for site in sites}
        weights = row_weights({site: max(one.rows, other.rows) for site, (one, other) in pairs.items()})

        def pooled(scores: Mapping[str, Scores]) -> Measured:
            return reduce(add, (one.times(weights[site]) for site, one in scores.items())).metrics()

        return (
            pooled({site: one for site, (one, _) in pairs.items()}),
            pooled({site: other for site, (_, other) in pairs.items()}),
        )


def _site_verdict(gain: Estimate, gate: Gate) -> SiteVerdict:
    if gain.high(ERRORS) < -gate.max_site_regression:
        return "worse"
    return "not worse" if gain.low(ERRORS) >= -gate.max_site_regression else "unknown"


def _failure(
    gate: Gate,
    gain: Estimate,
    sites: Mapping[str, SiteVerdict],
    gains: Mapping[str, Estimate],
) -> str:
    """Why the challenger is not accepted; nothing where it is."""
    if not gain.low(ERRORS) > gate.min_improvement:
        findable = _findable(gate, gain)
        return f"too little, or what noise and few rows may explain ({findable:.4f} is found in four of five)"
    allowed = f"{gate.max_site_regression:g} allows"
    if worse := [site for site, verdict in sites.items() if verdict == "worse"]:
        named = [f"{site} by {-gains[site].value:.4f}" for site in sorted(worse)]
        return f"but it is worse than {allowed} at {', '.join(named)}"
    unknown = [site for site, verdict in sites.items() if verdict == "unknown"]
    if gate.unknown_sites == "allow":
        unknown = []
    elif gate.unknown_sites == "pooled":
        unknown = [site for site in unknown if _site_verdict(_pooled(site, gains), gate) != "not worse"]
    return (
        f"but whether it is worse than {allowed} is unknown at {_unknown(unknown, gains)}" if unknown else ""
    )


def _pooled(site: str, gains: Mapping[str, Estimate]) -> Estimate:
    """What a site and the others say of it together (DerSimonian and Laird, 1986; Efron and Morris, 1975).

    The gains of sites differ by chance and in truth. By how much in truth, is estimated from all of them: so
    where the others agree, they say much of this one, and where they differ, little.
    """
    told = {name: one for name, one in gains.items() if math.isfinite(one.value) and math.isfinite(one.error)}
    values = np.array([one.value for one in told.values()])
    variances = np.array([max(one.error, _LEAST_ERROR) ** 2 for one in told.values()])
    others = np.array([name != site for name in told], dtype=bool)
    if not others.any():
        return gains[site]
    weights = 1 / variances
    excess = float(weights @ (values - np.average(values, weights=weights)) ** 2) - (len(values) - 1)
    spread = float(weights.sum() - (weights @ weights) / weights.sum())
    between = max(0.0, excess / spread) if spread > 0 else 0.0
    weights = others / (variances + between)
    mean, variance = float(weights @ values / weights.sum()), between + 1 / float(weights.sum())
    if site not in told:
        return Estimate(value=mean, error=math.sqrt(variance))
    own = max(gains[site].error, _LEAST_ERROR) ** 2
    precision = 1 / own + 1 / variance
    return Estimate(value=(gains[site].value / own + mean / variance) / precision, error=precision**-0.5)


def _reason(
    gate: Gate,
    gain: Estimate,
    fails: str,
    sites: Mapping[str, SiteVerdict],
    gains: Mapping[str, Estimate],
) -> str:
    if not math.isfinite(gain.value) or not math.isfinite(gain.error):
        return f"not accepted: how much {gate.metric} differs is not measurable, because noise hides it"
    name = "Brier score" if gate.metric == "brier" else METRICS[gate.metric].word
    measured = (
        f"{name} better by {gain.value:.4f} ± {gain.error:.4f} a row over {len(sites)} sites "
        f"(needed: more than {gate.min_improvement:g} by {ERRORS:g} of these errors)"
    )
    if fails:
        return f"not accepted: {measured}, {fails}"
    unknown = [site for site, verdict in sites.items() if verdict == "unknown"]
    if not unknown:
        most = f"{gate.max_site_regression:g}"
        return f"accepted: {measured}, and surely not worse by more than {most} at any site"
    told = "surely not by what all say" if gate.unknown_sites == "pooled" else "which the gate allows"
    return (
        f"accepted: {measured}; whether it is worse by more than {gate.max_site_regression:g} is unknown at "
        f"{_unknown(unknown, gains)} alone, {told}"
    )


def _unknown(sites: Collection[str], gains: Mapping[str, Estimate]) -> str:
    """Each with the error that hides it."""
    return ", ".join(f"{site} ({_error(gains[site].error)})" for site in sorted(sites))


def _error(error: float) -> str:
    return f"± {error:.2g}" if math.isfinite(error) else "too noisy to tell"
