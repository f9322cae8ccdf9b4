"""What the recipe chooses follows from public facts, is a whole plan, and never overrides what is stated."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.experiment import (
    CategoricalFeature,
    Experiment,
    Label,
    Model,
    NumericFeature,
    Privacy,
    Strategy,
    Task,
)
from contract.recipe import needs_recipe, reach_of, with_recipe

FEATURES = (
    NumericFeature(name="age", kind="numeric", low=0, high=120),
    CategoricalFeature(name="ward", kind="categorical", categories=("a", "b")),
)
TASK = Task(label=Label(column="ill"), features=FEATURES)
ROWS = [200, 170, 30, 85]


def experiment(**tables: object) -> Experiment:
    return Experiment.model_validate({"name": "small", "task": TASK, **tables})


def test_what_it_chooses_is_a_whole_plan_with_its_reasons() -> None:
    plan = with_recipe(experiment(), ROWS)
    strategy = plan.strategy
    assert (strategy.name, strategy.server_momentum, strategy.average_last) == ("fedavgm", 0.8, 0.3)
    assert 60 <= strategy.rounds <= 120
    for told in ("485 rows at 4 sites", "ε = 1", f"learning_rate {strategy.learning_rate}"):
        assert told in strategy.reason
    assert Experiment.model_validate_json(plan.model_dump_json()) == plan


def test_a_plan_that_was_chosen_once_is_kept_whatever_sites_say_later() -> None:
    plan = with_recipe(experiment(), ROWS)
    travelled = Experiment.model_validate_json(plan.model_dump_json())
    assert not needs_recipe(travelled)
    assert with_recipe(travelled, [1_000_000]) is travelled
    assert travelled.digest == plan.digest


def test_a_plan_that_says_all_itself_keeps_its_digest() -> None:
    own = experiment(strategy={"learning_rate": 1.0})
    assert with_recipe(own, ROWS) is own
    assert "reason" not in json.loads(own.model_dump_json())["strategy"]


@pytest.mark.parametrize(
    "stated",
    [
        {"name": "fedavg"},
        {"rounds": 7},
        {"server_momentum": 0.3},
        {"average_last": 0.9},
        {"evaluate_every": 3},
    ],
)
def test_a_stated_key_wins(stated: dict[str, object]) -> None:
    plan = with_recipe(experiment(strategy=stated), ROWS)
    assert {key: getattr(plan.strategy, key) for key in stated} == stated


def test_a_stated_clipping_norm_wins_and_the_step_follows_it() -> None:
    tenth = with_recipe(experiment(privacy={"clipping_norm": 0.1}), ROWS)
    one = with_recipe(experiment(privacy={"clipping_norm": 1.0}), ROWS)
    assert (tenth.privacy.clipping_norm, one.privacy.clipping_norm) == (0.1, 1.0)
    assert tenth.strategy.learning_rate > one.strategy.learning_rate


def test_robust_aggregation_gets_no_momentum() -> None:
    plan = with_recipe(experiment(strategy={"aggregation": "median", "quorum": 3}), ROWS)
    assert (plan.strategy.name, plan.strategy.server_momentum) == ("fedavg", 0.0)


@pytest.mark.parametrize("name", ["fedadam", "fedyogi"])
def test_what_it_has_no_measured_settings_for_is_left_alone(name: str) -> None:
    adaptive = experiment(strategy={"name": name})
    assert with_recipe(adaptive, ROWS) is adaptive


def test_a_package_that_nobody_need_have_installed_gets_the_plan_of_a_small_network() -> None:
    package = experiment(model={"kind": "package", "name": "forest"})
    plan = with_recipe(package, ROWS)
    network = with_recipe(experiment(model={"kind": "mlp", "hidden": (32,)}), ROWS)
    same = {"reason": ""}
    assert plan.strategy.model_copy(update=same) == network.strategy.model_copy(update=same)
    assert plan.privacy == network.privacy
    assert "What 'forest' computes is not known here" in plan.strategy.reason
    assert not needs_recipe(plan)
    assert reach_of(plan, ROWS) is None  # a diagnosis says nothing of steps that it cannot know
    number = with_recipe(experiment(model={"kind": "package", "name": "forest"}, task=NUMBER), ROWS)
    assert "a number" in number.strategy.reason


def test_without_a_known_site_nothing_is_chosen() -> None:
    unknown = experiment()
    assert with_recipe(unknown, []) is unknown


def test_less_noise_allows_longer_steps() -> None:
    def movement(epsilon: float, rows: int, sites: int = 4) -> float:
        private = experiment(privacy={"epsilon": epsilon})
        strategy = with_recipe(private, [rows // sites] * sites).strategy
        return strategy.learning_rate * strategy.rounds

    assert movement(0.5, 1000) < movement(1.0, 1000) < movement(1.0, 4000)
    assert movement(1.0, 1000, sites=10) < movement(1.0, 1000, sites=2)


def test_without_privacy_the_longest_stable_steps_are_taken() -> None:
    plan = with_recipe(experiment(privacy={"private": False}), ROWS)
    assert plan.strategy.rounds == 120
    assert "bounded by what is stable" in plan.strategy.reason


NUMBER = TASK.model_copy(update={"label": Label(column="ill", kind="numeric", classes=(), low=0, high=9)})


def test_a_number_gets_a_plan_too_whatever_its_range() -> None:
    plan = with_recipe(experiment(task=NUMBER), ROWS)
    strategy = plan.strategy
    assert (strategy.name, strategy.server_momentum, strategy.average_last) == ("fedavgm", 0.9, 0.3)
    assert strategy.evaluate_every == strategy.rounds == 100
    for told in ("a number", "485 rows at 4 sites", "bounded by the noise"):
        assert told in strategy.reason
    wider = NUMBER.model_copy(
        update={"label": Label(column="ill", kind="numeric", classes=(), low=0, high=900)}
    )
    assert with_recipe(experiment(task=wider), ROWS).strategy == strategy
    assert Experiment.model_validate_json(plan.model_dump_json()) == plan


def test_the_model_of_a_number_moves_as_far_as_noise_and_need_allow() -> None:
    def length(rows: int, **privacy: object) -> float:
        plan = with_recipe(experiment(task=NUMBER, privacy=privacy), [rows // 4] * 4)
        step, momentum = plan.strategy.learning_rate, plan.strategy.server_momentum
        return step * plan.strategy.rounds * plan.privacy.clipping_norm / (1 - momentum)

    assert length(400, epsilon=0.5) < length(400, epsilon=1.0) < length(1600, epsilon=1.0)
    assert length(4_000_000, epsilon=3.0) == pytest.approx(120, rel=0.01)
    assert length(400, private=False) == pytest.approx(120, rel=0.01)
    stated = length(400, epsilon=1.0, clipping_norm=5.0)  # the step follows a stated norm
    assert stated == pytest.approx(length(400, epsilon=1.0), rel=0.01)


@given(
    epsilon=st.floats(1e-3, 1e4),
    delta=st.floats(1e-15, 0.1),
    rows=st.lists(st.integers(1, 10**12), min_size=1, max_size=50),
    kind=st.sampled_from(["linear", "mlp"]),
    classes=st.none() | st.integers(2, 30),
    local_steps=st.integers(1, 10_000),
    rows_per_person=st.integers(1, 1000),
)
def test_whatever_is_asked_a_valid_plan_comes_out(
    epsilon: float,
    delta: float,
    rows: list[int],
    kind: str,
    classes: int | None,
    local_steps: int,
    rows_per_person: int,
) -> None:
    named = () if classes is None else tuple(str(one) for one in range(classes))
    label = NUMBER.label if classes is None else Label(column="ill", classes=named)
    asked = Experiment(
        name="small",
        task=Task(label=label, features=FEATURES),
        model=Model(kind=kind),  # type: ignore[arg-type]
        strategy=Strategy(local_steps=local_steps),
        privacy=Privacy(epsilon=epsilon, delta=delta, unit="person", rows_per_person=rows_per_person),
    )
    plan = with_recipe(asked, rows)  # validated within
    assert math.isfinite(plan.strategy.learning_rate)
    assert plan.strategy.local_steps == local_steps
