"""An update in a quarter of its bytes says what it said, but for a rounding far below its noise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from contract.errors import ReleaseError
from contract.experiment import Experiment, Model
from contract.messages import Reply, packed_limit
from contract.models import initial_arrays, model_shapes
from contract.norm_bound import update_bound, update_norm
from contract.quantization import BLOCK, distance, is_quantized, parameters, quantize, step_shapes
from contract.releases import ModelUpdate, Spent
from server.exchange.checks import check_update
from server.exchange.strategies import aggregate, build_strategy
from server.line.flower import assume_identity
from tests.server.federation import plan

SPENT = Spent(epsilon=1.0, delta=1e-5, unit="record", method="PLD", block="all/train")
SHAPES = [(0,), (), (1,), (BLOCK - 1,), (BLOCK,), (BLOCK + 1,), (3, BLOCK), (300, 257)]

Arrays = dict[str, npt.NDArray[Any]]


def noise(scale: float, seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    return {str(shape): rng.normal(0, scale, shape).astype(np.float32) for shape in SHAPES}


def moved(model: Arrays, difference: Arrays) -> ModelUpdate:
    return ModelUpdate(arrays={name: model[name] + difference[name] for name in model})


def reply(update: ModelUpdate) -> Reply:
    spent = {"spent_in_run": SPENT, "spent_in_total": SPENT}
    return Reply(site="north", stated_rows=100, mechanism="none", update=update, **spent)


def private(**strategy: Any) -> Experiment:
    return plan(private=True, features=300, **strategy)


def honest(experiment: Experiment, length: float = 0.5) -> tuple[ModelUpdate, Arrays]:
    """A noisy update of that share of the greatest length, and the model it began from."""
    rng = np.random.default_rng(1)
    model: Arrays = dict(initial_arrays(experiment, rng))
    step = {name: rng.normal(size=value.shape).astype(np.float32) for name, value in model.items()}
    size = sum(value.size for value in step.values())
    factor = length * update_bound(experiment, 100, size) / update_norm(step, model)
    return moved(model, {name: np.float32(factor) * value for name, value in step.items()}), model


def test_rounding_is_far_below_the_noise_and_has_no_direction() -> None:
    model, difference = noise(1.0), noise(0.01, seed=1)
    update = moved(model, difference)
    found = parameters(quantize(update, model), model)
    errors = np.concatenate([np.ravel(found[name] - update.arrays[name]) for name in found])
    assert errors.std() < 0.01 * 0.01
    assert abs(errors.mean()) < 4 * errors.std() / np.sqrt(errors.size)
    assert list(found) == list(model)
    assert all(found[name].shape == model[name].shape for name in model)
    assert all(value.dtype == np.float32 for value in found.values())


@given(
    arrays(
        np.float32,
        array_shapes(max_dims=2, max_side=300),
        elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=True),
    )
)
def test_no_number_is_off_by_more_than_half_a_step(difference: npt.NDArray[np.float32]) -> None:
    model = {"w": np.zeros_like(difference)}
    quantized = quantize(ModelUpdate(arrays={"w": difference}), model)
    found = parameters(quantized, model)["w"]
    steps = np.repeat(quantized.steps["w"], BLOCK)[: difference.size].reshape(difference.shape)
    slack = 1e-5 * np.abs(difference) + 2.0**-149 * 127  # float32, and what is below its smallest number
    assert (np.abs(found - difference) <= 0.5 * steps + slack).all()
    assert quantized.arrays["w"].dtype == np.int8


def test_nothing_moved_is_nothing_moved() -> None:
    model = noise(1.0)
    quantized = quantize(ModelUpdate(arrays=model), model)
    assert distance(quantized, model) == 0
    for name, value in parameters(quantized, model).items():
        np.testing.assert_array_equal(value, model[name])


def test_the_distance_is_that_of_what_is_read() -> None:
    model, difference = noise(1.0), noise(0.1, seed=1)
    quantized = quantize(moved(model, difference), model)
    read = ModelUpdate(arrays=parameters(quantized, model))
    assert distance(quantized, model) == pytest.approx(distance(read, model), rel=1e-5)
    assert distance(quantized, model) == pytest.approx(distance(moved(model, difference), model), rel=1e-3)


def test_it_takes_a_quarter_of_the_bytes_and_survives_both_encodings() -> None:
    rng = np.random.default_rng(0)
    model: Arrays = {"w": rng.normal(size=(400, 500)).astype(np.float32), "b": np.ones(500, np.float32)}
    update = moved(model, {name: np.full_like(value, 0.1) for name, value in model.items()})
    quantized = quantize(update, model)
    whole, small = reply(update), reply(quantized)
    for other in (Reply.from_bytes(small.to_bytes()), Reply.from_records(small.to_records())):
        assert other.to_bytes() == small.to_bytes()
        assert other.update is not None
        np.testing.assert_array_equal(parameters(other.update, model)["w"], parameters(quantized, model)["w"])
    assert len(small.to_bytes()) < 0.26 * len(whole.to_bytes())


@pytest.mark.parametrize("count", [1, 400])
def test_the_limit_leaves_room_for_it(count: int) -> None:
    model: Arrays = {f"layers.{number}": np.ones(2, np.float32) for number in range(count)}
    records = reply(quantize(ModelUpdate(arrays=model), model)).to_records()
    limit = packed_limit({name: value.shape for name, value in model.items()})
    assert Reply.from_records(records, most_bytes=limit).update is not None


@pytest.mark.parametrize(
    ("bits", "is_private", "hidden", "expected"),
    [
        (None, True, (10,), False),
        (None, True, (1000, 1000), True),
        (None, False, (1000, 1000), False),
        (32, True, (1000, 1000), False),
        (8, True, (10,), True),
    ],
)
def test_large_private_updates_are_quantized_or_as_the_experiment_says(
    bits: int | None, is_private: bool, hidden: tuple[int, ...], expected: bool
) -> None:
    experiment = plan(private=is_private, update_bits=bits)
    model = Model(kind="mlp", hidden=hidden)
    assert is_quantized(experiment.model_copy(update={"model": model})) is expected


def test_without_noise_it_is_refused() -> None:
    with pytest.raises(ValueError, match="noise hides the rounding"):
        plan(private=False, update_bits=8)


FAULTS: dict[str, Any] = {
    "not quantized": lambda update, model: ModelUpdate(arrays=parameters(update, model)),
    "no steps": lambda update, _: replace(update, steps={}),
    "a step too few": lambda update, _: replace(
        update, steps={name: steps[1:] for name, steps in update.steps.items()}
    ),
    "an infinite step": lambda update, _: replace(
        update, steps={name: steps * np.inf for name, steps in update.steps.items()}
    ),
    "exact steps": lambda update, _: replace(
        update, steps={name: steps.astype(np.float64) for name, steps in update.steps.items()}
    ),
    "another's steps": lambda update, _: replace(update, steps={"other": np.ones(1, np.float32)}),
    "too long": lambda update, _: replace(
        update, steps={name: 4 * steps for name, steps in update.steps.items()}
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_server_takes_what_the_plan_asks_for_and_nothing_else(fault: str) -> None:
    experiment = private(update_bits=8)
    update, model = honest(experiment)
    quantized = quantize(update, model)
    check_update(reply(quantized), experiment, model)
    with pytest.raises(ReleaseError, match="update refused"):
        check_update(reply(FAULTS[fault](quantized, model)), experiment, model)
    with pytest.raises(ReleaseError, match="update refused"):
        check_update(reply(quantized), private(update_bits=32), model)


def test_the_server_knows_the_shape_of_the_steps() -> None:
    experiment = private(update_bits=8)
    update, model = honest(experiment)
    steps = quantize(update, model).steps
    assert step_shapes(model_shapes(experiment)) == {name: value.shape for name, value in steps.items()}


def test_a_round_of_quantized_updates_is_that_of_whole_ones() -> None:
    experiment = private(update_bits=8)
    update, model = honest(experiment)
    assume_identity(1)
    strategy = build_strategy(experiment.strategy)
    whole, small = (
        aggregate(strategy, 1, model, {"north": reply(one)}) for one in (update, quantize(update, model))
    )
    off = update_norm(small, whole)
    assert 0 < off < 0.01 * update_norm(whole, model)
