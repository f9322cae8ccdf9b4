"""A plan in sentences and tables, for a terminal and for a notebook."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from contract.epsilon import delta_words, epsilon_words, left_words
from contract.experiment import Experiment
from contract.figures import figures_for
from contract.words import counted
from experiments.planning.clipped_errors import expected_shares
from experiments.planning.costs import SiteCost
from experiments.planning.errors import LEVELS, ExpectedError
from experiments.planning.plan import Plan
from terminal.parts import Part, Sentence, Table

__all__ = ["plan_in_words"]

_AS_GOOD_AS_SURE = 0.975
"""Of imagined runs in which a figure can be told: below that, a plan says how many they are."""
_BLOCKS = 4
"""Of a site that are shown: those with the least left."""


def plan_in_words(plan: Plan) -> list[Part]:
    """All that there is to say of a plan, in the order in which it is read."""
    experiment, sites = plan.experiment, plan.sites
    strategy, privacy = experiment.strategy, experiment.privacy
    parts: list[Part] = [
        Sentence(
            strategy.reason
            or f"The file states its settings: {strategy.name}, step size {strategy.learning_rate:g}, "
            f"clipping norm {privacy.clipping_norm:g}."
        ),
        Sentence(
            f"{counted(strategy.rounds, 'round')}, so {counted(strategy.rounds + 1, 'exchange')} with each "
            f"site; {counted(strategy.evaluations, 'evaluation')} of each held-out row."
        ),
        *_clipped_part(plan),
        Table(headings=_site_headings(experiment), rows=_site_rows(plan), title=experiment.name),
    ]
    if any(cost.cap is not None for cost in plan.costs) and privacy.private:
        words = (
            "Left is stated at the δ of the site's cap, and what is spent composes: less is taken off than "
            "the ε beside it."
        )
        parts.append(Sentence(words))
    if not all(site.share_is_told for site in sites):
        words = (
            "~: a column of the site says which rows are held out. They are taken for three tenths of all."
        )
        parts.append(Sentence(words))
    held_out = sum(site.held_out_rows for site in sites)
    parts += [
        Table(
            headings=_error_headings(experiment),
            rows=_error_rows(plan.errors),
            title=f"Standard errors over about {held_out:,} held-out rows",
        ),
        *_learnt_parts(plan),
    ]
    if not privacy.private:
        parts.append(Sentence("NOT PRIVATE: this run would give no guarantee.", "bold red"))
    parts += [Sentence(f"WARNING: {warning}", "yellow") for warning in plan.warnings]
    return [*parts, Sentence("Nothing was spent.")]


def _clipped_part(plan: Plan) -> list[Part]:
    """What the counts of clipped gradients will tell, and what they cost; nothing where there are none."""
    found = expected_shares(plan.experiment, plan.sites)
    if found is None:
        return []
    apart = ", ".join(f"{name} {_percent(error)}" for name, error in list(found.sites.items())[:_BLOCKS])
    more = f" and {len(found.sites) - _BLOCKS} more" if len(found.sites) > _BLOCKS else ""
    return [
        Sentence(
            f"{counted(found.counts, 'count')} of clipped gradients for ε = {found.epsilon:g}, a part of "
            f"privacy.epsilon: training has {found.more_noise:.1%} more noise. The share of all rows is told "
            f"to {_percent(found.overall)} or better; of single sites to: {apart}{more}."
        )
    ]


def _percent(error: float) -> str:
    return f"± {100 * error:.2g} %" if math.isfinite(error) else "not measurable, because of noise"


def _learnt_parts(plan: Plan) -> list[Part]:
    if not plan.learnt:
        return [Sentence(plan.not_simulated)]
    private = plan.experiment.privacy.private
    table = Table(
        headings=("ε", "AUC", "without privacy", "learnt of what can be", "rounds"),
        rows=tuple(
            (
                f"{one.epsilon:g}" if private else "∞",
                f"{one.auc:.3f} ± {one.spread:.3f}",
                f"{one.without_privacy:.3f}",
                f"{'█' * round(20 * min(1.0, max(0.0, one.kept)))} {max(0.0, one.kept):.0%}",
                one.rounds,
            )
            for one in plan.learnt
        ),
        title="What noise leaves of an effect planted in imagined rows: what rows and ε allow, no forecast",
    )
    return [table, Sentence("±: from one imagined effect to the next. Without privacy AUC varies alike.")]


def _site_headings(experiment: Experiment) -> tuple[str, ...]:
    at = f" (δ {delta_words(experiment.privacy.delta)})"
    figure = _main_figure(figures_for(experiment.task.label))
    return (
        "site",
        "training rows",
        "held out, about",
        f"ε of training rows{at}",
        f"ε of held-out rows{at}",
        "left of the cap by data block: before, after",
        f"{figure.word} of its own rows",
    )


def _main_figure(figures: Sequence[Any]) -> Any:
    """AUC, or of numbers the first."""
    return next((one for one in figures if one.name == "auc"), figures[0])


def _site_rows(plan: Plan) -> tuple[tuple[object, ...], ...]:
    rows: list[tuple[object, ...]] = []
    for site, cost, errors in zip(plan.sites, plan.costs, plan.own, strict=True):
        figure = _main_figure([error.figure for error in errors])
        (error,) = (one for one in errors if one.figure == figure)
        rows.append(
            (
                site.name,
                f"{site.stated_rows:,}",
                f"{'' if site.share_is_told else '~'}{site.held_out_rows:,}",
                epsilon_words(cost.train),
                epsilon_words(cost.evaluate),
                _left(cost) if plan.experiment.privacy.private else "",
                f"± {_digits(error.error)}" if math.isfinite(error.error) else "too noisy",
            )
        )
    return tuple(rows)


def _left(cost: SiteCost) -> str:
    """Of each block, but of many windows the one with the least alone."""
    if cost.cap is None:
        return "the site knows"
    shown = sorted(cost.blocks, key=lambda block: -block.then)[:_BLOCKS]
    words = [
        f"{block.block}: {left_words(cost.cap.epsilon, block.now)}, "
        + (left_words(cost.cap.epsilon, block.then) if block.fits else "REFUSED")
        for block in shown
    ]
    more = len(cost.blocks) - len(shown)
    return "; ".join([*words, f"{more} more with no less"] if more else words)


def _error_headings(experiment: Experiment) -> tuple[str, ...]:
    if experiment.task.label.kind == "numeric":
        return ("metric", *(f"where R² is {2 * level - 1:.2g}" for level in LEVELS))
    return ("metric", *(f"where AUC is {level:g}" for level in LEVELS))


def _error_rows(errors: Sequence[ExpectedError]) -> tuple[tuple[object, ...], ...]:
    figures = list(dict.fromkeys(error.figure for error in errors))
    return tuple(
        (figure.word, *(_error_words(error) for error in errors if error.figure == figure))
        for figure in figures
    )


def _error_words(error: ExpectedError) -> str:
    if not math.isfinite(error.error):
        return "too noisy"
    words = f"± {_digits(error.error)} (noise {_digits(error.of_noise)}, rows {_digits(error.of_rows)})"
    return words if error.told > _AS_GOOD_AS_SURE else f"{words}; told in {error.told:.0%} of runs"


def _digits(value: float) -> str:
    """Two digits: an error of an error says no more."""
    return f"{value:.2g}"
