"""What a module of a package computes of single rows: each by itself, whatever its code does.

Our own modules are known to treat rows apart (`clipping.supports`). Of others nothing is known but what a
trial shows (`clients.mechanisms.trial`), and a trial cannot show that no row among all possible ones is
treated otherwise. So here a module is never given more than one row. `torch.func.vmap` runs its code once,
on a row that stands for each of a block: to the code there are no others, an operation on tensors cannot
reach them, and their numbers cannot decide what it does next, for vmap refuses code that branches by them.
A module that vmap cannot take is called on one row after the other.

So the gradients of single rows come in two ways, and public random numbers show which a module can take:

    one pass    one forward and backward pass for a block of rows, by vmap. The gradient of most parameters is
                made for each row. Of a large linear layer or an embedding that would be long: what the layer
                was given and the derivative by its output are noted instead, from which its norm and the
                clipped sum follow (`row_gradients`)
    each row    one row after the other

State would be another way between rows: a counter, a list, a buffer that is written to. So each call is made
on a copy of the module as it was built, which is thrown away; its parameters are given to it. What a package
keeps elsewhere (a global variable, a file) is not covered: whoever installs a package trusts it that far, as
with all code that is installed at a site. A trial finds the plain cases.

It is total. Where a block raises an error, each of its rows is computed anew, in a block of the same shape
in which all others are zeros, so that its numbers stay what they were; a row that raises again counts zero.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from clients.mechanisms.blocks import in_blocks, one_thread
from clients.mechanisms.clipping import Part, Sums, add_parts, is_known, trainable
from clients.mechanisms.derivatives import own_parameters
from clients.mechanisms.row_gradients import Rows, of_layer
from clients.mechanisms.written_out import write_out

__all__ = ["EachRow", "Way", "steady"]

Way = Literal["one pass", "each row"]
Tensors = dict[str, Tensor]
Noted = dict[str, tuple[Tensor, ...]]
"""By layer, zeros that are added to what it gives, in each call: the derivative by them is noted."""

_MOST_HELD = 2**25
"""Numbers of single rows' gradients that are held at once: 128 MiB."""
_WORTH = 16
"""A layer at p positions is noted from so many times p² parameters on: measured, for a small transformer."""
_MOST_OFF = 1e-3
"""How much a sum over public rows may differ between two ways, relative to it."""


class EachRow:
    """A module, row by row.

    Args:
        module: as it was built; it is never called itself. Its parameters may change between calls. An
            `nn.LSTM` in it is written out (`clients.mechanisms.written_out`).
        loss: from outputs of shape (1, outputs) and labels of shape (1,) to the loss, of shape (1,).
        judged: from outputs to what metrics are made of.
        rows, labels: a few public random ones, by which the way is chosen.

    Attributes:
        way: how the gradients of single rows are found.

    Raises:
        Exception: of any kind, by the module's code, on the public rows.
    """

    way: Way

    def __init__(
        self,
        module: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        judged: Callable[[Tensor], Tensor],
        rows: Tensor,
        labels: Tensor,
    ) -> None:
        write_out(module)
        self._module, self._loss, self._judged = module, loss, judged
        self._layers = dict(module.named_modules())
        first = {id(value): name for name, value in module.named_parameters()}
        every = module.named_parameters(remove_duplicate=False)
        self._names = {name: first[id(value)] for name, value in every}
        self._noted: Noted = {}
        self.way = "each row"
        self._scored: Way = "each row"
        with torch.no_grad():
            apart = self._outputs(rows)
            self._width = apart.shape[1]
            self._scored = "one pass"
            if not self._scores(apart, rows):
                self._scored = "each row"
        wanted = self._sum(rows, labels)
        self.way = "one pass"
        if not self._gives(wanted, rows, labels):
            self.way = "each row"
            return
        self._noted = self._worth_noting(rows[:1])
        if self._noted and not self._gives(wanted, rows, labels):
            self._noted = {}

    @property
    def device(self) -> torch.device:
        """Where its parameters are, and rows must be."""
        return next(self._module.parameters()).device

    def sums(self) -> Sums:
        """A place for sums of its gradients."""
        return Sums(trainable(self._module))

    def rows_at_once(self, block: int) -> int:
        """How many rows a call should have, of at most `block`, by public facts alone."""
        held = sum(value.numel() for value in self._others().values())
        while block > 1 and block * held > _MOST_HELD:
            block //= 2
        return block

    def outputs(self, rows: Tensor) -> Tensor:
        """What metrics are made of, shape (rows, outputs): NaN for a row on which the module fails.

        Args:
            rows: exactly those of one call, zeros after the true ones.
        """
        with torch.no_grad():
            try:
                return self._outputs(rows)
            except Exception:  # of any kind: the code is not ours
                return self._outputs_apart(rows)

    def parts(self, rows: Tensor, labels: Tensor) -> tuple[Tensor, list[Part]]:
        """Each row's loss, and the gradients of single rows by parameter: of exactly the rows of one call."""
        if self.way == "each row":
            return self._alone(rows, labels)
        module, noted = self._fresh(), self._noted
        given: dict[str, list[Tensor]] = {}
        zeros: dict[str, tuple[Tensor, ...]] = {}

        def note(name: str) -> Callable[..., Tensor]:
            def hook(_layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
                calls = given.setdefault(name, [])
                calls.append(inputs[0])
                return output + zeros[name][len(calls) - 1]

            return hook

        layers = dict(module.named_modules())
        for name in noted:
            layers[name].register_forward_hook(note(name))
        constant = self._parameters()

        def of_one(
            added: Noted, others: Tensors, row: Tensor, label: Tensor
        ) -> tuple[Tensor, tuple[Tensor, dict[str, list[Tensor]]]]:
            given.clear()
            zeros.update(added)
            outputs = functional_call(module, {**constant, **others}, (row[None],))
            loss = self._loss(outputs, label[None])[0]
            return loss, (loss, dict(given))

        both = vmap(grad(of_one, argnums=(0, 1), has_aux=True), in_dims=(None, None, 0, 0))
        (slopes, gradients), (losses, inputs) = both(noted, self._others(), rows, labels)
        parts: list[Part] = [([name], Rows(value)) for name, value in gradients.items()]
        for name, slope in slopes.items():
            found = of_layer(name, self._layers[name], _joined(inputs[name]), _joined(slope))
            parts += [([self._names[own] for own in names], part) for names, part in found]
        named = [name for names, _ in parts for name in names]
        if len(set(named)) < len(
            named
        ):  # the norm of a gradient in two parts is not what follows from theirs
            raise ValueError("two of the noted layers share a parameter")
        return losses, parts

    def add(self, rows: Tensor, labels: Tensor, clipping_norm: float, into: Sums, block: int) -> None:
        """Add the rows' clipped gradients to `into`; several threads may.

        Args:
            rows, labels: not more than a block.
            clipping_norm: the most that the gradient of a row may count.
            into: made for the module's trainable parameters.
            block: rows of a call.
        """
        block = 1 if self.way == "each row" else block
        true, filled, targets = len(rows), in_blocks(rows, block), in_blocks(labels, block)
        finite = filled.flatten(1).mul(0).sum(dim=1)  # NaN for a row that is not finite
        try:
            losses, parts = self.parts(filled, targets)
        except Exception:  # of any kind: the code is not ours
            for row in range(true):
                self._add_apart(filled, targets, row, clipping_norm, into)
            return
        add_parts(parts, losses + finite, clipping_norm, into, rows=true)

    def _add_apart(self, filled: Tensor, targets: Tensor, row: int, clipping_norm: float, into: Sums) -> None:
        apart = torch.arange(len(filled), device=filled.device) == row
        try:
            losses, parts = self.parts(_only(filled, apart), _only(targets, apart))
        except Exception:  # of any kind: such a row counts zero
            return
        nothing = torch.where(apart, 0.0, torch.nan)  # a row whose loss is not finite is left out
        add_parts(parts, losses + nothing, clipping_norm, into, rows=len(filled))

    def _outputs(self, rows: Tensor) -> Tensor:
        module, parameters = self._fresh(), self._parameters()

        def of_one(row: Tensor) -> Tensor:
            return self._judged(functional_call(module, parameters, (row[None],)))[0]

        if self._scored == "each row":
            return torch.stack([self._outputs_alone(row) for row in rows])
        found: Tensor = vmap(of_one)(rows)
        return found

    def _outputs_alone(self, row: Tensor) -> Tensor:
        return self._judged(functional_call(self._fresh(), self._parameters(), (row[None],)))[0]

    def _outputs_apart(self, rows: Tensor) -> Tensor:
        found = rows.new_full((len(rows), self._width), torch.nan)
        for row in range(len(rows)):
            apart = torch.arange(len(rows), device=rows.device) == row
            try:
                if self._scored == "each row":
                    found[row] = self._outputs_alone(rows[row])
                else:
                    found[row] = self._outputs(_only(rows, apart))[row]
            except Exception:  # noqa: S112 - of any kind: such a row has no output
                continue
        return found

    def _alone(self, rows: Tensor, labels: Tensor) -> tuple[Tensor, list[Part]]:
        losses, gradients = [], []
        for row, label in zip(rows, labels, strict=True):
            loss, found = self._of_one_alone(row, label)
            losses.append(loss)
            gradients.append(found)
        names = self._others()
        return torch.stack(losses), [
            ([name], Rows(torch.stack([one[name] for one in gradients]))) for name in names
        ]

    def _of_one_alone(self, row: Tensor, label: Tensor) -> tuple[Tensor, Tensors]:
        others = {name: value.requires_grad_() for name, value in self._others().items()}
        try:
            outputs = functional_call(self._fresh(), {**self._parameters(), **others}, (row[None],))
            loss = self._loss(outputs, label[None])[0]
            found = torch.autograd.grad(loss, list(others.values()), allow_unused=True)
        except Exception:  # of any kind: such a row counts zero, and no other does for it
            return row.new_tensor(torch.nan), {
                name: torch.zeros_like(value) for name, value in others.items()
            }
        gradients = {
            name: torch.zeros_like(value) if one is None else one
            for (name, value), one in zip(others.items(), found, strict=True)
        }
        return loss.detach(), gradients

    def _fresh(self) -> nn.Module:
        """A copy of the module as it was built, with the same parameters."""
        shared = {id(value): value for value in self._module.parameters()}
        made = copy.deepcopy(self._module, dict(shared))
        if {id(one) for one in made.modules()} & {id(one) for one in self._module.modules()}:
            raise ValueError("the module cannot be copied")
        return made

    def _parameters(self) -> Tensors:
        """All of them as they are now, by name, without a derivative."""
        return {name: value.detach() for name, value in self._module.named_parameters()}

    def _others(self) -> Tensors:
        """The trainable parameters whose gradients are made for each row."""
        known = {
            self._names[f"{name}.{own}" if name else own]
            for name in self._noted
            for own in own_parameters(self._layers[name])
        }
        wanted = trainable(self._module)
        return {name: value.detach() for name, value in wanted.items() if name not in known}

    def _worth_noting(self, row: Tensor) -> Noted:
        """Layers that are cheaper to note, with zeros of the shape of what each call gives for one row.

        Those with long gradients are, for a norm multiplies all pairs of positions in double precision;
        and those that are called several times, for else a gradient is made and added in each call.
        """
        module = self._fresh()
        kinds = (nn.Linear, nn.Embedding)
        layers = {
            name: one
            for name, one in module.named_modules()
            if isinstance(one, kinds) and is_known(one) and own_parameters(one)
        }
        calls: dict[str, list[Tensor]] = {name: [] for name in layers}

        def note(name: str) -> Callable[..., None]:
            def hook(_layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
                of_one = len(inputs[0]) == len(output) == 1
                calls[name].append(torch.zeros_like(output) if of_one else output.new_zeros(0))

            return hook

        for name, layer in layers.items():
            layer.register_forward_hook(note(name))
        with torch.no_grad():
            functional_call(module, self._parameters(), (row,))
        return {name: tuple(zeros) for name, zeros in calls.items() if _is_worth_it(layers[name], zeros)}

    def _scores(self, wanted: Tensor, rows: Tensor) -> bool:
        """Whether outputs can be had of a block of rows: some code works with derivatives alone."""
        try:
            return torch.allclose(self._outputs(rows), wanted, rtol=_MOST_OFF, atol=1e-6)
        except Exception:  # of any kind: the code is not ours
            return False

    def _gives(self, wanted: Mapping[str, Tensor], rows: Tensor, labels: Tensor) -> bool:
        """Whether the module can be taken so, and the gradients are the same."""
        try:
            found = self._sum(rows, labels)
        except Exception:  # of any kind: the code is not ours
            return False
        return all(
            float((found[name] - value).norm()) <= _MOST_OFF * float(value.norm()) + 1e-6
            for name, value in wanted.items()
        )

    def _sum(self, rows: Tensor, labels: Tensor) -> Tensors:
        """The sum of the gradients, of which none is cut here."""
        into = self.sums()
        losses, parts = self.parts(rows, labels)
        for names, part in parts:
            part.add_to([into.by_name[name] for name in names], losses.new_ones(len(losses)))
        return {name: value.clone() for name, value in into.by_name.items()}


@contextmanager
def steady() -> Iterator[None]:
    """Within it, each operation is computed by one program, of which vmap can make that for a block of rows.

    On one thread (`blocks.one_thread`); attention is written out; and of what vmap takes row by row
    inside, such as `nn.LSTM`, it does not warn. It holds in all threads: enter it before any is started.
    """
    with one_thread(), sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop because")
        yield


def _is_worth_it(layer: nn.Module, zeros: list[Tensor]) -> bool:
    if not zeros or any(one.shape != zeros[0].shape or not one.numel() for one in zeros):
        return False
    positions = zeros[0][0].numel() // zeros[0].shape[-1]
    size = max(value.numel() for value in layer.parameters())
    return positions == 1 or len(zeros) > 1 or size >= _WORTH * positions**2


def _joined(calls: Sequence[Tensor]) -> Tensor:
    """What was noted of all calls, shape (rows, ...): each of (rows, 1, ...), side by side if several."""
    if len(calls) == 1:
        return calls[0].squeeze(1)
    return torch.stack([one.squeeze(1) for one in calls], dim=1)


def _only(values: Tensor, row: Tensor) -> Tensor:
    """The values with zeros in the place of all rows but one."""
    return torch.where(row.reshape(-1, *([1] * (values.dim() - 1))), values, torch.zeros_like(values))
