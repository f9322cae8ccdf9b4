"""What a package's module does on public random numbers, before anything is charged.

A site that trains row by row (`clients.mechanisms.each_row`) keeps its promise whatever a module does. But a
module that mixes rows, keeps state or gives no numbers is not the model that its author meant, and a run
with it would be paid for nothing. So it is told here, in one sentence and one word for the scientist: each
row is computed beside other rows (other numbers, NaN, 1e30), twice, and on a fresh copy, and must have the
same bits. No row is read for it.
"""

from __future__ import annotations

import copy
import functools

import numpy as np
import torch
from torch import Tensor, nn

from clients.mechanisms.each_row import steady
from clients.mechanisms.models import build_module, load_arrays
from clients.mechanisms.packaged import each_row, losses_of, public_rows
from contract.errors import KeepsStateError, MixesRowsError, NotFiniteError, WrongShapesError
from contract.experiment import Experiment
from contract.installed_models import load, require_installed
from contract.model_families import outputs
from contract.models import initial_arrays

__all__ = ["equal_bits", "require_sound"]

_ROWS = 8
_BESIDE = (torch.nan, 1e30)
_MIXES = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_MIXED = "a row's outputs depend on the rows beside it, so that no one row's part could be bounded"
_STATE = "the same rows give other outputs from call to call: its module keeps state, or draws random numbers"


def require_sound(experiment: Experiment) -> None:
    """Refuse a package's module that cannot be trained as stated. Of our own kinds nothing is asked.

    Raises:
        NotInstalledError: the package is not the one that is installed here.
        ModelError: it mixes rows, keeps state, gives no finite numbers, or others than it says.
    """
    if experiment.model.kind == "package":
        require_installed(experiment.model)
        _tried(experiment.model_dump_json(include={"name", "task", "model"}))


@functools.lru_cache(maxsize=64)
def _tried(experiment: str) -> None:
    """Tried once in a process; one that fails is tried again, for a package may be put right."""
    plan = Experiment.model_validate_json(experiment)
    where = f"model package '{plan.model.package}'"
    with torch.random.fork_rng(devices=[]), steady(), torch.no_grad():
        torch.manual_seed(0)
        module = _module(plan)
        for name, layer in module.named_modules():
            if isinstance(layer, _MIXES):
                raise MixesRowsError(
                    f"its layer '{name}' is a {type(layer).__name__}, which mixes rows",
                    where=where,
                    remedy="Use GroupNorm or LayerNorm",
                )
        rows, labels = public_rows(plan, _ROWS)
        found = _computed(plan, module, rows, labels, where)
        _require_stateless(plan, module, rows, found, where)
        _require_apart(module, rows, found, where)
    apart, _ = each_row(plan)
    with torch.random.fork_rng(devices=[]), steady():
        logits = apart.outputs(rows)
        if not torch.allclose(logits, _judged(plan, found), rtol=1e-3, atol=1e-4):
            raise MixesRowsError(
                f"{_MIXED}: alone, rows give other outputs than together",
                where=where,
            )
        losses, parts = apart.parts(rows, labels)
        finite = all(torch.isfinite(part.squares()[0]).all() for _, part in parts)
        if not (finite and torch.isfinite(losses).all()):
            raise NotFiniteError("the gradients of public random rows are not finite", where=where)


def _module(plan: Experiment) -> nn.Module:
    module = build_module(plan.model, inputs=plan.task.width, classes=len(plan.task.label.classes))
    load_arrays(module, initial_arrays(plan, np.random.default_rng(0)))
    return module


def _computed(plan: Experiment, module: nn.Module, rows: Tensor, labels: Tensor, where: str) -> Tensor:
    """The outputs of the rows together, of the right shape and finite, with their losses."""
    family, label = load(plan.model), plan.task.label
    wanted = (len(rows), outputs(len(label.classes)))
    try:
        found: Tensor = copy.deepcopy(module)(rows)
        judged = family.judged(found)
        losses = losses_of(family, label, found, labels)
    except Exception as exc:
        raise WrongShapesError(
            f"its module fails on public rows of shape {tuple(rows.shape)} ({type(exc).__name__}: {exc})",
            where=where,
        ) from exc
    for what, value, shape in (("outputs", judged, wanted), ("losses", losses, wanted[:1])):
        if not isinstance(value, Tensor) or tuple(value.shape) != shape:
            raise WrongShapesError(
                f"its {what} of {len(rows)} rows have not the shape {shape}",
                where=where,
            )
        if not torch.isfinite(value).all():
            raise NotFiniteError(f"its {what} of public random rows are not finite", where=where)
    return found


def _judged(plan: Experiment, found: Tensor) -> Tensor:
    judged: Tensor = load(plan.model).judged(found)
    return judged


def _require_stateless(plan: Experiment, module: nn.Module, rows: Tensor, found: Tensor, where: str) -> None:
    used = copy.deepcopy(module)
    others, _ = public_rows(plan, len(rows), seed=1)
    used(rows)
    used(others)
    buffers = [(one.clone(), now) for (one, now) in zip(module.buffers(), used.buffers(), strict=True)]
    if not (
        equal_bits(used(rows), found)
        and equal_bits(copy.deepcopy(module)(rows), found)
        and equal_bits(_module(plan)(rows), found)
        and all(equal_bits(one, now) for one, now in buffers)
    ):
        raise KeepsStateError(
            _STATE,
            where=where,
            remedy="Let the outputs follow from the parameters and the row alone",
        )


def _require_apart(module: nn.Module, rows: Tensor, found: Tensor, where: str) -> None:
    """Each row keeps its bits, whatever the others are.

    One whose others raise an error is not refused for it: training takes such rows apart.
    """
    for row in range(len(rows)):
        apart = (torch.arange(len(rows)) == row)[:, None]
        fills = [rows.flip(1), *(torch.full_like(rows, value) for value in _BESIDE)]
        for fill in fills:
            try:
                beside = copy.deepcopy(module)(torch.where(apart, rows, fill))
            except Exception:  # noqa: S112 - of any kind: the code is not ours
                continue
            if not equal_bits(beside[row], found[row]):
                raise MixesRowsError(
                    _MIXED,
                    where=where,
                    remedy="Use what works on one row at a time, such as GroupNorm or LayerNorm",
                )


def equal_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same numbers, NaN equal to NaN."""
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
