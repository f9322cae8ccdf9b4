"""The parameters of each model family: names, shapes and the first values.

Written without a deep-learning library, so that the server, which only adds
and averages, needs none. The site builds the module with these names and
shapes (`clients/mechanisms/models.py`); a test holds the two together.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from contract.experiment import Experiment, Model

__all__ = ["CNN_CHANNELS", "initial_arrays", "model_shapes", "outputs", "parameter_shapes"]

CNN_CHANNELS = (16, 32)
"""Channels of the two convolutions of the small CNN."""


def outputs(classes: int) -> int:
    """Number of model outputs: one for a number (no classes), one logit for two classes, else one a class."""
    return 1 if classes in (0, 2) else classes


def parameter_shapes(model: Model, *, inputs: int, classes: int) -> dict[str, tuple[int, ...]]:
    """Shape of each parameter by its name, in the order of the torch module."""
    last = outputs(classes)
    if model.kind == "cnn":
        return _cnn_shapes(model, last)
    widths = (inputs, *(model.hidden if model.kind == "mlp" else ()), last)
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, (width, following) in enumerate(itertools.pairwise(widths)):
        shapes[f"layers.{layer}.weight"] = (following, width)
        shapes[f"layers.{layer}.bias"] = (following,)
    return shapes


def model_shapes(experiment: Experiment) -> dict[str, tuple[int, ...]]:
    """Shape of each parameter of the experiment's model."""
    task = experiment.task
    return parameter_shapes(experiment.model, inputs=task.width, classes=len(task.label.classes))


def _cnn_shapes(model: Model, last: int) -> dict[str, tuple[int, ...]]:
    assert model.image is not None  # the experiment file's check
    channels, height, width = model.image
    first, second = CNN_CHANNELS
    return {
        "convolution1.weight": (first, channels, 3, 3),
        "convolution1.bias": (first,),
        "norm1.weight": (first,),
        "norm1.bias": (first,),
        "convolution2.weight": (second, first, 3, 3),
        "convolution2.bias": (second,),
        "norm2.weight": (second,),
        "norm2.bias": (second,),
        "output.weight": (last, second * (height // 4) * (width // 4)),
        "output.bias": (last,),
    }


def initial_arrays(
    experiment: Experiment, rng: np.random.Generator
) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """First values: zero for a linear model and for biases, one for norms,
    uniform in ±1/sqrt(fan-in) otherwise (LeCun et al., 1998). The bias of the output begins where the public
    share of positives, if it is stated, has it."""
    arrays = {}
    for name, shape in model_shapes(experiment).items():
        if experiment.model.kind == "linear" or name.endswith("bias"):
            values = np.zeros(shape)
        elif name.startswith("norm"):
            values = np.ones(shape)
        else:
            bound = 1 / math.sqrt(math.prod(shape[1:]))
            values = rng.uniform(-bound, bound, shape)
        arrays[name] = values.astype(np.float32)
    share = experiment.task.label.positive_share
    if share is not None:
        *_, output_bias = arrays.values()
        output_bias[:] = math.log(share / (1 - share))
    return arrays
