"""torch's LSTM layer written out in operations that `torch.func.vmap` takes for many rows at once.

torch computes `nn.LSTM` as one operation, which vmap repeats for each row inside: fifteen times a plain step,
where this takes a few. Parameters and results are the layer's own (Hochreiter and Schmidhuber, 1997).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

__all__ = ["write_out"]

State = tuple[Tensor, Tensor]

_WEIGHT = "weight_hh"
"""How the parameters begin that multiply the hidden state."""


def write_out(module: nn.Module) -> None:
    """Have each plain `nn.LSTM` in the module compute what it computes so. A subclass stays what it is.

    What is multiplied in each step becomes a linear layer of its own, with the same parameter, so that its
    gradient may be made once for all steps (`clients.mechanisms.each_row`).
    """
    for layer in list(module.modules()):
        if type(layer) is not nn.LSTM or layer.proj_size or (layer.training and layer.dropout):
            continue
        for name, value in list(layer.named_parameters(recurse=False)):
            if name.startswith(_WEIGHT):
                again = nn.Linear(layer.hidden_size, 4 * layer.hidden_size, bias=False, device="meta")
                again.weight = value
                layer.add_module(f"again{name.removeprefix(_WEIGHT)}", again)
        layer.__dict__["forward"] = functools.partial(_forward, layer)


def _forward(layer: nn.LSTM, inputs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
    """As `nn.LSTM.forward`, of sequences of shape (rows, steps, inputs), or of another order."""
    if inputs.dim() != 3:
        found: tuple[Tensor, State] = nn.LSTM.forward(layer, inputs, state)
        return found
    sequence = inputs.transpose(0, 1) if layer.batch_first else inputs
    directions = ("", "_reverse") if layer.bidirectional else ("",)
    hidden: list[Tensor] = []
    kept: list[Tensor] = []
    for number in range(layer.num_layers):
        sides = []
        for direction in directions:
            place = len(hidden)
            begin = None if state is None else (state[0][place], state[1][place])
            side, (last, cell) = _direction(layer, sequence, f"_l{number}{direction}", begin)
            sides.append(side)
            hidden.append(last)
            kept.append(cell)
        sequence = torch.cat(sides, dim=2)
    output = sequence.transpose(0, 1) if layer.batch_first else sequence
    return output, (torch.stack(hidden), torch.stack(kept))


def _direction(layer: nn.LSTM, sequence: Tensor, name: str, begin: State | None) -> tuple[Tensor, State]:
    """One layer in one direction: what it gives at each step, and its state after the last."""
    bias = getattr(layer, f"bias_ih{name}") + getattr(layer, f"bias_hh{name}") if layer.bias else None
    read = nn.functional.linear(sequence, getattr(layer, f"weight_ih{name}"), bias)
    again = getattr(layer, f"again{name}")
    nothing = read.new_zeros(read.shape[1], layer.hidden_size)
    hidden, kept = (nothing, nothing) if begin is None else begin
    backwards = name.endswith("_reverse")
    steps, given = read.unbind(0), []
    for step in reversed(steps) if backwards else steps:
        enter, forget, change, give = (step + again(hidden)).chunk(4, dim=1)
        kept = torch.sigmoid(forget) * kept + torch.sigmoid(enter) * torch.tanh(change)
        hidden = torch.sigmoid(give) * torch.tanh(kept)
        given.append(hidden)
    return torch.stack(given[::-1] if backwards else given), (hidden, kept)
