"""One site's part of a training round: a few noisy gradient steps.

The only module that imports Opacus, which draws true Poisson batches and clips
each record's gradient. Three things are ours, because its defaults are not what
the guarantee needs:

* the noise comes from the operating system (`clients.noise`), not from a seedable
  generator;
* the sum of clipped gradients is divided by a *stated* batch size (the stated rows
  times the sampling rate), for the true number of rows is data;
* the sampling rate is what the experiment states: Opacus takes `1/len(loader)`.

Guarantee: each step is a Poisson-sampled Gaussian mechanism with the L2
sensitivity `clipping_norm` (Abadi et al., 2016), for one record; with unit
`person`, at most `rows_per_person` rows of a person take part, so the
sensitivity is that many times as large, and the noise with it. A FedProx term
(Li et al., 2020) depends on no record and is added after the noise.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from opacus import GradSampleModule
from opacus.data_loader import DPDataLoader
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from clients.models import arrays_of, losses, module_for
from clients.noise import NormalSource, noisy
from clients.table import Table
from contract.experiment import Experiment
from contract.releases import ModelUpdate

__all__ = ["LocalSteps", "train_locally", "train_without_privacy"]

_PHYSICAL_ROWS = 4096
"""Rows whose gradients are held at once; a larger batch is summed in parts."""


@dataclass(frozen=True, kw_only=True)
class LocalSteps:
    """What a site does in one round.

    Attributes:
        experiment: gives model, learning rate, clipping norm and sampling rate.
        stated_rows: the public number of rows: it sets the expected batch size.
        noise_multiplier: noise standard deviation over the sensitivity.
    """

    experiment: Experiment
    stated_rows: int
    noise_multiplier: float


def train_locally(
    arrays: Mapping[str, np.ndarray[Any, Any]], table: Table, steps: LocalSteps, noise: NormalSource
) -> ModelUpdate:
    """Take the round's noisy steps from `arrays` on the rows of `table`.

    With unit `person`, the table holds at most `rows_per_person` rows of each.
    """
    experiment = steps.experiment
    privacy, strategy = experiment.privacy, experiment.strategy
    module = GradSampleModule(module_for(experiment, arrays))
    optimizer = _SystemNoiseOptimizer(
        torch.optim.SGD(module.parameters(), lr=strategy.learning_rate),
        noise_multiplier=steps.noise_multiplier * privacy.rows_per_person,
        max_grad_norm=privacy.clipping_norm,
        expected_batch_size=max(1, round(steps.stated_rows * privacy.sampling_rate)),
        source=noise,
    )
    start = [parameter.detach().clone() for parameter in module.parameters()]
    for inputs, labels in _poisson_batches(table, privacy.sampling_rate, strategy.local_steps):
        _clip_and_sum(module, optimizer, inputs, labels)
        optimizer.add_proximal_term(start, strategy.proximal_mu if strategy.name == "fedprox" else 0.0)
        optimizer.original_optimizer.step()
        optimizer.zero_grad()
    return ModelUpdate(arrays=arrays_of(module._module))


def train_without_privacy(
    arrays: Mapping[str, np.ndarray[Any, Any]], table: Table, experiment: Experiment, rng: np.random.Generator
) -> ModelUpdate:
    """Plain gradient steps on Poisson batches drawn from `rng`; no guarantee of any kind."""
    strategy = experiment.strategy
    module = module_for(experiment, arrays)
    optimizer = torch.optim.SGD(module.parameters(), lr=strategy.learning_rate)
    start = [parameter.detach().clone() for parameter in module.parameters()]
    for _ in range(strategy.local_steps):
        drawn = rng.random(len(table.labels)) < experiment.privacy.sampling_rate
        inputs, labels = _tensors(table)
        optimizer.zero_grad()
        expected = max(1.0, experiment.privacy.sampling_rate * len(table.labels))
        loss = losses(module(inputs[drawn]), labels[drawn]).sum() / expected
        loss.backward()  # type: ignore[no-untyped-call]
        if strategy.name == "fedprox":
            _add_proximal(list(module.parameters()), start, strategy.proximal_mu)
        optimizer.step()
    return ModelUpdate(arrays=arrays_of(module))


class _SystemNoiseOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus' optimizer with the noise of `clients.noise`."""

    def __init__(self, *args: Any, source: NormalSource, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._source = source

    def add_noise(self) -> None:
        """Add noise of `noise_multiplier` clipping norms to the summed gradient, once a batch."""
        deviation = self.noise_multiplier * self.max_grad_norm
        for parameter in self.params:
            summed = np.asarray(parameter.summed_grad.detach(), dtype=np.float64)
            released = noisy(summed, deviation, self._source)
            parameter.grad = torch.from_numpy(released.astype(np.float32)).view_as(parameter)

    def add_proximal_term(self, start: list[Tensor], weight: float) -> None:
        """Add the gradient of weight/2 · ||w - start||², after the noise."""
        if weight > 0:
            _add_proximal(self.params, start, weight)


def _add_proximal(parameters: list[Any], start: list[Tensor], weight: float) -> None:
    for parameter, origin in zip(parameters, start, strict=True):
        parameter.grad += weight * (parameter.detach() - origin)


def _poisson_batches(table: Table, rate: float, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """`count` batches, in each of which every row is with probability `rate`, independently."""
    generator = torch.Generator().manual_seed(secrets.randbits(63))
    if rate == 1 or len(table.labels) == 0:
        yield from (_tensors(table) for _ in range(count))
        return
    loader = DPDataLoader(TensorDataset(*_tensors(table)), sample_rate=rate, generator=generator)
    drawn = 0
    while drawn < count:
        for inputs, labels in loader:
            if drawn == count:
                return
            drawn += 1
            yield inputs, labels.long()


def _clip_and_sum(
    module: nn.Module, optimizer: _SystemNoiseOptimizer, inputs: Tensor, labels: Tensor
) -> None:
    """Sum the clipped gradients of the batch, add the noise once, scale by the expected size."""
    parts = max(1, math.ceil(len(labels) / _PHYSICAL_ROWS))
    for part in range(parts):
        rows = slice(part * _PHYSICAL_ROWS, (part + 1) * _PHYSICAL_ROWS)
        optimizer.zero_grad()
        if len(labels):
            part_inputs = (
                inputs[rows].detach().requires_grad_()
            )  # else Opacus' backward hooks warn at each step
            losses(module(part_inputs), labels[rows]).mean().backward()  # type: ignore[no-untyped-call]
        else:
            for parameter in optimizer.params:
                parameter.grad_sample = torch.zeros((0, *parameter.shape))
        optimizer.signal_skip_step(do_skip=part < parts - 1)
        optimizer.pre_step()


def _tensors(table: Table) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(table.features), torch.from_numpy(table.labels)
