"""What a plan says a site pays is what its ledger would count."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from clients.ledger.cost import block_costs
from clients.ledger.plans import run_plans
from clients.site import close_site, open_site
from contract.experiment import Experiment
from experiments.planning.costs import site_cost
from experiments.planning.sites import PlannedSite, of_files
from tests.runtimes.conftest import make_site, small  # noqa: F401 - a fixture


@pytest.fixture
def north(tmp_path: Path) -> Path:
    return make_site(tmp_path / "north", "north", 0)


@pytest.fixture
def private(small: Callable[..., Experiment]) -> Experiment:  # noqa: F811
    return small(private=True)


def test_a_site_without_a_ledger_is_planned_without_making_one(north: Path, private: Experiment) -> None:
    (site,) = of_files([north])
    cost = site_cost(private, site)
    assert cost.train == pytest.approx(private.privacy.epsilon, rel=1e-3)
    assert cost.evaluate == pytest.approx(private.privacy.evaluation_epsilon, rel=1e-3)
    assert {block.block: block.now for block in cost.blocks} == {"all/holdout": 0.0, "all/train": 0.0}
    assert cost.fits
    assert sorted(path.name for path in north.parent.iterdir()) == ["rows.csv", "site.toml"]


def test_what_was_spent_before_counts(north: Path, private: Experiment) -> None:
    opened = open_site(north)
    for plan in run_plans("before", private, (), opened.split):
        opened.ledger.authorise(plan)
    (site,) = of_files([north])
    cost = site_cost(private, site)
    assert cost.blocks == block_costs(opened.ledger, run_plans("(a new run)", private, (), opened.split))
    assert all(block.now > 0 for block in cost.blocks)
    assert not opened.ledger.plans("(a new run)")
    close_site(north)


def test_a_row_that_may_change_its_side_pays_for_both(private: Experiment) -> None:
    cost = site_cost(private, PlannedSite(name="far", stated_rows=90))
    assert cost.train == cost.evaluate > private.privacy.epsilon
    assert (cost.cap, cost.blocks) == (None, ())


def test_what_is_not_private_has_no_bound(north: Path, small: Callable[..., Experiment]) -> None:  # noqa: F811
    (site,) = of_files([north])
    assert site_cost(small(private=False), site).train == math.inf
