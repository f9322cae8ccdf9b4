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
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import accumulate, pairwise
from typing import Self

import torch
from torch import Tensor, nn

from clients.mechanisms.blocks import BLOCK, one_thread
from clients.mechanisms.derivatives import LossOf, derivatives, own_parameters, watched
from clients.mechanisms.devices import CPU
from clients.mechanisms.models import Layers, LogLoss, RowLoss
from clients.mechanisms.processors import processors
from clients.mechanisms.row_gradients import GREATEST, RowGradients, Rows, of_layer
from contract.errors import InputError
from contract.norm_bound import CLIPPING_SLACK

__all__ = [
    "SLACK",
    "Add",
    "BatchSum",
    "Part",
    "Sums",
    "Tally",
    "add_parts",
    "clip_factors",
    "clipped_sum",
    "clipped_sum_of_rows",
    "is_known",
    "require_clipping_norm",
    "supports",
    "trainable",
]

_SINGLE = 256
"""Rows up to which a sum is in single precision."""

SLACK = CLIPPING_SLACK
"""How much more than the clipping norm, relative to it, a record may change the sum."""

_LEAST_NORM, _MOST_NORM = 1e-3, 1e3
"""Between which a clipping norm must be."""

_LAYERS = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm, nn.Embedding)
_MIXES_ROWS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Tally:
    """How many rows were cut to the clipping norm, and how many were not; several threads may add.

    A row that counts zero, because something of it is not finite or too great, is in neither.

    Attributes:
        cut, kept: the numbers of rows.
    """

    def __init__(self) -> None:
        self.cut = self.kept = 0
        self._lock = threading.Lock()

    def add(self, norms: Tensor, counted: Tensor, clipping_norm: float) -> None:
        """Take in rows by the lengths of their gradients; `counted` says which of them count."""
        is_cut = counted & (norms > clipping_norm)
        cut, kept = int(is_cut.sum()), int((counted & ~is_cut).sum())
        with self._lock:
            self.cut += cut
            self.kept += kept


class Sums:
    """Sums by parameter, side by side in one place that is written to again and again.

    Args:
        parameters: by name, those to sum for; their number may be large, so that the sums are held once.

    Attributes:
        flat: all numbers, in one dimension, as of the last `cleared`.
        by_name: by the parameter's name, its part of `flat`, in its shape.
        tally: is told of each row that is added, where somebody wants to know.
    """

    flat: Tensor
    by_name: dict[str, Tensor]
    tally: Tally | None = None

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self._shapes = {name: value.shape for name, value in parameters.items()}
        self._device = next((value.device for value in parameters.values()), CPU)
        self._locks = {name: threading.Lock() for name in parameters}
        self._made: dict[torch.dtype, tuple[Tensor, dict[str, Tensor]]] = {}
        self.cleared(torch.float32)

    def cleared(self, dtype: torch.dtype) -> None:
        """Take zeros of this type."""
        if dtype not in self._made:
            ends = accumulate((shape.numel() for shape in self._shapes.values()), initial=0)
            places = list(pairwise(ends))
            flat = torch.empty(places[-1][1] if places else 0, dtype=dtype, device=self._device)
            parts = zip(self._shapes.items(), places, strict=True)
            self._made[dtype] = (
                flat,
                {name: flat[begin:end].view(shape) for (name, shape), (begin, end) in parts},
            )
        self.flat, self.by_name = self._made[dtype]
        self.flat.zero_()

    @contextmanager
    def held(self, names: Sequence[str]) -> Iterator[int]:
        """Keep other threads from adding to one of these sums; gives the place of one that no other holds."""
        locks = [self._locks[name] for name in names]
        free = (place for place, lock in enumerate(locks) if lock.acquire(blocking=False))
        place = next(free, -1)
        if place < 0:
            locks[place].acquire()
        try:
            yield place
        finally:
            locks[place].release()


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
    if not all(is_known(layer) for layer in layers if own_parameters(layer)):
        return False
    if example is None or type(module) is Layers:  # which calls each once
        return True
    with watched(module) as calls:
        module(example)
    return all(len(call.inputs) == 1 for call in calls)


def clipped_sum(
    module: nn.Module,
    inputs: Tensor,
    loss_of: LossOf,
    clipping_norm: float,
    into: Sums | None = None,
    *,
    block: int = BLOCK,
) -> Sums:
    """The sum over rows of each row's gradient, clipped to an L2 norm of `clipping_norm`.

    Args:
        module: one that `supports` accepts; its `grad` fields stay as they are.
        inputs: the batch, of shape (rows, ...); no rows give zeros.
        loss_of: from the module's outputs to each row's loss, of shape (rows,).
        clipping_norm: the most that the gradient of a row may count.
        into: where to, made for the module's trainable parameters; a new place without.
        block: the rows are filled up with zeros to a multiple of it.

    Raises:
        InputError: the clipping norm is not one, whatever the rows are.
        ValueError: a layer was called twice or not at all, on something else than
            one entry a row, or on a tensor that was written to afterwards.
    """
    require_clipping_norm(clipping_norm)
    into = Sums(trainable(module)) if into is None else into
    into.cleared(_precision(len(inputs)))
    _add_clipped(module, inputs, loss_of, clipping_norm, into, block)
    return into


Part = tuple[list[str], RowGradients]
"""Names of parameters, and the gradients of single rows by them."""

Add = Callable[[Tensor, Tensor, float, Sums, int], None]
"""Adds the clipped gradients of not more than a block of rows: rows, labels, clipping norm, sums, block."""


class BatchSum:
    """What `clipped_sum` gives, of one batch after the other, as a site trains.

    Its calls have exactly `block` rows and run on one thread each, several side by side. The threads, and a
    module with the same parameters for each, are made once; its `with` block ends the threads.
    A module on another device is called on one thread, and its rows are sent there a block at a time.
    Call it within `one_thread`: torch's own threads stay awake for milliseconds after each call, on the
    processors that these need (a sum of 1.6 million parameters took 21 ms beside them, and takes 14).

    Args:
        module: one that `supports` accepts.
        block: of public facts alone: `clients.mechanisms.blocks.block_rows`.
        loss: of a batch, by its labels.
        add: adds a block in another way than by one pass through the module; it has a module of its own.
    """

    def __init__(
        self,
        module: nn.Module,
        block: int,
        loss: Callable[[Tensor], RowLoss] = LogLoss,
        *,
        add: Add | None = None,
    ) -> None:
        self._block, self._loss, self._other_way = block, loss, add
        self._modules = [module]
        self._device = next((value.device for value in module.parameters()), CPU)
        self._sums = Sums(trainable(module))
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def __call__(
        self, inputs: Tensor, labels: Tensor, clipping_norm: float, *, tally: Tally | None = None
    ) -> Sums:
        """The sum over a batch of any number of rows, in a place that the next call writes to again.

        Args:
            inputs, labels: the batch.
            clipping_norm: the most that the gradient of a row may count.
            tally: is told of each row.

        Raises:
            InputError: the clipping norm is not one, whatever the rows are.
        """
        require_clipping_norm(clipping_norm)
        self._sums.cleared(_precision(len(inputs)))
        self._sums.tally = tally
        parts = list(zip(torch.split(inputs, self._block), torch.split(labels, self._block), strict=True))
        number = min(len(parts), processors()) if self._device == CPU else 1
        with one_thread():
            if number == 1:
                self._add(self._modules[0], parts, clipping_norm)
                return self._sums
            # a pass leaves notes at the module that it goes through: each thread has one of its own
            shared = {id(value): value for value in self._modules[0].parameters()}
            while self._other_way is None and len(self._modules) < number:
                self._modules.append(copy.deepcopy(self._modules[0], dict(shared)))
            if self._pool is None:
                self._pool = ThreadPoolExecutor(initializer=torch.set_num_threads, initargs=(1,))
            turns = [
                self._pool.submit(
                    self._add, self._modules[place % len(self._modules)], parts[place::number], clipping_norm
                )
                for place in range(number)
            ]
            wait(turns)  # all of them, also if one fails: none may write into a later sum
            for turn in turns:
                turn.result()
        return self._sums

    def _add(self, module: nn.Module, parts: list[tuple[Tensor, Tensor]], clipping_norm: float) -> None:
        for rows, classes in parts:
            inputs, labels = rows.to(self._device), classes.to(self._device)
            if self._other_way is not None:
                self._other_way(inputs, labels, clipping_norm, self._sums, self._block)
                continue
            _add_clipped(module, inputs, self._loss(labels), clipping_norm, self._sums, self._block)


def clipped_sum_of_rows(
    gradients: Mapping[str, Tensor], losses: Tensor, clipping_norm: float, into: Sums
) -> Sums:
    """What `clipped_sum` gives, for gradients of single rows, of shape (rows, ...), by parameter.

    Raises:
        InputError: the clipping norm is not one, whatever the rows are.
    """
    require_clipping_norm(clipping_norm)
    into.cleared(_precision(len(losses)))
    parts: list[Part] = [([name], Rows(value)) for name, value in gradients.items()]
    add_parts(parts, losses, clipping_norm, into, rows=len(losses))
    return into


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


def _precision(rows: int) -> torch.dtype:
    return torch.float32 if rows <= _SINGLE else torch.float64


def _add_clipped(
    module: nn.Module, inputs: Tensor, loss_of: LossOf, clipping_norm: float, into: Sums, block: int
) -> None:
    """Add the rows' clipped gradients to `into`; several threads may, each with a module of its own."""
    if not into.by_name or not len(inputs):
        return
    losses, found = derivatives(module, inputs, loss_of, block)
    parts: list[Part] = []
    while found:
        parts += of_layer(*found.pop())
    add_parts(parts, losses, clipping_norm, into, rows=len(inputs))


def add_parts(parts: list[Part], losses: Tensor, clipping_norm: float, into: Sums, *, rows: int) -> None:
    """Add what `parts` holds, which are let go of as early as can be: they hold activations.

    Only the first `rows` count. The others are there in all that is found for a row, so that nothing
    depends on how many there are, and are left out of the sum.
    """
    found = [part.squares() for _, part in parts]
    squares = functools.reduce(torch.add, [square for square, _ in found], 0 * losses)
    # all that must not be too great, together; NaN where the loss is not finite
    sizes = functools.reduce(torch.add, [other for _, other in found if other is not None], squares)
    norms = squares.sqrt()
    if into.tally is not None:
        into.tally.add(norms[:rows], sizes[:rows] <= GREATEST**2, clipping_norm)  # false of NaN
    factors = clip_factors(norms, clipping_norm)
    if float(sizes.sum()) <= GREATEST**2:
        factors[rows:] = 0
    else:  # 0 · NaN is NaN: such rows must be out of the contraction itself
        kept = sizes <= GREATEST**2
        kept[rows:] = False
        parts, factors = [(names, part.rows(kept)) for names, part in parts], factors[kept]
    factors = factors.to(into.flat.dtype)
    while parts:
        with into.held([names[0] for names, _ in parts]) as place:
            names, part = parts.pop(place)
            part.add_to([into.by_name[name] for name in names], factors)
            del part


def is_known(layer: nn.Module) -> bool:
    """Whether `row_gradients.of_layer` knows the layer, with these settings."""
    if type(layer) is nn.Conv2d:
        return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    if type(layer) is nn.Embedding:
        return layer.max_norm is None and not layer.scale_grad_by_freq and not layer.sparse
    return type(layer) in _LAYERS
