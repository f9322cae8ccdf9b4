"""One site's part of a training round: a few noisy gradient steps.

The only module that imports Opacus, which takes apart the gradients of modules
that `clients.mechanisms.clipping` does not know. Three things are ours, because
its defaults are not what the guarantee needs:

* batches are drawn with the rate that the experiment states, and the noise is made,
  from the operating system's entropy (`sampling`, `noise`), not from a seedable
  generator;
* the sum of clipped gradients is divided by a *stated* batch size (the stated rows
  times the sampling rate), for the true number of rows is data;
* a record's contribution is bounded in double precision, and is zero if anything
  of it is not finite (`clipping`).

Guarantee: each step is a Poisson-sampled Gaussian mechanism with the L2
sensitivity `clipping_norm` · (1 + `SLACK`) (Abadi et al., 2016), for one record;
with unit `person`, at most `rows_per_person` rows of a person take part, so the
sensitivity is that many times as large, and the noise with it. A FedProx term
(Li et al., 2020) depends on no record and is added after the noise.

It is total: whatever the model's arrays and the rows hold, and if there is no row
at all, an update of finite numbers comes out. What a noisy step makes infinite is
set to float32's greatest number, and what it makes NaN to 0, after the noise, where
nothing can tell more of the rows.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from clients.mechanisms.blocks import MOST_ROWS, block_rows, in_blocks, one_thread
from clients.mechanisms.clipping import (
    SLACK,
    BatchSum,
    Sums,
    Tally,
    clipped_sum_of_rows,
    require_clipping_norm,
    supports,
    trainable,
)
from clients.mechanisms.derivatives import LossOf, row_losses
from clients.mechanisms.devices import CPU, Wish, device_for, exact, in_use, usable
from clients.mechanisms.each_row import steady
from clients.mechanisms.models import RowLoss, arrays_of, loss_for, module_for
from clients.mechanisms.noise import NormalSource, add_noise, deviation_for, require_deviation
from clients.mechanisms.packaged import each_row, losses_of
from clients.mechanisms.places import require_same_bits
from clients.mechanisms.sampling import poisson_sample, require_rate
from clients.mechanisms.trial import require_sound
from clients.rows.table import Table
from contract.experiment import Experiment, Strategy
from contract.installed_models import load
from contract.models import parameter_count
from contract.releases import ModelUpdate

__all__ = [
    "LocalSteps",
    "TakeSum",
    "descend",
    "require_places",
    "summing",
    "tensors",
    "train_locally",
    "train_without_privacy",
]

_log = logging.getLogger("tidegate.site")


class TakeSum(Protocol):
    """Sums the clipped gradients of a batch, as `BatchSum` does."""

    def __call__(
        self, inputs: Tensor, labels: Tensor, clipping_norm: float, *, tally: Tally | None = None
    ) -> Sums:
        """Of inputs and labels; the tally is told of each row."""
        ...


@dataclass(frozen=True, kw_only=True)
class LocalSteps:
    """What a site does in one round.

    Attributes:
        experiment: gives model, learning rate, clipping norm and sampling rate.
        stated_rows: the public number of rows: it sets the expected batch size.
        noise_multiplier: noise standard deviation over the sensitivity.
        device: where sums are computed, as `require_places` gives it.
    """

    experiment: Experiment
    stated_rows: int
    noise_multiplier: float
    device: torch.device = CPU


def require_places(experiment: Experiment, stated_rows: int, wish: Wish = "cpu") -> torch.device:
    """Refuse to train a model privately on a machine where a row's place changes its gradient.

    Returns:
        Where it is trained, by the site's wish and by a trial on public numbers.

    Raises:
        InputError: see `clients.mechanisms.places.require_same_bits`.
    """
    require_sound(experiment)
    size = parameter_count(experiment)
    rows = block_rows(_expected_rows(experiment, stated_rows), size)
    return usable(wish, size, functools.partial(require_same_bits, experiment, rows, training=True))


def _expected_rows(experiment: Experiment, stated_rows: int) -> int:
    return max(1, round(stated_rows * experiment.privacy.sampling_rate))


def train_locally(
    arrays: Mapping[str, np.ndarray[Any, Any]], table: Table, steps: LocalSteps, noise: NormalSource
) -> ModelUpdate:
    """Take the round's noisy steps from `arrays` on the rows of `table`.

    With unit `person`, the table holds at most `rows_per_person` rows of each.

    Raises:
        InputError: clipping norm, sampling rate or noise are none, whatever the rows are.
    """
    experiment = steps.experiment
    privacy, strategy = experiment.privacy, experiment.strategy
    expected_rows = _expected_rows(experiment, steps.stated_rows)
    require_clipping_norm(privacy.clipping_norm)
    require_rate(privacy.sampling_rate)
    with summing(arrays, steps) as (module, take_sum):
        deviation = deviation_for(
            steps.noise_multiplier,
            privacy.rows_per_person * privacy.clipping_norm * (1 + SLACK),
            sum(parameter.numel() for parameter in module.parameters()),
        )
        require_deviation(deviation, noise)
        parameters = trainable(module)
        start = _copied(parameters)
        for inputs, labels in _poisson_batches(table, privacy.sampling_rate, strategy.local_steps):
            sums = take_sum(inputs, labels, privacy.clipping_norm)
            _add_noise(sums, deviation, noise)
            _pull(parameters, start, strategy)
            descend(parameters, sums.by_name, strategy.learning_rate / expected_rows)
    return _update(module)


def _add_noise(sums: Sums, deviation: float, noise: NormalSource) -> None:
    """In the place of the sums; on the processor, wherever they are."""
    values = sums.flat.cpu()  # themselves, if they are there
    add_noise([values.numpy()], deviation, noise)
    if values is not sums.flat:
        sums.flat.copy_(values)


@contextmanager
def summing(
    arrays: Mapping[str, np.ndarray[Any, Any]], steps: LocalSteps
) -> Iterator[tuple[nn.Module, TakeSum]]:
    """The model with these parameters, and what sums the clipped gradients of a batch by it.

    Every call on rows has as many as public facts say, so that a row's numbers are its own.

    Args:
        arrays: the parameters.
        steps: name the model, its loss, the stated rows and the device.
    """
    experiment, device = steps.experiment, steps.device
    is_package = experiment.model.kind == "package"
    apart, module = (
        each_row(experiment, arrays, device)
        if is_package
        else (None, module_for(experiment, arrays).to(device))
    )
    size = sum(parameter.numel() for parameter in module.parameters())
    rows = block_rows(_expected_rows(experiment, steps.stated_rows), size)
    loss = functools.partial(loss_for, experiment.task.label)
    with one_thread(), in_use(device), ExitStack() as held:
        take_sum: TakeSum
        if apart is not None:
            held.enter_context(steady())
            batch_sum = BatchSum(module, apart.rows_at_once(rows), loss, add=apart.add)
            take_sum = held.enter_context(batch_sum)
        elif supports(module, torch.zeros(1, experiment.task.width, device=device)):
            take_sum = held.enter_context(BatchSum(module, rows, loss))
        else:
            take_sum = functools.partial(_sum_by_opacus, module, Sums(trainable(module)), loss)
        yield module, take_sum


def train_without_privacy(
    arrays: Mapping[str, np.ndarray[Any, Any]],
    table: Table,
    experiment: Experiment,
    rng: np.random.Generator,
    wish: Wish = "cpu",
) -> ModelUpdate:
    """Plain gradient steps on Poisson batches drawn from `rng`; no guarantee of any kind.

    Where a device fails they are taken again on the processor, which the site's log says.
    """
    device, again = device_for(wish, parameter_count(experiment)), copy.deepcopy(rng)
    try:
        with exact(device):
            return _plain_steps(arrays, table, experiment, rng, device)
    except RuntimeError as exc:
        if device == CPU:
            raise
        _log.warning("trained on the processor, because %s failed: %s", device, exc)
        return _plain_steps(arrays, table, experiment, again, CPU)


def _plain_steps(
    arrays: Mapping[str, np.ndarray[Any, Any]],
    table: Table,
    experiment: Experiment,
    rng: np.random.Generator,
    device: torch.device,
) -> ModelUpdate:
    strategy = experiment.strategy
    module = module_for(experiment, arrays).to(device)
    parameters = trainable(module)
    start = _copied(parameters)
    for _ in range(strategy.local_steps):
        drawn = rng.random(len(table.labels)) < experiment.privacy.sampling_rate
        inputs, labels = tensors(table)
        expected = max(1.0, experiment.privacy.sampling_rate * len(table.labels))
        loss = _losses(experiment, module(inputs[drawn].to(device)), labels[drawn].to(device)).sum()
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        _pull(parameters, start, strategy)
        descend(parameters, dict(zip(parameters, gradients, strict=True)), strategy.learning_rate / expected)
    return _update(module)


def _losses(experiment: Experiment, outputs: Tensor, labels: Tensor) -> Tensor:
    if experiment.model.kind == "package":
        return losses_of(load(experiment.model), experiment.task.label, outputs, labels)
    return loss_for(experiment.task.label, labels)(outputs)


def _copied(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


def _pull(parameters: Mapping[str, Tensor], start: Mapping[str, Tensor], strategy: Strategy) -> None:
    """With FedProx, pull the parameters to where the round began, by a step."""
    if strategy.name != "fedprox":
        return
    rate = _as_float32(strategy.learning_rate * strategy.proximal_mu)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.sub_(parameter - start[name], alpha=rate)


def descend(parameters: Mapping[str, Tensor], sums: Mapping[str, Tensor], rate: float) -> None:
    """One step of `rate` along the sums of gradients.

    Without torch.optim, whose first optimizer loads a compiler for a second.
    """
    rate = _as_float32(rate)
    with torch.no_grad():
        for name, summed in sums.items():
            parameters[name].sub_(summed.float(), alpha=rate)


def _as_float32(rate: float) -> float:
    """torch refuses a factor that is infinite in single precision."""
    return min(rate, torch.finfo(torch.float32).max)


def _update(module: nn.Module) -> ModelUpdate:
    """The module's parameters, made finite."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.nan_to_num_(nan=0.0)
    return ModelUpdate(arrays=arrays_of(module))


def _poisson_batches(table: Table, rate: float, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """`count` batches, in each of which every row is with probability `rate`, independently."""
    inputs, labels = tensors(table)
    for _ in range(count):
        taken = torch.from_numpy(poisson_sample(len(labels), rate))
        yield (inputs, labels) if rate == 1 else (inputs[taken], labels[taken])


def _sum_by_opacus(
    module: nn.Module,
    into: Sums,
    loss: Callable[[Tensor], RowLoss],
    inputs: Tensor,
    labels: Tensor,
    clipping_norm: float,
    *,
    tally: Tally | None = None,
) -> Sums:
    """What `BatchSum` returns, for any module that Opacus takes apart, in parts."""
    inputs, labels = inputs.to(into.flat.device), labels.to(into.flat.device)
    into.tally = tally
    if len(inputs) <= MOST_ROWS:
        return _clipped_sum_by_opacus(module, inputs, loss(labels), clipping_norm, into)
    total = Sums(into.by_name)
    total.cleared(torch.float64)
    for part, some in zip(torch.split(inputs, MOST_ROWS), torch.split(labels, MOST_ROWS), strict=True):
        total.flat.add_(_clipped_sum_by_opacus(module, part, loss(some), clipping_norm, into).flat)
    return total


def _clipped_sum_by_opacus(
    module: nn.Module, inputs: Tensor, loss_of: LossOf, clipping_norm: float, into: Sums
) -> Sums:
    """What `clipped_sum` returns: it holds every row's gradient."""
    from opacus import GradSampleModule

    if not len(inputs):
        into.cleared(torch.float32)
        return into
    hooked = GradSampleModule(module, loss_reduction="sum")
    with one_thread():
        # inputs without a derivative make Opacus' backward hooks warn at each step
        outputs = hooked(in_blocks(inputs.detach()).requires_grad_())
        found = row_losses(loss_of, outputs, len(inputs))[: len(inputs)]
        found.sum().backward()  # type: ignore[no-untyped-call]
    gradients: dict[str, Tensor] = {
        name: value.grad_sample[: len(inputs)]  # type: ignore[attr-defined]
        for name, value in trainable(module).items()
    }
    hooked.to_standard_module()
    finite = found.detach() + inputs.flatten(1).mul(0).sum(dim=1)  # NaN for rows that are not
    return clipped_sum_of_rows(gradients, finite, clipping_norm, into)


def tensors(table: Table) -> tuple[Tensor, Tensor]:
    """All rows' inputs and labels."""
    return torch.from_numpy(table.features), torch.from_numpy(table.labels)
