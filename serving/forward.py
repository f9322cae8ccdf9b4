"""What each model family computes, with numpy alone: `clients/mechanisms/models.py` without torch.

A test holds the two together, to 1e-5 of an output. Sums are made in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from contract.experiment import Model

__all__ = ["EPSILON", "GROUPS", "given_to_last", "last_layer", "outputs_of"]

_AT_ONCE = 256
"""Rows: an image becomes nine of its size in each convolution."""
GROUPS, EPSILON = 4, 1e-5
"""Of GroupNorm (Wu and He, 2018), as the torch module has them."""

Array = npt.NDArray[np.float64]
Arrays = Mapping[str, npt.NDArray[Any]]


def outputs_of(model: Model, arrays: Arrays, features: npt.NDArray[np.float32]) -> Array:
    """The model's outputs (logits, or a number), shape [n, outputs].

    Args:
        model: the family.
        arrays: its parameters, by the names of `contract.models`.
        features: float32 [n, inputs].
    """
    weight, bias = last_layer(model)
    found = np.empty((len(features), len(arrays[bias])))
    for start in range(0, len(features), _AT_ONCE):
        rows = slice(start, start + _AT_ONCE)
        found[rows] = given_to_last(model, arrays, features[rows]) @ arrays[weight].T + arrays[bias]
    return found


def last_layer(model: Model) -> tuple[str, str]:
    """The names of the weight and the bias of the layer that gives the outputs."""
    name = "output" if model.kind == "cnn" else f"layers.{_last(model)}"
    return f"{name}.weight", f"{name}.bias"


def given_to_last(model: Model, arrays: Arrays, features: npt.NDArray[np.float32]) -> Array:
    """What that layer is given for each row, shape [n, width]."""
    compute = _cnn if model.kind == "cnn" else _layers
    return compute(model, arrays, features.astype(np.float64))


def _last(model: Model) -> int:
    return len(model.hidden) if model.kind == "mlp" else 0


def _layers(model: Model, arrays: Arrays, values: Array) -> Array:
    for layer in range(_last(model)):
        values = np.maximum(values @ arrays[f"layers.{layer}.weight"].T + arrays[f"layers.{layer}.bias"], 0)
    return values


def _cnn(model: Model, arrays: Arrays, values: Array) -> Array:
    if model.image is None:
        raise ValueError("a cnn without an image's size: the experiment's check lets none pass")
    pixels = values.reshape(-1, *model.image)
    for number in (1, 2):
        pixels = _convolution(pixels, arrays[f"convolution{number}.weight"])
        pixels += arrays[f"convolution{number}.bias"][:, None, None]
        pixels = _group_norm(pixels, arrays[f"norm{number}.weight"], arrays[f"norm{number}.bias"])
        pixels = _pooled(np.maximum(pixels, 0))
    return pixels.reshape(len(pixels), -1)


def _convolution(pixels: Array, weight: npt.NDArray[Any]) -> Array:
    """3 × 3, zeros around the image, shape [n, channels, height, width]."""
    padded = np.pad(pixels, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    found = np.tensordot(windows, weight, axes=((1, 4, 5), (1, 2, 3)))
    return np.ascontiguousarray(np.moveaxis(found, 3, 1), dtype=np.float64)


def _group_norm(pixels: Array, weight: npt.NDArray[Any], bias: npt.NDArray[Any]) -> Array:
    grouped = pixels.reshape(len(pixels), GROUPS, -1)
    mean, variance = grouped.mean(axis=2, keepdims=True), grouped.var(axis=2, keepdims=True)
    normal = ((grouped - mean) / np.sqrt(variance + EPSILON)).reshape(pixels.shape)
    scaled: Array = normal * weight[:, None, None] + bias[:, None, None]
    return scaled


def _pooled(pixels: Array) -> Array:
    """The greatest of each 2 × 2; an odd last row or column is left out."""
    rows, channels, height, width = pixels.shape
    even = pixels[:, :, : height // 2 * 2, : width // 2 * 2]
    blocks = even.reshape(rows, channels, height // 2, 2, width // 2, 2)
    greatest: Array = blocks.max(axis=(3, 5))
    return greatest
