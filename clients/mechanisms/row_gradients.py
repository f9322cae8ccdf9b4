"""The gradients of single rows, in the form in which their norms and their weighted sum are cheapest.

Norms are in double precision, of numbers that came in single precision. There no
square of theirs underflows or overflows (they lie between 1e-45 and 4e38, their
squares between 1e-90 and 2e77), nor does the product of two sums of such squares. So
a norm is right to a few units in the twelfth digit or, where terms cancel, larger
than what it stands for.

A sum is in the precision of the factors that it is asked for with. In double
precision no factor or product comes near what cannot be told from 0. In single
precision it may: then what is lost of a number is below 1e-37, and makes no
difference as long as what it is multiplied with is below `GREATEST`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clients.mechanisms.derivatives import own_parameters

__all__ = ["GREATEST", "RowGradients", "Rows", "of_layer"]

GREATEST = 1e20
"""The greatest norm of a gradient, or of what a layer is given, with which a row may be summed."""

_MOST_CANCELLED = 2.0**10
"""How many times the clipping norm the terms of a clipped gradient may add up to. Where terms cancel more
than that, the gradient is clipped shorter: what is left of it is rounding."""

_UNIT = 2.0**-52


@dataclass(frozen=True)
class Rows:
    """The gradients themselves, of shape (rows, ...)."""

    gradients: Tensor

    def rows(self, kept: Tensor) -> Rows:
        """The gradients of some rows."""
        return Rows(self.gradients[kept])

    def squares(self) -> tuple[Tensor, Tensor | None]:
        """What the squared L2 norms are at most, and the squares of what they are multiplied with in a sum.

        Both of shape (rows,), in double precision; a row in which anything is not finite is not finite in
        the first.
        """
        return _squared_norms(self.gradients.flatten(1)), None

    def add_to(self, sums: Sequence[Tensor], factors: Tensor) -> None:
        """Add the gradients, each times its factor, to tensors of the factors' precision."""
        sums[0].view(-1).addmv_(self.gradients.flatten(1).to(factors).T, factors)


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

    def squares(self) -> tuple[Tensor, Tensor]:
        inputs = _squared_norms(self.inputs)
        return _squared_norms(self.outputs).mul_(inputs + 1 if self.bias else inputs), inputs

    def add_to(self, sums: Sequence[Tensor], factors: Tensor) -> None:
        outputs = self.outputs.to(factors)
        sums[0].addmm_((outputs * factors[:, None]).T, self.inputs.to(factors))
        if self.bias:
            sums[1].addmv_(outputs.T, factors)


@dataclass(frozen=True)
class _Products:
    """Gradients Σ outputs ⊗ inputs over positions; shapes (rows, groups, positions, width)."""

    outputs: Tensor
    inputs: Tensor

    def rows(self, kept: Tensor) -> _Products:
        return _Products(self.outputs[kept], self.inputs[kept])

    def squares(self) -> tuple[Tensor, None]:
        # Σ over pairs of positions of <outputs, outputs'> <inputs, inputs'>
        outputs, inputs = _inner(self.outputs), _inner(self.inputs)
        lengths = (_diagonal(outputs) * _diagonal(inputs)).sqrt_()
        operations = self.outputs.shape[3] + self.inputs.shape[3] + outputs[0].numel() + 8
        return _at_most((outputs * inputs).sum(dim=(1, 2, 3)), lengths.sum(dim=(1, 2)), operations), None

    def add_to(self, sums: Sequence[Tensor], factors: Tensor) -> None:
        # in double precision: there are more terms than rows, and they may be longer than their sum
        weighted = (self.outputs.double() * factors[:, None, None, None]).transpose(0, 1).flatten(1, 2)
        found = weighted.transpose(1, 2) @ self.inputs.double().transpose(0, 1).flatten(1, 2)
        sums[0].add_(found.view_as(sums[0]))


@dataclass(frozen=True)
class _Lookups:
    """Gradients that add `outputs`, (rows, positions, width), to the lines that `indices` names."""

    outputs: Tensor
    indices: Tensor

    def rows(self, kept: Tensor) -> _Lookups:
        return _Lookups(self.outputs[kept], self.indices[kept])

    def squares(self) -> tuple[Tensor, None]:
        outputs = _inner(self.outputs)
        same = self.indices[:, :, None] == self.indices[:, None, :]
        operations = self.outputs.shape[2] + outputs[0].numel() + 8
        return _at_most(
            (outputs * same).sum(dim=(1, 2)), _diagonal(outputs).sqrt().sum(dim=1), operations
        ), None

    def add_to(self, sums: Sequence[Tensor], factors: Tensor) -> None:
        weighted = (self.outputs.double() * factors[:, None, None]).flatten(0, 1)
        lines = weighted.new_zeros(sums[0].shape)
        sums[0].add_(lines.index_add_(0, self.indices.flatten(), weighted))


RowGradients = Rows | _Product | _Products | _Lookups


def of_layer(
    name: str, layer: nn.Module, inputs: Tensor, gradient: Tensor
) -> list[tuple[list[str], RowGradients]]:
    """The gradients of a layer's trainable parameters, with the names of the parameters.

    Raises:
        ValueError: the layer is of a kind that is not known.
    """
    wanted = own_parameters(layer)
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


def _linear(inputs: Tensor, gradient: Tensor) -> dict[str, RowGradients]:
    rows = len(inputs)
    outputs = gradient.reshape(rows, 1, -1, gradient.shape[-1])
    return _weight_and_bias(outputs, inputs.reshape(rows, 1, -1, inputs.shape[-1]))


def _convolution(layer: nn.Conv2d, inputs: Tensor, gradient: Tensor) -> dict[str, RowGradients]:
    """A linear map of the patches around each position, for each group of channels."""
    assert not isinstance(layer.padding, str)  # `supports`  # noqa: S101
    patches = nn.functional.unfold(
        inputs, layer.kernel_size, dilation=layer.dilation, padding=layer.padding, stride=layer.stride
    )
    rows, groups, positions = len(inputs), layer.groups, patches.shape[2]
    outputs = gradient.reshape(rows, groups, -1, positions).transpose(2, 3)
    return _weight_and_bias(outputs, patches.reshape(rows, groups, -1, positions).transpose(2, 3))


def _weight_and_bias(outputs: Tensor, inputs: Tensor) -> dict[str, RowGradients]:
    """For shapes (rows, groups, positions, width): single gradients where they are the smaller."""
    positions, single = outputs.shape[2], outputs.shape[3] * inputs.shape[3]
    weight: RowGradients = _Products(outputs, inputs)
    if single < 2 * positions**2:
        weight = Rows(outputs.transpose(2, 3) @ inputs)
    return {"weight": weight, "bias": Rows(outputs.sum(dim=2))}


def _scaling(
    normal: Tensor, gradient: Tensor, shape: tuple[int, ...], summed: int
) -> dict[str, RowGradients]:
    """A scale and a shift after a normalisation; a row's positions lie along dimension `summed`."""
    rows = len(normal)
    return {
        "weight": Rows((normal * gradient).reshape(rows, *shape).sum(dim=summed)),
        "bias": Rows(gradient.reshape(rows, *shape).sum(dim=summed)),
    }


def _embedding(layer: nn.Embedding, indices: Tensor, gradient: Tensor) -> dict[str, RowGradients]:
    rows = len(indices)
    if layer.padding_idx is not None:
        gradient = gradient.masked_fill((indices == layer.padding_idx).unsqueeze(-1), 0.0)
    outputs = gradient.reshape(rows, -1, layer.embedding_dim)
    return {"weight": _Lookups(outputs, indices.reshape(rows, -1))}


def _squared_norms(rows: Tensor) -> Tensor:
    """Of each row of a matrix, shape (rows,)."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    return norms.square_()


def _at_most(squares: Tensor, terms: Tensor, operations: int) -> Tensor:
    """What squared norms are at most that were computed from terms which may cancel.

    Args:
        squares: as computed.
        terms: the sum of the norms of a gradient's terms; its square times `operations` roundings is
            more than the error of `squares`.
        operations: how many additions and multiplications a square took in a row, at most.
    """
    whole = terms.square()
    return torch.maximum(
        squares.clamp_(min=0).add_(whole, alpha=operations * _UNIT), whole / _MOST_CANCELLED**2
    )


def _diagonal(inner: Tensor) -> Tensor:
    return inner.diagonal(dim1=-2, dim2=-1)


def _inner(vectors: Tensor) -> Tensor:
    """Inner products of the last dimension between all pairs of positions, in double precision."""
    exact = vectors.double()
    return exact @ exact.transpose(-1, -2)
