"""The torch part, loaded only where the model is trained or used."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Memory"]


class Memory(nn.Module):
    """Reads `at_once` features in each step, and answers from what it remembers at the end."""

    def __init__(self, at_once: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.at_once = at_once
        self.read = nn.Linear(at_once, hidden)
        self.remember = nn.Linear(hidden, hidden, bias=False)
        self.output = nn.Linear(hidden, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs of shape (rows, features); outputs of shape (rows, outputs)."""
        missing = -inputs.shape[1] % self.at_once
        steps = nn.functional.pad(inputs, (0, missing)).unflatten(1, (-1, self.at_once))
        memory = torch.zeros(len(inputs), self.remember.in_features)
        for step in self.read(steps).unbind(1):
            memory = torch.tanh(step + self.remember(memory))
        found: Tensor = self.output(memory)
        return found
