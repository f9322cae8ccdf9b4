"""The torch modules of each model family, with the contract's parameter names.

No module of ours holds a statistic of the data: normalisation is GroupNorm, which works
on one record at a time, so that a record's gradient is its own. What a package gives is
built here too, and held against what it says of its parameters.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from contract.errors import WrongShapesError
from contract.experiment import Experiment, Label, Model
from contract.model_families import (
    CNN_CHANNELS,
    Layered,
    SmallImage,
    TorchFamily,
    family_of,
    outputs,
)
from contract.models import parameter_shapes

__all__ = [
    "Layers",
    "LogLoss",
    "NumberLoss",
    "RowLoss",
    "arrays_of",
    "build_module",
    "load_arrays",
    "loss_for",
    "losses",
    "module_for",
    "scores",
]


class Layers(nn.Module):
    """A linear model or a multi-layer perceptron with ReLU between its layers."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        pairs = itertools.pairwise(widths)
        self.layers = nn.ModuleList([nn.Linear(width, following) for width, following in pairs])

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits, shape (rows, outputs)."""
        for layer in self.layers[:-1]:
            inputs = torch.relu(layer(inputs))
        output: Tensor = self.layers[-1](inputs)
        return output


class SmallCnn(nn.Module):
    """Two convolutions with GroupNorm, ReLU and max-pooling, then a linear layer."""

    def __init__(self, image: tuple[int, int, int], last: int) -> None:
        super().__init__()
        channels, height, width = image
        first, second = CNN_CHANNELS
        self.image = image
        self.convolution1 = nn.Conv2d(channels, first, 3, padding=1)
        self.norm1 = nn.GroupNorm(4, first)
        self.convolution2 = nn.Conv2d(first, second, 3, padding=1)
        self.norm2 = nn.GroupNorm(4, second)
        self.output = nn.Linear(second * (height // 4) * (width // 4), last)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits, shape (rows, outputs)."""
        pixels = inputs.reshape(-1, *self.image)
        pixels = nn.functional.max_pool2d(torch.relu(self.norm1(self.convolution1(pixels))), 2)
        pixels = nn.functional.max_pool2d(torch.relu(self.norm2(self.convolution2(pixels))), 2)
        output: Tensor = self.output(pixels.flatten(1))
        return output


def build_module(model: Model, *, inputs: int, classes: int) -> nn.Module:
    """An untrained module of the family.

    Raises:
        InputError: of a package: it is not installed here, or builds something else than it says.
    """
    family = family_of(model)
    if isinstance(family, Layered):
        return Layers(family.widths(inputs=inputs, classes=classes))
    if isinstance(family, SmallImage):
        return SmallCnn(family.image, outputs(classes))
    return _built(family, model, inputs, classes)


def module_for(experiment: Experiment, arrays: Mapping[str, np.ndarray[Any, Any]]) -> nn.Module:
    """The experiment's module with the given parameters."""
    task = experiment.task
    module = build_module(experiment.model, inputs=task.width, classes=len(task.label.classes))
    load_arrays(module, arrays)
    return module


def load_arrays(module: nn.Module, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Put the named arrays into the module; names and shapes must fit exactly."""
    parameters = dict(module.named_parameters())
    if {name: value.shape for name, value in parameters.items()} != {
        name: array.shape for name, array in arrays.items()
    }:
        raise ValueError("the arrays are another module's")
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(torch.from_numpy(np.array(arrays[name])))


def arrays_of(module: nn.Module) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """The module's parameters by name."""
    return {name: value.detach().cpu().numpy().copy() for name, value in module.named_parameters()}


def _built(family: TorchFamily, model: Model, inputs: int, classes: int) -> nn.Module:
    """A package's module, in evaluation mode, so that no layer draws random numbers."""
    where = f"model package '{model.package}'"
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = family.build(inputs=inputs, classes=classes)
    except Exception as exc:
        raise WrongShapesError(f"it builds no module ({type(exc).__name__}: {exc})", where=where) from exc
    if not isinstance(module, nn.Module):
        raise WrongShapesError("what it builds is no module", where=where)
    module.eval()
    said = parameter_shapes(model, inputs=inputs, classes=classes)
    found = {name: tuple(value.shape) for name, value in module.named_parameters()}
    others = sorted(said.items() ^ found.items())
    if others:
        raise WrongShapesError(
            f"its module has other parameters than it says: {others[0][0]}",
            where=where,
        )
    if any(value.dtype != torch.float32 for value in module.parameters()):
        raise WrongShapesError("a parameter is not float32", where=where)
    return module


class RowLoss(ABC):
    """The loss of each row of a batch, and its derivative, which depends on that row alone."""

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels

    def of(self, labels: Tensor) -> Self:
        """The same loss of other rows."""
        return type(self)(labels)

    @abstractmethod
    def __call__(self, logits: Tensor) -> Tensor:
        """Loss of each row, shape (rows,)."""

    @abstractmethod
    def derivative(self, logits: Tensor) -> Tensor:
        """Of each row's loss by the module's outputs, in their shape."""


class LogLoss(RowLoss):
    """The log loss of each row of a batch."""

    def __call__(self, logits: Tensor) -> Tensor:
        """Log loss of each row, shape (rows,)."""
        if logits.shape[1] == 1:
            target = self.labels.to(logits.dtype)
            return nn.functional.binary_cross_entropy_with_logits(logits[:, 0], target, reduction="none")
        return nn.functional.cross_entropy(logits, self.labels, reduction="none")

    def derivative(self, logits: Tensor) -> Tensor:
        """Of each row's loss by its logits, in the logits' shape."""
        if logits.shape[1] == 1:
            return torch.sigmoid(logits).sub_(self.labels[:, None])
        found = torch.softmax(logits, dim=1)
        found[torch.arange(len(logits), device=logits.device), self.labels] -= 1
        return found


class NumberLoss(RowLoss):
    """Of a predicted number: half the square of the error as a share of the label's range, or Huber's (1964).

    Outputs and labels have the range mapped to [-1, 1], so the error is half their difference. Then the loss
    is curved as much as the log loss is at most, and the same learning rates suit both.

    Args:
        labels: float32 of shape (rows,), in [-1, 1].
        threshold: from which share of the range on an error's weight is bounded; infinity for none.
    """

    def __init__(self, labels: Tensor, threshold: float = math.inf) -> None:
        super().__init__(labels)
        self.threshold = threshold

    def of(self, labels: Tensor) -> Self:
        """The same loss of other rows."""
        return type(self)(labels, self.threshold)

    def __call__(self, logits: Tensor) -> Tensor:
        """Loss of each row, shape (rows,)."""
        error = (logits[:, 0] - self.labels) / 2
        bounded = error.clamp(-self.threshold, self.threshold)
        return bounded * (error - bounded / 2)

    def derivative(self, logits: Tensor) -> Tensor:
        """Of each row's loss by the output, shape (rows, 1)."""
        error = (logits - self.labels[:, None]) / 2
        return error.clamp_(-self.threshold, self.threshold).div_(2)


def loss_for(label: Label, labels: Tensor) -> RowLoss:
    """The loss that a model of this label is trained by, of rows with these labels."""
    if label.kind == "categorical":
        return LogLoss(labels)
    return NumberLoss(labels, label.huber_threshold if label.loss == "huber" else math.inf)


def losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Log loss of each row, shape (rows,)."""
    return LogLoss(labels)(logits)


def scores(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """What the score histogram counts: a score in [0, 1] and an outcome of 0 or 1 for each row."""
    if logits.shape[1] == 1:
        return torch.sigmoid(logits[:, 0]), labels
    confidence, predicted = torch.softmax(logits, dim=1).max(dim=1)
    return confidence, (predicted == labels).to(labels.dtype)
