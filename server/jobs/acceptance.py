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

A site may lie: what it says of its own rows nobody can check, and it may have half of the weight
(`server.exchange.weights`). So it speaks for no other: a site that is unknown must surely not be worse by
what the rest say too, whichever one is left out. A liar can then put a challenger into service that no honest
site is surely or possibly harmed by. `one_site_may_promote = false` takes that from it: the gain itself must
be there with any one site left out. One of those is the liar, and there what is left is honest, so that of
two models that are equally good one is accepted in no more than one case of twenty, whatever a site says,
because chance alone passes 1.7 errors in fewer. What helps one site alone is then not accepted either.
Either way one site can keep a challenger out; the reason names it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Literal

import numpy as np
import numpy.typing as npt

from contract.experiment import Gate
from contract.figures import METRICS, PAIRED, Estimate
from contract.messages import Reply
from contract.regression import ErrorSums, Measured, Scores
from contract.releases import LOG_LOSS_SPAN, Comparison
from server.exchange.weights import row_weights
from server.jobs.verdicts import ERRORS

__all__ = ["Acceptance", "SiteVerdict", "judge"]

SiteVerdict = Literal["not worse", "worse", "unknown"]

_WITHOUT_ONE = 1.7
"""Standard errors that a gain must have with any one site left out: chance has them in 4.5 % of cases."""
_FOUR_OF_FIVE = 0.8416
"""Standard errors above the bound that a gain must have to pass it in four of five cases."""
_DRAWS = 4000
"""Of the errors of sites, from a seed: for a share that no formula gives."""
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
    without = {}
    if not gate.one_site_may_promote and len(gains) > 1:  # beside one that stands alone nothing is known
        without = {site: released.gain(gains.keys() - {site}) for site in gains}
    findable = _findable(gate, gain, without, released, gains)
    sites = {site: _site_verdict(found, gate) for site, found in gains.items()}
    fails = _failure(gate, gain, without, findable, sites, gains)
    return Acceptance(
        accepted=not fails,
        reason=_reason(gate, gain, fails, sites, gains),
        by_site={site: released.metrics([site]) for site in released.pairs},
        overall=released.metrics(released.pairs) if released.pairs else None,
        gain=gain.value,
        error=gain.error,
        findable=findable,
        sites=sites,
        gains=gains,
    )


def _findable(
    gate: Gate,
    gain: Estimate,
    without: Mapping[str, Estimate],
    released: _Released,
    gains: Mapping[str, Estimate],
) -> float:
    """The gain, the same at each site, that is accepted in four of five cases."""
    if not without or not math.isfinite(gain.error):
        return gate.min_improvement + (ERRORS + _FOUR_OF_FIVE) * gain.error
    names = sorted(gains)
    errors = np.array([gains[site].error if math.isfinite(gains[site].error) else 0.0 for site in names])
    draws = np.random.default_rng(0).normal(size=(_DRAWS, len(names))) * errors

    def needed(found: Estimate, bound: float, left_out: str = "") -> npt.NDArray[np.float64]:
        shares = released.shares([site for site in names if site != left_out])
        chance: npt.NDArray[np.float64] = draws @ np.array([shares.get(site, 0.0) for site in names])
        return bound * found.error - chance

    every = [needed(gain, ERRORS), *(needed(one, _WITHOUT_ONE, site) for site, one in without.items())]
    return gate.min_improvement + float(np.quantile(np.max(every, axis=0), 0.8))


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

    def shares(self, sites: Collection[str]) -> dict[str, float]:
        """For how much of a figure over these sites each counts."""
        if self._is_paired:
            rows = {site: self.comparisons[site].rows for site in sites}
        else:
            rows = {site: max(one.rows for one in self.pairs[site]) for site in sites}
        weights = row_weights(rows)
        counted = {site: weights[site] * max(1.0, number) for site, number in rows.items()}
        return {site: number / sum(counted.values()) for site, number in counted.items()}

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
    without: Mapping[str, Estimate],
    findable: float,
    sites: Mapping[str, SiteVerdict],
    gains: Mapping[str, Estimate],
) -> str:
    """Why the challenger is not accepted; nothing where it is."""
    if not gain.low(ERRORS) > gate.min_improvement:
        return f"too little, or what noise and few rows may explain ({findable:.4f} is found in four of five)"
    alone = [site for site, one in without.items() if not one.low(_WITHOUT_ONE) > gate.min_improvement]
    if alone:
        site = min(alone, key=lambda name: np.nan_to_num(without[name].value, nan=-math.inf))
        return (
            f"but no site's word alone decides, and without {site} it is {_told(without[site])} "
            f"({findable:.4f} is found in four of five)"
        )
    allowed = f"{gate.max_site_regression:g} allows"
    if worse := [site for site, verdict in sites.items() if verdict == "worse"]:
        named = [f"{site} by {-gains[site].value:.4f}" for site in sorted(worse)]
        return f"but it is worse than {allowed} at {', '.join(named)}"
    unknown = [site for site, verdict in sites.items() if verdict == "unknown"]
    if gate.unknown_sites == "allow":
        unknown = []
    elif gate.unknown_sites == "pooled":
        unknown = [site for site in unknown if not _is_spoken_for(site, gains, gate)]
    return (
        f"but whether it is worse than {allowed} is unknown at {_unknown(unknown, gains)}" if unknown else ""
    )


def _is_spoken_for(site: str, gains: Mapping[str, Estimate], gate: Gate) -> bool:
    """Whether a site is surely not worse by what it and the others say, whichever of them is left out."""
    least = -gate.max_site_regression
    if _pooled(site, gains).low(ERRORS) < least:
        return False
    return all(
        _pooled(site, {name: one for name, one in gains.items() if name != other}).low(_WITHOUT_ONE) >= least
        for other in gains.keys() - {site}
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


def _told(gain: Estimate) -> str:
    known = math.isfinite(gain.value) and math.isfinite(gain.error)
    return f"{gain.value:.4f} ± {gain.error:.4f}" if known else "too noisy to tell"


def _error(error: float) -> str:
    return f"± {error:.2g}" if math.isfinite(error) else "too noisy to tell"
