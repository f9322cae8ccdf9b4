"""What a private gradient step costs over a plain one for modules that a package may bring.

Ours takes them row by row (`clients.mechanisms.each_row`), and the note says which way it found; theirs is
Opacus with its hooks. Opacus does not take `nn.LSTM`: there it has its own in the module's place. Plain,
private and Opacus' steps take turns in one process, on one thread each, so that a machine's other work
falls on all alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clients.mechanisms.blocks import block_rows
from clients.mechanisms.clipping import BatchSum
from clients.mechanisms.each_row import EachRow, steady
from clients.mechanisms.models import LogLoss
from experiments.benchmarks.clipping import Setting, private_step, step_times
from experiments.benchmarks.measurement import Measurement

__all__ = ["Attention", "ResNet8", "WrittenOut", "measure"]

_GOAL = 2.5
"""Of one pass over a plain step."""
_STEPS, _READ = 24, 16
"""Of a sequence: its length, and the numbers at each place."""


class _Residual(nn.Module):
    """Two convolutions with GroupNorm, and a way around them (He et al., 2016)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.convolution1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(4, after)
        self.convolution2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(4, after)
        self.around = nn.Conv2d(before, after, 1, stride, bias=False) if before != after else nn.Identity()

    def forward(self, pixels: Tensor) -> Tensor:
        """Of shape (rows, channels, height, width)."""
        inner = torch.relu(self.norm1(self.convolution1(pixels)))
        return torch.relu(self.norm2(self.convolution2(inner)) + self.around(pixels))


class ResNet8(nn.Module):
    """Three residual blocks on 32×32 pixels of three colours, 78k parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.begin, self.norm = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.GroupNorm(4, 16)
        self.blocks = nn.Sequential(_Residual(16, 16, 1), _Residual(16, 32, 2), _Residual(32, 64, 2))
        self.output = nn.Linear(64, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits of rows of 3072 pixels."""
        pixels = torch.relu(self.norm(self.begin(torch.unflatten(inputs, 1, (3, 32, 32)))))
        found: Tensor = self.output(self.blocks(pixels).mean((2, 3)))
        return found


class _Lstm(nn.Module):
    """A recurrent network (Hochreiter and Schmidhuber, 1997), by a layer that is given."""

    def __init__(self, memory: nn.Module) -> None:
        super().__init__()
        self.memory, self.output = memory, nn.Linear(32, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits of sequences."""
        found: Tensor = self.output(self.memory(torch.unflatten(inputs, 1, (_STEPS, _READ)))[0][:, -1])
        return found


class WrittenOut(nn.Module):
    """The same by linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.remember = nn.Linear(_READ, 128), nn.Linear(32, 128, bias=False)
        self.output = nn.Linear(32, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits of sequences."""
        hidden = kept = inputs.new_zeros(len(inputs), 32)
        for step in self.read(torch.unflatten(inputs, 1, (_STEPS, _READ))).unbind(1):
            enter, forget, change, give = (step + self.remember(hidden)).chunk(4, 1)
            kept = torch.sigmoid(forget) * kept + torch.sigmoid(enter) * torch.tanh(change)
            hidden = torch.sigmoid(give) * torch.tanh(kept)
        found: Tensor = self.output(hidden)
        return found


class Attention(nn.Module):
    """One block of a transformer (Vaswani et al., 2017), 8k parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.asked, self.joined = nn.Linear(_READ, 32), nn.Linear(32, 96), nn.Linear(32, 32)
        self.norm1, self.norm2 = nn.LayerNorm(32), nn.LayerNorm(32)
        self.wide, self.narrow, self.output = nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits of sequences."""
        seen = self.read(torch.unflatten(inputs, 1, (_STEPS, _READ)))
        parts = self.asked(self.norm1(seen)).chunk(3, 2)
        asked, keys, values = (torch.unflatten(part, 2, (4, 8)).transpose(1, 2) for part in parts)
        given = nn.functional.scaled_dot_product_attention(asked, keys, values).transpose(1, 2).flatten(2)
        seen = seen + self.joined(given)
        seen = seen + self.narrow(torch.relu(self.wide(self.norm2(seen))))
        found: Tensor = self.output(seen.mean(1))
        return found


def _lstm() -> nn.Module:
    return _Lstm(nn.LSTM(_READ, 32, batch_first=True))


def _lstm_of_opacus() -> nn.Module:
    from opacus.layers import DPLSTM

    return _Lstm(DPLSTM(_READ, 32, batch_first=True))


@dataclass(frozen=True, kw_only=True)
class _Sequence:
    """A module that reads sequences."""

    name: str
    build: Callable[[], nn.Module]
    goal: float | None
    for_opacus: Callable[[], nn.Module] | None = None

    def setting(self) -> Setting:
        """256 rows of it."""
        return Setting(
            name=f"{self.name}, sequences of {_STEPS}, batch 256",
            build=self.build,
            shape=(_STEPS * _READ,),
            rows=256,
            classes=2,
            turns=8,
            goal=self.goal or 0.0,
            for_opacus=self.for_opacus,
        )


_SETTINGS = (
    Setting(
        name="ResNet-8 with GroupNorm, 78k parameters, 32×32 pixels, batch 64",
        build=ResNet8,
        shape=(3072,),
        rows=64,
        classes=10,
        turns=4,
        goal=_GOAL,
    ),
    _Sequence(name="small transformer, 8k parameters", build=Attention, goal=_GOAL).setting(),
    _Sequence(name="LSTM of linear layers", build=WrittenOut, goal=None).setting(),
    _Sequence(name="nn.LSTM", build=_lstm, goal=None, for_opacus=_lstm_of_opacus).setting(),
)


def measure(told: Callable[[int, str], None] = lambda _done, _note: None) -> list[Measurement]:
    """Four modules; a minute or two. The goal is Opacus' own cost where one pass cannot note the layers."""
    found = []
    for number, setting in enumerate(_SETTINGS):
        told(100 * number // len(_SETTINGS), f"({setting.name})")
        with steady():
            found.append(_measured(setting))
    return found


def _measured(setting: Setting) -> Measurement:
    torch.manual_seed(0)
    module = setting.build().eval()
    inputs = torch.randn(setting.rows, *setting.shape)
    labels = torch.randint(0, setting.classes, (setting.rows,))
    apart = EachRow(module, _loss, _as_it_is, inputs[:4], labels[:4])
    size = sum(parameter.numel() for parameter in module.parameters())
    block = apart.rows_at_once(block_rows(setting.rows, size))
    with BatchSum(module, block, add=apart.add) as take_sum:
        medians = step_times(setting, private_step(module, take_sum, inputs, labels))
    theirs = medians["opacus"] / medians["plain"]
    return Measurement(
        name=f"private step, {setting.name}",
        ours=medians["private"] / medians["plain"],
        theirs=theirs,
        unit="ratio over a plain step",
        goal=min(setting.goal or theirs, theirs),
        note=f"{apart.way}; theirs: Opacus' hooks; plain {1000 * medians['plain']:.2f} ms",
    )


def _loss(outputs: Tensor, labels: Tensor) -> Tensor:
    return LogLoss(labels)(outputs)


def _as_it_is(outputs: Tensor) -> Tensor:
    return outputs
