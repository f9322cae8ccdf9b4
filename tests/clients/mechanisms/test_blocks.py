"""What a row gets does not depend, in a single bit, on the rows beside it: what sensitivities rest on.

Held against the libraries that are installed, on the processor that is here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from clients.mechanisms import blocks, derivatives, places
from clients.mechanisms.blocks import BLOCK, block_rows, in_blocks, one_thread
from clients.mechanisms.clipping import SLACK, BatchSum
from clients.mechanisms.evaluation import evaluate
from clients.mechanisms.models import Layers, LogLoss, SmallCnn
from clients.mechanisms.noise import NoNoise
from clients.mechanisms.places import require_same_bits
from clients.mechanisms.row_gradients import Rows, of_layer
from clients.rows.table import Fit, Table
from contract.errors import InputError
from contract.experiment import Experiment, Label, NumericFeature, Task

MODELS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "linear": (lambda: Layers((30, 1)), 30, 1),
    "mlp": (lambda: Layers((64, 128, 28, 1)), 64, 1),
    "wide": (lambda: Layers((300, 500, 10)), 300, 10),
    "cnn": (lambda: SmallCnn((1, 8, 8), 10), 64, 10),
}
COUNTS = [*range(1, 2 * BLOCK + 3), 95, 96, 97, 127, 128, 129, 255, 256, 257, 300]
BLOCKS = (32, 128, 256)
THREADS = (1, 2, 4, 8)


def bits(module: nn.Module, inputs: Tensor, labels: Tensor, block: int) -> list[Tensor]:
    """What the rows' contributions are made of, by calls of so many rows, as in training."""
    parts = []
    for rows, classes in zip(torch.split(inputs, block), torch.split(labels, block), strict=True):
        with one_thread():
            losses, found = derivatives.derivatives(module, rows, LogLoss(classes), block)
            tensors = [part for _, _, given, gradient in found for part in (given, gradient)]
            of_layers = [part for layer in found for _, part in of_layer(*layer)]
            single = [part.gradients for part in of_layers if isinstance(part, Rows)]
            squares = [part.squares()[0] for part in of_layers]
        parts.append([item[: len(rows)] for item in (losses, *tensors, *single, *squares)])
    return [torch.cat(items) for items in zip(*parts, strict=True)]


@pytest.fixture(params=THREADS)
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """However many the libraries may take."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("outputs", [1, 2, 5, 17])
def test_a_row_that_moves_one_place_keeps_its_bits_whatever_the_widths(outputs: int) -> None:
    """The first of distinct rows goes, and all others lie elsewhere: a library may add in another order."""
    torch.manual_seed(outputs)
    for width in range(outputs % 3 + 1, 131, 3):
        for hidden in ((), (width % 13 + 1,), (131 - width, 2)):
            module, rows = Layers((width, *hidden, outputs)), torch.randn(45, width)
            labels = torch.randint(0, max(2, outputs), (45,))
            whole = bits(module, rows, labels, BLOCK)
            for moved, of_all in zip(bits(module, rows[1:].clone(), labels[1:], BLOCK), whole, strict=True):
                assert torch.equal(moved, of_all[1:]), (width, hidden)


def test_a_machine_whose_bits_depend_on_the_place_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = Experiment(
        name="x",
        task=Task(
            label=Label(column="ill"),
            features=tuple(NumericFeature(name=f"x{n}", kind="numeric", low=0, high=1) for n in range(9)),
        ),
    )
    for training in (True, False):
        require_same_bits(experiment, BLOCK, training=training)
    places._same_bits.cache_clear()
    real = torch.addmm

    def by_place(*given: Any) -> Tensor:
        found = real(*given)
        found[7] *= 1 + 2**-23  # one bit, in one place
        return found

    monkeypatch.setattr(torch, "addmm", by_place)
    with pytest.raises(InputError, match="MKL_CBWR=COMPATIBLE"):
        require_same_bits(experiment, BLOCK, training=True)
    places._same_bits.cache_clear()


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("name", list(MODELS))
def test_a_rows_bits_are_the_same_in_any_batch(name: str, block: int) -> None:
    torch.manual_seed(0)
    build, width, outputs = MODELS[name]
    module, inputs = build(), torch.randn(300, width)
    labels = torch.randint(0, max(2, outputs), (300,))
    whole = bits(module, inputs, labels, block)
    for count in COUNTS if block == BLOCK else COUNTS[-10:]:
        for some, of_all in zip(bits(module, inputs[:count], labels[:count], block), whole, strict=True):
            assert torch.equal(some, of_all[:count])
    for _ in range(5):
        order = torch.randperm(300)[: 40 + BLOCK]
        for some, of_all in zip(bits(module, inputs[order], labels[order], block), whole, strict=True):
            assert torch.equal(some, of_all[order])


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("hidden", [17, 20, 33, 40, 65, 100])
def test_no_row_more_turns_the_gradients_of_others(hidden: int) -> None:
    """With four threads MKL multiplies 128 rows by another program than 96: last bits are all that counts."""
    first = Layers((4, hidden, 2, 1))
    great, weights = 1.2345678e12, (1 + torch.rand(hidden)) * 1e10
    values = [torch.zeros(hidden, 4), torch.ones(hidden), torch.stack([weights, -weights])]
    values += [torch.full((2,), 1e12), torch.full((1, 2), great), torch.zeros(1)]
    for parameter, value in zip(first.parameters(), values, strict=True):
        parameter.data.copy_(value)
    inputs, labels = torch.tensor([0.5, 1, 0, 0]).repeat(400, 1), torch.zeros(400, dtype=torch.int64)

    def summed(rows: int) -> Tensor:
        found = BatchSum(first, block_rows(100, 300))(inputs[:rows], labels[:rows], 1.0)
        return found.flat.double().clone()

    for rows in (96, 127, 128, 255, 256):
        assert float((summed(rows + 1) - summed(rows)).norm()) <= 1 + SLACK


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("rows", [1023, 1024, 32767, 32768, 65536])
def test_no_row_more_moves_another_in_the_histogram(rows: int) -> None:
    """A sigmoid of more than 32,768 numbers is cut between threads, and the ends of each part differ."""
    task = Task(label=Label(column="y"), features=(NumericFeature(name="x", kind="numeric", low=0, high=1),))
    plan = Experiment(name="cells", task=task)
    logit = 0.20067058503627777  # beside the edge of a cell of the histogram
    model = {"layers.0.weight": np.zeros((1, 1), np.float32), "layers.0.bias": np.array([logit], np.float32)}

    def cells(number: int) -> npt.NDArray[np.float64]:
        fit = Fit(rows=number, kept=number, left_out={}, clamped={}, filled={}, other={})
        table = Table(
            features=np.zeros((number, 1), np.float32),
            labels=np.zeros(number, np.int64),
            person=None,
            fit=fit,
        )
        found = evaluate(model, table, plan, noise_multiplier=0.0, noise=NoNoise())
        return np.concatenate([found.negative, found.positive])

    assert np.abs(cells(rows + 1) - cells(rows)).sum() == 1


@pytest.mark.parametrize("transform", [np.log1p, np.float32, np.floor])
def test_a_values_bits_are_the_same_in_any_column(transform: Callable[[Any], Any]) -> None:
    values = np.random.default_rng(0).uniform(0, 1e4, 300)
    whole = transform(values)
    for count in COUNTS:
        assert np.array_equal(transform(values[:count]), whole[:count])
        assert np.array_equal(transform(values[300 - count :]), whole[300 - count :])


def amplifier(width: int) -> Layers:
    """Outputs that are the rounding of a sum of zero, times 1e30: a row's gradient has the sign of that."""
    module = Layers((width, 1))
    half = torch.randn(width // 2) * 1e30
    module.layers[0].weight.data = torch.cat([half, -half])[None]
    module.layers[0].bias.data.zero_()
    return module


def test_a_model_that_amplifies_rounding_lets_a_row_move_no_other() -> None:
    torch.manual_seed(1)
    module, inputs = amplifier(60), torch.rand(140, 30).repeat(1, 2)
    moved = 0.0
    for count in range(2, len(inputs)):
        one, other = (
            BatchSum(module, BLOCK)(inputs[:rows], torch.zeros(rows, dtype=torch.int64), 1.0).flat.double()
            for rows in (count, count - 1)
        )
        moved = max(moved, float((one - other).norm()))
    assert moved <= 1 + SLACK


@pytest.mark.parametrize("rows", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1])
def test_rows_of_zeros_fill_the_last_block(rows: int) -> None:
    filled = in_blocks(torch.ones(rows, 2, 3))
    assert len(filled) == max(1, math.ceil(rows / BLOCK)) * BLOCK
    assert torch.equal(filled[:rows], torch.ones(rows, 2, 3))
    assert not filled[rows:].any()
    assert blocks.BLOCK % 16 == 0
