"""Why a planned run would be refused, learn little or tell nothing. Needs no heavy library.

Two kinds: what a site or the server would refuse, and what would run, be paid for, and tell nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from contract.errors import InputError
from contract.experiment import LEAST_EPSILON, CategoricalFeature, Experiment
from contract.gaussian import gaussian_multiplier
from contract.words import counted, verb
from experiments.planning.sites import PlannedSite

__all__ = [
    "doubts",
    "evaluation_noise",
    "hidden_auc",
    "hidden_share",
    "not_begun",
    "positive_share",
    "refusals",
]

_COUNTS = 20
"""Of each outcome in a score histogram (`contract.releases.SCORE_BINS`; that module needs numpy)."""
_HIDDEN = 3
"""Above a third of what it is added to, noise hides a figure (`ScoreHistogram.metrics`)."""
_USUAL_SHARE = 0.3
"""Of the outcome that is predicted, where nobody says: it is the rarer one more often than not."""
_SHARE_NEEDED = 0.05
"""Where the noise hides that share of what clipping lets through, a model of few features whose effect is
strong learns about half of what it could; with more hidden, less. Where there are more features or weaker
effects, less is enough to hide them, which a plan finds by training on planted rows."""


def refusals(
    experiment: Experiment,
    sites: Sequence[PlannedSite],
    windows: Sequence[str] = (),
    *,
    admitted: int | None = None,
) -> tuple[str, ...]:
    """What sites would refuse, or the server, a sentence each.

    Args:
        experiment: the plan.
        sites: that have stated their rows.
        windows: whose rows are used; none for all.
        admitted: how many sites there are, with those that have stated nothing yet.
    """
    found = []
    for site in sites:
        if site.card is None:
            continue
        complaints = site.card.complaints(experiment, windows=windows, today=site.card.today)
        found += [f"Site {site.name} would refuse the run: {one}." for one in complaints]
    quorum, number = experiment.strategy.quorum, len(sites) if admitted is None else admitted
    if number < quorum:
        there = f"{counted(number, 'site')} {verb(number, 'is', 'are')} there"
        found.append(f"No round could end: {there}, and strategy.quorum is {quorum}.")
    return tuple(found)


def doubts(experiment: Experiment, sites: Sequence[PlannedSite]) -> tuple[str, ...]:
    """Why the run would not learn, or could not say at all what it learnt, a sentence each."""
    if not sites:
        return ()
    found = [*_without_variance(experiment, sites), *_large_delta(experiment, sites)]
    if experiment.privacy.private:
        found += [*_hidden_signal(experiment, sites), *_hidden_figures(experiment, sites)]
    return tuple(found)


def not_begun(experiment: Experiment, warnings: Sequence[str], remedy: str) -> InputError:
    """What is raised in the place of a run that is warned of, and that nobody wants all the same."""
    told = " ".join(warnings).rstrip(".")
    return InputError(
        f"the run was not begun, and nothing was spent. {told}", where=f"'{experiment.name}'", remedy=remedy
    )


def positive_share(experiment: Experiment) -> float:
    """The stated share of positives, and what is usual where none is stated."""
    share = experiment.task.label.positive_share
    return _USUAL_SHARE if share is None else share


def evaluation_noise(experiment: Experiment, epsilon: float | None = None) -> float:
    """Standard deviation of the noise in each count of one site's evaluation; 0 if not private.

    Args:
        experiment: the plan.
        epsilon: in place of its `evaluation_epsilon`.
    """
    privacy = experiment.privacy
    if not privacy.private:
        return 0.0
    epsilon = privacy.evaluation_epsilon if epsilon is None else epsilon
    multiplier = gaussian_multiplier(epsilon, privacy.delta, experiment.strategy.evaluations)
    return multiplier * privacy.rows_per_person


def hidden_share(experiment: Experiment, sites: Sequence[PlannedSite]) -> float:
    """How strong an effect must be that the noise does not hide, as a share of what clipping lets through.

    The sum of one effect over all rows, against the noise in that sum were the whole ε spent on it at
    once: no way of training on these rows at this ε sees more of it. The rows' number, the sites' and ε
    alone are in it: noise of K sites has √K times the deviation of one.
    """
    privacy = experiment.privacy
    noise = gaussian_multiplier(privacy.epsilon, privacy.delta, 1) * privacy.rows_per_person
    return noise * math.sqrt(len(sites)) / sum(site.stated_rows for site in sites)


def _without_variance(experiment: Experiment, sites: Sequence[PlannedSite]) -> list[str]:
    """Features that are the same in every row of every site, as far as all cards are known."""
    cards = [site.card for site in sites if site.card is not None]
    if len(cards) < len(sites):
        return []
    found = []
    for feature in experiment.task.features:
        if not isinstance(feature, CategoricalFeature):
            continue  # a card's range, and what an experiment takes of it, is never one number
        columns = [column for card in cards if (column := card.column(feature.name)) is not None]
        offered = {one for column in columns for one in getattr(column, "categories", ())}
        read = {one if one in feature.categories else feature.other for one in offered} | {feature.missing}
        if len(read - {None}) == 1:
            found.append(
                f"Feature '{feature.name}' tells nothing: by the cards of all sites it is "
                f"'{(read - {None}).pop()}' in every row. Leave it out."
            )
    return found


def _large_delta(experiment: Experiment, sites: Sequence[PlannedSite]) -> list[str]:
    privacy, most = experiment.privacy, max(site.stated_rows for site in sites)
    if not privacy.private or privacy.delta * most < 1:
        return []
    return [
        f"privacy.delta = {privacy.delta:g} is not below one in {most:,}, the most rows that a site states: "
        "sites refuse it."
    ]


def _hidden_signal(experiment: Experiment, sites: Sequence[PlannedSite]) -> list[str]:
    share = hidden_share(experiment, sites)
    if share <= _SHARE_NEEDED:
        return []
    rows, epsilon = sum(site.stated_rows for site in sites), experiment.privacy.epsilon
    enough = _least_epsilon(lambda more: hidden_share(_at(experiment, more), sites) <= _SHARE_NEEDED, epsilon)
    return [
        f"The model would learn little: at privacy.epsilon = {epsilon:g} and "
        f"{counted(rows, 'row')} at {counted(len(sites), 'site')}, noise hides an effect below "
        f"{share:.0%} of the strongest that clipping lets through. "
        f"{_remedy('privacy.epsilon', enough, math.ceil(rows * share / _SHARE_NEEDED), 'training rows')}"
    ]


def _hidden_figures(experiment: Experiment, sites: Sequence[PlannedSite]) -> list[str]:
    return _hidden("No metric could be told", experiment, sites, _rows_for_any)


def hidden_auc(experiment: Experiment, sites: Sequence[PlannedSite]) -> list[str]:
    """Whether the AUC alone could not be told, where other figures can; the model may still learn."""
    if not experiment.privacy.private or not sites or _hidden_figures(experiment, sites):
        return []
    return _hidden("AUC could not be told", experiment, sites, _rows_for_auc)


def _hidden(
    what: str,
    experiment: Experiment,
    sites: Sequence[PlannedSite],
    needed: Callable[[Experiment, float, int], float],
) -> list[str]:
    """Of a numeric label the errors of a plan say it."""
    rows, stated = sum(site.held_out_rows for site in sites), experiment.privacy.evaluation_epsilon
    if experiment.task.label.kind == "numeric" or rows >= needed(experiment, stated, len(sites)):
        return []
    enough = _least_epsilon(lambda more: rows >= needed(experiment, more, len(sites)), stated)
    at_least = math.ceil(needed(experiment, stated, len(sites)))
    return [
        f"{what}: at privacy.evaluation_epsilon = {stated:g} the noise hides about "
        f"{counted(rows, 'held-out row')} at {counted(len(sites), 'site')}. "
        f"{_remedy('privacy.evaluation_epsilon', enough, at_least, 'held-out rows')}"
    ]


def _rows_for_any(experiment: Experiment, epsilon: float, sites: int) -> float:
    """Held-out rows that are at least needed for any figure."""
    noise = evaluation_noise(experiment, epsilon) * math.sqrt(sites)
    return max(1.0, _HIDDEN * noise * math.sqrt(2 * _COUNTS))


def _rows_for_auc(experiment: Experiment, epsilon: float, sites: int) -> float:
    """The same for the AUC, which needs as much of the rarer outcome by itself."""
    share = positive_share(experiment)
    rarer = min(share, 1 - share) if len(experiment.task.label.classes) == 2 else 0.5
    noise = evaluation_noise(experiment, epsilon) * math.sqrt(sites)
    return max(_rows_for_any(experiment, epsilon, sites), _HIDDEN * noise * math.sqrt(_COUNTS) / rarer)


def _remedy(key: str, epsilon: float | None, rows: int, what: str) -> str:
    return f"{rows:,} {what} would do{'' if epsilon is None else f', or {key} = {epsilon:g}'}."


def _least_epsilon(enough: Callable[[float], bool], stated: float) -> float | None:
    """The least ε above the stated one that is enough, to two digits; None where none up to 100 times is."""
    low, high = stated, 100 * stated
    if not enough(high):
        return None
    for _ in range(30):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    step = 10.0 ** (math.floor(math.log10(high)) - 1)
    return max(LEAST_EPSILON, float(f"{math.ceil(high / step - 1e-9) * step:.2g}"))


def _at(experiment: Experiment, epsilon: float) -> Experiment:
    privacy = experiment.privacy.model_copy(update={"epsilon": epsilon})
    return experiment.model_copy(update={"privacy": privacy})
