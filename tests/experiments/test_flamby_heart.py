"""FLamby's methods by hand on small cases, its published table, and our private results beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch

from experiments.data.datasets import dataset_sites
from experiments.data.layout import SiteRows
from experiments.studies import flamby_baselines, heart_resplits
from experiments.studies.flamby_baselines import (
    Method,
    Recipe,
    cyclic,
    fed_adagrad,
    fed_adam,
    fed_avg,
    fed_prox,
    first_model,
    scaffold,
    train_adam,
)
from experiments.studies.flamby_heart import draw, tell
from experiments.studies.flamby_rows import Centre, flamby_inputs
from experiments.studies.flamby_study import PUBLISHED, Extent, Figures, run_study
from experiments.studies.heart_accuracy import settings_at
from experiments.studies.heart_resplits import interval, measure, resplit
from experiments.studies.heart_scores import score_hospitals
from terminal.experiment_files import read_experiment

Vector = npt.NDArray[np.float64]
RECIPE = Recipe(rounds=3, steps=5)
START = np.array([0.3, -0.2, 0.1])


def centre(seed: int, rows: int = 4) -> Centre:
    """As many rows as a batch has, so that a step does not depend on the order of rows."""
    rng = np.random.default_rng(seed)
    inputs = np.column_stack([rng.normal(size=(rows, 2)), np.ones(rows)])
    return Centre(inputs=inputs, labels=rng.integers(0, 2, rows).astype(np.float64))


def gradient(model: Vector, rows: Centre) -> Vector:
    """By torch's own derivative."""
    weights = torch.tensor(model, requires_grad=True)
    logits = torch.from_numpy(rows.inputs) @ weights
    torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(rows.labels)).backward()  # type: ignore[no-untyped-call]
    assert weights.grad is not None
    return weights.grad.numpy()


def descend(model: Vector, rows: Centre, steps: int, learning_rate: float) -> Vector:
    for _ in range(steps):
        model = model - learning_rate * gradient(model, rows)
    return model


def trained(
    method: Method, centres: Sequence[Centre], recipe: Recipe = RECIPE, start: Vector = START
) -> Vector:
    return method(centres, start, recipe, np.random.default_rng(0))


@pytest.mark.parametrize("method", [fed_avg, scaffold, cyclic])
def test_with_one_centre_it_is_plain_gradient_descent(method: Callable[..., Vector]) -> None:
    found = trained(partial(method, learning_rate=0.1), [centre(1)])
    np.testing.assert_allclose(found, descend(START, centre(1), 15, 0.1), rtol=1e-9)


def test_an_average_weighs_centres_by_their_rows() -> None:
    small, large = centre(1), centre(2, rows=8)
    one = Recipe(rounds=1, steps=1, batch_size=8)
    found = trained(partial(fed_avg, learning_rate=0.1), [small, large], one)
    by_hand = (4 * descend(START, small, 1, 0.1) + 8 * descend(START, large, 1, 0.1)) / 12
    np.testing.assert_allclose(found, by_hand, rtol=1e-9)


def test_the_proximal_term_pulls_to_where_the_round_began() -> None:
    one = Recipe(rounds=1, steps=2)
    found = trained(partial(fed_avg, learning_rate=0.1, proximal_mu=3.0), [centre(1)], one)
    first = descend(START, centre(1), 1, 0.1)
    by_hand = first - 0.1 * (gradient(first, centre(1)) + 3.0 * (first - START))
    np.testing.assert_allclose(found, by_hand, rtol=1e-9)
    assert not np.array_equal(trained(fed_prox, [centre(1)]), trained(fed_avg, [centre(1)]))


def test_scaffold_finds_the_common_optimum_that_averaging_misses() -> None:
    ordinary = Centre(
        inputs=np.array([[1.0, 0, 1], [2, 0, 1], [1, 0, 1], [2, 0, 1]]), labels=np.array([1.0, 1, 0, 0])
    )
    other = Centre(
        inputs=np.array([[3.0, 1, 1], [-3, 1, 1], [3, -1, 1], [-3, -1, 1]]), labels=np.array([1.0, 0, 0, 0])
    )
    recipe = Recipe(rounds=300, steps=20)

    def slope(method: Callable[..., Vector]) -> float:
        model = trained(partial(method, learning_rate=0.2), [ordinary, other], recipe)
        return float(np.linalg.norm(gradient(model, ordinary) + gradient(model, other)))

    assert slope(scaffold) < 1e-3
    assert slope(fed_avg) > 20 * slope(scaffold)


@pytest.mark.parametrize("method", [fed_adam, fed_adagrad])
def test_the_first_adaptive_step_is_of_one_length_in_every_weight(method: Method) -> None:
    one = Recipe(rounds=1, steps=1)
    found = trained(method, [centre(1)], one) - START
    # FedAdam: .01 · (1 - .9) / √(1 - .999); FedAdagrad: .316228 · (1 - .9)
    np.testing.assert_allclose(found, -0.0316228 * np.sign(gradient(START, centre(1))), rtol=1e-2)


def axis(place: int) -> Centre:
    """Rows that move one weight alone."""
    return Centre(inputs=np.tile(np.eye(4)[place], (4, 1)), labels=np.ones(4))


def test_cyclic_visits_every_centre_once_a_cycle_in_an_order_of_its_own() -> None:
    centres = [axis(place) for place in range(4)]
    order = np.random.default_rng(0).permutation(4).tolist()
    for rounds in range(1, 5):
        model = trained(cyclic, centres, Recipe(rounds=rounds, steps=1), np.zeros(4))
        assert set(np.flatnonzero(model)) == set(order[:rounds])
    twice = trained(cyclic, centres, Recipe(rounds=8, steps=1), np.zeros(4))
    np.testing.assert_allclose(twice, twice[0])
    kept = trained(partial(cyclic, hand_on=False), centres, Recipe(rounds=8, steps=1), np.zeros(4))
    np.testing.assert_allclose(kept, [twice[0], 0, 0, 0])


def test_adam_is_torchs_and_passes_over_all_rows() -> None:
    rows, recipe = centre(1, rows=6), Recipe(epochs=3, batch_size=4)
    drawn = np.random.default_rng(5)
    weights = torch.tensor(START, requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=1e-3)
    for _ in range(3):
        order = drawn.permutation(6)
        for chosen in (order[:4], order[4:]):
            batch = Centre(inputs=rows.inputs[chosen], labels=rows.labels[chosen])
            weights.grad = torch.from_numpy(gradient(weights.detach().numpy().copy(), batch))
            optimizer.step()
    found = train_adam(rows, START, recipe, np.random.default_rng(5))
    np.testing.assert_allclose(found, weights.detach().numpy(), rtol=1e-9)


def test_the_first_model_is_torchs_of_that_seed() -> None:
    torch.manual_seed(42)
    layer = torch.nn.Linear(13, 1)
    drawn = torch.cat([layer.weight[0], layer.bias]).detach().numpy()
    assert np.array_equal(first_model(42).astype(np.float32), drawn)


def test_rows_of_the_benchmark_are_scored_by_their_own_centre(data_dir: Callable[[str], Path]) -> None:
    data_dir("heart-disease")
    rows = flamby_inputs(dataset_sites("heart-disease"))
    assert {name: len(one.labels) for name, one in rows.held.items()} == {
        "cleveland": 104,
        "hungary": 89,
        "switzerland": 16,
        "long-beach": 45,
    }
    for part in (*rows.train.values(), rows.all_train):
        assert part.inputs.shape == (len(part.labels), 14)
        np.testing.assert_allclose(part.inputs[:, :13].mean(axis=0), 0, atol=1e-9)
        deviations = part.inputs[:, :13].std(axis=0, ddof=1)
        assert np.all(np.isclose(deviations, 1, atol=1e-6) | np.isclose(deviations, 0))


def test_scores_by_hand() -> None:
    both = (np.array([2.0, -1.0, 1.0]), np.array([1, 0, 0]))
    sick = (np.array([-0.5]), np.array([1]))
    found = score_hospitals({"both": both, "sick": sick})
    assert found.accuracy == {"both": 2 / 3, "sick": 0.0}
    assert found.mean_accuracy == pytest.approx(1 / 3)
    assert found.pooled_accuracy == 0.5
    assert found.auc == 0.75  # of four pairs one is in the wrong order
    assert found.mean_auc == 1.0  # only the first hospital has both classes


def test_an_interval_is_students() -> None:
    found = interval([0.7, 0.8, 0.9])
    assert found.mean == pytest.approx(0.8)
    assert found.high - found.mean == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-6)
    assert found.low == pytest.approx(0.8 - (found.high - 0.8))


def test_a_resplit_keeps_patients_and_shares_and_seed_43_is_flambys(data_dir: Callable[[str], Path]) -> None:
    data_dir("heart-disease")
    sites = dataset_sites("heart-disease")
    for site, same, other in zip(sites, resplit(sites, 43), resplit(sites, 7), strict=True):
        assert same.rows.equals(site.rows)
        assert not other.rows.equals(site.rows)
        assert other.rows.drop(columns="split").equals(site.rows.drop(columns="split"))
        assert (other.rows["split"] == "train").sum() == (site.rows["split"] == "train").sum()


def test_settings_change_epsilon_and_what_goes_with_it_alone() -> None:
    shipped = read_experiment(Path(flamby_baselines.__file__).parents[1] / "heart-disease.toml")
    for epsilon in (0.1, 5.0):
        found = settings_at(shipped, epsilon)
        assert (found.privacy.epsilon, found.privacy.delta) == (epsilon, 1e-4)
        assert found.privacy.private
        assert found.task.label == shipped.task.label
        assert set(found.task.features) < set(shipped.task.features)


@pytest.mark.long
def test_the_published_table_comes_out_with_ours_beside_it(
    data_dir: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data_dir("heart-disease")
    done: list[tuple[int, int]] = []
    extent = Extent(seeds=range(42, 47), runs=1, splits=(0, 1), epsilons=(0.5,))
    study = run_study(extent, lambda number, of, _: done.append((number, of)))
    assert done == [(number, 8) for number in range(1, 9)]
    found = {row.name: row for row in study.benchmark}
    assert set(PUBLISHED) < set(found)
    for name, (mean, together) in PUBLISHED.items():
        assert found[name].mean_accuracy == pytest.approx(mean, abs=0.005), name
        if together is not None:
            assert found[name].pooled_accuracy == pytest.approx(together, abs=0.005), name
    (ours,) = study.private
    assert_private(ours)
    private = [row for row in study.resplits if row.epsilon is not None]
    assert len(private) == 1
    assert_private(private[0])
    assert private[0].intervals is not None
    assert private[0].intervals["auc"].mean == pytest.approx(private[0].auc)
    assert 0.85 < study.best_without_privacy < 0.91
    assert draw(study).startswith(b"\x89PNG")
    tell(study)
    told = capsys.readouterr().out
    assert all(words in told for words in ("FedAdagrad", "0.731 (0.779)", "ε = 0.5", "not private"))
    assert f"{private[0].auc:.3f}±"[1:] in told


def assert_private(row: Figures) -> None:
    """Loose bounds: noise is of the operating system."""
    assert row.epsilon is not None
    assert 0.4999 < row.epsilon <= 0.5
    assert row.auc > 0.75
    assert row.mean_accuracy > 0.6


def test_the_ratio_is_measured_on_the_same_splits(
    data_dir: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir("heart-disease")
    monkeypatch.setattr(heart_resplits, "RESPLITS", range(1))
    monkeypatch.setattr(heart_resplits, "_DRAWS", 1)
    found = measure()
    assert (found.goal, found.theirs, found.at_least) == (0.985, 0.979, True)
    assert 0.85 < found.ours < 1.05
    assert "ε ≤ 0.50, δ = 0.0001" in found.note


def test_a_hospital_whose_class_is_too_small_is_split_without_strata() -> None:
    rows = pd.DataFrame({"disease": [1] * 9 + [0], "split": "train"})
    (found,) = resplit([SiteRows(name="one", stated_rows=10, rows=rows, card="heart-disease")], 0)
    assert (found.rows["split"] == "holdout").sum() == 4
