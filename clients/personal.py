"""A part of the model that is the site's own: fitted here after a run, used here, and sent to nobody.

The shared model is trained by the run as it is, privately. Afterwards its last layer, or only that layer's
bias, is fitted to the site's own training rows, as they are. So the part is **not private in any sense**:
from a bias and all rows but one, somebody finds the one. It is treated as the rows are: it lies in the
site's storage folder, readable by the site's user alone, and is in no message, log line or egress entry.

Nothing that a site sends may depend on it. Fitting it within a run, as FedPer does (Arivazhagan et al.,
2019), would break the guarantee even if it were never sent: one row more changes the part, and with it the
gradient of every other row. Nor may an evaluation of it be sent, with noise or without: one training row more
changes every held-out score (`docs/decisions/personal-parts.md`). That `clients.app`, `clients.gate` and
everything below them cannot reach this module is a rule of import-linter.

The fit is convex: the label's own loss over the training rows, and a pull towards the shared part as strong
as `_PULL` rows, so that a site of few rows keeps what is shared. It is total: without a row that can be used,
or where no finite part comes out, the part is the shared one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from clients.keys import replace_secret
from clients.rows.table import Table
from contract.errors import InputError, StorageError
from contract.experiment import Experiment, Label
from contract.models import model_shapes
from serving.forward import given_to_last, last_layer, outputs_of

__all__ = ["Part", "Personal", "figures", "fit", "keep", "kept", "require_part"]

Part = Literal["bias", "head"]
"""The last layer's bias alone, or all of that layer."""
Arrays = Mapping[str, npt.NDArray[np.float32]]
_Floats = npt.NDArray[np.float64]

_PULL = 10
"""Rows, each with the greatest curvature that a row's loss has in an output."""
_CURVATURE = 0.25
_MOST_STEPS = 500
_MOST_BYTES = 2**28
_FIT_AGAIN = "Fit it again: `tidegate site personal`"


class Personal(BaseModel):
    """A personal part, as it is kept.

    Attributes:
        part: which.
        model: SHA-256 of the shared model's arrays that it was fitted to.
        values: the part's numbers, by the parameter's name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    part: Part
    model: str
    values: dict[str, list[float]]

    def put_into(self, experiment: Experiment, arrays: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        """The model's arrays, with this part in the place of the shared one.

        Raises:
            InputError: it is another model's.
        """
        shapes, names = model_shapes(experiment), _names(experiment, self.part)
        if self.values.keys() != set(names) or any(
            len(self.values[name]) != np.prod(shapes[name]) for name in names
        ):
            raise InputError("the personal part is another model's", where="site", remedy=_FIT_AGAIN)
        ours = {name: np.array(self.values[name], dtype=np.float32).reshape(shapes[name]) for name in names}
        return {**arrays, **ours}


def require_part(experiment: Experiment) -> None:
    """Refuse a model of which nobody here knows the last layer.

    Raises:
        InputError: it comes as a package.
    """
    if experiment.model.kind == "package":
        raise InputError(
            "a package's model has no part of a site's own: which layer is its last is not known here",
            where=f"model '{experiment.model.name}'",
            remedy="Use the shared model, or a model of kind linear, mlp or cnn",
        )


def fit(
    experiment: Experiment, arrays: Arrays, rows: Table, part: Part
) -> dict[str, npt.NDArray[np.float32]]:
    """The personal part that fits a site's training rows, by the parameter's name.

    Args:
        experiment: of the shared model.
        arrays: the shared model's parameters.
        rows: the site's training rows.
        part: which is fitted.

    Raises:
        InputError: the model comes as a package.
    """
    from scipy.optimize import minimize

    require_part(experiment)
    names = _names(experiment, part)
    shared = {name: np.asarray(arrays[name], dtype=np.float64) for name in last_layer(experiment.model)}
    with np.errstate(all="ignore"):
        given = given_to_last(experiment.model, arrays, rows.features)
        usable = np.isfinite(given).all(axis=1)
        given, labels = given[usable], rows.labels[usable]
        start = np.concatenate([shared[name].reshape(-1) for name in names])
        if not len(given) or not np.isfinite(start).all():
            return {name: np.asarray(arrays[name]) for name in names}
        loss = _loss(experiment.task.label, labels)

        def objective(values: _Floats) -> tuple[float, _Floats]:
            weight, bias = _parts(values, shared, part)
            total, slope = loss(given @ weight.T + bias)
            by = {"weight": slope.T @ given, "bias": slope.sum(axis=0)}
            gradient = (
                by["bias"] if part == "bias" else np.concatenate([by["weight"].reshape(-1), by["bias"]])
            )
            away = values - start
            pull = _PULL * _CURVATURE
            return total + pull / 2 * float(away @ away), gradient + pull * away

        found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": _MOST_STEPS}).x
    fitted, place = {}, 0
    for name in names:
        size = shared[name].size
        fitted[name] = found[place : place + size].reshape(shared[name].shape).astype(np.float32)
        place += size
    if not all(np.isfinite(value).all() for value in fitted.values()):
        return {name: np.asarray(arrays[name]) for name in names}
    return fitted


def figures(experiment: Experiment, arrays: Arrays, rows: Table) -> dict[str, float]:
    """Exact figures on the site's held-out rows: for its administrator alone, they may not leave."""
    label = experiment.task.label
    outputs = outputs_of(experiment.model, arrays, rows.features)
    if label.range is not None:
        shares = np.clip(np.nan_to_num(outputs[:, 0]), -1, 1)
        half = (label.range.high - label.range.low) / 2
        return {"mean absolute error": float(np.abs(shares - rows.labels).mean() * half)}
    logits = outputs if outputs.shape[1] > 1 else np.concatenate([np.zeros_like(outputs), outputs], axis=1)
    chances = _log_softmax(logits)
    return {
        "log loss": float(-chances[np.arange(len(logits)), rows.labels].mean()),
        "accuracy": float((chances.argmax(axis=1) == rows.labels).mean()),
    }


def keep(folder: Path, experiment: Experiment, part: Personal) -> Path:
    """Write a part where the site keeps them, in the place of one of before; readable by this user alone.

    Args:
        folder: the site's storage.

    Raises:
        InputError: it cannot be written.
        StorageError: its folder cannot be made, or somebody put a link in its place.
    """
    path = _path(folder, experiment, part.model)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.parent.is_symlink():
            raise StorageError("a link, not a folder", where=str(path.parent), remedy="Remove it")
        path.parent.chmod(0o700)
    except OSError as exc:
        raise StorageError(
            f"the folder of personal parts cannot be made: {exc.strerror}",
            where=str(path.parent),
            remedy="Make storage.folder writable for this user, on a disk with room",
        ) from exc
    replace_secret(path, part.model_dump_json().encode())
    return path


def kept(folder: Path, experiment: Experiment, model: str) -> Personal | None:
    """The part that the site keeps for a shared model; None where none was fitted.

    Args:
        folder: the site's storage.
        experiment: of the model.
        model: SHA-256 of its arrays.

    Raises:
        StorageError: it cannot be read, or is none.
    """
    path = _path(folder, experiment, model)
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES)
        found = Personal.model_validate_json(content)
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as exc:
        raise StorageError("no personal part", where=str(path), remedy=_FIT_AGAIN) from exc
    if found.model != model:
        raise StorageError("another model's personal part", where=str(path), remedy=_FIT_AGAIN)
    return found


def _path(folder: Path, experiment: Experiment, model: str) -> Path:
    return folder / "personal" / f"{experiment.name}-{model[:16]}.json"


def _names(experiment: Experiment, part: Part) -> tuple[str, ...]:
    weight, bias = last_layer(experiment.model)
    return (bias,) if part == "bias" else (weight, bias)


def _parts(values: _Floats, shared: Mapping[str, _Floats], part: Part) -> tuple[_Floats, _Floats]:
    weight, _ = shared.values()
    if part == "bias":
        return weight, values
    return values[: weight.size].reshape(weight.shape), values[weight.size :]


def _loss(label: Label, labels: npt.NDArray[Any]) -> Callable[[_Floats], tuple[float, _Floats]]:
    """From the outputs to the sum of the losses that training makes small, and its derivative by them."""

    def of_numbers(outputs: _Floats) -> tuple[float, _Floats]:
        error = (outputs - labels[:, None]) / 2
        most = label.huber_threshold if label.loss == "huber" else np.inf
        bounded = np.clip(error, -most, most)
        return float((bounded * (error - bounded / 2)).sum()), bounded / 2

    def of_two(outputs: _Floats) -> tuple[float, _Floats]:
        chance = 1 / (1 + np.exp(-outputs))
        total = np.logaddexp(0, outputs[:, 0]) - labels * outputs[:, 0]
        return float(total.sum()), chance - labels[:, None]

    def of_classes(outputs: _Floats) -> tuple[float, _Floats]:
        chances, rows = _log_softmax(outputs), np.arange(len(outputs))
        slope = np.exp(chances)
        slope[rows, labels] -= 1
        return float(-chances[rows, labels].sum()), slope

    if label.kind == "numeric":
        return of_numbers
    return of_two if len(label.classes) == 2 else of_classes


def _log_softmax(logits: _Floats) -> _Floats:
    shifted = logits - logits.max(axis=1, keepdims=True)
    found: _Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found
