"""Training and evaluation answer whatever the rows and the model hold: no error, and finite numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clients.mechanisms import training
from clients.mechanisms.evaluation import compare, evaluate
from clients.mechanisms.noise import NoNoise, SystemNoise
from clients.mechanisms.training import LocalSteps, train_locally, train_without_privacy
from clients.rows.table import Table
from contract.errors import InputError
from contract.experiment import Experiment
from contract.experiment_file import parse_experiment
from contract.models import model_shapes
from contract.releases import COMPARISON_SENSITIVITY, ROWS_WEIGHT, SCORES_WEIGHT, SQUARES_WEIGHT

Model = dict[str, npt.NDArray[Any]]
MAX = float(np.finfo(np.float32).max)
HARD = [0.0, 1e-45, -1e-40, 1e-30, 1.0, -1.0, 1e19, -1e30, 1e38, MAX, -MAX, math.nan, math.inf, -math.inf]
ANY = st.one_of(st.sampled_from(HARD), st.floats(width=32))
generated = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))

FEATURE = '[[task.features]]\nname = "f{}"\nkind = "numeric"\nlow = 0\nhigh = 1\n'
KINDS = {
    "linear": ('kind = "linear"', 3, 2),
    "mlp": ('kind = "mlp"\nhidden = [3, 2]', 3, 2),
    "classes": ('kind = "mlp"\nhidden = [3]', 3, 4),
    "cnn": ('kind = "cnn"\nimage = [1, 4, 4]', 16, 3),
}
EVERY = pytest.mark.parametrize("kind", list(KINDS))


def experiment(kind: str, *, strategy: str = "", privacy: str = "", gate: str = "") -> Experiment:
    model, width, classes = KINDS[kind]
    names = ", ".join(f'"{number}"' for number in range(classes))
    features = "".join(FEATURE.format(number) for number in range(width))
    return parse_experiment(
        f'name = "hard"\n[task]\nlabel = {{ column = "y", classes = [{names}] }}\n{features}'
        f"[model]\n{model}\n[strategy]\n{strategy}\n[privacy]\n{privacy}\n[gate]\n{gate}\n",
        where="test",
    )


def table(plan: Experiment, numbers: list[float], rows: int, labels: int = 0) -> Table:
    width, classes = plan.task.width, len(plan.task.label.classes)
    features = np.resize(np.array(numbers, np.float32), (rows, width))
    return Table(features=features, labels=(np.arange(rows) + labels) % classes)


def model(plan: Experiment, numbers: list[float]) -> Model:
    values = np.array(numbers, np.float32)
    return {name: np.resize(values, shape) for name, shape in model_shapes(plan).items()}


def require_finite(plan: Experiment, arrays: Model) -> None:
    assert {name: array.shape for name, array in arrays.items()} == model_shapes(plan)
    assert all(array.dtype == np.float32 and np.isfinite(array).all() for array in arrays.values())


numbers = st.lists(ANY, min_size=1, max_size=40)


@EVERY
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("strategy", ["fedavg", "fedprox"])
@given(weights=numbers, features=numbers, rows=st.integers(0, 5), rate=st.sampled_from([1e-9, 1.0, 1e6]))
@generated
def test_any_model_and_rows_give_a_finite_update(
    kind: str, known: bool, strategy: str, weights: list[float], features: list[float], rows: int, rate: float
) -> None:
    pull = "proximal_mu = 1e6" if strategy == "fedprox" else ""
    text = f'name = "{strategy}"\nlocal_steps = 3\nlearning_rate = {rate}\n{pull}'
    plan = parsed(kind, text)
    if plan is None:  # a learning rate that the contract does not allow
        return
    steps = LocalSteps(experiment=plan, stated_rows=4, noise_multiplier=1.0)
    with pytest.MonkeyPatch.context() as patch:
        if not known:
            patch.setattr(training, "supports", lambda _module, _example: False)
        update = train_locally(model(plan, weights), table(plan, features, rows), steps, SystemNoise())
    require_finite(plan, update.arrays)


def parsed(kind: str, strategy: str) -> Experiment | None:
    try:
        return experiment(kind, strategy=strategy)
    except InputError:
        return None


def test_a_run_without_privacy_gives_finite_numbers_too() -> None:
    plan = experiment("mlp", strategy="learning_rate = 1e3\nlocal_steps = 5")
    update = train_without_privacy(
        model(plan, [MAX, -MAX, 1.0]), table(plan, [MAX, 1.0], 4), plan, np.random.default_rng(0)
    )
    require_finite(plan, update.arrays)


@pytest.mark.parametrize("multiplier", [0.0, -1.0, math.nan, math.inf, 1e-320, 1e300])
def test_noise_that_is_none_is_refused_before_a_row_is_read(multiplier: float) -> None:
    plan = experiment("mlp")

    class Unread:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(name)

    rows: Any = Unread()
    start = model(plan, [0.1])
    steps = LocalSteps(experiment=plan, stated_rows=4, noise_multiplier=multiplier)
    with pytest.raises(InputError, match="standard deviation"):
        train_locally(start, rows, steps, SystemNoise())
    for make in (
        lambda: evaluate(start, rows, plan, noise_multiplier=multiplier, noise=SystemNoise()),
        lambda: compare(start, start, rows, plan, noise_multiplier=multiplier, noise=SystemNoise()),
    ):
        with pytest.raises(InputError, match="standard deviation"):
            make()


def counted(plan: Experiment, arrays: Model, rows: Table) -> npt.NDArray[np.float64]:
    found = evaluate(arrays, rows, plan, noise_multiplier=0.0, noise=NoNoise())
    return np.r_[found.negative, found.positive]


@EVERY
@given(weights=numbers, features=numbers, rows=st.integers(0, 5))
@generated
def test_each_row_adds_one_to_one_cell(
    kind: str, weights: list[float], features: list[float], rows: int
) -> None:
    plan = experiment(kind)
    arrays, whole = model(plan, weights), table(plan, features, rows)
    assert counted(plan, arrays, whole).sum() == rows
    for row in range(rows):
        others = np.arange(rows) != row
        change = counted(plan, arrays, whole) - counted(plan, arrays, whole.rows(others))
        assert sorted(change[change != 0]) == [1.0]


@EVERY
@pytest.mark.parametrize("metric", ["log_loss", "brier"])
@given(champion=numbers, challenger=numbers, features=numbers, rows=st.integers(0, 5))
@generated
def test_each_row_adds_a_difference_of_one_at_most_on_the_grid(
    kind: str, metric: str, champion: list[float], challenger: list[float], features: list[float], rows: int
) -> None:
    plan = experiment(kind, gate=f'metric = "{metric}"')
    models, whole = (model(plan, champion), model(plan, challenger)), table(plan, features, rows)

    def paired(some: Table) -> np.ndarray[Any, Any]:
        _, _, found = compare(*models, some, plan, noise_multiplier=0.0, noise=NoNoise())
        assert found.rows == len(some.labels)
        assert 0 <= found.squares <= found.rows
        return np.array([found.gain, SQUARES_WEIGHT * found.squares, ROWS_WEIGHT * found.rows])

    assert abs(paired(whole)[0]) <= rows
    assert paired(whole) * 2**20 == pytest.approx(np.rint(paired(whole) * 2**20), abs=1e-6)
    for row in range(rows):
        others = np.arange(rows) != row
        moved = paired(whole) - paired(whole.rows(others))
        assert abs(moved[0]) <= 1
        most = math.sqrt(COMPARISON_SENSITIVITY**2 - 2 * SCORES_WEIGHT**2)  # without the two evaluations
        assert np.linalg.norm(moved) <= most * (1 + 1e-12)


def test_two_infinite_losses_differ_by_nothing() -> None:
    """Infinity less infinity would be NaN, and a word of refusal for it one exact bit of the row."""
    plan = experiment("linear")
    arrays = model(plan, [math.inf])
    rows = table(plan, [1.0], 4)
    scores, _, comparison = compare(arrays, arrays, rows, plan, noise_multiplier=1.0, noise=SystemNoise())
    assert math.isfinite(comparison.gain)
    assert np.isfinite(np.r_[scores.negative, scores.positive]).all()
    for one, other, most in ((math.nan, 0.0, 1.0), (math.nan, math.inf, 1.0), (0.0, MAX, 1.0)):
        _, _, found = compare(
            model(plan, [one]), model(plan, [other]), rows, plan, noise_multiplier=0.0, noise=NoNoise()
        )
        assert abs(found.gain) <= most * 4
