"""Gradient inversion: the rows of a site from the one update that it released.

The attacker is the server, or whoever reads what it reads. It knows the experiment
(model, public ranges, clipping norm, noise), the model that it sent, how many rows
the site trained on, and their classes, as Geiping et al. (2020) assume. So an update
of one step gives it the sum of the rows' gradients, as released: exact, clipped, or
clipped and noisy.

* One row, first layer fully connected, no noise: the derivative by a unit's weights
  is the row times the derivative by its bias, so that dividing one by the other is
  the row (Phong et al., 2017; Geiping et al., 2020). Clipping scales both alike.
* Otherwise: rows whose gradients, clipped as the site clips, match what was released
  ("deep leakage", Zhu et al., 2019), from several random starts. With noise the mismatch
  counts by the noise's variance, and what is public of a row is the prior: the most
  probable rows (Balunović et al., 2022), for loud noise the middle of the ranges.

Of rows of one class that activate the same units of the MLP, an exact sum tells little more
than a weighted mean: several rows can hide each other, as one row cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from contract.experiment import CategoricalFeature, Experiment, Feature, Task

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Seen", "is_flag", "public_prior", "reconstruct"]

Floats = npt.NDArray[np.float64]
Arrays = Mapping[str, npt.NDArray[np.float32]]

_STARTS = {"linear": 24, "mlp": 24, "cnn": 8}
_STEPS = 400
"""Of Adam, without noise: ReLU and max-pooling make the mismatch rough, and some searches get stuck."""
_NOISY_STARTS = 2
_NOISY_STEPS = 80
"""With noise the prior makes it smooth."""
_RATE = 0.1


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What an update shows.

    Attributes:
        gradients: the sum of the rows' gradients by parameter, as released.
        clipping_norm: what each row's gradient was clipped to; None where it was not.
        deviation: standard deviation of the noise in each number; 0 without noise.
    """

    gradients: Mapping[str, Floats]
    clipping_norm: float | None
    deviation: float

    @classmethod
    def of(
        cls,
        experiment: Experiment,
        sent: Arrays,
        released: Arrays,
        rows: int,
        *,
        clipping_norm: float | None,
        deviation: float,
    ) -> Seen:
        """From the model that was sent and the one that came back after one step on all of so many rows."""
        scale = rows / experiment.strategy.learning_rate
        gradients = {
            name: (sent[name].astype(np.float64) - released[name].astype(np.float64)) * scale for name in sent
        }
        return cls(gradients=gradients, clipping_norm=clipping_norm, deviation=deviation)


def public_prior(task: Task) -> tuple[Floats, Floats]:
    """Mean and variance of each model input, of shape (width,), by what the task says in public.

    A number may be anywhere in its range, scaled to [0, 1]; a flag is 0 or 1, and a category any of the
    list. The mean is the guess of least expected squared error for who has seen no update.
    """
    means, variances = [], []
    for feature in task.features:
        if isinstance(feature, CategoricalFeature):
            share = 1 / len(feature.categories)
            means += [share] * len(feature.categories)
            variances += [share * (1 - share)] * len(feature.categories)
        else:
            means.append(1 / 2)
            variances.append(1 / 4 if is_flag(feature) else 1 / 12)
    return np.array(means), np.array(variances)


def is_flag(feature: Feature) -> bool:
    """Whether it is a yes or no, written 1 or 0: a number whose range is 0 to 1."""
    return feature.kind == "numeric" and (feature.low, feature.high) == (0, 1)


def reconstruct(
    experiment: Experiment,
    sent: Arrays,
    seen: Seen,
    labels: npt.NDArray[np.int64],
    rng: np.random.Generator,
) -> Floats:
    """The attacker's rows as model inputs in [0, 1], shape (rows, width), in the order of `labels`."""
    if len(labels) == 1 and seen.deviation == 0 and experiment.model.kind != "cnn":
        return _divided(seen.gradients["layers.0.weight"], seen.gradients["layers.0.bias"])
    return _matched(experiment, sent, seen, labels, rng)


def _divided(weight: Floats, bias: Floats) -> Floats:
    """The row that explains every unit's derivatives, by least squares over the units."""
    row: Floats = np.clip(bias @ weight / (bias @ bias), 0, 1)
    return row[None]


def _matched(
    experiment: Experiment,
    sent: Arrays,
    seen: Seen,
    labels: npt.NDArray[np.int64],
    rng: np.random.Generator,
) -> Floats:
    """The best of several searches, which run beside each other in one batch."""
    import torch

    starts, steps = (
        (_NOISY_STARTS, _NOISY_STEPS) if seen.deviation else (_STARTS[experiment.model.kind], _STEPS)
    )
    objective = _objective(experiment, sent, seen, torch.from_numpy(labels))
    shape = (starts, len(labels), experiment.task.width)
    rows = torch.tensor(rng.random(shape), dtype=torch.float32, requires_grad=True)
    optimizer = torch.optim.Adam([rows], lr=_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        (rows.grad,) = torch.autograd.grad(objective(rows).sum(), rows)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            rows.clamp_(0, 1)
    best = int(objective(rows).argmin())
    return rows[best].detach().numpy().astype(np.float64)


def _objective(
    experiment: Experiment, sent: Arrays, seen: Seen, labels: Tensor
) -> Callable[[Tensor], Tensor]:
    """From candidates (starts, rows, width) to a figure for each start: how badly it explains what was seen.

    Without noise, half the squared mismatch over the squared length of what was seen; with noise, the
    negative logarithm of the posterior density, but for a constant.
    """
    import torch

    gradients_of = _row_gradients(experiment, sent)
    released = np.concatenate([seen.gradients[name].ravel() for name in sent])
    observed = torch.tensor(released, dtype=torch.float32)
    unit = seen.deviation**2 or float(released @ released)
    mean, variance = (torch.tensor(part, dtype=torch.float32) for part in public_prior(experiment.task))

    def objective(rows: Tensor) -> Tensor:
        starts, count, width = rows.shape
        gradients = gradients_of(rows.reshape(-1, width), labels.repeat(starts))
        if seen.clipping_norm is not None:
            norms = gradients.norm(dim=1, keepdim=True)
            gradients = gradients * (seen.clipping_norm / (norms + 1e-6)).clamp(max=1)
        summed = gradients.reshape(starts, count, -1).sum(dim=1)
        value: Tensor = (summed - observed).square().sum(dim=1) / (2 * unit)
        if seen.deviation:
            value = value + ((rows - mean).square() / (2 * variance)).sum(dim=(1, 2))
        return value

    return objective


def _row_gradients(experiment: Experiment, sent: Arrays) -> Callable[[Tensor, Tensor], Tensor]:
    """From rows (n, width) and labels (n,) to each row's gradient by all parameters, (n, parameters)."""
    import torch
    from torch.func import functional_call, grad, vmap

    from clients.mechanisms.models import losses, module_for

    module = module_for(experiment, sent)
    parameters = {name: value.detach() for name, value in module.named_parameters()}

    def loss(values: dict[str, Tensor], row: Tensor, label: Tensor) -> Tensor:
        return losses(functional_call(module, values, (row[None],)), label[None]).sum()

    by_row = vmap(grad(loss), in_dims=(None, 0, 0))

    def gradients(rows: Tensor, labels: Tensor) -> Tensor:
        found = by_row(parameters, rows, labels)
        return torch.cat([found[name].flatten(1) for name in sent], dim=1)

    return gradients
