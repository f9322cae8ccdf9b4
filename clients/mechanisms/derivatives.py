"""What went into each layer, and the losses' derivative by what came out: one forward and backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from clients.mechanisms.blocks import BLOCK, in_blocks
from clients.mechanisms.models import Layers, RowLoss

__all__ = ["Derivative", "LossOf", "derivatives", "own_parameters", "row_losses", "watched"]

LossOf = Callable[[Tensor], Tensor]

Derivative = tuple[str, nn.Module, Tensor, Tensor]
"""A layer's name, the layer, what it was given, and the losses' derivative by its output."""


def derivatives(
    module: nn.Module, inputs: Tensor, loss_of: LossOf, block: int = BLOCK
) -> tuple[Tensor, list[Derivative]]:
    """Each row's loss, and the derivatives of their sum, from the last layer to the first.

    A row's are the same whichever rows are beside it (`clients.mechanisms.blocks`). Rows of zeros follow
    the true ones up to whole blocks: what is found for them means nothing. A row whose inputs are
    not all finite has a loss that is not, unless a layer was given these inputs.

    Raises:
        ValueError: a layer was called twice or not at all, on something else than
            one entry a row, or on a tensor that was written to afterwards.
    """
    if type(module) is Layers:  # a subclass may have a forward of its own
        return _chain(module, inputs, loss_of, block)
    return _passes(module, inputs, loss_of, block)


@dataclass(kw_only=True)
class _Call:
    """What a layer was given, and where the derivative by its output passes."""

    name: str
    layer: nn.Module
    inputs: list[Tensor] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    edges: list[GradientEdge] = field(default_factory=list)

    def note(self, _layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """The forward hook."""
        self.inputs.append(inputs[0].detach())
        self.versions.append(inputs[0]._version)
        if output.requires_grad:
            # the edge, not the tensor: an activation may write over the output in its place
            self.edges.append(get_gradient_edge(output))


@contextmanager
def watched(module: nn.Module) -> Iterator[list[_Call]]:
    """Notes each layer's calls within the block."""
    layers = [(name, layer, own_parameters(layer)) for name, layer in module.named_modules()]
    calls = [_Call(name=name, layer=layer) for name, layer, own in layers if own]
    hooks = [call.layer.register_forward_hook(call.note) for call in calls]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def own_parameters(layer: nn.Module) -> list[str]:
    """The names of the layer's own trainable parameters."""
    return [name for name, value in layer.named_parameters(recurse=False) if value.requires_grad]


def _chain(module: Layers, inputs: Tensor, loss_of: LossOf, block: int) -> tuple[Tensor, list[Derivative]]:
    """Of linear layers with ReLU between them, written out: faster for a small model."""
    layers = [(layer.weight, layer.bias) for layer in cast("list[nn.Linear]", list(module.layers))]
    given = [in_blocks(inputs, block)]
    with torch.no_grad():
        for weight, bias in layers[:-1]:
            given.append(torch.addmm(bias, given[-1], weight.T).relu_())
        outputs = torch.addmm(layers[-1][1], given[-1], layers[-1][0].T)
    losses, gradient = _of_losses(loss_of, outputs, len(inputs), block)
    found: list[Derivative] = []
    with torch.no_grad():
        for number in reversed(range(len(layers))):
            layer = module.layers[number]
            found.append((f"layers.{number}", layer, given[number], gradient))
            if number:
                gradient = torch.ops.aten.threshold_backward(gradient @ layers[number][0], given[number], 0)
    # the first layer was given the inputs themselves: their norms tell if they are finite
    return losses, found


def row_losses(loss_of: LossOf, outputs: Tensor, rows: int, block: int = BLOCK) -> Tensor:
    """The losses of whole blocks of rows, of which the first `rows` are true ones; shape (rows of outputs,).

    Raises:
        ValueError: `loss_of` does not give one loss a row.
    """
    if isinstance(loss_of, RowLoss):
        return loss_of.of(in_blocks(loss_of.labels, block))(outputs)
    losses = loss_of(outputs[:rows])
    if losses.shape != (rows,):
        raise ValueError("loss_of must give one loss a row")
    return in_blocks(losses, len(outputs))


def _of_losses(loss_of: LossOf, outputs: Tensor, rows: int, block: int) -> tuple[Tensor, Tensor]:
    """The losses of the rows, and their derivative by the outputs."""
    if isinstance(loss_of, RowLoss):
        with torch.no_grad():
            derivative = loss_of.of(in_blocks(loss_of.labels, block)).derivative(outputs)
            return row_losses(loss_of, outputs, rows, block), derivative
    losses = row_losses(loss_of, outputs.requires_grad_(), rows, block)
    (gradient,) = torch.autograd.grad(losses.sum(), outputs)
    return losses.detach(), gradient


def _passes(
    module: nn.Module, inputs: Tensor, loss_of: LossOf, block: int
) -> tuple[Tensor, list[Derivative]]:
    """Of any module, noted by hooks."""
    with watched(module) as calls:
        filled = in_blocks(inputs, block)
        losses = row_losses(loss_of, module(filled), len(inputs), block)
    for call in calls:
        if len(call.edges) != 1:
            raise ValueError(f"layer '{call.name}' was called {len(call.edges)} times in a forward, not once")
    # asked for derivatives by outputs alone, autograd computes none by a parameter
    gradients = torch.autograd.grad(losses.sum(), [call.edges[0] for call in calls], allow_unused=True)
    found: list[Derivative] = []
    for call, gradient in zip(calls, gradients, strict=True):
        if gradient is None:  # the losses do not depend on the layer
            continue
        if call.inputs[0]._version != call.versions[0]:
            raise ValueError(f"the input of layer '{call.name}' was written to after the call")
        if not len(call.inputs[0]) == len(gradient) == len(filled):
            raise ValueError(f"layer '{call.name}' was not called on one entry a row")
        found.append((call.name, call.layer, call.inputs[0], gradient))
    losses = losses.detach()
    if filled.is_floating_point():  # before the first layer anything may have been done to them
        losses = losses + filled.flatten(1).mul(0).sum(dim=1)
    return losses, found[::-1]
