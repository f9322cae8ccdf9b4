"""What a kind of model is: the seam that our own three kinds and installed packages go through alike.

A family is a frozen value: its fields are the settings that an experiment states. It has two parts. The
public one, names, shapes and first values of the parameters, needs no deep-learning library, so that the
server, which only adds and averages, needs none. The other one builds the torch module and says how it is
judged; only where a module is trained or used is it called. Of our own kinds that part stands in
`clients/mechanisms/models.py`; a package has both (`contract.installed_models`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from contract.experiment import Model
from contract.installed_models import load

__all__ = ["CNN_CHANNELS", "Family", "Layered", "SmallImage", "TorchFamily", "family_of", "outputs"]

CNN_CHANNELS = (16, 32)
"""Channels of the two convolutions of the small CNN."""

Float32s = npt.NDArray[np.float32]
Tensor: TypeAlias = Any
Module: TypeAlias = Any
"""torch's: named without importing it, for who only averages has none."""

Shapes = Mapping[str, tuple[int, ...]]


class Family(Protocol):
    """The public part of a family.

    `inputs` is the number of a row's inputs after encoding, `classes` how many the label has: 0 for a number.
    """

    def parameters(self, *, inputs: int, classes: int) -> Shapes:
        """Shape of each parameter by its name, in the order of the torch module."""

    def initial(
        self, rng: np.random.Generator, *, inputs: int, classes: int
    ) -> Mapping[str, npt.NDArray[Any]]:
        """First values of the parameters, from public numbers and `rng` alone."""


class TorchFamily(Family, Protocol):
    """A family with the part that needs torch: what a package gives."""

    def build(self, *, inputs: int, classes: int) -> Module:
        """The module, untrained.

        Its parameters have the names and shapes that `parameters` says. It takes float32 of shape
        (rows, inputs) and gives one output a row for two classes or a number, else one a class. A row's
        outputs depend on that row alone.
        """

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor | None:
        """The loss of each row, shape (rows,), that training makes small; None for the label's own.

        Args:
            outputs: of the module.
            labels: class numbers, or numbers in [-1, 1]: the label's range.
        """

    def judged(self, outputs: Tensor) -> Tensor:
        """What metrics and predictions are made of: a logit or one a class, or a number in [-1, 1]."""


def outputs(classes: int) -> int:
    """Number of model outputs: one for a number (no classes), one logit for two classes, else one a class."""
    return 1 if classes in (0, 2) else classes


@dataclass(frozen=True, kw_only=True)
class Layered:
    """A linear model, or a multi-layer perceptron.

    Attributes:
        hidden: units of each hidden layer; None for a linear model.
    """

    hidden: tuple[int, ...] | None = None

    def widths(self, *, inputs: int, classes: int) -> tuple[int, ...]:
        """Of the layers, from the inputs to the outputs."""
        return (inputs, *(self.hidden or ()), outputs(classes))

    def parameters(self, *, inputs: int, classes: int) -> Shapes:
        """As `Family` says."""
        shapes: dict[str, tuple[int, ...]] = {}
        for layer, (width, following) in enumerate(
            itertools.pairwise(self.widths(inputs=inputs, classes=classes))
        ):
            shapes[f"layers.{layer}.weight"] = (following, width)
            shapes[f"layers.{layer}.bias"] = (following,)
        return shapes

    def initial(self, rng: np.random.Generator, *, inputs: int, classes: int) -> dict[str, Float32s]:
        """Zeros for a linear model, which has nothing to tell apart by chance."""
        shapes = self.parameters(inputs=inputs, classes=classes)
        if self.hidden is None:
            return {name: np.zeros(shape, dtype=np.float32) for name, shape in shapes.items()}
        return _first_values(shapes, rng)


@dataclass(frozen=True, kw_only=True)
class SmallImage:
    """The small CNN: two convolutions with GroupNorm, ReLU and pooling, then a linear layer.

    Attributes:
        image: channels, height and width.
    """

    image: tuple[int, int, int]

    def parameters(self, *, inputs: int, classes: int) -> Shapes:
        """As `Family` says; the experiment's check has held `image` against the inputs."""
        del inputs
        channels, height, width = self.image
        first, second = CNN_CHANNELS
        last = outputs(classes)
        return {
            "convolution1.weight": (first, channels, 3, 3),
            "convolution1.bias": (first,),
            "norm1.weight": (first,),
            "norm1.bias": (first,),
            "convolution2.weight": (second, first, 3, 3),
            "convolution2.bias": (second,),
            "norm2.weight": (second,),
            "norm2.bias": (second,),
            "output.weight": (last, second * (height // 4) * (width // 4)),
            "output.bias": (last,),
        }

    def initial(self, rng: np.random.Generator, *, inputs: int, classes: int) -> dict[str, Float32s]:
        """As `Family` says."""
        return _first_values(self.parameters(inputs=inputs, classes=classes), rng)


def family_of(model: Model) -> Layered | SmallImage | TorchFamily:
    """The family of an experiment's model.

    Raises:
        InputError: of a package: see `contract.installed_models.load`.
    """
    if model.kind == "package":
        return load(model)
    if model.image is not None:
        return SmallImage(image=model.image)
    return Layered(hidden=model.hidden if model.kind == "mlp" else None)


def _first_values(shapes: Shapes, rng: np.random.Generator) -> dict[str, Float32s]:
    """Zero for biases, one for norms, uniform in ±1/sqrt(fan-in) otherwise (LeCun et al., 1998)."""
    arrays = {}
    for name, shape in shapes.items():
        if name.endswith("bias"):
            values = np.zeros(shape)
        elif name.startswith("norm"):
            values = np.ones(shape)
        else:
            bound = 1 / math.sqrt(math.prod(shape[1:]))
            values = rng.uniform(-bound, bound, shape)
        arrays[name] = values.astype(np.float32)
    return arrays
