"""A plan of a model of one's own: with the package here, without it, and of one that mixes rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from contract.errors import InputError
from contract.experiment import Experiment
from experiments.planning.plan import Plan, PlanSettings, make_plan
from experiments.planning.plan_words import plan_in_words
from experiments.planning.sites import PlannedSite
from terminal.output import quiet_flower
from tests.installed import EXAMPLE, install, on_path

SITES = [PlannedSite(name=f"site-{number}", stated_rows=400) for number in range(2)]
Installed = Callable[..., Path]


@pytest.fixture(autouse=True)
def _quiet() -> None:
    quiet_flower()


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    def make(**changes: tuple[str, str]) -> Path:
        files = {f"tidegate_example/{name}.py": change for name, change in changes.items()}
        return install(EXAMPLE, tmp_path / "installed", tmp_path, changes=files)

    return make


def experiment(name: str = "small-memory", **parameters: object) -> Experiment:
    features = [{"name": f"x{number}", "kind": "numeric", "low": 0, "high": 9} for number in range(4)]
    return Experiment.model_validate(
        {
            "name": "small",
            "task": {"label": {"column": "ill"}, "features": features},
            "model": {"kind": "package", "name": name, "parameters": parameters},
            "privacy": {"epsilon": 20.0, "evaluation_epsilon": 20.0},
        }
    )


def told(plan: Plan) -> str:
    return " ".join(str(part) for part in plan_in_words(plan))


def test_with_the_package_here_an_effect_is_planted_in_its_model(installed: Installed) -> None:
    with on_path(installed()):
        plan = make_plan(experiment(hidden=4, at_once=2), SITES, PlanSettings())
    assert str(plan.experiment.model.package) == "tidegate-example==1.0"
    assert "What 'small-memory' computes is not known here" in plan.experiment.strategy.reason
    (learnt,) = plan.learnt
    assert learnt.kept > 0.6, learnt
    assert (plan.not_simulated, plan.warnings) == ("", ())


def test_without_it_one_sentence_says_so_and_the_rest_is_planned() -> None:
    plan = make_plan(experiment("forest"), SITES, PlanSettings())
    assert plan.learnt == ()
    assert "no installed package offers a model 'forest'" in plan.not_simulated
    assert told(plan).count("forest'") == 2  # beside what the recipe took it for
    assert plan.costs[0].train > 0
    assert plan.errors
    assert plan.to_json()["not_simulated"] == plan.not_simulated


def test_one_that_mixes_rows_is_warned_of_and_not_trained(installed: Installed) -> None:
    mixed = ("self.output(memory)", "self.output(memory - memory.mean(0))")
    with on_path(installed(module=mixed)):
        plan = make_plan(experiment(), SITES, PlanSettings())
    (warning,) = plan.warnings
    assert "Every site would refuse the model" in warning
    assert "rows beside it" in warning
    assert plan.learnt == ()
    assert "no site would train" in plan.not_simulated


def test_settings_that_it_does_not_take_are_refused(installed: Installed) -> None:
    with on_path(installed()), pytest.raises(InputError, match=r"model\.parameters\.depth"):
        make_plan(experiment(depth=3), SITES, PlanSettings())
