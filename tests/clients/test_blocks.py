"""What a row gets does not depend, in a single bit, on the rows beside it: what sensitivities rest on.

Held against the libraries that are installed, on the processor that is here.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from clients.mechanisms import blocks, derivatives
from clients.mechanisms.blocks import BLOCK, in_blocks
from clients.mechanisms.clipping import clipped_sum
from clients.mechanisms.models import Layers, LogLoss, SmallCnn
from clients.mechanisms.row_gradients import Rows, of_layer

MODELS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "linear": (lambda: Layers((30, 1)), 30, 1),
    "mlp": (lambda: Layers((64, 128, 28, 1)), 64, 1),
    "wide": (lambda: Layers((300, 500, 10)), 300, 10),
    "cnn": (lambda: SmallCnn((1, 8, 8), 10), 64, 10),
}
COUNTS = [*range(1, 2 * BLOCK + 3), 95, 96, 97, 127, 128, 129, 255, 256, 257, 300]


def bits(module: nn.Module, inputs: Tensor, labels: Tensor) -> list[Tensor]:
    """What the rows' contributions are made of."""
    losses, found = derivatives.derivatives(module, inputs, LogLoss(labels))
    tensors = [part for _, _, given, gradient in found for part in (given, gradient)]
    single = [part.gradients for layer in found for _, part in of_layer(*layer) if isinstance(part, Rows)]
    return [losses, *tensors, *single]


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.mark.parametrize("name", list(MODELS))
def test_a_rows_bits_are_the_same_in_any_batch(name: str, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        torch.manual_seed(0)
        build, width, outputs = MODELS[name]
        module, inputs = build(), torch.randn(300, width)
        labels = torch.randint(0, max(2, outputs), (300,))
        whole = bits(module, inputs, labels)
        for count in COUNTS:
            for some, of_all in zip(bits(module, inputs[:count], labels[:count]), whole, strict=True):
                assert torch.equal(some, of_all[:count])
        for _ in range(5):
            order = torch.randperm(300)[: 40 + BLOCK]
            for some, of_all in zip(bits(module, inputs[order], labels[order]), whole, strict=True):
                assert torch.equal(some, of_all[order])
    finally:
        torch.set_num_threads(before)


def amplifier(width: int) -> Layers:
    """Outputs that are the rounding of a sum of zero, times 1e30: a row's gradient has the sign of that."""
    module = Layers((width, 1))
    half = torch.randn(width // 2) * 1e30
    module.layers[0].weight.data = torch.cat([half, -half])[None]
    module.layers[0].bias.data.zero_()
    return module


def most_moved(module: Layers, inputs: Tensor) -> float:
    """By how many clipping norms the last row of a batch changes its sum."""
    moved = 0.0
    for count in range(2, len(inputs)):
        one, other = (
            clipped_sum(module, inputs[:rows], lambda out: out.abs().sum(dim=1), 1.0).flat.double()
            for rows in (count, count - 1)
        )
        moved = max(moved, float((one - other).norm()))
    return moved


def test_a_model_that_amplifies_rounding_lets_a_row_move_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    module, inputs = amplifier(60), torch.rand(140, 30).repeat(1, 2)
    assert most_moved(module, inputs) <= 1 + 140 * 141 * 2**-24
    # without blocks a row turns others about; on a processor where it does not, none is needed
    monkeypatch.setattr(derivatives, "in_blocks", lambda rows: rows)
    without = most_moved(module, inputs)
    print(f"without blocks a row moves the sum by {without:.3g} clipping norms")


@pytest.mark.parametrize("rows", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1])
def test_rows_of_zeros_fill_the_last_block(rows: int) -> None:
    filled = in_blocks(torch.ones(rows, 2, 3))
    assert len(filled) == max(1, math.ceil(rows / BLOCK)) * BLOCK
    assert torch.equal(filled[:rows], torch.ones(rows, 2, 3))
    assert not filled[rows:].any()
    assert blocks.BLOCK % 16 == 0
