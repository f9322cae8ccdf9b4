"""Training and evaluation do what their guarantees say."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import kstest

from clients.mechanisms import training
from clients.mechanisms.evaluation import compare, evaluate, exact_scores
from clients.mechanisms.models import arrays_of, build_module
from clients.mechanisms.noise import NoNoise, SystemNoise
from clients.mechanisms.training import LocalSteps, train_locally
from clients.rows.persons import rows_within_limit
from clients.rows.table import Table
from contract.experiment import Experiment, Gate, Model
from contract.experiment_file import parse_experiment
from contract.models import initial_arrays, parameter_shapes
from contract.releases import COMPARISON_SENSITIVITY, LOG_LOSS_SPAN

TEXT = """\
name = "small"
[task]
label = {{ column = "ill" }}
[[task.features]]
name = "a"
kind = "numeric"
low = 0
high = 1
[[task.features]]
name = "b"
kind = "numeric"
low = 0
high = 1
[strategy]
name = "{strategy}"
learning_rate = 0.5
local_steps = {steps}
proximal_mu = {mu}
[privacy]
clipping_norm = 0.3
sampling_rate = {rate}
"""


def experiment(*, steps: int = 1, rate: float = 1.0, strategy: str = "fedavg", mu: float = 0.0) -> Experiment:
    return parse_experiment(TEXT.format(steps=steps, rate=rate, strategy=strategy, mu=mu), where="test")


def table(rows: int, seed: int = 0) -> Table:
    rng = np.random.default_rng(seed)
    features = rng.random((rows, 2)).astype(np.float32)
    return Table(
        features=features,
        labels=(rng.random(rows) < features[:, 0]).astype(np.int64),
        person=None,
    )


def start(plan: Experiment) -> dict[str, npt.NDArray[Any]]:
    arrays = initial_arrays(plan, np.random.default_rng(0))
    arrays["layers.0.weight"][:] = [[0.4, -0.2]]
    return arrays


def one_step(
    plan: Experiment, rows: Table, stated: int, noise: Any, sigma: float = 1.0
) -> dict[str, npt.NDArray[Any]]:
    steps = LocalSteps(experiment=plan, stated_rows=stated, noise_multiplier=sigma)
    return train_locally(start(plan), rows, steps, noise).arrays


def by_hand(plan: Experiment, rows: Table, stated: int) -> npt.NDArray[np.float64]:
    """Weight and bias after one step on clipped gradients, summed and divided by the stated rows."""
    weight = np.array([0.4, -0.2, 0.0])
    inputs = np.c_[rows.features, np.ones(len(rows.labels))]
    gradients = (1 / (1 + np.exp(-inputs @ weight)) - rows.labels)[:, None] * inputs
    norms = np.linalg.norm(gradients, axis=1, keepdims=True)
    clipped = gradients * np.minimum(1, plan.privacy.clipping_norm / norms)
    return np.asarray(weight - plan.strategy.learning_rate * clipped.sum(axis=0) / stated)


@pytest.mark.parametrize("physical", [4096, 7])
@pytest.mark.parametrize("known", [True, False])
def test_a_step_is_the_sum_of_clipped_gradients_over_the_stated_rows(
    monkeypatch: pytest.MonkeyPatch, physical: int, known: bool
) -> None:
    monkeypatch.setattr(training, "MOST_ROWS", physical)
    monkeypatch.setattr(training, "supports", lambda _module, _example: known)
    plan, rows = experiment(), table(40)
    arrays = one_step(plan, rows, 55, NoNoise())
    found = np.r_[arrays["layers.0.weight"][0], arrays["layers.0.bias"]]
    np.testing.assert_allclose(found, by_hand(plan, rows, 55), atol=1e-6)


def test_the_noise_of_an_update_has_the_scale_that_is_accounted() -> None:
    plan, rows = experiment(), table(20)
    calm = one_step(plan, rows, 50, NoNoise())["layers.0.weight"]
    drawn = np.concatenate(
        [(one_step(plan, rows, 50, SystemNoise(), 4.0)["layers.0.weight"] - calm).ravel() for _ in range(700)]
    )
    scale = plan.strategy.learning_rate * 4.0 * plan.privacy.clipping_norm / 50
    assert kstest(drawn / scale, "norm").pvalue > 1e-5
    assert kstest(drawn / scale * 2 / 3, "norm").pvalue < 1e-4


def test_poisson_batches_take_each_row_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    original = training.BatchSum.__call__

    def watched(self: Any, inputs: Any, labels: Any, *others: Any) -> Any:
        sizes.append(len(labels))
        return original(self, inputs, labels, *others)

    monkeypatch.setattr(training.BatchSum, "__call__", watched)
    one_step(experiment(steps=400, rate=0.2), table(100), 100, NoNoise())
    assert len(sizes) == 400
    assert abs(np.mean(sizes) - 20) < 5 * 4 / np.sqrt(400)
    assert 10 < np.var(sizes) < 23  # binomial: 16; batches of a fixed size: 0


@pytest.mark.parametrize("known", [True, False])
def test_no_rows_release_noise_alone(monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    monkeypatch.setattr(training, "supports", lambda _module, _example: known)
    arrays = one_step(experiment(), table(0), 50, SystemNoise())
    assert np.isfinite(arrays["layers.0.weight"]).all()
    assert not np.array_equal(arrays["layers.0.weight"], [[0.4, -0.2]])


def test_the_proximal_term_pulls_back_after_the_noise() -> None:
    plain, pulled = experiment(steps=3), experiment(steps=3, strategy="fedprox", mu=1.0)
    rows = table(40)
    away = [np.abs(one_step(plan, rows, 40, NoNoise())["layers.0.bias"]).sum() for plan in (plain, pulled)]
    assert 0 < away[1] < away[0]


@pytest.mark.parametrize("kind", ["linear", "mlp", "cnn"])
def test_the_contract_knows_the_modules_parameters(kind: Any) -> None:
    model = Model(kind=kind, image=(1, 8, 8) if kind == "cnn" else None)
    for classes in (2, 5):
        found = {
            name: array.shape
            for name, array in arrays_of(build_module(model, inputs=64, classes=classes)).items()
        }
        assert found == parameter_shapes(model, inputs=64, classes=classes)
        assert list(found) == list(parameter_shapes(model, inputs=64, classes=classes))


def test_one_row_changes_one_cell_of_the_histogram_by_one() -> None:
    plan, rows = experiment(), table(30)
    whole = evaluate(start(plan), rows, plan, noise_multiplier=0.0, noise=NoNoise())
    less = evaluate(start(plan), rows.rows(np.arange(29)), plan, noise_multiplier=0.0, noise=NoNoise())
    change = np.r_[whole.negative - less.negative, whole.positive - less.positive]
    assert sorted(change[change != 0]) == [1.0]


def test_histogram_metrics_are_close_to_the_exact_ones() -> None:
    plan, rows = experiment(), table(20_000)
    arrays = start(plan)
    arrays["layers.0.weight"][:] = [[3.0, 0.0]]
    arrays["layers.0.bias"][:] = -1.5
    binned = evaluate(arrays, rows, plan, noise_multiplier=2.0, noise=SystemNoise()).metrics()
    exact = exact_scores(arrays, rows, plan)
    for name in ("log_loss", "brier", "auc", "accuracy"):
        assert getattr(binned, name) == pytest.approx(getattr(exact, name), abs=0.01)


def test_figures_that_the_noise_drowns_are_not_shown() -> None:
    plan = experiment()
    metrics = evaluate(start(plan), table(20), plan, noise_multiplier=20.0, noise=SystemNoise()).metrics()
    assert metrics.as_dict().keys() <= {"rows"}


def test_a_comparison_is_paired_and_of_the_losses_that_the_histograms_show() -> None:
    plan, rows = experiment(), table(1000)
    bad, good = start(plan), start(plan)
    bad["layers.0.bias"][:] = 50.0
    for metric, unit in (("brier", 1.0), ("log_loss", LOG_LOSS_SPAN)):
        judged = plan.model_copy(update={"gate": Gate(metric=metric)})
        worse, better, comparison = compare(bad, good, rows, judged, noise_multiplier=0.0, noise=NoNoise())
        assert comparison.rows == 1000
        difference = getattr(worse.metrics(), metric) - getattr(better.metrics(), metric)
        assert unit * comparison.mean_gain == pytest.approx(difference, abs=1e-5)
        assert 0 < comparison.mean_gain**2 <= comparison.squares / 1000 <= 1
    scores, _, noisy = compare(bad, good, rows, plan, noise_multiplier=3.0, noise=SystemNoise())
    assert noisy.noise_deviation == 3 * COMPARISON_SENSITIVITY
    assert scores.noise_deviation == 6 * COMPARISON_SENSITIVITY


def test_a_person_has_at_most_so_many_rows() -> None:
    person = np.array([1, 1, 1, 2, 3, 3, 1])
    kept = rows_within_limit(person, 2)
    assert np.bincount(person[kept]).max() == 2
    assert set(person[kept]) == {1, 2, 3}
    assert list(kept) == sorted(kept)
