"""Whether a challenger may become the champion: the experiment's gate, applied to noisy figures.

For log loss and the Brier score the sites release a paired difference, whose
noise is known, so the rule can ask for more than luck: the gain must exceed
`min_improvement` by 1.64 standard errors of the noise (one chance in twenty),
and a site counts as worse only where the noise cannot explain it; so it is
with the mean absolute error of a number. AUC, accuracy and RMSE are compared
from the two evaluations as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add

from contract.experiment import Gate
from contract.figures import OF_CLASSES, OF_NUMBERS
from contract.messages import Reply
from contract.regression import ErrorSums, Measured, Scores
from contract.releases import Comparison
from server.exchange.weights import row_weights

__all__ = ["Acceptance", "judge"]

_ONE_IN_TWENTY = 1.645
_PAIRED = ("log_loss", "brier", "mae")
"""Metrics that the sites release a paired difference of."""
_FIGURES = {figure.name: figure for figure in (*OF_CLASSES, *OF_NUMBERS)}


@dataclass(frozen=True, kw_only=True)
class Acceptance:
    """What the gate says, and the figures that it looked at.

    Attributes:
        accepted: whether the challenger may be promoted.
        reason: one sentence for a reviewer.
        by_site, overall: metrics of (champion, challenger) on the same rows.
        gain: mean gain a row, over all sites; positive where the challenger is better.
        error: standard error of `gain` that the noise causes; 0 where it is not known.
        comparisons: the paired differences that the sites released, of a number as a share of its range.
        overall_comparison: their sum, in which no site weighs more than it may (`server.exchange.weights`).
    """

    accepted: bool
    reason: str
    by_site: Mapping[str, tuple[Measured, Measured]]
    overall: tuple[Measured, Measured] | None
    gain: float
    error: float
    comparisons: Mapping[str, Comparison]
    overall_comparison: Comparison | None


def judge(replies: Mapping[str, Reply], gate: Gate) -> Acceptance:
    """Apply the gate to the comparisons that the sites released."""
    pairs = {
        site: (reply.scores, reply.challenger_scores)
        for site, reply in replies.items()
        if reply.scores is not None and reply.challenger_scores is not None
    }
    by_site = {site: (one.metrics(), other.metrics()) for site, (one, other) in pairs.items()}
    overall = _pooled(pairs)
    comparisons = {site: reply.comparison for site, reply in replies.items() if reply.comparison is not None}
    weights = row_weights({site: comparison.rows for site, comparison in comparisons.items()})
    together = [comparison.times(weights[site]) for site, comparison in comparisons.items()]
    overall_comparison = reduce(add, together) if together else None
    if gate.metric in _PAIRED and overall_comparison is not None:
        spans = (champion.span for champion, _ in pairs.values() if isinstance(champion, ErrorSums))
        unit = next(spans, 1.0)
        gain, error = _gain(overall_comparison, unit)
        gains = {site: _gain(comparison, unit) for site, comparison in comparisons.items()}
    else:
        gain, error = _difference(overall, gate.metric), 0.0
        gains = {site: (_difference(pair, gate.metric), 0.0) for site, pair in by_site.items()}
    worse = {
        site: value
        for site, (value, noise) in gains.items()
        if value + _ONE_IN_TWENTY * noise < -gate.max_site_regression
    }
    enough = math.isfinite(gain) and gain - _ONE_IN_TWENTY * error > gate.min_improvement
    return Acceptance(
        accepted=enough and not worse,
        reason=_reason(gate, gain, error, enough, worse, len(gains)),
        by_site=by_site,
        overall=overall,
        gain=gain,
        error=error,
        comparisons=comparisons,
        overall_comparison=overall_comparison,
    )


def _gain(comparison: Comparison, unit: float) -> tuple[float, float]:
    return unit * comparison.mean_gain, unit * comparison.error


def _difference(pair: tuple[Measured, Measured] | None, metric: str) -> float:
    """How much better the challenger is."""
    if pair is None:
        return math.nan
    champion, challenger = (float(getattr(metrics, metric)) for metrics in pair)
    return challenger - champion if _FIGURES[metric].higher else champion - challenger


def _pooled(pairs: Mapping[str, tuple[Scores, Scores]]) -> tuple[Measured, Measured] | None:
    if not pairs:
        return None
    weights = row_weights({site: max(one.rows, other.rows) for site, (one, other) in pairs.items()})
    champions = [champion.times(weights[site]) for site, (champion, _) in pairs.items()]
    challengers = [challenger.times(weights[site]) for site, (_, challenger) in pairs.items()]
    return reduce(add, champions).metrics(), reduce(add, challengers).metrics()


def _reason(
    gate: Gate, gain: float, error: float, enough: bool, worse: Mapping[str, float], sites: int
) -> str:
    if not math.isfinite(gain):
        return f"not accepted: how much {gate.metric} differs is not measurable, because noise hides it"
    name = "Brier score" if gate.metric == "brier" else _FIGURES[gate.metric].word
    measured = (
        f"{name} better by {gain:.4f} ± {error:.4f} a row over {sites} sites "
        f"(needed: {gate.min_improvement:g})"
    )
    if not enough:
        return f"not accepted: {measured}, which the noise may explain or is too little"
    if worse:
        named = ", ".join(f"{site} by {-value:.4f}" for site, value in sorted(worse.items()))
        return f"not accepted: {measured}, but worse than {gate.max_site_regression:g} allows at {named}"
    return f"accepted: {measured}, and no site is worse by more than {gate.max_site_regression:g}"
