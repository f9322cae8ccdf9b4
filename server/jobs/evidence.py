"""What a run's releases say of its convergence, each number with its standard error.

Everything here is made of what sites released and were charged for: their updates, whose noise has a known
scale, and the counts of their evaluations. Nothing is asked of anybody, so that it costs nothing.

`evidence_of` takes any part of the sites: so what is said of all can be held against what all but one say.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from contract.experiment import Experiment
from contract.figures import Estimate
from contract.recipe import Reach, reach_of
from contract.regression import ErrorSums, Scores
from server.exchange.pulls import Pulls, Step
from server.rounds import pooled_scores

__all__ = ["Evidence", "SitePull", "evidence_of", "first_loss", "site_pulls"]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known of a run that has ended; None for what cannot be measured.

    Attributes:
        loss: of the result, in the figure that a run is followed by.
        skill: how much better than the best constant the result is: in log loss of two classes, as R² of a
            number.
        auc: of the result.
        early, late: squared length of the mean gradient in the first and last quarter of the rounds. A
            gradient is what clipping left of it.
        more: about how much the loss would fall in as many rounds again, if the gradient stayed what it is.
        reach: how far the steps went.
        unmeasured: why something is None, in words.
        skill_word: what `skill` is called.
        is_spread: whether how much updates differ from round to round stands for the scale of their noise,
            which is not public.
    """

    loss: Estimate | None
    skill: Estimate | None
    auc: Estimate | None
    early: Estimate | None
    late: Estimate | None
    more: Estimate | None
    reach: Reach | None
    unmeasured: Mapping[str, str]
    skill_word: str = "the gain in log loss over a constant"
    is_spread: bool = False


@dataclass(frozen=True, kw_only=True)
class SitePull:
    """How a site's mean step differs from that of the others, over the first and the last quarter.

    Attributes:
        square: squared length of the difference, over that of the strongest step that clipping lets through
            (without clipping: over the strongest early step of any site).
        less_noise: whether its updates vary by less than the noise alone that it is charged for.
    """

    square: Estimate
    less_noise: bool

    @property
    def share(self) -> Estimate | None:
        """The length itself; None where it is not told from noise."""
        if self.square.low() <= 0:
            return None
        length = math.sqrt(self.square.value)
        return Estimate(value=length, error=self.square.error / (2 * length))

    @property
    def at_most(self) -> float:
        """What it does not pass, but for two standard errors."""
        return math.sqrt(max(0.0, self.square.high()))


def evidence_of(
    experiment: Experiment, scores: Mapping[str, Scores], pulls: Pulls, *, without: Collection[str] = ()
) -> Evidence:
    """Of all sites but these.

    Args:
        experiment: the plan.
        scores: the final evaluation, by site.
        pulls: where the updates pulled.
        without: sites that are not heard.
    """
    judged = {site: found for site, found in sorted(scores.items()) if site not in without}
    sites = [site for site in pulls.sites if site not in without]
    unmeasured: dict[str, str] = {}
    loss, skill, auc = _judged(judged, unmeasured)
    early = late = more = None
    if sites:
        unit = _unit(experiment)
        early, late = (
            _squared(pulls.mean(experiment, sites, span), unit, pulls.kept) for span in ("early", "late")
        )
        path = _path(experiment)
        if path is not None and late is not None and experiment.task.label.kind == "categorical":
            more = late.times(path)
    if late is None or early is None:
        unmeasured["convergence"] = _why_no_pull(experiment, pulls)
    return Evidence(
        loss=loss,
        skill=skill,
        auc=auc,
        early=early,
        late=late,
        more=more,
        reach=reach_of(experiment, [pulls.of(site, "late").rows for site in sites]),
        unmeasured=unmeasured,
        skill_word="R²" if experiment.task.label.kind == "numeric" else Evidence.skill_word,
        is_spread=any(not math.isfinite(pulls.of(site, "late").noise) for site in sites),
    )


def first_loss(metrics: Mapping[str, Any] | None, name: str) -> Estimate | None:
    """A figure over all sites, as a round's record has it; None where it could not be told."""
    value = (metrics or {}).get(name)
    error = ((metrics or {}).get("errors") or {}).get(name)
    return _estimate(value, error)


def site_pulls(experiment: Experiment, pulls: Pulls) -> dict[str, SitePull]:
    """Of each site beside all others; none of one site alone.

    Natural differences between sites are in it: it says that a site's rows pull elsewhere, and not why.
    """
    sites = pulls.sites
    if len(sites) < 2:
        return {}
    strongest = _strongest(experiment, pulls)
    found = {}
    for site in sites:
        others = pulls.mean(experiment, [one for one in sites if one != site])
        step = pulls.of(site).step.less(others)
        if strongest > 0 and math.isfinite(step.noise):
            square = Estimate(value=step.signal, error=step.error).times(1 / strongest)
            found[site] = SitePull(square=square, less_noise=_has_less_noise(pulls, site))
    return found


def _judged(
    scores: Mapping[str, Scores], unmeasured: dict[str, str]
) -> tuple[Estimate | None, Estimate | None, Estimate | None]:
    """Loss, gain over a constant, and AUC."""
    together = pooled_scores(scores)
    if together is None:
        unmeasured["figures"] = "no site evaluated the result"
        return None, None, None
    metrics = together.metrics()
    for name, why in together.reasons().items():
        unmeasured[name] = why
    values, errors = vars(metrics), vars(metrics.errors)
    if isinstance(together, ErrorSums):
        return _estimate(values["mae"], errors["mae"]), _estimate(values["r2"], errors["r2"]), None
    if not together.binary:
        unmeasured["skill"] = "with more than two classes nothing says what a constant would reach"
    loss = _estimate(values["log_loss"], errors["log_loss"])
    auc = _estimate(values["auc"], errors["auc"]) if together.binary else None
    return loss, _estimate(*together.gain_over_constant()), auc


def _estimate(value: object, error: object) -> Estimate | None:
    if not isinstance(value, int | float) or not isinstance(error, int | float):
        return None
    return Estimate(value=value, error=error) if math.isfinite(value) and math.isfinite(error) else None


def _unit(experiment: Experiment) -> float:
    """The length of a site's step along a gradient of length 1."""
    return experiment.strategy.learning_rate * experiment.strategy.local_steps


def _squared(step: Step, unit: float, kept: float) -> Estimate | None:
    return _estimate(step.signal / unit**2 / kept, step.error / unit**2 / kept)


def _path(experiment: Experiment) -> float | None:
    """The steps' sizes of the whole run, added up; None where a strategy scales each parameter's."""
    strategy = experiment.strategy
    if strategy.name in ("fedadam", "fedyogi"):
        return None
    if strategy.name == "fedavgm":
        server = strategy.server_learning_rate / (1 - strategy.server_momentum)
        return strategy.rounds * _unit(experiment) * server
    return strategy.rounds * _unit(experiment)


def _why_no_pull(experiment: Experiment, pulls: Pulls) -> str:
    if experiment.strategy.rounds < 4:
        return "the run has fewer than four rounds"
    if not pulls.spans:
        return "the run went on from a checkpoint of an earlier version"
    if not pulls.sites:
        return "no site counted both early and late in the run"
    return "the scale of the noise is not public with these settings, and the rounds are too few to see it"


def _strongest(experiment: Experiment, pulls: Pulls) -> float:
    """Squared length of the strongest step, in the parameters that are kept."""
    if experiment.privacy.private:
        return float((_unit(experiment) * experiment.privacy.clipping_norm) ** 2 * pulls.kept)
    return max(pulls.of(site, "early").step.signal for site in pulls.sites)


def _has_less_noise(pulls: Pulls, site: str) -> bool:
    """Whether the spread of its steps is below what the known noise alone makes, by five standard errors."""
    pull = pulls.of(site, "late")
    if not math.isfinite(pull.noise) or pull.noise <= 0 or pull.rounds < 2:
        return False
    freedom = len(pull.total) * (pull.rounds - 1)
    return pull.spread < (1 - 5 * math.sqrt(2 / freedom)) * pull.noise / pull.rounds
