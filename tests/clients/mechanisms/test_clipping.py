"""One backward pass gives what clipping every record's gradient by itself gives."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from clients.mechanisms import clipping
from clients.mechanisms.blocks import one_thread
from clients.mechanisms.clipping import BatchSum, Sums, supports, trainable
from clients.mechanisms.models import Layers, LogLoss, SmallCnn, losses
from clients.mechanisms.training import _clipped_sum_by_opacus

NORM = 0.5
CLASSES = 3


class Words(nn.Module):
    """Word vectors, a linear layer at each position, LayerNorm, and the mean over positions."""

    def __init__(self, words: int = 20, width: int = 6, **settings: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width, **settings)
        self.each = nn.Linear(width, 5)
        self.norm = nn.LayerNorm(5)
        self.last = nn.Linear(5, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(torch.tanh(self.norm(self.each(self.embedding(inputs)))).mean(dim=1))


def grouped() -> nn.Module:
    """Stride, padding, dilation and groups; one layer without bias."""
    return nn.Sequential(
        nn.Conv2d(4, 8, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
        nn.GroupNorm(2, 8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Conv2d(8, 16, 2),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )


def wide_sequence() -> nn.Module:
    """Few positions and wide layers: ghost norms; a LayerNorm over two dimensions."""
    return nn.Sequential(
        nn.Linear(12, 24), nn.Tanh(), nn.LayerNorm((4, 24)), nn.Conv2d(1, 30, (2, 24)), nn.Flatten(),
        nn.Linear(90, CLASSES),
    )  # fmt: skip


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: Layers((7, CLASSES)), (7,)),
    "mlp": (lambda: Layers((7, 9, 5, CLASSES)), (7,)),
    "cnn": (lambda: SmallCnn((1, 8, 8), CLASSES), (64,)),
    "grouped": (grouped, (4, 9, 8)),
    "sequence": (wide_sequence, (1, 4, 12)),
    "words": (Words, (11,)),
    "few words": (lambda: Words(words=3), (11,)),
}
FLOATING = ["linear", "mlp", "cnn", "grouped", "sequence"]
EVERY = pytest.mark.parametrize("name", list(MODULES))


def made(name: str, rows: int, seed: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(seed)
    build, shape = MODULES[name]
    module = build()
    for parameter in module.parameters():  # scales of 1 and shifts of 0 would hide mistakes
        parameter.data += 0.1 * torch.randn_like(parameter)
    words = "words" in name
    inputs = torch.randint(0, 3, (rows, *shape)) if words else 2 * torch.randn(rows, *shape)
    return module, inputs, torch.randint(0, CLASSES, (rows,))


def ours(module: nn.Module, inputs: Tensor, labels: Tensor, norm: float = NORM) -> dict[str, Tensor]:
    return clipped_sum(module, inputs, partial(losses, labels=labels), norm)


def clipped_sum(
    module: nn.Module, inputs: Tensor, loss_of: Callable[[Tensor], Tensor], norm: float
) -> dict[str, Tensor]:
    return clipping.clipped_sum(module, inputs, loss_of, norm).by_name


def by_fallback(
    module: nn.Module, inputs: Tensor, loss_of: Callable[[Tensor], Tensor], norm: float
) -> dict[str, Tensor]:
    return _clipped_sum_by_opacus(module, inputs, loss_of, norm, Sums(trainable(module))).by_name


def by_opacus(module: nn.Module, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    hooked = GradSampleModule(module, loss_reduction="sum")
    optimizer = DPOptimizer(
        torch.optim.SGD(module.parameters(), lr=1.0),
        noise_multiplier=0.0,
        max_grad_norm=NORM,
        expected_batch_size=1,
    )
    if inputs.is_floating_point():
        inputs = inputs.clone().requires_grad_()
    losses(hooked(inputs), labels).sum().backward()
    optimizer.clip_and_accumulate()
    found = {key: value.summed_grad.clone() for key, value in module.named_parameters()}
    hooked.to_standard_module()
    return found


def one_by_one(module: nn.Module, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Every record's gradient by plain autograd, in double precision, and clipped."""
    parameters = {key: value for key, value in module.named_parameters() if value.requires_grad}
    total = {key: torch.zeros_like(value, dtype=torch.float64) for key, value in parameters.items()}
    for row in range(len(inputs)):
        loss = losses(module(inputs[row : row + 1]), labels[row : row + 1]).sum()
        gradient = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
        for key, value in gradient.items():
            total[key] += value.double() * min(1.0, NORM / (length(gradient) + 1e-6))
    return total


def length(gradient: dict[str, Tensor]) -> float:
    return math.sqrt(sum(float(value.double().square().sum()) for value in gradient.values()))


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Tensor]:
    assert one.keys() == other.keys()
    assert all(one[key].shape == other[key].shape for key in one)
    return {key: one[key].double() - other[key].double() for key in one}


@EVERY
@pytest.mark.parametrize("rows", [1, 33, 300])
@pytest.mark.filterwarnings("ignore:Full backward hook:UserWarning")  # words have no derivative
def test_the_sum_is_that_of_opacus(name: str, rows: int) -> None:
    module, inputs, labels = made(name, rows)
    assert supports(module, inputs[:1])
    theirs = by_opacus(module, inputs, labels)
    assert length(difference(ours(module, inputs, labels), theirs)) <= 1e-6 * length(theirs)


@EVERY
def test_the_sum_is_that_of_records_clipped_one_by_one(name: str) -> None:
    module, inputs, labels = made(name, 12)
    exact = one_by_one(module, inputs, labels)
    assert length(difference(ours(module, inputs, labels), exact)) <= 2e-6 * length(exact)


@pytest.mark.parametrize("name", FLOATING)
@pytest.mark.parametrize("rows", [0, 1, 12])
def test_the_fallback_gives_the_same(name: str, rows: int) -> None:
    module, inputs, labels = made(name, rows)
    exact = one_by_one(module, inputs, labels)
    for _ in range(2):  # nothing is left over from one call to the next
        found = by_fallback(module, inputs, partial(losses, labels=labels), NORM)
        assert length(difference(found, exact)) <= 2e-6 * length(exact)


def test_activations_may_write_over_their_inputs() -> None:
    module, inputs, labels = made("grouped", 8)
    expected = ours(module, inputs, labels)
    for layer in module.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = True
    assert length(difference(ours(module, inputs, labels), expected)) == 0


@given(
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2]),
    side=st.integers(5, 9),
    width=st.sampled_from([2, 12]),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_any_convolution(
    kernel: int, stride: int, padding: int, dilation: int, groups: int, side: int, width: int, seed: int
) -> None:
    torch.manual_seed(seed)
    module = nn.Sequential(
        nn.Conv2d(2, width, kernel, stride, padding, dilation, groups),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * width, CLASSES),
    )
    inputs, labels = torch.randn(5, 2, side, side + 1), torch.randint(0, CLASSES, (5,))
    exact = one_by_one(module, inputs, labels)
    assert length(difference(ours(module, inputs, labels), exact)) <= 2e-6 * length(exact)


@EVERY
def test_a_record_counts_the_clipping_norm_at_most_and_records_add_up(name: str) -> None:
    module, inputs, labels = made(name, 20)
    inputs = inputs * 30 if inputs.is_floating_point() else inputs
    whole = ours(module, inputs, labels)
    single = [ours(module, inputs[row : row + 1], labels[row : row + 1]) for row in range(20)]
    assert max(length(gradient) for gradient in single) <= NORM + 1e-5
    # without clipping, the claims above and below would be false: the gradients are longer than that
    assert max(length(ours(module, inputs[[row]], labels[[row]], 1e3)) for row in range(20)) > 1.5 * NORM
    added = {key: sum(gradient[key].double() for gradient in single) for key in whole}
    assert length(difference(whole, added)) <= 1e-5 * length(whole)
    for row in range(20):
        others = torch.arange(20) != row
        assert length(difference(whole, ours(module, inputs[others], labels[others]))) <= NORM + 1e-5


def test_a_factor_of_one_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    module, inputs, labels = made("mlp", 20)
    theirs = by_opacus(module, inputs, labels)
    monkeypatch.setattr(clipping, "clip_factors", lambda norms, _clipping_norm: torch.ones_like(norms))
    assert length(difference(ours(module, inputs, labels), theirs)) > 0.1 * length(theirs)


@EVERY
def test_a_place_is_written_to_again_and_holds_the_last_sums_alone(name: str) -> None:
    module, inputs, labels = made(name, 300)
    place = Sums(trainable(module))
    for rows in (300, 5, 0, 2, 260):  # in double precision, in single precision, and zeros
        loss_of = partial(losses, labels=labels[:rows])
        found = clipping.clipped_sum(module, inputs[:rows], loss_of, NORM, place)
        fresh = clipping.clipped_sum(module, inputs[:rows], loss_of, NORM)
        assert found.flat.dtype == (torch.float64 if rows > 256 else torch.float32)
        assert torch.equal(found.flat, fresh.flat)
        assert torch.equal(torch.cat([value.flatten() for value in found.by_name.values()]), found.flat)


def test_a_part_that_fails_writes_into_no_later_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """The threads beside it are done before anybody hears of it."""
    module, inputs, labels = made("mlp", 96)
    add, first, others_wait = clipping.add_parts, threading.Event(), threading.Event()

    def failing(*args: Any, **how: Any) -> None:
        if not first.is_set():
            first.set()
            raise MemoryError
        others_wait.wait(0.3)
        add(*args, **how)

    monkeypatch.setattr(clipping, "processors", lambda: 3)
    with one_thread(), BatchSum(module, 32) as batch_sum:
        expected = batch_sum(inputs, labels, NORM).flat.clone()
        monkeypatch.setattr(clipping, "add_parts", failing)
        with pytest.raises(MemoryError):
            batch_sum(inputs, labels, NORM)
        monkeypatch.setattr(clipping, "add_parts", add)
        found = batch_sum(inputs, labels, NORM).flat
        others_wait.wait(0.6)
        torch.testing.assert_close(found, expected)


@EVERY
def test_no_rows_give_zeros(name: str) -> None:
    module, inputs, labels = made(name, 0)
    found = ours(module, inputs, labels)
    assert {key: value.shape for key, value in found.items()} == {
        key: value.shape for key, value in module.named_parameters()
    }
    assert length(found) == 0


@pytest.mark.parametrize("name", FLOATING)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3e38])
@pytest.mark.parametrize("everywhere", [True, False])
@pytest.mark.parametrize("take_sum", [clipped_sum, by_fallback])
def test_a_record_without_a_finite_gradient_counts_zero(
    name: str, bad: float, everywhere: bool, take_sum: Callable[..., dict[str, Tensor]]
) -> None:
    module, inputs, labels = made(name, 9)
    good = torch.arange(9) != 4
    (inputs[4] if everywhere else inputs[4].view(-1)[:1])[...] = bad
    whole = take_sum(module, inputs, partial(losses, labels=labels), NORM)
    rest = take_sum(module, inputs[good], partial(losses, labels=labels[good]), NORM)
    apart = length(difference(whole, rest))
    assert math.isfinite(length(whole))
    assert apart <= NORM + 1e-5
    if math.isnan(bad):
        assert apart <= 1e-6 * length(rest)


def test_opacus_itself_lets_such_a_record_escape() -> None:
    module, inputs, labels = made("mlp", 9)
    inputs[4] = math.nan
    assert not math.isfinite(length(by_opacus(module, inputs, labels)))


def test_only_bad_records_give_zeros() -> None:
    module, inputs, labels = made("cnn", 3)
    assert length(ours(module, inputs * math.nan, labels)) == 0


def test_positions_that_nearly_cancel_are_clipped() -> None:
    """Two positions with opposite, huge contributions: the ghost norm is the difference of large numbers."""
    torch.manual_seed(0)
    module = nn.Linear(40, 40)
    inputs = torch.randn(1, 1, 40).repeat(6, 2, 1)
    signs = torch.tensor([1.0, -1.0])[:, None] * 1e3 + torch.randn(6, 2, 40)
    found = clipped_sum(module, inputs, lambda out: (out * signs).sum(dim=(1, 2)), NORM)
    single = [
        clipped_sum(module, inputs[[row]], lambda out, row=row: (out * signs[[row]]).sum(dim=(1, 2)), NORM)
        for row in range(6)
    ]
    assert max(length(gradient) for gradient in single) <= NORM + 1e-4
    assert length(found) <= 6 * NORM


def test_frozen_parameters_are_left_out() -> None:
    module, inputs, labels = made("cnn", 8)
    module.convolution1.weight.requires_grad = False
    module.norm2.requires_grad_(False)
    exact = one_by_one(module, inputs, labels)
    found = ours(module, inputs, labels)
    assert "convolution1.weight" not in found
    assert "convolution1.bias" in found
    assert length(difference(found, exact)) <= 2e-6 * length(exact)


def test_padding_words_have_no_gradient() -> None:
    torch.manual_seed(0)
    module, inputs, labels = Words(padding_idx=0), torch.randint(0, 5, (6, 7)), torch.randint(0, 3, (6,))
    exact = one_by_one(module, inputs, labels)
    assert length(difference(ours(module, inputs, labels), exact)) <= 2e-6 * length(exact)


def test_a_layer_that_the_loss_does_not_depend_on_has_a_gradient_of_zero() -> None:
    class Aside(Layers):
        def forward(self, inputs: Tensor) -> Tensor:
            self.layers[0](inputs)
            return self.layers[1](inputs)

    found = ours(Aside((CLASSES, CLASSES, CLASSES)), torch.randn(4, CLASSES), torch.tensor([0, 1, 2, 0]))
    assert length({"": found["layers.0.weight"]}) == 0 < length({"": found["layers.1.weight"]})


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(torch.relu(self.layer(inputs)))


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scale = nn.Linear(3, 3), nn.Parameter(torch.ones(3))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.scale * self.layer(inputs)


def tied() -> nn.Module:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    return module


class Special(nn.Linear):
    pass


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)),
        nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, affine=False, track_running_stats=False)),
        nn.Sequential(*itertools.repeat(nn.Linear(3, 3), 2)),
        tied(),
        Bare(),
        Special(3, 3),
        nn.GRU(3, 3),
        nn.Conv2d(3, 3, 2, padding="same"),
        nn.Conv2d(3, 3, 2, padding_mode="circular"),
        nn.Embedding(3, 3, max_norm=1.0),
        nn.Embedding(3, 3, scale_grad_by_freq=True),
        nn.Embedding(3, 3, sparse=True),
    ],
    ids=lambda module: type(module).__name__,
)
def test_what_is_not_supported(module: nn.Module) -> None:
    assert not supports(module)


def test_a_layer_called_twice_is_found_by_a_forward_and_refused() -> None:
    module, inputs = Twice(), torch.randn(4, 3)
    assert not supports(module, inputs[:1])
    with pytest.raises(ValueError, match="called 2 times"):
        ours(module, inputs, torch.tensor([0, 1, 2, 0]))


def test_an_input_that_is_written_to_after_the_call_is_refused() -> None:
    class Late(Layers):
        def forward(self, inputs: Tensor) -> Tensor:
            inputs = 2 * inputs
            outputs = self.layers[0](inputs)
            inputs += 1
            return outputs + inputs

    with pytest.raises(ValueError, match="written to"):
        ours(Late((3, 3)), torch.randn(4, 3), torch.tensor([0, 1, 2, 0]))


def test_positions_folded_into_rows_are_refused() -> None:
    module = nn.Sequential(nn.Flatten(0, 1), nn.Linear(3, 3), nn.Unflatten(0, (-1, 2)), nn.Flatten())
    with pytest.raises(ValueError, match="one entry a row"):
        ours(module, torch.randn(4, 2, 3), torch.tensor([0, 1, 2, 0]))


@pytest.mark.parametrize("classes", [1, 3])
def test_the_derivative_of_the_log_loss_is_that_of_autograd(classes: int) -> None:
    torch.manual_seed(0)
    loss_of = LogLoss(torch.randint(0, max(2, classes), (40,)))
    logits = (5 * torch.randn(40, classes)).requires_grad_()
    (expected,) = torch.autograd.grad(loss_of(logits).sum(), logits)
    torch.testing.assert_close(loss_of.derivative(logits.detach()), expected, rtol=1e-6, atol=1e-7)


def test_the_parameters_grad_fields_and_hooks_stay_as_they_are() -> None:
    module, inputs, labels = made("cnn", 4)
    ours(module, inputs, labels)
    assert all(parameter.grad is None for parameter in module.parameters())
    assert not any(layer._forward_hooks for layer in module.modules())
