"""The module of a package, as training, evaluation and trial use it: row by row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clients.mechanisms.devices import CPU
from clients.mechanisms.each_row import EachRow, steady
from clients.mechanisms.models import build_module, load_arrays, loss_for
from contract.errors import WrongShapesError
from contract.experiment import Experiment, Label
from contract.installed_models import load
from contract.model_families import TorchFamily
from contract.models import initial_arrays

__all__ = ["each_row", "losses_of", "public_rows"]

_ROWS = 4
"""By which the way is chosen."""


def public_rows(experiment: Experiment, rows: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows and labels of the task's form, from random numbers alone."""
    task, draw = experiment.task, torch.Generator().manual_seed(seed)
    inputs = torch.rand(rows, task.width, generator=draw)
    if task.scaling == "symmetric":
        inputs = 2 * inputs - 1
    if task.label.kind == "numeric":
        return inputs, 2 * torch.rand(rows, generator=draw) - 1
    return inputs, torch.randint(0, len(task.label.classes), (rows,), generator=draw)


def losses_of(family: TorchFamily, label: Label, outputs: Tensor, labels: Tensor) -> Tensor:
    """The loss of each row that a package's model is trained by."""
    found = family.loss(outputs, labels)
    return loss_for(label, labels)(outputs) if found is None else found


def each_row(
    experiment: Experiment,
    arrays: Mapping[str, np.ndarray[Any, Any]] | None = None,
    device: torch.device = CPU,
) -> tuple[EachRow, nn.Module]:
    """The experiment's module row by row, and the module, whose parameters may be changed.

    Args:
        experiment: of a package's model.
        arrays: its parameters; without them those that a run begins with.
        device: where it computes.

    Raises:
        InputError: the package is not installed here, or its module cannot be used.
    """
    task, model = experiment.task, experiment.model
    label, classes = task.label, len(task.label.classes)
    family = load(model)
    module = build_module(model, inputs=task.width, classes=classes).to(device)

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        return losses_of(family, label, outputs, labels)

    load_arrays(module, initial_arrays(experiment, np.random.default_rng(0)))
    try:
        with steady():  # by what a run begins with, whatever came: the way is a public fact
            rows, labels = public_rows(experiment, _ROWS)
            found = EachRow(module, loss, family.judged, rows.to(device), labels.to(device))
    except Exception as exc:
        raise WrongShapesError(
            f"its module fails on public random rows ({type(exc).__name__}: {exc})",
            where=f"model package '{model.package}'",
        ) from exc
    if arrays is not None:
        load_arrays(module, arrays)
    return found, module
