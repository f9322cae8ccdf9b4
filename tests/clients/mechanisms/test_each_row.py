"""Rows of a module that nobody here has written: their gradients, and that no row reaches another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clients.mechanisms.clipping import SLACK, BatchSum, clip_factors, trainable
from clients.mechanisms.each_row import EachRow, steady

WIDTH, CLASSES, BLOCK, NORM = 24, 3, 8, 0.5


@pytest.fixture(autouse=True)
def _steady() -> Iterator[None]:
    with steady():
        yield


class Recurrent(nn.Module):
    """A layer that is called again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.remember = nn.Linear(6, 5), nn.Linear(5, 5, bias=False)
        self.output = nn.Linear(5, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        memory = torch.zeros(len(inputs), 5)
        for step in self.read(inputs.unflatten(1, (4, 6))).unbind(1):
            memory = torch.tanh(step + self.remember(memory))
        found: Tensor = self.output(memory)
        return found


class Library(nn.Module):
    """What torch itself writes as one operation."""

    def __init__(self, **more: Any) -> None:
        super().__init__()
        self.memory = nn.LSTM(6, 5, batch_first=True, **more)
        self.output = nn.Linear(10 if more.get("bidirectional") else 5, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        given, (hidden, kept) = self.memory(inputs.unflatten(1, (4, 6)))
        found: Tensor = self.output(given[:, 1]) + hidden.mean((0, 2))[:, None] + kept.mean((0, 2))[:, None]
        return found


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(6, 2, 12, dropout=0.0, batch_first=True)
        self.output = nn.Linear(6, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.output(self.encoder(inputs.unflatten(1, (4, 6))).mean(1))
        return found


class Image(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4)
        self.output = nn.Linear(96, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        pixels = torch.relu_(self.norm(self.convolution(inputs.unflatten(1, (1, 4, 6)))))
        found: Tensor = self.output(pixels.flatten(1))
        return found


class Codes(nn.Module):
    """An embedding, whose weight the output shares."""

    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Embedding(4, 6)
        self.output = nn.Linear(6, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        seen = self.codes((inputs.abs() * 3).clamp(0, 3).long()).mean(1)
        found: Tensor = self.output(seen + (seen @ self.codes.weight.T).sum(1, keepdim=True))
        return found


class Tied(nn.Module):
    """Two layers with one weight: the length of its gradient does not follow from theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.other.weight = self.one.weight
        self.output = nn.Linear(WIDTH, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.output(self.other(self.one(inputs)))
        return found


class Own(nn.Module):
    """A parameter of its own, and a constant buffer; one parameter is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH, CLASSES))
        self.frozen = nn.Parameter(torch.randn(CLASSES), requires_grad=False)
        self.register_buffer("scale", torch.tensor(0.5))

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = inputs @ self.weight * self.scale + self.frozen
        return found


class Branching(nn.Module):
    """What it computes depends on a row's values: vmap refuses that."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(WIDTH, CLASSES), nn.Linear(WIDTH, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.one(inputs) if float(inputs.sum()) > 0 else self.other(inputs)
        return found


MODULES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "recurrent": (Recurrent, "one pass"),
    "library": (Library, "one pass"),
    "library, both ways": (lambda: Library(num_layers=2, bidirectional=True), "one pass"),
    "library, no bias": (lambda: Library(bias=False, dropout=0.0), "one pass"),
    "attention": (Attention, "one pass"),
    "image": (Image, "one pass"),
    "codes": (Codes, "one pass"),
    "tied": (Tied, "one pass"),
    "own": (Own, "one pass"),
    "branching": (Branching, "each row"),
}


def loss(outputs: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, labels, reduction="none")


def as_it_is(outputs: Tensor) -> Tensor:
    return outputs


def batch(rows: int, *, seed: int = 1) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(rows, WIDTH, generator=draw), torch.randint(0, CLASSES, (rows,), generator=draw)


def made(build: Callable[[], nn.Module]) -> EachRow:
    torch.manual_seed(0)
    return EachRow(build().eval(), loss, as_it_is, *batch(4, seed=9))


def summed(apart: EachRow, rows: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """As a site does it."""
    with BatchSum(apart._module, BLOCK, add=apart.add) as total:
        return {name: value.double().clone() for name, value in total(rows, labels, NORM).by_name.items()}


def one_by_one(module: nn.Module, rows: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The clipped sum by the definition; a row that fails counts zero."""
    wanted = trainable(module)
    total = {name: torch.zeros(value.shape, dtype=torch.float64) for name, value in wanted.items()}
    for row, label in zip(rows, labels, strict=True):
        try:
            of_row = loss(module(row[None]), label[None]).sum()
        except IndexError:
            continue
        found = torch.autograd.grad(of_row, list(wanted.values()), allow_unused=True)
        gradients = [torch.zeros(1) if one is None else one.double() for one in found]
        norm = torch.stack([one.norm() for one in gradients]).norm()
        if not math.isfinite(norm):
            continue
        for name, one in zip(wanted, gradients, strict=True):
            total[name] += clip_factors(norm, NORM) * one
    return total


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return math.sqrt(sum(float((one[name] - other[name]).square().sum()) for name in one))


@pytest.mark.parametrize("kind", MODULES)
def test_the_sum_is_that_of_the_definition(kind: str) -> None:
    build, way = MODULES[kind]
    apart, (rows, labels) = made(build), batch(19)
    assert apart.way == way
    found = summed(apart, rows, labels)
    wanted = one_by_one(apart._module, rows, labels)
    assert found.keys() == wanted.keys()
    assert distance(found, wanted) < 1e-4 * NORM
    assert distance(found, {name: torch.zeros_like(one) for name, one in found.items()}) > NORM


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("spoilt", [math.nan, math.inf, 1e30])
def test_a_row_more_changes_the_sum_by_the_norm_at_most_whatever_it_holds(kind: str, spoilt: float) -> None:
    apart, (rows, labels) = made(MODULES[kind][0]), batch(19)
    without = summed(apart, rows[:-1], labels[:-1])
    rows[-1] = spoilt
    assert distance(summed(apart, rows, labels), without) <= NORM * (1 + SLACK)


class Holding(nn.Module):
    """Wants to carry what it saw from one row to another."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.linear = how, nn.Linear(WIDTH, CLASSES)
        self.calls = 0
        self.seen: list[Tensor] = []
        self.register_buffer("last", torch.zeros(1, WIDTH))

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        if self.how == "counter":
            inputs = inputs * self.calls
        if self.how == "list":
            self.seen.append(inputs.detach().clone())
            inputs = inputs + 10 * self.seen[0].mean()
        if self.how == "buffer":
            inputs = inputs + 10 * self.last
            self.last = inputs.detach().clone()
        if self.how == "in place":
            inputs = inputs + 10 * self.last
            self.last.copy_(inputs.detach())
        if self.how == "parameter":
            with torch.no_grad():
                self.linear.weight.add_(inputs.mean())
        if self.how == "mean":
            inputs = inputs - 10 * inputs.mean(0)
        found: Tensor = self.linear(inputs)
        return found


HOLDS = ["counter", "list", "buffer", "in place", "parameter", "mean"]


@pytest.mark.parametrize("how", HOLDS)
def test_no_row_reaches_another_through_what_a_module_keeps(how: str) -> None:
    """What the last rows add is the same whichever rows came before, in their block and earlier."""
    apart = made(lambda: Holding(how))
    (rows, labels), (others, _) = batch(2 * BLOCK + 3), batch(2 * BLOCK + 3, seed=2)
    begin = 2 * BLOCK + 1
    added = []
    for first in (rows, others):
        both = torch.cat([first[:begin], rows[begin:]])
        before, after = summed(apart, both[:begin], labels[:begin]), summed(apart, both, labels)
        added.append({name: after[name] - before[name] for name in after})
    assert distance(*added) < 1e-5 * NORM
    assert distance(added[0], {name: torch.zeros_like(one) for name, one in added[0].items()}) > 0


@pytest.mark.parametrize("how", ["counter", "buffer", "in place"])
def test_without_a_fresh_copy_it_would_have(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail."""
    monkeypatch.setattr(EachRow, "_fresh", lambda self: self._module)
    with pytest.raises(AssertionError):
        test_no_row_reaches_another_through_what_a_module_keeps(how)


class Raising(nn.Module):
    """Fails on some rows alone."""

    def __init__(self, branches: bool) -> None:
        super().__init__()
        self.branches, self.codes, self.output = branches, nn.Embedding(4, 6), nn.Linear(6, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.branches and float(inputs.sum()) > 1e6:
            raise IndexError("a large row")
        found: Tensor = self.output(self.codes(inputs.abs().long()).mean(1))
        return found


@pytest.mark.parametrize("branches", [False, True])
def test_a_row_that_raises_an_error_counts_zero_and_no_other_does(branches: bool) -> None:
    torch.manual_seed(0)
    rows, labels = batch(19)
    rows = rows.clamp(-3, 3)
    apart = EachRow(Raising(branches).eval(), loss, as_it_is, rows[:4], labels[:4])
    assert apart.way == ("each row" if branches else "one pass")
    without = summed(apart, rows[:-1], labels[:-1])
    rows[-1] = 1e7
    assert distance(summed(apart, rows, labels), without) < 1e-6 * NORM
    spoilt = apart.outputs(rows[-BLOCK:])
    assert spoilt[-1].isnan().all()
    rows[-1] = 0
    assert torch.equal(apart.outputs(rows[-BLOCK:])[:-1], spoilt[:-1])


@pytest.mark.parametrize("kind", MODULES)
def test_outputs_are_those_of_the_module(kind: str) -> None:
    apart, (rows, _) = made(MODULES[kind][0]), batch(BLOCK)
    wanted = torch.cat([apart._module(row[None]) for row in rows])
    assert torch.allclose(apart.outputs(rows), wanted, atol=1e-5)


def test_parameters_that_change_are_taken_as_they_are() -> None:
    apart, (rows, labels) = made(Recurrent), batch(BLOCK)
    with torch.no_grad():
        for value in apart._module.parameters():
            value.add_(0.1)
    assert distance(summed(apart, rows, labels), one_by_one(apart._module, rows, labels)) < 1e-4 * NORM


class Uncopied(nn.Linear):
    def __deepcopy__(self, _memo: Any) -> Uncopied:
        return self


def test_a_module_that_gives_itself_for_a_copy_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be copied"):
        made(lambda: Uncopied(WIDTH, CLASSES))


def test_a_call_has_fewer_rows_where_single_gradients_are_long(monkeypatch: pytest.MonkeyPatch) -> None:
    apart = made(Image)
    assert apart.rows_at_once(4096) == 4096
    monkeypatch.setattr(apart, "_others", lambda: {"long": torch.zeros(2**20)})
    assert apart.rows_at_once(4096) == 32
