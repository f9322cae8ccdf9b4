"""Does this machine give a row the same bits wherever it lies in a batch? Asked before a row is read.

Sensitivities rest on it (`clients.mechanisms.blocks`), and no library promises it for every processor. So a
model of these shapes is tried on public random numbers: each row in its place, one place further on, and at
another address. A machine where any bit differs computes no private release of that model.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from clients.mechanisms.blocks import in_blocks, one_thread
from clients.mechanisms.clipping import Sums, clipped_sum, trainable
from clients.mechanisms.derivatives import derivatives
from clients.mechanisms.devices import CPU
from clients.mechanisms.each_row import EachRow, steady
from clients.mechanisms.models import build_module, loss_for, losses, scores
from clients.mechanisms.packaged import each_row, public_rows
from clients.mechanisms.row_gradients import of_layer
from clients.mechanisms.trial import equal_bits
from contract.errors import InputError
from contract.experiment import Experiment, Label, Model

__all__ = ["require_same_bits"]

_SCALES = (1.0, 30.0)
"""Of the random parameters: with the larger ones activations differ by much. A large model is tried once, for
it takes as long as its first batch."""
_LARGE = 1_000_000
_ASIDE = 4
"""Numbers by which the rows are shifted in memory: an array of numpy begins at such an address."""
_MOST_OFF = 1e-3
"""How much a device's result may differ from the processor's, relative to it; rounding does by 1e-6 or so."""


def require_same_bits(
    experiment: Experiment, block: int, device: torch.device = CPU, *, training: bool
) -> None:
    """Refuse a model in which a row's place changes what is computed of it.

    Args:
        experiment: names the model and its shapes.
        block: rows of a call (`clients.mechanisms.blocks.block_rows`).
        device: where it is computed. One that is not the processor must also give what the processor gives.
        training: whether gradients are computed too.

    Raises:
        InputError: on this machine a row's bits depend on the rows beside it. No row was read for it.
    """
    task = experiment.task
    if experiment.model.kind == "package":
        same = _same_bits_of_package(_of_model(experiment), block, training, device)
    else:
        same = _same_bits(experiment.model, task.width, task.label, block, training, device)
    if not same:
        raise InputError(
            "this machine's libraries give a row other bits where it lies elsewhere in a batch, so that no "
            "release of this model would be as private as stated",
            remedy="Start the site with MKL_CBWR=COMPATIBLE in its environment, or on another machine",
        )


@functools.lru_cache(maxsize=256)
def _same_bits(
    model: Model, width: int, label: Label, block: int, training: bool, device: torch.device
) -> bool:
    with torch.random.fork_rng(devices=[]), one_thread():
        torch.manual_seed(0)
        module = build_module(model, inputs=width, classes=len(label.classes)).eval()
        rows = torch.randn(block, width)
        if label.kind == "numeric":
            labels = 2 * torch.rand(block) - 1
        else:
            labels = torch.randint(0, len(label.classes), (block,))
        large = sum(parameter.numel() for parameter in module.parameters()) > _LARGE
        for scale in _SCALES[:1] if large else _SCALES:
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.normal_(std=scale)
            there = module if device == CPU else copy.deepcopy(module).to(device)
            if not _same_elsewhere(
                functools.partial(_bits, there, label, block, training), rows.to(device), labels.to(device)
            ):
                return False
            if device != CPU and scale == _SCALES[0]:
                found, wanted = (
                    _result(one, label, rows.to(place), labels.to(place), block, training)
                    for one, place in ((there, device), (module, CPU))
                )
                _require_alike(found, wanted, device)
    return True


def _bits(
    module: nn.Module, label: Label, block: int, training: bool, inputs: Tensor, of: Tensor
) -> list[Tensor]:
    """All that is computed of single rows, not more than a block."""
    if training:
        total, layers = derivatives(module, inputs, loss_for(label, of), block)
        found = [total, *(part for _, _, given, slope in layers for part in (given, slope))]
        if inputs.device != CPU:  # the processor's norms are held to it by tests
            found += [part.squares()[0] for layer in layers for _, part in of_layer(*layer)]
    else:
        with torch.no_grad():
            logits, filled = module(in_blocks(inputs, block)).cpu(), in_blocks(of, block).cpu()
            found = [logits, loss_for(label, filled)(logits)]
            if label.kind != "numeric":
                found += [losses(logits, filled), *scores(logits, filled)]
    return [part[: len(inputs)] for part in found]


def _result(
    module: nn.Module, label: Label, inputs: Tensor, of: Tensor, block: int, training: bool
) -> Tensor:
    """What a call of a block gives, on the processor: it takes the memory that all later ones need."""
    if training:
        into = Sums(trainable(module))
        into.cleared(torch.float64)  # which many rows are summed in
        return clipped_sum(module, inputs, loss_for(label, of), 1.0, into, block=block).flat.cpu()
    with torch.no_grad():
        found: Tensor = module(inputs)
    return found.cpu()


def _require_alike(found: Tensor, wanted: Tensor, device: torch.device) -> None:
    """Refuse a device that computes something else than the processor, but for rounding.

    Raises:
        InputError: it does.
    """
    if not float((found - wanted).norm()) <= _MOST_OFF * float(wanted.norm()) + 1e-6:
        raise InputError(f"on public numbers {device} gives something else than the processor")


@functools.lru_cache(maxsize=64)
def _same_bits_of_package(experiment: str, block: int, training: bool, device: torch.device) -> bool:
    """The same of a package's module, at what a run begins with: how it is written, nobody here knows."""
    plan = Experiment.model_validate_json(experiment)
    with torch.random.fork_rng(devices=[]), steady():
        apart, _ = each_row(plan, device=device)
        block = apart.rows_at_once(block) if training else block
        if apart.way == "each row":  # each call has one row, wherever that lay
            return True
        rows, labels = public_rows(plan, block)
        if device != CPU:
            _require_alike_of_package(plan, apart, rows, labels, training)

        def bits(inputs: Tensor, of: Tensor) -> list[Tensor]:
            filled, targets = in_blocks(inputs, block), in_blocks(of, block)
            if not training:
                return [apart.outputs(filled)[: len(inputs)]]
            total, parts = apart.parts(filled, targets)
            tensors = [value for _, part in parts for value in vars(part).values()]
            return [part[: len(inputs)] for part in (total, *tensors) if isinstance(part, Tensor)]

        return _same_elsewhere(bits, rows.to(device), labels.to(device))


def _require_alike_of_package(
    plan: Experiment, there: EachRow, rows: Tensor, labels: Tensor, training: bool
) -> None:
    here, _ = each_row(plan)
    found = []
    for apart in (there, here):
        inputs, of = rows.to(apart.device), labels.to(apart.device)
        if training:
            into = apart.sums()
            apart.add(inputs, of, 1.0, into, len(rows))
            found.append(into.flat.cpu())
        else:
            found.append(apart.outputs(inputs).cpu())
    _require_alike(found[0], found[1], there.device)


def _of_model(experiment: Experiment) -> str:
    """What names the model and its shapes."""
    return experiment.model_dump_json(include={"name", "task", "model"})


def _same_elsewhere(bits: Callable[[Tensor, Tensor], list[Tensor]], rows: Tensor, labels: Tensor) -> bool:
    """Whether rows have the same bits at another address, and one place further on."""
    room = rows.new_empty(rows.numel() + _ASIDE)
    aside = room[_ASIDE:].view_as(rows).copy_(rows)
    here, elsewhere = bits(rows, labels), bits(aside, labels)
    moved = bits(rows[1:].clone(), labels[1:])
    return all(equal_bits(one, other) for one, other in zip(here, elsewhere, strict=True)) and all(
        equal_bits(one[1:], other) for one, other in zip(here, moved, strict=True)
    )
