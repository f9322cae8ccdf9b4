"""Does this machine give a row the same bits wherever it lies in a batch? Asked before a row is read.

Sensitivities rest on it (`clients.mechanisms.blocks`), and no library promises it for every processor. So a
model of these shapes is tried on public random numbers: each row in its place, one place further on, and at
another address. A machine where any bit differs computes no private release of that model.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from clients.mechanisms.blocks import in_blocks, one_thread
from clients.mechanisms.derivatives import derivatives
from clients.mechanisms.each_row import steady
from clients.mechanisms.models import build_module, loss_for, losses, scores
from clients.mechanisms.packaged import each_row, public_rows
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


def require_same_bits(experiment: Experiment, block: int, *, training: bool) -> None:
    """Refuse a model in which a row's place changes what is computed of it.

    Args:
        experiment: names the model and its shapes.
        block: rows of a call (`clients.mechanisms.blocks.block_rows`).
        training: whether gradients are computed too.

    Raises:
        InputError: on this machine a row's bits depend on the rows beside it. No row was read for it.
    """
    task = experiment.task
    if experiment.model.kind == "package":
        same = _same_bits_of_package(_of_model(experiment), block, training)
    else:
        same = _same_bits(experiment.model, task.width, task.label, block, training)
    if not same:
        raise InputError(
            "this machine's libraries give a row other bits where it lies elsewhere in a batch, so that no "
            "release of this model would be as private as stated",
            remedy="Start the site with MKL_CBWR=COMPATIBLE in its environment, or on another machine",
        )


@functools.lru_cache(maxsize=256)
def _same_bits(model: Model, width: int, label: Label, block: int, training: bool) -> bool:
    with torch.random.fork_rng(devices=[]), one_thread():
        torch.manual_seed(0)
        module = build_module(model, inputs=width, classes=len(label.classes)).eval()
        rows = torch.randn(block, width)
        if label.kind == "numeric":
            labels = 2 * torch.rand(block) - 1
        else:
            labels = torch.randint(0, len(label.classes), (block,))

        def bits(inputs: Tensor, of: Tensor) -> list[Tensor]:
            found = _trained(inputs, of) if training else _evaluated(inputs, of)
            return [part[: len(inputs)] for part in found]

        def _trained(inputs: Tensor, of: Tensor) -> list[Tensor]:
            total, layers = derivatives(module, inputs, loss_for(label, of), block)
            return [total, *(part for _, _, given, slope in layers for part in (given, slope))]

        def _evaluated(inputs: Tensor, of: Tensor) -> list[Tensor]:
            with torch.no_grad():
                logits, filled = module(in_blocks(inputs, block)), in_blocks(of, block)
                if label.kind == "numeric":
                    return [logits, loss_for(label, filled)(logits)]
                return [logits, losses(logits, filled), *scores(logits, filled)]

        large = sum(parameter.numel() for parameter in module.parameters()) > _LARGE
        for scale in _SCALES[:1] if large else _SCALES:
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.normal_(std=scale)
            if not _same_elsewhere(bits, rows, labels):
                return False
    return True


@functools.lru_cache(maxsize=64)
def _same_bits_of_package(experiment: str, block: int, training: bool) -> bool:
    """The same of a package's module, at what a run begins with: how it is written, nobody here knows."""
    plan = Experiment.model_validate_json(experiment)
    with torch.random.fork_rng(devices=[]), steady():
        apart, _ = each_row(plan)
        block = apart.rows_at_once(block) if training else block
        if apart.way == "each row":  # each call has one row, wherever that lay
            return True
        rows, labels = public_rows(plan, block)

        def bits(inputs: Tensor, of: Tensor) -> list[Tensor]:
            filled, targets = in_blocks(inputs, block), in_blocks(of, block)
            if not training:
                return [apart.outputs(filled)[: len(inputs)]]
            total, parts = apart.parts(filled, targets)
            tensors = [value for _, part in parts for value in vars(part).values()]
            return [part[: len(inputs)] for part in (total, *tensors) if isinstance(part, Tensor)]

        return _same_elsewhere(bits, rows, labels)


def _of_model(experiment: Experiment) -> str:
    """What names the model and its shapes."""
    return experiment.model_dump_json(include={"name", "task", "model"})


def _same_elsewhere(bits: Callable[[Tensor, Tensor], list[Tensor]], rows: Tensor, labels: Tensor) -> bool:
    """Whether rows have the same bits at another address, and one place further on."""
    room = torch.empty(rows.numel() + _ASIDE)
    aside = room[_ASIDE:].view_as(rows).copy_(rows)
    here, elsewhere = bits(rows, labels), bits(aside, labels)
    moved = bits(rows[1:].clone(), labels[1:])
    return all(equal_bits(one, other) for one, other in zip(here, elsewhere, strict=True)) and all(
        equal_bits(one[1:], other) for one, other in zip(here, moved, strict=True)
    )
