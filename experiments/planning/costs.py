"""What a planned run would cost each site at most; and what its ledger has left, where that lies here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clients.ledger.chain import Cap
from clients.ledger.cost import BlockCost, block_costs, first_block_costs
from clients.ledger.plan import Plan, Split, side_of
from clients.ledger.plans import run_plans
from clients.ledger.spending import Spending
from contract.experiment import Experiment
from experiments.planning.sites import PlannedSite

if TYPE_CHECKING:
    from clients.policy import Policy
    from clients.site_config import SiteConfig

__all__ = ["SiteCost", "site_cost"]

_RUN = "(a new run)"


@dataclass(frozen=True, kw_only=True)
class SiteCost:
    """What one run costs one site at most.

    Attributes:
        train, evaluate: ε that a training row and a held-out row pay, at the experiment's δ; infinite where
            it is not private. A row that may change its side pays for both.
        cap: the site's limit on a block; None where its site.toml lies elsewhere.
        blocks: what each data block would have paid with all before, at the cap's δ; none then either.
        policy: why the site's policy would refuse the run, as what follows its name; else empty.
    """

    train: float
    evaluate: float
    cap: Cap | None = None
    blocks: tuple[BlockCost, ...] = ()
    policy: str = ""

    @property
    def fits(self) -> bool:
        """Whether the caps that are known allow it."""
        return all(block.fits for block in self.blocks)


def site_cost(experiment: Experiment, site: PlannedSite, windows: Sequence[str] = ()) -> SiteCost:
    """Of one site. Nothing is entered into its ledger, and none is begun.

    Raises:
        LedgerError: the ledger that lies here cannot be read.
    """
    lasting = site.card is not None and site.card.lasting_sides
    plans = run_plans(_RUN, experiment, tuple(windows), Split(name="planned", lasting=lasting))
    train, evaluate = _alone(experiment, plans)
    if site.file is None:
        return SiteCost(train=train, evaluate=evaluate)
    from clients.site_config import read_site_config

    config = read_site_config(site.file)
    return SiteCost(
        train=train,
        evaluate=evaluate,
        cap=_cap_of(config),
        blocks=_with_before(experiment, config, site.file, tuple(windows), plans),
        policy=_refused_by(config.policy, experiment),
    )


def _alone(experiment: Experiment, plans: Sequence[Plan]) -> tuple[float, float]:
    """What a row on either side pays for this run, were nothing else ever charged."""
    privacy = experiment.privacy
    if not privacy.private:
        return math.inf, math.inf
    spent = Spending(Cap(epsilon=privacy.epsilon, delta=privacy.delta)).would_spend(plans)
    sides = {side_of(block): one.epsilon for block, one in spent.items()}  # windows pay alike
    return sides["train"], sides["holdout"]


def _cap_of(config: SiteConfig) -> Cap:
    return Cap(epsilon=config.policy.epsilon_cap, delta=config.policy.delta_cap)


def _refused_by(policy: Policy, experiment: Experiment) -> str:
    """As the site's gate asks its policy (`clients.gate`); whether it waits for an approval is no refusal."""
    if policy.require_private and not experiment.privacy.private:
        return "it takes part in differentially private runs only"
    if experiment.privacy.delta > policy.delta_cap:
        return f"privacy.delta = {experiment.privacy.delta:g} is above its limit of {policy.delta_cap:g}"
    return ""


def _with_before(
    experiment: Experiment, config: SiteConfig, file: Path, windows: tuple[str, ...], plans: Sequence[Plan]
) -> tuple[BlockCost, ...]:
    from clients.site import open_site

    if config.storage.folder.exists():
        opened = open_site(file)
        opened.ledger.verify()
        return block_costs(opened.ledger, run_plans(_RUN, experiment, windows, opened.split))
    return first_block_costs(_cap_of(config), plans)
