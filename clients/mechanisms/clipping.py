"""The sum of a batch's clipped gradients, in one backward pass.

Gradients of single records are needed only to know their norms. For most layers
the norm follows from what went in and what the loss's derivative by the output
is, without the gradient itself (Goodfellow, 2015; "ghost" norms, Li et al., 2021);
and once the norms are known, one weighted contraction of the same two tensors
gives the clipped sum, without a second backward pass ("book-keeping", Bu et al.,
2022). A step costs little more than a plain one. Where the gradients of single
records are smaller than what their ghost norm needs, they are made instead.

Guarantee: a record's part in the sum has an L2 norm of `clipping_norm` at most,
to the rounding of the arithmetic: its factor is min(1, C / (norm + 1e-6)), as in
Opacus. A record whose gradient is not finite counts zero, for no factor would
bound it (Opacus lets it turn the whole sum into NaN). So one record more or less
changes the sum by `clipping_norm` at most, if, which nobody can check here, the
module's forward treats each row by itself.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from clients.mechanisms.models import Layers

__all__ = ["clip_factors", "clipped_sum", "supports"]

_LAYERS = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm, nn.Embedding)
_MIXES_ROWS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def supports(module: nn.Module, example: Tensor | None = None) -> bool:
    """Whether `clipped_sum` can take the module apart.

    Every parameter must belong to one layer, which is an nn.Linear, Conv2d,
    GroupNorm, LayerNorm or Embedding with the usual settings, and no module may
    hold a buffer or mix rows.

    Args:
        module: what is to be trained.
        example: inputs, of shape (rows, ...), for one forward that shows whether
            each layer is called once; without them `clipped_sum` raises if not.
    """
    layers = [layer for _, layer in module.named_modules(remove_duplicate=False)]
    parameters = [parameter for layer in layers for parameter in layer.parameters(recurse=False)]
    if len({id(parameter) for parameter in parameters}) < len(parameters):
        return False
    if any(True for _ in module.buffers()) or any(isinstance(layer, _MIXES_ROWS) for layer in layers):
        return False
    if not all(_is_known(layer) for layer in layers if _own_parameters(layer)):
        return False
    if example is None:
        return True
    with _watched(module) as calls:
        module(example)
    return all(len(call.inputs) == 1 for call in calls)


def clipped_sum(
    module: nn.Module, inputs: Tensor, loss_of: Callable[[Tensor], Tensor], clipping_norm: float
) -> dict[str, Tensor]:
    """The sum over rows of each row's gradient, clipped to an L2 norm of `clipping_norm`.

    Args:
        module: one that `supports` accepts; its `grad` fields stay as they are.
        inputs: the batch, of shape (rows, ...); no rows give zeros.
        loss_of: from the module's outputs to each row's loss, of shape (rows,).
        clipping_norm: the most that the gradient of a row may count.

    Returns:
        By the parameter's name, a tensor of its shape; frozen parameters are left out.

    Raises:
        ValueError: a layer was called twice or not at all, on something else than
            one entry a row, or on a tensor that was written to afterwards.
    """
    trainable = {name: value for name, value in module.named_parameters() if value.requires_grad}
    parts: list[tuple[list[str], _Part]] = []
    if trainable and len(inputs):
        if type(module) is Layers:  # a subclass may have a forward of its own
            derivatives = _chain(module, inputs, loss_of)
        else:
            derivatives = _passes(module, inputs, loss_of)
        for name, layer, given, gradient in derivatives:
            parts += _parts(name, layer, given, gradient)
    sums: dict[str, Tensor] = {}
    if parts:
        norms = functools.reduce(torch.add, [part.squared_norms() for _, part in parts]).sqrt_()
        factors = clip_factors(norms, clipping_norm)
        if not math.isfinite(norms.sum()):  # 0 · NaN is NaN: such rows must be out of the contraction itself
            finite = norms.isfinite()
            parts = [(names, part.rows(finite)) for names, part in parts]
            factors = factors[finite]
        while parts:
            names, part = parts.pop()  # let go of as early as can be: it holds activations
            sums |= zip(names, part.weighted_sums(factors), strict=True)
    return {
        name: sums[name].reshape(value.shape) if name in sums else torch.zeros_like(value)
        for name, value in trainable.items()
    }


def clip_factors(norms: Tensor, clipping_norm: float) -> Tensor:
    """What each row's gradient is multiplied by, shape (rows,): as in Opacus."""
    return (clipping_norm / (norms + 1e-6)).clamp(max=1.0)


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
def _watched(module: nn.Module) -> Iterator[list[_Call]]:
    """Notes each layer's calls within the block."""
    layers = [(name, layer, _own_parameters(layer)) for name, layer in module.named_modules()]
    calls = [_Call(name=name, layer=layer) for name, layer, own in layers if own]
    hooks = [call.layer.register_forward_hook(call.note) for call in calls]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


_Derivative = tuple[str, nn.Module, Tensor, Tensor]
"""A layer's name, the layer, what it was given, and the losses' derivative by its output."""


def _chain(module: Layers, inputs: Tensor, loss_of: Callable[[Tensor], Tensor]) -> Iterator[_Derivative]:
    """The derivatives of linear layers with ReLU between them, written out: faster for a small model."""
    layers = [(layer.weight, layer.bias) for layer in cast("list[nn.Linear]", list(module.layers))]
    given = [inputs]
    with torch.no_grad():
        for weight, bias in layers[:-1]:
            given.append(torch.addmm(bias, given[-1], weight.T).relu_())
        outputs = torch.addmm(layers[-1][1], given[-1], layers[-1][0].T)
    outputs.requires_grad_()
    (gradient,) = torch.autograd.grad(_by_row(loss_of(outputs), inputs).sum(), outputs)
    for number, layer in reversed(list(enumerate(module.layers))):
        yield f"layers.{number}", layer, given[number], gradient
        if number:
            with torch.no_grad():
                gradient = torch.ops.aten.threshold_backward(gradient @ layers[number][0], given[number], 0)


def _by_row(losses: Tensor, inputs: Tensor) -> Tensor:
    if losses.shape != (len(inputs),):
        raise ValueError("loss_of must give one loss a row")
    return losses


def _passes(module: nn.Module, inputs: Tensor, loss_of: Callable[[Tensor], Tensor]) -> Iterator[_Derivative]:
    """One forward and one backward pass of any module, noted by hooks."""
    with _watched(module) as calls:
        losses = _by_row(loss_of(module(inputs)), inputs)
    for call in calls:
        if len(call.edges) != 1:
            raise ValueError(f"layer '{call.name}' was called {len(call.edges)} times in a forward, not once")
    # asked for derivatives by outputs alone, autograd computes none by a parameter
    gradients = torch.autograd.grad(losses.sum(), [call.edges[0] for call in calls], allow_unused=True)
    for call, gradient in zip(calls, gradients, strict=True):
        if gradient is None:  # the losses do not depend on the layer
            continue
        if call.inputs[0]._version != call.versions[0]:
            raise ValueError(f"the input of layer '{call.name}' was written to after the call")
        if not len(call.inputs[0]) == len(gradient) == len(inputs):
            raise ValueError(f"layer '{call.name}' was not called on one entry a row")
        yield call.name, call.layer, call.inputs[0], gradient


@dataclass(frozen=True)
class _Rows:
    """The gradients of single rows, shape (rows, ...)."""

    gradients: Tensor

    def rows(self, kept: Tensor) -> _Rows:
        return _Rows(self.gradients[kept])

    def squared_norms(self) -> Tensor:
        return _squared_norms(self.gradients.flatten(1))

    def weighted_sums(self, factors: Tensor) -> tuple[Tensor, ...]:
        return (factors @ self.gradients.flatten(1),)


@dataclass(frozen=True)
class _Product:
    """Gradients outputs ⊗ inputs, of shapes (rows, width): the norm is the product of two.

    With `bias`, outputs ⊗ 1 beside it.
    """

    outputs: Tensor
    inputs: Tensor
    bias: bool = False

    def rows(self, kept: Tensor) -> _Product:
        return _Product(self.outputs[kept], self.inputs[kept], self.bias)

    def squared_norms(self) -> Tensor:
        inputs = _squared_norms(self.inputs)
        return _squared_norms(self.outputs).mul_(inputs + 1 if self.bias else inputs)

    def weighted_sums(self, factors: Tensor) -> tuple[Tensor, ...]:
        weighted = self.outputs * factors[:, None]
        return (weighted.T @ self.inputs, *((factors @ self.outputs,) if self.bias else ()))


@dataclass(frozen=True)
class _Products:
    """Gradients Σ outputs ⊗ inputs over positions; shapes (rows, groups, positions, width)."""

    outputs: Tensor
    inputs: Tensor

    def rows(self, kept: Tensor) -> _Products:
        return _Products(self.outputs[kept], self.inputs[kept])

    def squared_norms(self) -> Tensor:
        # Σ over pairs of positions of <outputs, outputs'> <inputs, inputs'>, which may nearly cancel:
        # in single precision a norm could come out too small, and its row unclipped
        return (_inner(self.outputs) * _inner(self.inputs)).sum(dim=(1, 2, 3)).clamp(min=0).to(self.outputs)

    def weighted_sums(self, factors: Tensor) -> tuple[Tensor, ...]:
        weighted = (self.outputs * factors[:, None, None, None]).transpose(0, 1).flatten(1, 2)
        return (weighted.transpose(1, 2) @ self.inputs.transpose(0, 1).flatten(1, 2),)


@dataclass(frozen=True)
class _Lookups:
    """Gradients that add `outputs`, (rows, positions, width), to the lines that `indices` names."""

    outputs: Tensor
    indices: Tensor
    lines: int

    def rows(self, kept: Tensor) -> _Lookups:
        return _Lookups(self.outputs[kept], self.indices[kept], self.lines)

    def squared_norms(self) -> Tensor:
        same = self.indices[:, :, None] == self.indices[:, None, :]
        return (_inner(self.outputs) * same).sum(dim=(1, 2)).clamp(min=0).to(self.outputs)

    def weighted_sums(self, factors: Tensor) -> tuple[Tensor, ...]:
        weighted = (self.outputs * factors[:, None, None]).flatten(0, 1)
        lines = weighted.new_zeros(self.lines, weighted.shape[1])
        return (lines.index_add_(0, self.indices.flatten(), weighted),)


_Part = _Rows | _Product | _Products | _Lookups


def _parts(name: str, layer: nn.Module, inputs: Tensor, gradient: Tensor) -> list[tuple[list[str], _Part]]:
    """The gradients of a layer's trainable parameters, in the form that is cheapest to clip."""
    wanted = _own_parameters(layer)
    prefix = f"{name}." if name else ""
    if isinstance(layer, nn.Linear) and gradient.dim() == 2 and "weight" in wanted:
        return [([prefix + own for own in wanted], _Product(gradient, inputs, bias="bias" in wanted))]
    match layer:
        case nn.Linear():
            found = _linear(inputs, gradient)
        case nn.Conv2d():
            found = _convolution(layer, inputs, gradient)
        case nn.GroupNorm():
            normal = nn.functional.group_norm(inputs, layer.num_groups, eps=layer.eps)
            found = _scaling(normal, gradient, (inputs.shape[1], -1), summed=2)
        case nn.LayerNorm():
            normal = nn.functional.layer_norm(inputs, layer.normalized_shape, eps=layer.eps)
            found = _scaling(normal, gradient, (-1, *layer.normalized_shape), summed=1)
        case nn.Embedding():
            found = _embedding(layer, inputs, gradient)
        case _:
            raise ValueError(f"layer '{name}' is a {type(layer).__name__}, which `supports` does not accept")
    return [([prefix + own], found[own]) for own in wanted]


def _linear(inputs: Tensor, gradient: Tensor) -> dict[str, _Part]:
    rows = len(inputs)
    outputs = gradient.reshape(rows, 1, -1, gradient.shape[-1])
    return _weight_and_bias(outputs, inputs.reshape(rows, 1, -1, inputs.shape[-1]))


def _convolution(layer: nn.Conv2d, inputs: Tensor, gradient: Tensor) -> dict[str, _Part]:
    """A linear map of the patches around each position, for each group of channels."""
    assert not isinstance(layer.padding, str)  # `supports`  # noqa: S101
    patches = nn.functional.unfold(
        inputs, layer.kernel_size, dilation=layer.dilation, padding=layer.padding, stride=layer.stride
    )
    rows, groups, positions = len(inputs), layer.groups, patches.shape[2]
    outputs = gradient.reshape(rows, groups, -1, positions).transpose(2, 3)
    return _weight_and_bias(outputs, patches.reshape(rows, groups, -1, positions).transpose(2, 3))


def _weight_and_bias(outputs: Tensor, inputs: Tensor) -> dict[str, _Part]:
    """For shapes (rows, groups, positions, width): single gradients where they are the smaller."""
    positions, single = outputs.shape[2], outputs.shape[3] * inputs.shape[3]
    weight: _Part = _Products(outputs, inputs)
    if single < 2 * positions**2:
        weight = _Rows(outputs.transpose(2, 3) @ inputs)
    return {"weight": weight, "bias": _Rows(outputs.sum(dim=2))}


def _scaling(normal: Tensor, gradient: Tensor, shape: tuple[int, ...], summed: int) -> dict[str, _Part]:
    """A scale and a shift after a normalisation; a row's positions lie along dimension `summed`."""
    rows = len(normal)
    return {
        "weight": _Rows((normal * gradient).reshape(rows, *shape).sum(dim=summed)),
        "bias": _Rows(gradient.reshape(rows, *shape).sum(dim=summed)),
    }


def _embedding(layer: nn.Embedding, indices: Tensor, gradient: Tensor) -> dict[str, _Part]:
    rows = len(indices)
    if layer.padding_idx is not None:
        gradient = gradient.masked_fill((indices == layer.padding_idx).unsqueeze(-1), 0.0)
    outputs = gradient.reshape(rows, -1, layer.embedding_dim)
    return {"weight": _Lookups(outputs, indices.reshape(rows, -1), layer.num_embeddings)}


def _own_parameters(layer: nn.Module) -> list[str]:
    """The names of the layer's own trainable parameters."""
    return [name for name, value in layer.named_parameters(recurse=False) if value.requires_grad]


def _is_known(layer: nn.Module) -> bool:
    if type(layer) is nn.Conv2d:
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    if type(layer) is nn.Embedding:
        return layer.max_norm is None and not layer.scale_grad_by_freq and not layer.sparse
    return type(layer) in _LAYERS


def _squared_norms(rows: Tensor) -> Tensor:
    """Of each row of a matrix, shape (rows,)."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return norms.square_()


def _inner(vectors: Tensor) -> Tensor:
    """Inner products of the last dimension between all pairs of positions, in double precision."""
    exact = vectors.double()
    return exact @ exact.transpose(-1, -2)
