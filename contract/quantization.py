"""How a large private update travels in a quarter of its bytes.

Its difference from the model that the round began with is cut into blocks of 256 numbers
(block-wise quantization: Dettmers et al., 2022). A block has one step, its largest magnitude
over 127, and each number becomes the nearest multiple of the step, a level of eight bits.

The noise of a private update is in every parameter and hides the rounding: of 256 normal
numbers the largest is near 3 deviations, so that a step is a fortieth of a deviation and
rounding adds less than 1e-4 to the variance. It is done to what the mechanism released, so
it costs no privacy, and before the gate measures the norm, which is that of what leaves. An
update without noise may have few large numbers among many small ones, which rounding would
lose: it is never quantized.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from contract.experiment import Experiment
from contract.models import parameter_count
from contract.norm_bound import l2_norm, update_norm
from contract.releases import ModelUpdate

__all__ = ["BLOCK", "distance", "is_quantized", "parameters", "quantize", "step_shapes"]

Arrays = Mapping[str, npt.NDArray[Any]]
Float32s = npt.NDArray[np.float32]

BLOCK = 256
"""Numbers that share a step."""
_LEVELS = 127
_LARGE = 1_000_000
"""Parameters from which an update is large: 4 MB."""
_LARGEST = np.finfo(np.float32).max
_AT_ONCE = 256 * BLOCK
"""Numbers that are worked on together: they stay in the processor's cache."""


def is_quantized(experiment: Experiment) -> bool:
    """Whether the experiment's updates travel so: as `strategy.update_bits` says, or if they are large."""
    bits = experiment.strategy.update_bits
    if bits is not None or not experiment.privacy.private:
        return bits == 8
    return parameter_count(experiment) >= _LARGE


def quantize(update: ModelUpdate, model: Arrays) -> ModelUpdate:
    """Write an update as levels and steps.

    Args:
        update: finite parameters.
        model: what the round began with.
    """
    levels, steps = {}, {}
    for name, array in update.arrays.items():
        levels[name], steps[name] = _levels(np.ravel(array), np.ravel(model[name]))
        levels[name] = levels[name].reshape(array.shape)
    return ModelUpdate(arrays=levels, steps=steps)


def parameters(update: ModelUpdate, model: Arrays) -> dict[str, npt.NDArray[Any]]:
    """The site's model, in the order of `model`, which the round began with."""
    if not update.steps:
        return {name: update.arrays[name] for name in model}
    return {
        name: (np.ravel(before) + _difference(update, name)).reshape(before.shape)
        for name, before in model.items()
    }


def distance(update: ModelUpdate, model: Arrays) -> float:
    """The L2 norm of an update: of what lies between the site's model and `model`."""
    if not update.steps:
        return update_norm(update.arrays, model)
    return l2_norm(_difference(update, name) for name in update.arrays)


def step_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The shape of the steps of each parameter."""
    return {name: (-(-math.prod(shape) // BLOCK),) for name, shape in shapes.items()}


def _pieces(size: int) -> Iterator[slice]:
    """Whole blocks of an array, many together; then what is left of it, less than a block."""
    whole = size - size % BLOCK
    for begin in range(0, whole, _AT_ONCE):
        yield slice(begin, min(begin + _AT_ONCE, whole))
    if whole < size:
        yield slice(whole, size)


def _levels(after: Float32s, before: Float32s) -> tuple[npt.NDArray[np.int8], Float32s]:
    levels, steps = np.empty(after.size, np.int8), np.empty(-(-after.size // BLOCK), np.float32)
    for piece in _pieces(after.size):
        difference = np.subtract(after[piece], before[piece], dtype=np.float32)
        np.clip(difference, -_LARGEST, _LARGEST, out=difference)  # of parameters that ran away
        # of the flat array: maxima along an axis of blocks take longer
        largest = np.maximum.reduceat(np.abs(difference), np.arange(0, difference.size, BLOCK))
        step = largest / np.float32(_LEVELS)
        steps[piece.start // BLOCK :][: step.size] = step
        blocks = difference.reshape(-1, min(BLOCK, difference.size))
        # A step that is nothing in float32 has levels of nothing; a quotient just above 127 is rounded to it.
        np.divide(blocks, np.where(step > 0, step, np.inf)[:, None], out=blocks)
        levels[piece] = np.clip(np.rint(blocks, out=blocks), -_LEVELS, _LEVELS, out=blocks).ravel()
    return levels, steps


def _difference(update: ModelUpdate, name: str) -> Float32s:
    levels, steps = np.ravel(update.arrays[name]), update.steps[name]
    difference = np.empty(levels.size, np.float32)
    for piece in _pieces(levels.size):
        blocks = levels[piece].reshape(-1, min(BLOCK, piece.stop - piece.start))
        step = steps[piece.start // BLOCK :][: len(blocks), None]
        np.multiply(blocks, step, out=difference[piece].reshape(blocks.shape))
    return difference
