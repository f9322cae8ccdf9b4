"""What a plan says a site pays is what its ledger would count."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from clients.ledger.cost import block_costs, can_pay
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


@pytest.mark.parametrize("begun", [False, True])
def test_no_cap_speaks_of_what_is_not_private(
    north: Path,
    small: Callable[..., Experiment],  # noqa: F811
    private: Experiment,
    *,
    begun: bool,
) -> None:
    """A site without require_private trains it; so nothing else may say that it would refuse."""
    plain = small(private=False)
    opened = open_site(north)
    assert can_pay(opened.ledger, run_plans("x", plain, (), opened.split))
    if not begun:
        close_site(north)
        shutil.rmtree(opened.config.storage.folder)
    (site,) = of_files([north])
    assert site_cost(plain, site).fits
    assert not site_cost(plain, site).policy
    assert not site_cost(_at(private, epsilon=2000.0), site).fits
    close_site(north)


def test_what_a_policy_refuses_is_known_before(
    north: Path,
    small: Callable[..., Experiment],  # noqa: F811
    private: Experiment,
) -> None:
    text = north.read_text()
    assert "require_private = false" in text
    north.write_text(text.replace("require_private = false", "require_private = true"))
    (site,) = of_files([north])
    assert site_cost(small(private=False), site).policy == "it takes part in differentially private runs only"
    assert not site_cost(private, site).policy
    assert "above its limit" in site_cost(_at(private, delta=0.01), site).policy


def _at(experiment: Experiment, **changes: float) -> Experiment:
    privacy = experiment.privacy.model_copy(update=changes)
    return experiment.model_copy(update={"privacy": privacy})
