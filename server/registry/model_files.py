"""A model version's files: `arrays.npz`, and `experiment.json` that says how to use them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from contract.errors import RegistryError
from contract.experiment import Experiment

__all__ = ["SHA256_TAG", "read_model", "write_model"]

SHA256_TAG = "tidegate.arrays_sha256"
ARRAYS_FILE = "arrays.npz"
EXPERIMENT_FILE = "experiment.json"


def write_model(folder: Path, arrays: Mapping[str, npt.NDArray[Any]], experiment: Experiment) -> str:
    """Write both files; gives the SHA-256 of the arrays' bytes."""
    path = folder / ARRAYS_FILE
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    (folder / EXPERIMENT_FILE).write_text(experiment.model_dump_json(indent=2), encoding="utf-8")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_model(folder: Path, *, digest: str, where: str) -> dict[str, npt.NDArray[Any]]:
    """Read the arrays, never unpickling.

    Raises:
        RegistryError: the bytes are not those that were registered.
    """
    path = folder / ARRAYS_FILE
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        raise RegistryError(
            "the model's arrays are not those that were registered",
            where=where,
            remedy="Do not serve it; restore the artifact or roll back to another version",
        )
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}
