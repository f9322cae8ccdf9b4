"""A record counts one clipping norm at most, whatever it, the others and the model hold.

Rows are made of any single-precision numbers: what is tiny beside what is huge, denormal numbers, the
greatest ones, infinity and NaN. What a record adds is computed a second time here, exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from clients.mechanisms import clipping, row_gradients
from clients.mechanisms.clipping import SLACK, Sums, clipped_sum, require_clipping_norm, trainable
from clients.mechanisms.models import Layers, SmallCnn
from clients.mechanisms.training import _clipped_sum_by_opacus
from contract.errors import InputError

MAX = float(np.finfo(np.float32).max)
NORMS = st.sampled_from([1e-3, 0.5, 1.0, 1e3])
SPECIAL = [0.0, 1e-45, -1e-40, 1.2e-38, 1e-30, 2.6e-23, 1e-19, 1.0, -1.0, 4e18, 1e19, -1e30, MAX, -MAX]
FINITE = st.one_of(
    st.sampled_from(SPECIAL),
    st.floats(-100, 100, width=32),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
)
ANY = st.one_of(FINITE, st.sampled_from([math.nan, math.inf, -math.inf]))
generated = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


class Embedded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(3, 2)
        self.scale = nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.words((inputs.nan_to_num(0).abs() % 3).long())


class Gated(nn.Module):
    """Multiplies each of the outputs of a layer with numbers of the row: they are its derivative."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.width = layer, width

    def forward(self, inputs: Tensor) -> Tensor:
        found = self.layer(inputs[:, : self.width]).flatten(1)
        return found * inputs[:, self.width : self.width + found.shape[1]]


KINDS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "linear": (lambda: nn.Linear(2, 2), 2, 2),
    "linear without bias": (lambda: nn.Linear(2, 2, bias=False), 2, 2),
    "linear at positions": (lambda: nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Linear(3, 4)), 6, 8),
    "convolution": (lambda: nn.Sequential(nn.Unflatten(1, (1, 3, 3)), nn.Conv2d(1, 2, 2)), 9, 8),
    "wide convolution": (lambda: nn.Sequential(nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 3, (2, 1))), 8, 6),
    "group norm": (lambda: nn.Sequential(nn.Unflatten(1, (4, 2)), nn.GroupNorm(2, 4)), 8, 8),
    "layer norm": (lambda: nn.LayerNorm(4), 4, 4),
    "embedding": (Embedded, 3, 6),
}
EVERY = pytest.mark.parametrize("kind", list(KINDS))
FALLBACK = [kind for kind in KINDS if kind != "embedding"]  # Opacus' hooks want what has a derivative


def whole(sums: Sums) -> list[Fraction | None]:
    return [Fraction(number) if math.isfinite(number) else None for number in sums.flat.double().tolist()]


def length(numbers: list[Fraction]) -> float:
    """Without overflow, and without rounding but that of the root."""
    return math.sqrt(sum(number * number for number in numbers))


def difference(one: Sums, other: Sums) -> float:
    with_row, without = whole(one), whole(other)
    assert None not in with_row
    assert None not in without
    return length([left - right for left, right in zip(with_row, without, strict=True)])  # type: ignore[operator]


def opacus(module: nn.Module, inputs: Tensor, norm: float) -> Sums:
    return _clipped_sum_by_opacus(module, inputs, total, norm, Sums(trainable(module)))


def ours(module: nn.Module, inputs: Tensor, norm: float) -> Sums:
    return clipped_sum(module, inputs, total, norm)


def total(outputs: Tensor) -> Tensor:
    return outputs.flatten(1).sum(dim=1)


def rounding(rows: int) -> float:
    """What summing so many rows in single precision may add: see the module."""
    return (rows * (rows + 1)) * 2.0**-24


def numbers(count: int, of: st.SearchStrategy[float]) -> st.SearchStrategy[list[float]]:
    return st.lists(of, min_size=count, max_size=count)


def batch(data: st.DataObject, width: int, of: st.SearchStrategy[float] = ANY) -> Tensor:
    rows = data.draw(st.integers(1, 4))
    return torch.tensor([data.draw(numbers(width, of)) for _ in range(rows)], dtype=torch.float32)


def with_weights(module: nn.Module, data: st.DataObject) -> nn.Module:
    for parameter in module.parameters():
        drawn = data.draw(numbers(parameter.numel(), FINITE))
        parameter.data = torch.tensor(drawn, dtype=torch.float32).view(parameter.shape)
    return module


@EVERY
@pytest.mark.parametrize("double", [False, True])
@given(data=st.data(), norm=NORMS)
@generated
def test_a_row_more_changes_the_sum_by_one_clipping_norm(
    kind: str, double: bool, data: st.DataObject, norm: float
) -> None:
    build, width, outputs = KINDS[kind]
    module = with_weights(Gated(build(), width), data)
    inputs = batch(data, width + outputs)
    with pytest.MonkeyPatch.context() as patch:
        if double:
            patch.setattr(clipping, "_SINGLE", -1)
        moved = difference(ours(module, inputs, norm), ours(module, inputs[1:], norm))
    assert moved <= norm * (1 + 1e-6 + (0 if double else rounding(len(inputs))))


@pytest.mark.parametrize("kind", FALLBACK)
@given(data=st.data(), norm=NORMS)
@generated
def test_it_does_so_where_opacus_gives_the_gradients(kind: str, data: st.DataObject, norm: float) -> None:
    build, width, outputs = KINDS[kind]
    module = with_weights(Gated(build(), width), data)
    inputs = batch(data, width + outputs)
    moved = difference(opacus(module, inputs, norm), opacus(module, inputs[1:], norm))
    assert moved <= norm * (1 + 1e-6 + rounding(len(inputs)))


@pytest.mark.parametrize("take_sum", [ours, opacus])
@given(data=st.data(), norm=NORMS)
@generated
def test_whole_models_with_any_parameters(
    take_sum: Callable[..., Sums], data: st.DataObject, norm: float
) -> None:
    build, width = data.draw(
        st.sampled_from(
            [
                (lambda: Layers((3, 2, 2, 1)), 3),
                (lambda: Layers((2, 3)), 2),
                (lambda: SmallCnn((1, 4, 4), 1), 16),
            ]
        )
    )
    module = build()
    for parameter in module.parameters():
        drawn = data.draw(numbers(min(8, parameter.numel()), ANY))
        values = np.resize(np.array(drawn, np.float32), parameter.shape)
        parameter.data = torch.from_numpy(values.copy())
    inputs = batch(data, width)
    moved = difference(take_sum(module, inputs, norm), take_sum(module, inputs[1:], norm))
    assert moved <= norm * (1 + 1e-6 + rounding(len(inputs)))


@pytest.mark.parametrize("kind", FALLBACK)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("take_sum", [ours, opacus])
def test_a_row_with_one_number_that_is_not_finite_counts_zero(
    kind: str, bad: float, take_sum: Callable[..., Sums]
) -> None:
    torch.manual_seed(0)
    build, width, outputs = KINDS[kind]
    module = Gated(build(), width)
    good = torch.randn(5, width + outputs)
    for place in range(width + outputs):
        inputs = torch.cat([good[:2], good[:1], good[2:]])
        inputs[2, place] = bad
        torch.testing.assert_close(take_sum(module, inputs, 1.0).flat, take_sum(module, good, 1.0).flat)
    assert difference(take_sum(module, good, 1.0), take_sum(module, good[1:], 1.0)) > 0.1


def test_a_row_whose_loss_is_not_finite_counts_zero() -> None:
    module, inputs = nn.Linear(2, 2), torch.ones(3, 2)

    def loss_of(outputs: Tensor) -> Tensor:
        return outputs.sum(dim=1) + torch.tensor([0.0, math.inf, 0.0])

    found = clipped_sum(module, inputs, loss_of, 1.0)
    assert difference(found, ours(module, inputs[:2], 1.0)) < 1e-6


@pytest.mark.parametrize("norm", [1e-3, 1.0])
@pytest.mark.parametrize("width", [1, 4000])
def test_a_tiny_derivative_beside_a_huge_activation_is_clipped(norm: float, width: int) -> None:
    """Squared in single precision both would be nothing and infinity: the row counted 30 clipping norms."""
    for huge, tiny in ((1.8e19, 2.6e-23), (1e19, 1e-22), (5e19, 1e-30), (1e10, 1e-10)):
        inputs, derivative = torch.full((1, 1), huge), torch.full((1, width), tiny)
        found = clipped_sum(
            nn.Linear(1, width), inputs, lambda out, by=derivative: (out * by).sum(dim=1), norm
        )
        exact = huge * tiny * math.sqrt(width)
        assert length(whole(found)) == pytest.approx(min(norm, exact), rel=2e-3)  # type: ignore[arg-type]


def test_terms_that_cancel_do_not_hide_a_gradient() -> None:
    """Two positions, opposite but for their last bits: the difference of huge squares is rounding alone."""
    for tail in (2.0**-23, 2.0**-20, 2.0**-10, 0.0):
        inputs = torch.tensor([[[1.0, 1.0, 1.0], [1.0 + tail, 1.0, 1.0]]])
        signs = torch.tensor([[[1e12] * 40, [-1e12] * 40]])
        module = nn.Linear(3, 40)
        found = clipped_sum(module, inputs, lambda out, by=signs: (out * by).sum(dim=(1, 2)), 1.0)
        assert length(whole(found)) <= 1 + 1e-6  # type: ignore[arg-type]


def test_the_slack_is_what_rounding_adds_to_a_sum_in_single_precision() -> None:
    assert rounding(clipping._SINGLE) < SLACK < 1.05 * rounding(clipping._SINGLE)


@pytest.mark.parametrize("rows", [256, 257])
def test_the_sum_of_many_rows_is_as_exact_as_is_said(rows: int) -> None:
    rng = np.random.default_rng(0)
    inputs = torch.from_numpy(rng.uniform(0.5, 2, (rows, 3)).astype(np.float32))
    found = clipped_sum(nn.Linear(3, 2), inputs, lambda out: out.sum(dim=1), 1.0)
    exact = inputs.double()
    norms = (2 * (exact.square().sum(dim=1) + 1)).sqrt()
    factors = torch.minimum(torch.ones(rows).double(), 1 / (norms + 1e-6))
    expected = (factors[:, None] * exact).sum(dim=0)
    for line in found.by_name["weight"].double():
        assert (line - expected).norm() <= (1e-10 if rows > 256 else 1e-6) * expected.norm()


@pytest.mark.parametrize("norm", [0.0, -1.0, 9e-4, 1001.0, math.nan, math.inf])
def test_a_clipping_norm_out_of_range_is_refused_before_a_row_is_looked_at(norm: float) -> None:
    def unseen(_outputs: Tensor) -> Tensor:
        raise AssertionError

    with pytest.raises(InputError, match="clipping norm"):
        require_clipping_norm(norm)
    with pytest.raises(InputError, match="clipping norm"):
        clipped_sum(nn.Linear(2, 2), torch.ones(1, 2), unseen, norm)


def test_what_is_too_great_to_be_summed_counts_zero() -> None:
    inputs = torch.tensor([[1.0], [2 * row_gradients.GREATEST], [1.0]])
    found = clipped_sum(nn.Linear(1, 1), inputs, lambda out: 1e-30 * out[:, 0], 1.0)
    assert (
        difference(found, clipped_sum(nn.Linear(1, 1), inputs[::2], lambda out: 1e-30 * out[:, 0], 1.0)) == 0
    )
