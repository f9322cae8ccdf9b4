"""A planted effect is learnt where rows and ε allow it, and not where they do not."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from contract.experiment import Experiment, Model, Strategy
from experiments.benchmarks.utility import auc_of, train
from experiments.planning import planted
from experiments.planning.curve_plot import plot_curve
from experiments.planning.plan import PlanSettings, make_plan
from experiments.planning.planted import PlantedResult, not_planted, planted_result, planted_rows
from experiments.planning.sites import PlannedSite
from terminal.output import quiet_flower

FEATURES = [
    *({"name": f"x{number}", "kind": "numeric", "low": 0, "high": 9} for number in range(4)),
    {"name": "ward", "kind": "categorical", "categories": ["a", "b", "c"]},
]


@pytest.fixture(autouse=True)
def _quiet() -> None:
    quiet_flower()


def experiment(
    *, scaling: str = "unit", label: dict[str, object] | None = None, **privacy: object
) -> Experiment:
    task = {"label": {"column": "ill", **(label or {})}, "features": FEATURES, "scaling": scaling}
    stated = {"epsilon": 3.0, **privacy}
    return Experiment.model_validate(
        {"name": "small", "task": task, "privacy": stated, "strategy": {"rounds": 20}}
    )


def sites(*rows: int) -> list[PlannedSite]:
    return [PlannedSite(name=f"site-{number}", stated_rows=one) for number, one in enumerate(rows)]


def test_what_rows_allow_is_learnt() -> None:
    found = planted_result(experiment(), sites(1500, 900, 600))
    assert 0.7 < found.without_privacy < 0.8
    assert 0.9 < found.kept < 1.05


def test_a_log_loss_stands_beside_a_constant_s() -> None:
    found = planted_result(experiment(), sites(1500, 900, 600))
    assert 0.4 < found.log_loss < found.constant - 0.02
    assert 0.55 < found.constant < 0.68  # of three positives in ten
    far = experiment().model_copy(update={"strategy": Strategy(rounds=20, learning_rate=3000.0)})
    assert planted_result(far, sites(1500, 900, 600)).log_loss > 1.0


def test_what_noise_hides_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it is hidden at this ε, so what chance finds is as often the wrong way round."""
    monkeypatch.setattr(planted, "_REPEATS", 24)
    found = planted_result(experiment(epsilon=0.005), sites(60, 50, 40))
    assert found.without_privacy > 0.7
    assert found.kept < 0.5


def test_without_privacy_nothing_is_lost() -> None:
    found = planted_result(experiment(private=False), sites(300, 200))
    assert found.kept > 0.9


@pytest.mark.long
def test_fewer_rows_and_sites_with_their_share_of_noise_stand_for_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As far as chance lets tell: by four standard errors of the two means, that is once in 16,000."""
    monkeypatch.setattr(planted, "_STRENGTH", 2.5)  # a clear effect, so that chance decides less
    monkeypatch.setattr(planted, "_REPEATS", 12)
    there = sites(*[250] * 12)
    stand_in = planted_result(experiment(epsilon=0.3), there)
    stated = planted._sizes
    monkeypatch.setattr(planted, "_sizes", lambda _plan, rows: (list(rows), 1.0))
    whole = planted_result(experiment(epsilon=0.3), there)
    monkeypatch.setattr(planted, "_sizes", stated)
    monkeypatch.setattr(planted, "_MOST_ROWS", 1000)
    fewer = planted_result(experiment(epsilon=0.3), there)
    for found in (stand_in, fewer):
        error = math.hypot(found.spread, whole.spread) / math.sqrt(12)
        assert abs(found.auc - whole.auc) < 0.02 + 4 * error
        assert error < 0.06  # else nothing was told; about .04, itself known to a fifth


def test_a_share_of_the_noise_is_less_noise() -> None:
    from contract.recipe import with_recipe

    plan = with_recipe(experiment(epsilon=0.02), [300, 300])
    rng = np.random.default_rng(1)
    rows = planted_rows(plan.task, [300, 300, 2000], rng, positive=0.5)
    training, held_out = rows.rows(rows.site < 2), rows.rows(rows.site == 2)
    noisy, clear = (
        statistics.mean(auc_of(train(plan, training, rng, share_of_noise=share), held_out) for _ in range(12))
        for share in (1.0, 0.0)
    )
    assert clear > noisy + 0.03


@pytest.mark.parametrize(("scaling", "low"), [("unit", 0), ("symmetric", -1)])
def test_rows_are_as_a_site_scales_them(scaling: str, low: int) -> None:
    rng = np.random.default_rng(1)
    rows = planted_rows(experiment(scaling=scaling).task, [400, 100], rng, positive=0.1)
    assert rows.features.shape == (500, 7)
    assert (rows.features.min().round(), rows.features.max().round()) == (low, 1)
    assert rows.labels.mean() == pytest.approx(0.1, abs=0.01)
    assert np.bincount(rows.site).tolist() == [400, 100]


def test_a_federation_of_any_size_is_stood_for() -> None:
    found = planted_result(experiment(), sites(10**9, *[10**6] * 20))
    assert found.kept > 0.9


def test_other_labels_and_models_have_none() -> None:
    assert not not_planted(experiment())
    assert "two classes" in not_planted(experiment(label={"classes": ["a", "b", "c"]}))
    large = experiment().model_copy(update={"model": Model(kind="mlp", hidden=(500, 500))})
    assert "at most 2,000" in not_planted(large)
    assert "two classes" in not_planted(experiment(label={"kind": "numeric", "low": 0.0, "high": 1.0}))


@pytest.mark.parametrize(("kind", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_the_curve_is_drawn(kind: str, begins: bytes) -> None:
    curve = [
        PlantedResult(
            epsilon=epsilon, auc=auc, spread=0.02, without_privacy=0.82, rounds=60, log_loss=0.5, constant=0.6
        )
        for epsilon, auc in ((0.5, 0.6), (1.0, 0.7), (2.0, 0.8))
    ]
    assert plot_curve(curve, name="small $x$", stated=1.0, kind=kind).startswith(begins)  # type: ignore[arg-type]


def test_probabilities_that_are_off_are_warned_of_where_the_steps_are_not_the_recipe_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A model that ranks rows well may still say far too much of each: the AUC alone would not show it."""
    off = PlantedResult(
        epsilon=3.0, auc=0.78, spread=0.02, without_privacy=0.8, rounds=20, log_loss=0.9, constant=0.6
    )
    monkeypatch.setattr("experiments.planning.plan.planted_result", lambda *_, **__: off)
    by_hand = experiment().model_copy(update={"strategy": Strategy(rounds=20, learning_rate=6.0)})
    told = {
        name: [one for one in make_plan(stated, sites(1500, 900), PlanSettings()).warnings if "steps" in one]
        for name, stated in {"by hand": by_hand, "recipe": experiment()}.items()
    }
    assert told["recipe"] == []
    (warning,) = told["by hand"]
    assert "log loss 0.900 against 0.600" in warning
    assert "strategy.learning_rate = 2, and plan again" in warning
