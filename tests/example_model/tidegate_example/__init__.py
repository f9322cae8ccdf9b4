"""A model of one's own for Tidegate: a recurrent network (Elman, 1990) that reads features one by one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["SmallMemory"]


@dataclass(frozen=True, kw_only=True)
class SmallMemory:
    """The family: its fields are the settings, `model.parameters` in an experiment.

    Attributes:
        hidden: numbers that are remembered.
        at_once: how many features are read in a step.
    """

    hidden: int = 8
    at_once: int = 4

    def parameters(self, *, inputs: int, classes: int) -> Mapping[str, tuple[int, ...]]:
        """Names and shapes, in the module's order: what the server averages, without torch."""
        del inputs
        outputs = 1 if classes in (0, 2) else classes
        return {
            "read.weight": (self.hidden, self.at_once),
            "read.bias": (self.hidden,),
            "remember.weight": (self.hidden, self.hidden),
            "output.weight": (outputs, self.hidden),
            "output.bias": (outputs,),
        }

    def initial(
        self, rng: np.random.Generator, *, inputs: int, classes: int
    ) -> Mapping[str, npt.NDArray[Any]]:
        """Where a run begins."""
        shapes = self.parameters(inputs=inputs, classes=classes)
        return {
            name: (
                np.zeros(shape) if name.endswith("bias") else rng.normal(size=shape) / math.sqrt(shape[1])
            ).astype(np.float32)
            for name, shape in shapes.items()
        }

    def build(self, *, inputs: int, classes: int) -> nn.Module:
        """The torch module."""
        from tidegate_example.module import Memory

        del inputs
        return Memory(self.at_once, self.hidden, 1 if classes in (0, 2) else classes)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor | None:
        """The label's own."""
        del outputs, labels

    def judged(self, outputs: Tensor) -> Tensor:
        """The outputs are what is judged."""
        return outputs
