"""A plan: what a run would cost each site, how well its result could be told, and why it might be in vain.

Made from public facts, and the ledgers of those sites whose files lie here. No row is read; nothing is spent.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from contract.errors import InputError, NotInstalledError
from contract.experiment import Experiment
from contract.installed_models import with_package
from contract.json_values import finite
from contract.recipe import needs_recipe, with_recipe
from experiments.planning.clipped_errors import expected_shares
from experiments.planning.costs import SiteCost, site_cost
from experiments.planning.errors import ExpectedError, errors_by_site, expected_errors
from experiments.planning.planted import (
    FACTORS,
    PlantedResult,
    not_planted,
    planted_result,
    refused_by_all,
    repeats_of,
)
from experiments.planning.sites import PlannedSite
from experiments.planning.warnings import doubts, hidden_auc, refusals
from terminal.display import Picture, Shown, html_of, text_of

__all__ = ["Plan", "PlanSettings", "make_plan", "trainings"]

_LEAST_KEPT = 0.65
"""Of what can be learnt of a planted effect. A planted one is clear, and learnt through more noise than a
usual one: with less of it left, most runs lose half of theirs. Chosen on simulated runs of the sets of
`experiments.benchmarks.planning.CHOSEN_ON`, of which 8 % were warned of in vain."""
_SITE_LEVEL = 0.75
"""AUC of the imagined model for which a site's own error is told."""


@dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """What is to be planned beside the experiment.

    Attributes:
        windows: whose rows are used; none for all.
        curve: whether an effect is planted at a quarter to four times the experiment's ε too.
        told: is told how many of the `trainings` on planted rows are done.
    """

    windows: tuple[str, ...] = ()
    curve: bool = False
    told: Callable[[int], None] = field(default=lambda _done: None)


@dataclass(frozen=True, kw_only=True, repr=False)
class Plan:
    """What is known of a run before it is paid for.

    Attributes:
        experiment: with all settings chosen.
        sites: that have stated their rows.
        costs: of each site, in their order.
        errors: of each figure over the rows of all sites, by the level of the model.
        own: of each figure over the rows of each site alone, in their order.
        learnt: what noise leaves of a planted effect, by ascending ε; none where that cannot be simulated.
        not_simulated: why it cannot, in a sentence; else empty.
        warnings: why the run would be refused, learn little or tell nothing, a sentence each.
    """

    experiment: Experiment
    sites: tuple[PlannedSite, ...]
    costs: tuple[SiteCost, ...]
    errors: tuple[ExpectedError, ...]
    own: tuple[tuple[ExpectedError, ...], ...]
    learnt: tuple[PlantedResult, ...]
    not_simulated: str
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """All of it in values that JSON has."""
        strategy, privacy = self.experiment.strategy, self.experiment.privacy
        settings = strategy.model_dump(mode="json", exclude={"reason"})
        shares = expected_shares(self.experiment, self.sites)
        return {
            "experiment": self.experiment.name,
            "private": privacy.private,
            "recipe": strategy.reason or None,
            "settings": {**settings, "clipping_norm": privacy.clipping_norm},
            "exchanges": strategy.rounds + 1,
            "evaluations": strategy.evaluations,
            "delta": privacy.delta,
            "clipped_counts": None if shares is None else shares.to_json(),
            "sites": [
                _site_json(site, cost, errors)
                for site, cost, errors in zip(self.sites, self.costs, self.own, strict=True)
            ],
            "errors": [_error_json(error) for error in self.errors],
            "planted_effect": [{**finite(vars(one)), "kept": one.kept} for one in self.learnt],
            "not_simulated": self.not_simulated or None,
            "warnings": list(self.warnings),
        }

    def plot(self, kind: Literal["png", "svg"] = "png") -> bytes:
        """The curve of ε against what is learnt of a planted effect, as a picture.

        Raises:
            InputError: there is no curve, or matplotlib is not installed.
        """
        from experiments.planning.curve_plot import plot_curve

        if len(self.learnt) < 2:
            raise InputError("the plan has no curve", remedy="Make it with curve=True, or --curve")
        stated = self.experiment.privacy.epsilon
        return plot_curve(self.learnt, name=self.experiment.name, stated=stated, kind=kind)

    def _parts(self) -> list[Shown]:
        from experiments.planning.plan_words import plan_in_words

        parts: list[Shown] = list(plan_in_words(self))
        if len(self.learnt) > 1:
            parts.append(Picture(draw=self.plot, alt="what noise leaves of a planted effect, by ε"))
        return parts

    def __repr__(self) -> str:
        return text_of(self._parts())

    def _repr_html_(self) -> str:
        return html_of(self._parts())


def make_plan(stated: Experiment, sites: Sequence[PlannedSite], settings: PlanSettings) -> Plan:
    """Plan a run of an experiment at these sites.

    Args:
        stated: the experiment as its file has it; what it leaves to the recipe is chosen here.
        sites: that have stated their rows, of those that it asks.
        settings: what else.

    Raises:
        InputError: there is none of them.
        LedgerError: a ledger that lies here cannot be read.
        InputError: the model's package, installed here, does not take its settings.
    """
    if not sites:
        raise InputError(
            f"of the sites in strategy.sites ({', '.join(stated.strategy.sites)}) none is there, or none has "
            "stated its rows",
            where=f"'{stated.name}'",
            remedy="Name those that are there; `tidegate sites list` shows a server's, --site names files",
        )
    stated = _with_package_of_here(stated)
    experiment = with_recipe(stated, [one.stated_rows for one in sites])
    costs = tuple(site_cost(experiment, one, settings.windows) for one in sites)
    held_out = [one.held_out_rows for one in sites]
    learnt, refused = _learnt(stated, sites, settings), refused_by_all(stated)
    warnings = (
        *refusals(experiment, sites, settings.windows),
        *([refused] if refused else []),
        *_refused_by_policy(sites, costs),
        *_unpaid(sites, costs),
        *doubts(experiment, sites),
        *hidden_auc(experiment, sites),
        *_too_noisy(experiment, learnt),
        *([] if _is_by_recipe(stated) else _too_large_steps(experiment, learnt)),
    )
    return Plan(
        experiment=experiment,
        sites=tuple(sites),
        costs=costs,
        errors=expected_errors(experiment, held_out),
        own=tuple(errors_by_site(experiment, held_out, level=_SITE_LEVEL)),
        learnt=learnt,
        not_simulated=not_planted(stated),
        warnings=warnings,
    )


def _with_package_of_here(stated: Experiment) -> Experiment:
    """With the package's version that a run would fill in; without where none is installed here."""
    try:
        return with_package(stated)
    except NotInstalledError:
        return stated


def trainings(stated: Experiment, *, curve: bool) -> int:
    """How many trainings on planted rows a plan makes; 0 where there is no planted effect."""
    return len(_factors(stated, curve=curve)) * repeats_of(stated)


def _factors(stated: Experiment, *, curve: bool) -> tuple[float, ...]:
    if not_planted(stated):
        return ()
    return FACTORS if curve and stated.privacy.private else (1.0,)


def _learnt(
    stated: Experiment, sites: Sequence[PlannedSite], settings: PlanSettings
) -> tuple[PlantedResult, ...]:
    """What the noise leaves of a planted effect, at the experiment's ε or along a curve."""
    done = itertools.count(1)
    return tuple(
        planted_result(stated, sites, factor=factor, told=lambda: settings.told(next(done)))
        for factor in _factors(stated, curve=settings.curve)
    )


def _refused_by_policy(sites: Sequence[PlannedSite], costs: Sequence[SiteCost]) -> list[str]:
    """What the policies that are known do not allow."""
    return [
        f"Site {site.name} would refuse the run: {cost.policy}."
        for site, cost in zip(sites, costs, strict=True)
        if cost.policy
    ]


def _unpaid(sites: Sequence[PlannedSite], costs: Sequence[SiteCost]) -> list[str]:
    """What the caps that are known do not allow."""
    return [
        f"Site {site.name} would refuse the run: its cap of ε = {cost.cap.epsilon:g} would be passed on "
        f"{', '.join(block.block for block in cost.blocks if not block.fits)}. "
        f"`tidegate site cost` says what would fit."
        for site, cost in zip(sites, costs, strict=True)
        if cost.cap is not None and not cost.fits
    ]


def _too_noisy(experiment: Experiment, learnt: Sequence[PlantedResult]) -> list[str]:
    return [
        f"The model would learn little: even of a clear effect, of which AUC {one.without_privacy:.2f} could "
        f"be reached without privacy, it reaches {one.auc:.2f} at privacy.epsilon = {one.epsilon:g}."
        for one in learnt
        if one.epsilon == experiment.privacy.epsilon and one.kept < _LEAST_KEPT
    ]


def _is_by_recipe(stated: Experiment) -> bool:
    """Whether the settings are the recipe's, and it knows how such a model computes."""
    return stated.model.kind != "package" and needs_recipe(stated)


def _too_large_steps(experiment: Experiment, learnt: Sequence[PlantedResult]) -> list[str]:
    """Whether what is learnt comes with probabilities that are off: steps too large are the usual reason."""
    return [
        "The steps are too large for this model: of an effect planted in imagined rows it would learn "
        f"{one.kept:.0%}, but its probabilities would be worse than always saying the share of positives "
        f"(log loss {one.log_loss:.3f} against {one.constant:.3f}). Try strategy.learning_rate = "
        f"{experiment.strategy.learning_rate / 3:.2g}, and plan again."
        for one in learnt
        if one.epsilon == experiment.privacy.epsilon
        and one.kept >= _LEAST_KEPT
        and one.log_loss > one.constant
    ]


def _site_json(site: PlannedSite, cost: SiteCost, errors: Sequence[ExpectedError]) -> dict[str, Any]:
    return {
        "site": site.name,
        "stated_rows": site.stated_rows,
        "held_out_rows": site.held_out_rows,
        "held_out_share_is_told": site.share_is_told,
        "epsilon_of_training_rows": finite(cost.train),
        "epsilon_of_held_out_rows": finite(cost.evaluate),
        "cap": None if cost.cap is None else vars(cost.cap),
        "blocks": [finite(vars(block)) for block in cost.blocks],
        "errors": [_error_json(error) for error in errors],
    }


def _error_json(error: ExpectedError) -> dict[str, Any]:
    return {
        "metric": error.figure.name,
        **{name: finite(value) for name, value in vars(error).items() if name != "figure"},
    }
