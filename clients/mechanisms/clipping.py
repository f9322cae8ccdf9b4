"""The sum of a batch's clipped gradients, in one backward pass.

Gradients of single records are needed only to know their norms. For most layers
the norm follows from what went in and what the loss's derivative by the output
is, without the gradient itself (Goodfellow, 2015; "ghost" norms, Li et al., 2021);
and once the norms are known, one weighted contraction of the same two tensors
gives the clipped sum, without a second backward pass ("book-keeping", Bu et al.,
2022). Where the gradients of single records are smaller than what their ghost norm
needs, they are made instead.

Guarantee: one record more or less changes the sum by (1 + `SLACK`) times the
clipping norm C at most, whatever the record, the other records and the parameters are.

Proven. Forward and backward pass are in single precision, and their results are
taken as they are. A record counts zero if anything of it is not finite (its inputs,
its loss, an activation that a layer was given, a derivative) or greater than
`row_gradients.GREATEST`; Opacus lets it turn the sum into NaN. The norms are in double
precision, and right or too large; the factors are min(1, C / (norm + 1e-6)), as in
Opacus. What a record adds is therefore at most C (1 + 1e-6) long.

The rounding of the sum. Each of n - 1 additions, in any order, is off by the unit
roundoff u times its result at most (Higham, 2002, section 4.2), and the results' norms
add up to n (n + 1) / 2 · C at most. For two batches that differ by a record that
makes u · n (n + 1) · C. Up to `_SINGLE` records are summed in single precision,
u = 2⁻²⁴: this is `SLACK`, four parts in a thousand, which the noise covers
(`clients.mechanisms.training`). More records are summed in double precision, u = 2⁻⁵³,
with less than a thousandth of that for a hundred thousand records; it would take twice
as long for few. What has more terms than records (a layer that is called at p
positions and is not clipped by its single gradients) is summed in double precision.

Assumed: what a record's forward and backward pass give does not depend on which other
records are in the batch. A module that `supports` accepts mixes no rows, and
`BatchSum`, by which a site trains, makes calls of one shape on one thread,
in which the libraries give each row the same bits (`clients.mechanisms.blocks`).
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from clients.mechanisms.blocks import BLOCK, one_thread
from clients.mechanisms.derivatives import derivatives, own_parameters, watched
from clients.mechanisms.models import LogLoss
from clients.mechanisms.processors import processors
from clients.mechanisms.row_gradients import GREATEST, RowGradients, Rows, of_layer
from contract.errors import InputError

__all__ = [
    "SLACK",
    "BatchSum",
    "Sums",
    "clip_factors",
    "clipped_sum",
    "clipped_sum_of_rows",
    "require_clipping_norm",
    "supports",
    "trainable",
]

_SINGLE = 256
"""Rows up to which a sum is in single precision."""

SLACK = 0.004
"""How much more than the clipping norm, relative to it, a record may change the sum: 257 · 256 · 2⁻²⁴, and a
thousandth of it for all other rounding."""

_LEAST_NORM, _MOST_NORM = 1e-3, 1e3
"""Between which a clipping norm must be."""

_LAYERS = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm, nn.Embedding)
_MIXES_ROWS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Sums:
    """Sums by parameter, side by side in one place that is written to again and again.

    Args:
        parameters: by name, those to sum for; their number may be large, so that the sums are held once.

    Attributes:
        flat: all numbers, in one dimension, as of the last `cleared`.
        by_name: by the parameter's name, its part of `flat`, in its shape.
    """

    flat: Tensor
    by_name: dict[str, Tensor]

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self._shapes = {name: value.shape for name, value in parameters.items()}
        self._made: dict[torch.dtype, tuple[Tensor, dict[str, Tensor]]] = {}
        self.cleared(torch.float32)

    def cleared(self, dtype: torch.dtype) -> None:
        """Take zeros of this type."""
        if dtype not in self._made:
            ends = accumulate((shape.numel() for shape in self._shapes.values()), initial=0)
            places = list(pairwise(ends))
            flat = torch.empty(places[-1][1] if places else 0, dtype=dtype)
            parts = zip(self._shapes.items(), places, strict=True)
            self._made[dtype] = (
                flat,
                {name: flat[begin:end].view(shape) for (name, shape), (begin, end) in parts},
            )
        self.flat, self.by_name = self._made[dtype]
        self.flat.zero_()


def trainable(module: nn.Module) -> dict[str, Tensor]:
    """The parameters of a module that are not frozen, by name."""
    return {name: value for name, value in module.named_parameters() if value.requires_grad}


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
    if not all(_is_known(layer) for layer in layers if own_parameters(layer)):
        return False
    if example is None:
        return True
    with watched(module) as calls:
        module(example)
    return all(len(call.inputs) == 1 for call in calls)


def clipped_sum(
    module: nn.Module,
    inputs: Tensor,
    loss_of: Callable[[Tensor], Tensor],
    clipping_norm: float,
    into: Sums | None = None,
    *,
    block: int = BLOCK,
    single: bool | None = None,
) -> Sums:
    """The sum over rows of each row's gradient, clipped to an L2 norm of `clipping_norm`.

    Args:
        module: one that `supports` accepts; its `grad` fields stay as they are.
        inputs: the batch, of shape (rows, ...); no rows give zeros.
        loss_of: from the module's outputs to each row's loss, of shape (rows,).
        clipping_norm: the most that the gradient of a row may count.
        into: where to, made for the module's trainable parameters; a new place without.
        block: the rows are filled up with zeros to a multiple of it.
        single: whether the sum is in single precision; left out, that of few rows is.

    Raises:
        InputError: the clipping norm is not one, whatever the rows are.
        ValueError: a layer was called twice or not at all, on something else than
            one entry a row, or on a tensor that was written to afterwards.
    """
    require_clipping_norm(clipping_norm)
    single = len(inputs) <= _SINGLE if single is None else single
    into = Sums(trainable(module)) if into is None else into
    if not into.by_name or not len(inputs):
        into.cleared(torch.float32)
        return into
    losses, found = derivatives(module, inputs, loss_of, block)
    parts: list[_Part] = []
    while found:
        parts += of_layer(*found.pop())
    return _clipped(parts, losses, clipping_norm, into, rows=len(inputs), single=single)


class BatchSum:
    """What `clipped_sum` gives for the log loss, of one batch after the other, as a site trains.

    Its calls have exactly `block` rows and run on one thread each, several side by side. What each thread
    needs, a module with the same parameters and places for sums, is made once.

    Args:
        module: one that `supports` accepts.
        block: of public facts alone: `clients.mechanisms.blocks.block_rows`.
    """

    def __init__(self, module: nn.Module, block: int) -> None:
        self._block = block
        self._workers = [_Worker(module, block)]

    def __call__(self, inputs: Tensor, labels: Tensor, clipping_norm: float) -> Sums:
        """The sum over a batch of any number of rows, in a place that the next call writes to again.

        Args:
            inputs, labels: the batch.
            clipping_norm: the most that the gradient of a row may count.

        Raises:
            InputError: the clipping norm is not one, whatever the rows are.
        """
        single = len(inputs) <= _SINGLE
        parts = list(zip(torch.split(inputs, self._block), torch.split(labels, self._block), strict=True))
        number = min(len(parts), processors())
        self._workers += [self._workers[0].beside() for _ in range(number - len(self._workers))]
        workers = self._workers[:number]
        with one_thread():
            if number == 1:
                return workers[0].add_up(parts, clipping_norm, single=single)
            # threads of this call alone: a pool that lasted would not survive a fork
            with ThreadPoolExecutor(number, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                turns = [
                    pool.submit(worker.add_up, parts[place::number], clipping_norm, single=single)
                    for place, worker in enumerate(workers)
                ]
        first, *others = [turn.result() for turn in turns]
        for other in others:
            first.flat.add_(other.flat)
        return first


class _Worker:
    """One thread's module, and where it sums."""

    def __init__(self, module: nn.Module, block: int) -> None:
        self._module, self._block = module, block
        self._part = Sums(trainable(module))

    def beside(self) -> _Worker:
        """Another one, on the same parameters: a pass leaves notes at the module that it goes through."""
        shared = {id(value): value for value in self._module.parameters()}
        return _Worker(copy.deepcopy(self._module, shared), self._block)

    @functools.cached_property
    def _total(self) -> Sums:
        return Sums(self._part.by_name)

    def add_up(self, parts: list[tuple[Tensor, Tensor]], clipping_norm: float, *, single: bool) -> Sums:
        if len(parts) == 1:
            return self._sum(parts[0], clipping_norm, single=single)
        self._total.cleared(torch.float32 if single else torch.float64)
        for part in parts:
            self._total.flat.add_(self._sum(part, clipping_norm, single=single).flat)
        return self._total

    def _sum(self, part: tuple[Tensor, Tensor], clipping_norm: float, *, single: bool) -> Sums:
        inputs, labels = part
        loss, block = LogLoss(labels), self._block
        return clipped_sum(self._module, inputs, loss, clipping_norm, self._part, block=block, single=single)


def clipped_sum_of_rows(
    gradients: Mapping[str, Tensor], losses: Tensor, clipping_norm: float, into: Sums
) -> Sums:
    """What `clipped_sum` gives, for gradients of single rows, of shape (rows, ...), by parameter.

    Raises:
        InputError: the clipping norm is not one, whatever the rows are.
    """
    require_clipping_norm(clipping_norm)
    parts: list[_Part] = [([name], Rows(value)) for name, value in gradients.items()]
    rows = len(losses)
    return _clipped(parts, losses, clipping_norm, into, rows=rows, single=rows <= _SINGLE)


def clip_factors(norms: Tensor, clipping_norm: float) -> Tensor:
    """What each row's gradient is multiplied by, shape (rows,): as in Opacus."""
    return (clipping_norm / (norms + 1e-6)).clamp_(max=1.0)


def require_clipping_norm(clipping_norm: float) -> None:
    """Refuse a clipping norm for which nothing is proven here: a mechanism asks before it sees a row.

    Raises:
        InputError: it is not between 0.001 and 1000.
    """
    if not _LEAST_NORM <= clipping_norm <= _MOST_NORM:
        raise InputError(
            f"a clipping norm of {clipping_norm} is not between {_LEAST_NORM:g} and {_MOST_NORM:g}",
            where="privacy.clipping_norm",
        )


_Part = tuple[list[str], RowGradients]


def _clipped(
    parts: list[_Part], losses: Tensor, clipping_norm: float, into: Sums, *, rows: int, single: bool
) -> Sums:
    """The sums of what `parts` holds, which are let go of as early as can be: they hold activations.

    Only the first `rows` count. The others are there in all that is found for a row, so that nothing
    depends on how many there are, and are left out of the sum.
    """
    found = [part.squares() for _, part in parts]
    squares = functools.reduce(torch.add, [square for square, _ in found], 0 * losses)
    # all that must not be too great, together; NaN where the loss is not finite
    sizes = functools.reduce(torch.add, [other for _, other in found if other is not None], squares)
    factors = clip_factors(squares.sqrt(), clipping_norm)
    if float(sizes.sum()) <= GREATEST**2:
        factors[rows:] = 0
    else:  # 0 · NaN is NaN: such rows must be out of the contraction itself
        kept = sizes <= GREATEST**2
        kept[rows:] = False
        parts, factors = [(names, part.rows(kept)) for names, part in parts], factors[kept]
    if single:
        factors = factors.float()
    into.cleared(factors.dtype)
    while parts:
        names, part = parts.pop()
        part.sum_into([into.by_name[name] for name in names], factors)
    return into


def _is_known(layer: nn.Module) -> bool:
    if type(layer) is nn.Conv2d:
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    if type(layer) is nn.Embedding:
        return layer.max_norm is None and not layer.scale_grad_by_freq and not layer.sparse
    return type(layer) in _LAYERS
