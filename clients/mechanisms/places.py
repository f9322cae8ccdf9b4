"""Does this machine give a row the same bits wherever it lies in a batch? Asked before a row is read.

Sensitivities rest on it (`clients.mechanisms.blocks`), and no library promises it for every processor. So a
model of these shapes is tried on public random numbers: each row in its place, one place further on, and at
another address. A machine where any bit differs computes no private release of that model.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from clients.mechanisms.blocks import in_blocks, one_thread
from clients.mechanisms.derivatives import derivatives
from clients.mechanisms.models import build_module, loss_for, losses, scores
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
    if not _same_bits(experiment.model, task.width, task.label, block, training):
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

        room = torch.empty(rows.numel() + _ASIDE)
        aside = room[_ASIDE:].view_as(rows).copy_(rows)
        large = sum(parameter.numel() for parameter in module.parameters()) > _LARGE
        for scale in _SCALES[:1] if large else _SCALES:
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.normal_(std=scale)
            here, elsewhere = bits(rows, labels), bits(aside, labels)
            moved = bits(rows[1:].clone(), labels[1:])
            same = all(torch.equal(one, other) for one, other in zip(here, elsewhere, strict=True))
            if not same or not all(
                torch.equal(one[1:], other) for one, other in zip(here, moved, strict=True)
            ):
                return False
    return True
