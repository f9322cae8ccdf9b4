"""One site's part of a training round: a few noisy gradient steps.

The only module that imports Opacus, which draws true Poisson batches, and takes
apart the gradients of modules that `clients.mechanisms.clipping` does not know. Four things
are ours, because its defaults are not what the guarantee needs:

* the noise comes from the operating system (`clients.mechanisms.noise`), not from a seedable
  generator;
* the sum of clipped gradients is divided by a *stated* batch size (the stated rows
  times the sampling rate), for the true number of rows is data;
* the sampling rate is what the experiment states: Opacus takes `1/len(loader)`;
* a record whose gradient is not finite counts zero, and does not make the sum NaN.

Guarantee: each step is a Poisson-sampled Gaussian mechanism with the L2
sensitivity `clipping_norm` (Abadi et al., 2016), for one record; with unit
`person`, at most `rows_per_person` rows of a person take part, so the
sensitivity is that many times as large, and the noise with it. A FedProx term
(Li et al., 2020) depends on no record and is added after the noise.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from clients.mechanisms.clipping import clip_factors, clipped_sum, supports
from clients.mechanisms.models import arrays_of, losses, module_for
from clients.mechanisms.noise import NormalSource, add_noise, deviation_for
from clients.rows.table import Table
from contract.experiment import Experiment, Strategy
from contract.releases import ModelUpdate

__all__ = ["LocalSteps", "train_locally", "train_without_privacy"]

_PHYSICAL_ROWS = 4096
"""Rows whose gradients are held at once; a larger batch is summed in parts."""

_TakeSum = Callable[[nn.Module, Tensor, Callable[[Tensor], Tensor], float], dict[str, Tensor]]


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
    expected_rows = max(1, round(steps.stated_rows * privacy.sampling_rate))
    module = module_for(experiment, arrays)
    take_sum = (
        clipped_sum if supports(module, torch.zeros(1, experiment.task.width)) else _clipped_sum_by_opacus
    )
    deviation = deviation_for(
        steps.noise_multiplier,
        privacy.rows_per_person * privacy.clipping_norm,
        sum(parameter.numel() for parameter in module.parameters()),
    )
    start = [parameter.detach().clone() for parameter in module.parameters()]
    for inputs, labels in _poisson_batches(table, privacy.sampling_rate, strategy.local_steps):
        sums = _clip_and_sum(take_sum, module, inputs, labels, privacy.clipping_norm)
        add_noise([summed.numpy() for summed in sums.values()], deviation, noise)
        _descend(module, start, list(sums.values()), expected_rows, strategy)
    return ModelUpdate(arrays=arrays_of(module))


def train_without_privacy(
    arrays: Mapping[str, np.ndarray[Any, Any]], table: Table, experiment: Experiment, rng: np.random.Generator
) -> ModelUpdate:
    """Plain gradient steps on Poisson batches drawn from `rng`; no guarantee of any kind."""
    strategy = experiment.strategy
    module = module_for(experiment, arrays)
    start = [parameter.detach().clone() for parameter in module.parameters()]
    for _ in range(strategy.local_steps):
        drawn = rng.random(len(table.labels)) < experiment.privacy.sampling_rate
        inputs, labels = _tensors(table)
        expected = max(1.0, experiment.privacy.sampling_rate * len(table.labels))
        loss = losses(module(inputs[drawn]), labels[drawn]).sum()
        _descend(module, start, torch.autograd.grad(loss, list(module.parameters())), expected, strategy)
    return ModelUpdate(arrays=arrays_of(module))


def _descend(
    module: nn.Module, start: list[Tensor], sums: Sequence[Tensor], rows: float, strategy: Strategy
) -> None:
    """One step along the sums of `rows` gradients; with FedProx, pulled to where the round began.

    Without torch.optim, whose first optimizer loads a compiler for a second.
    """
    with torch.no_grad():
        for parameter, origin, summed in zip(module.parameters(), start, sums, strict=True):
            if strategy.name == "fedprox":
                summed.add_(parameter - origin, alpha=strategy.proximal_mu * rows)
            parameter.sub_(summed, alpha=strategy.learning_rate / rows)


def _poisson_batches(table: Table, rate: float, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """`count` batches, in each of which every row is with probability `rate`, independently."""
    generator = torch.Generator().manual_seed(secrets.randbits(63))
    if rate == 1 or len(table.labels) == 0:
        yield from (_tensors(table) for _ in range(count))
        return
    from opacus.data_loader import DPDataLoader

    loader = DPDataLoader(TensorDataset(*_tensors(table)), sample_rate=rate, generator=generator)
    drawn = 0
    while drawn < count:
        for inputs, labels in loader:
            if drawn == count:
                return
            drawn += 1
            yield inputs, labels.long()


def _clip_and_sum(
    take_sum: _TakeSum, module: nn.Module, inputs: Tensor, labels: Tensor, clipping_norm: float
) -> dict[str, Tensor]:
    """By parameter, the sum of the batch's clipped gradients, `_PHYSICAL_ROWS` rows at a time."""
    sums: dict[str, Tensor] = {}
    parts = zip(torch.split(inputs, _PHYSICAL_ROWS), torch.split(labels, _PHYSICAL_ROWS), strict=True)
    for part, part_labels in parts:
        found = take_sum(module, part, partial(losses, labels=part_labels), clipping_norm)
        sums = {name: sums[name] + value if sums else value for name, value in found.items()}
    return sums


def _clipped_sum_by_opacus(
    module: nn.Module, inputs: Tensor, loss_of: Callable[[Tensor], Tensor], clipping_norm: float
) -> dict[str, Tensor]:
    """What `clipped_sum` returns, for any module that Opacus takes apart: it holds every row's gradient."""
    from opacus import GradSampleModule

    trainable = {name: value for name, value in module.named_parameters() if value.requires_grad}
    if len(inputs) == 0:
        return {name: torch.zeros_like(value) for name, value in trainable.items()}
    hooked = GradSampleModule(module, loss_reduction="sum")
    # inputs without a derivative make Opacus' backward hooks warn at each step
    loss_of(hooked(inputs.detach().requires_grad_())).sum().backward()  # type: ignore[no-untyped-call]
    gradients: dict[str, Tensor] = {name: value.grad_sample for name, value in trainable.items()}  # type: ignore[attr-defined]
    hooked.to_standard_module()
    norms = torch.stack([value.flatten(1).norm(dim=1) for value in gradients.values()]).norm(dim=0)
    finite = norms.isfinite()
    factors = clip_factors(norms[finite], clipping_norm)
    return {name: torch.einsum("n,n...->...", factors, value[finite]) for name, value in gradients.items()}


def _tensors(table: Table) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(table.features), torch.from_numpy(table.labels)
