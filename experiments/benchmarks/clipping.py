"""What a private gradient step costs over a plain one, in time and in memory.

A private step is forward, sum of clipped gradients, system noise and update, as
`clients.mechanisms.training` takes it; the alternative is Opacus with its hooks and its own noise,
which does not come from the operating system.
Plain, private and Opacus' steps take turns in one process; memory is measured in a fresh process each.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn

from clients.mechanisms.blocks import block_rows, one_thread
from clients.mechanisms.clipping import BatchSum, trainable
from clients.mechanisms.models import Layers, LogLoss
from clients.mechanisms.noise import SystemNoise, add_noise
from clients.mechanisms.training import descend
from experiments.benchmarks.measurement import Measurement

__all__ = ["Setting", "Step", "measure", "private_step", "step_times"]

_THREADS = 2
_CLIPPING_NORM = 1.0
_LEARNING_RATE = 1e-3
_MEMORY_STEPS = 5
_IN_A_ROW = 4

Step = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A module, a batch, and the most that a private step may cost over a plain one.

    Attributes:
        for_opacus: builds what Opacus takes in the module's place; None where it takes the module.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    rows: int
    classes: int
    turns: int
    goal: float
    for_opacus: Callable[[], nn.Module] | None = None


def _convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(1568, 1000), nn.ReLU(), nn.Linear(1000, 10),
    )  # fmt: skip


_SETTINGS = {
    "small": Setting(
        name="MLP 64-128-28-1, 12k parameters, batch 256",
        build=partial(Layers, (64, 128, 28, 1)),
        shape=(64,),
        rows=256,
        classes=2,
        turns=100,
        goal=1.4,
    ),
    "large": Setting(
        name="MLP 784-1000-800-10, 1.6M parameters, batch 256",
        build=partial(Layers, (784, 1000, 800, 10)),
        shape=(784,),
        rows=256,
        classes=10,
        turns=15,
        goal=1.8,
    ),
    "cnn": Setting(
        name="CNN 1-16-32 on 28×28, then 1568-1000-10, 1.6M parameters, batch 64",
        build=_convolutions,
        shape=(1, 28, 28),
        rows=64,
        classes=10,
        turns=15,
        goal=2.0,
    ),
}
_TINY = Setting(name="", build=partial(Layers, (4, 3, 1)), shape=(4,), rows=8, classes=2, turns=1, goal=1.0)


def measure() -> list[Measurement]:
    """Time and peak memory for three modules; about a minute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(_THREADS)
    try:
        times = [_times(setting) for setting in _SETTINGS.values()]
    finally:
        torch.set_num_threads(threads)
    return times + [_memory(key) for key in _SETTINGS]


def step_times(setting: Setting, private: Step) -> dict[str, float]:
    """The median seconds of a step, `plain`, `private` and of `opacus`, which take turns."""
    plain, opacus = _plain(setting), _opacus(setting)
    seconds: dict[str, list[float]] = {"plain": [], "private": [], "opacus": []}
    rare = max(1, setting.turns // 8)  # Opacus' steps are up to a hundred times as long
    for turn in range(setting.turns):
        if turn % rare == 0:
            seconds["opacus"].append(_seconds(opacus))
        order = [("plain", plain), ("private", private)]
        for name, step in order if turn % 2 else reversed(order):
            step()  # as in training, a step follows one of its kind: threads of the other have gone to sleep
            seconds[name] += [_seconds(step) for _ in range(_IN_A_ROW)]
    return {name: statistics.median(values[len(values) // 8 :]) for name, values in seconds.items()}


def _times(setting: Setting) -> Measurement:
    medians = step_times(setting, _private(setting))
    noise = _share_of_noise(setting, medians["private"])
    return Measurement(
        name=f"private step, {setting.name}",
        ours=medians["private"] / medians["plain"],
        theirs=medians["opacus"] / medians["plain"],
        unit="ratio over a plain step",
        goal=setting.goal,
        note=f"theirs: Opacus' hooks; plain {1000 * medians['plain']:.2f} ms; noise is {noise:.0%} of ours",
    )


def _share_of_noise(setting: Setting, whole: float) -> float:
    sums = [torch.zeros_like(parameter.detach()).numpy() for parameter in setting.build().parameters()]

    def step() -> None:
        add_noise(sums, 1.0, SystemNoise())

    return statistics.median(_seconds(step) for _ in range(20)) / whole


def _memory(key: str) -> Measurement:
    plain, private, opacus = (_in_a_process(key, kind) for kind in _STEPS)
    return Measurement(
        name=f"peak memory of steps, {_SETTINGS[key].name}",
        ours=private / plain,
        theirs=opacus / plain,
        unit="ratio over plain steps",
        goal=1.2,
        note=f"growth over the process before them; plain {plain / 2**20:.1f} MiB, theirs: Opacus' hooks",
    )


def _in_a_process(key: str, kind: str) -> float:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_growth, key, kind).result()


def _growth(key: str, kind: str) -> float:
    """Bytes by which the process grows in a few steps; the code is loaded by a tiny step before."""
    torch.set_num_threads(_THREADS)
    _STEPS[kind](_TINY)()
    step = _STEPS[kind](_SETTINGS[key])
    before = psutil.Process().memory_info().rss
    for _ in range(_MEMORY_STEPS):
        step()
    return _peak() - before


def _peak() -> int:
    """The most bytes that this process held: `ru_maxrss` would begin with those of the process before it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def _batch(
    setting: Setting, build: Callable[[], nn.Module] | None = None
) -> tuple[nn.Module, torch.optim.SGD, Tensor, LogLoss]:
    torch.manual_seed(0)
    module = (build or setting.build)()
    inputs = torch.randn(setting.rows, *setting.shape)
    labels = torch.randint(0, setting.classes, (setting.rows,))
    optimizer = torch.optim.SGD(module.parameters(), lr=_LEARNING_RATE)
    return module, optimizer, inputs, LogLoss(labels)


def _plain(setting: Setting) -> Step:
    module, optimizer, inputs, loss_of = _batch(setting)

    def step() -> None:
        optimizer.zero_grad()
        loss_of(module(inputs)).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _private(setting: Setting) -> Step:
    module, _, inputs, loss_of = _batch(setting)
    size = sum(parameter.numel() for parameter in module.parameters())
    take_sum = BatchSum(module, block_rows(setting.rows, size))
    return private_step(module, take_sum, inputs, loss_of.labels)


def private_step(module: nn.Module, take_sum: BatchSum, inputs: Tensor, labels: Tensor) -> Step:
    """As `clients.mechanisms.training` takes it: sum, noise, update."""
    parameters = trainable(module)

    def step() -> None:
        with one_thread():
            sums = take_sum(inputs, labels, _CLIPPING_NORM)
            add_noise([sums.flat.numpy()], _CLIPPING_NORM, SystemNoise())
            descend(parameters, sums.by_name, _LEARNING_RATE / len(inputs))

    return step


def _opacus(setting: Setting) -> Step:
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    module, optimizer, inputs, loss_of = _batch(setting, setting.for_opacus)
    hooked = GradSampleModule(module)
    private = DPOptimizer(
        optimizer, noise_multiplier=1.0, max_grad_norm=_CLIPPING_NORM, expected_batch_size=setting.rows
    )
    inputs.requires_grad_()

    def step() -> None:
        private.zero_grad()
        inputs.grad = None
        loss_of(hooked(inputs)).mean().backward()  # type: ignore[no-untyped-call]
        private.step()

    return step


_STEPS: dict[str, Callable[[Setting], Step]] = {"plain": _plain, "private": _private, "opacus": _opacus}


def _seconds(step: Step) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began
