"""The parameters of an experiment's model: names, shapes and the first values.

Without a deep-learning library; the site builds the module with these names and shapes
(`clients/mechanisms/models.py`), and a test holds the two together. What a package says of its parameters is
checked here, once, before anything is made of it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from contract.errors import InputError, NotFiniteError, WrongShapesError
from contract.experiment import MOST_PARAMETERS, Experiment, Model
from contract.model_families import family_of

__all__ = ["beginning_at", "initial_arrays", "model_shapes", "parameter_count", "parameter_shapes"]

_MOST_ARRAYS, _LONGEST_NAME = 10_000, 200


def parameter_shapes(model: Model, *, inputs: int, classes: int) -> dict[str, tuple[int, ...]]:
    """Shape of each parameter by its name, in the order of the torch module.

    Raises:
        InputError: the model is of a package that is not installed here, or says no shapes.
    """
    if model.kind == "package":
        return dict(_of_package(model, inputs, classes))
    return dict(family_of(model).parameters(inputs=inputs, classes=classes))


def model_shapes(experiment: Experiment) -> dict[str, tuple[int, ...]]:
    """Shape of each parameter of the experiment's model."""
    task = experiment.task
    return parameter_shapes(experiment.model, inputs=task.width, classes=len(task.label.classes))


def parameter_count(experiment: Experiment) -> int:
    """How many numbers the model has. Errors as with `model_shapes`."""
    return sum(map(math.prod, model_shapes(experiment).values()))


def initial_arrays(
    experiment: Experiment, rng: np.random.Generator
) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """First values, as the family has them. Of our own kinds, the bias of the output begins where the public
    share of positives, if it is stated, has it.

    Raises:
        InputError: a package's are not finite float32 numbers of the shapes that it says.
    """
    task, model = experiment.task, experiment.model
    if model.kind == "package":
        return _initial_of_package(experiment, rng)
    arrays = dict(family_of(model).initial(rng, inputs=task.width, classes=len(task.label.classes)))
    share = task.label.positive_share
    return arrays if share is None else beginning_at(share, arrays)


def beginning_at(
    share: float, arrays: Mapping[str, np.ndarray[Any, np.dtype[np.float32]]]
) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """A model of our own kinds, for two classes, whose bias says that the positive one has this share.

    Args:
        share: between 0 and 1.
        arrays: the model; its last parameter is the output's bias.
    """
    *others, (name, bias) = arrays.items()
    return {**dict(others), name: np.full_like(bias, math.log(share / (1 - share)))}


@functools.lru_cache(maxsize=64)
def _of_package(model: Model, inputs: int, classes: int) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """As the package says them, once in a process.

    Whether it is still the same package the gate looks at in each exchange.
    """
    family, where = family_of(model), f"model package '{model.package}'"
    try:
        said = [
            (name, tuple(shape)) for name, shape in family.parameters(inputs=inputs, classes=classes).items()
        ]
    except Exception as exc:
        raise InputError(
            f"it does not say the shapes of its parameters ({type(exc).__name__}: {exc})", where=where
        ) from exc
    for name, shape in said:
        if type(name) is not str or not name.isprintable() or not 0 < len(name) <= _LONGEST_NAME:
            raise _wrong("it names a parameter so that no message can carry it", where)
        if not all(type(side) is int and side > 0 for side in shape):
            raise _wrong(f"the shape of '{name}' is none", where)
    if not 0 < len(said) <= _MOST_ARRAYS or sum(math.prod(shape) for _, shape in said) > MOST_PARAMETERS:
        raise _wrong(f"it has no parameters, or more than {MOST_PARAMETERS:,}", where)
    return tuple(said)


def _initial_of_package(experiment: Experiment, rng: np.random.Generator) -> dict[str, np.ndarray[Any, Any]]:
    task, model, shapes = experiment.task, experiment.model, model_shapes(experiment)
    where = f"model package '{model.package}'"
    try:
        given = family_of(model).initial(rng, inputs=task.width, classes=len(task.label.classes))
        arrays = {name: np.asarray(values) for name, values in given.items()}
    except InputError:
        raise
    except Exception as exc:
        raise _wrong(f"it gives no first values ({type(exc).__name__}: {exc})", where) from exc
    if {name: array.shape for name, array in arrays.items()} != dict(shapes):
        raise _wrong("its first values have other names or shapes than its parameters", where)
    if not all(array.dtype == np.float32 for array in arrays.values()):
        raise _wrong("its first values are not float32", where)
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise NotFiniteError("its first values are not finite", where=where)
    return arrays


def _wrong(what: str, where: str) -> WrongShapesError:
    return WrongShapesError(what, where=where)
