"""A model version's files: `arrays.npz`, and `experiment.json` that says how to use them.

Beside them lies what MLflow needs to load the version as a model that predicts: `MLmodel` and an example of
its input. It names our own loader (`serving.pyfunc`), states the columns and is written here, so that a run
need not import MLflow's model flavours, which takes longer than all else that a registration does. There is
no list of requirements: MLflow would fetch a package of our name from whatever index is at hand.
"""

from __future__ import annotations

import io
import json
import platform
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from contract.errors import ChangedError
from contract.experiment import Experiment, Task
from contract.model_version import (
    ARRAYS_FILE,
    EXPERIMENT_FILE,
    GRAPH_FILE,
    HASH_TAGS,
    SUMS_FILE,
    VARIANTS_FILE,
    require_registered,
    sha256,
    sums_of,
)
from serving.drawn_rows import middle_row
from serving.prediction import probability_column

__all__ = ["hashes_of", "read_exported", "read_files", "read_model", "write_model"]

_EXAMPLE_FILE = "input_example.json"


def write_model(
    folder: Path, arrays: Mapping[str, npt.NDArray[Any]], experiment: Experiment, *, about: Mapping[str, Any]
) -> dict[str, str]:
    """Write a version's files; gives the tags with the hashes of what a prediction depends on.

    Args:
        folder: is there.
        arrays: by name.
        experiment: theirs.
        about: what else `MLmodel` says, such as MLflow's version.
    """
    with (folder / ARRAYS_FILE).open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    (folder / EXPERIMENT_FILE).write_text(experiment.model_dump_json(indent=2), encoding="utf-8")
    files = {name: (folder / name).read_bytes() for name in HASH_TAGS}
    (folder / SUMS_FILE).write_text(sums_of(files), encoding="utf-8")
    (folder / _EXAMPLE_FILE).write_text(json.dumps(_example(experiment.task)), encoding="utf-8")
    (folder / "MLmodel").write_text(
        json.dumps(_described(experiment.task) | dict(about), indent=2), encoding="utf-8"
    )
    return {tag: sha256(files[name]) for name, tag in HASH_TAGS.items()}


def hashes_of(arrays: Mapping[str, npt.NDArray[Any]], experiment: Experiment) -> dict[str, str]:
    """The SHA-256 by name of the files that `write_model` writes for a model: the same each time."""
    with tempfile.TemporaryDirectory() as folder:
        tags = write_model(Path(folder), arrays, experiment, about={})
    return {name: tags[tag] for name, tag in HASH_TAGS.items()}


def read_files(folder: Path, *, tags: Mapping[str, str], where: str) -> dict[str, bytes]:
    """The files that a prediction depends on, by name.

    Raises:
        ChangedError: the bytes are not those that were registered.
    """
    return {name: _registered(folder, name, tags, where) for name in HASH_TAGS}


def read_exported(folder: Path, known: Mapping[str, str], *, where: str) -> dict[str, bytes]:
    """The graph of a version and what was measured of it, where it has them.

    Args:
        folder: the version's.
        known: the SHA-256 by file that was kept when it was made.
        where: named in an error.

    Raises:
        ChangedError: the bytes are not those that were made.
    """
    found = dict[str, bytes]()
    for name in (GRAPH_FILE, VARIANTS_FILE):
        if name in known:
            path = folder / name
            found[name] = path.read_bytes() if path.is_file() else b""
            if sha256(found[name]) != known[name]:
                raise ChangedError(
                    f"the model's {name} is not the one that was made of it",
                    where=where,
                    remedy="Do not serve it; restore the artifact or roll back to another version",
                )
    return found


def read_model(folder: Path, *, tags: Mapping[str, str], where: str) -> dict[str, npt.NDArray[Any]]:
    """Read the arrays, never unpickling.

    Raises:
        ChangedError: the bytes are not those that were registered.
    """
    content = _registered(folder, ARRAYS_FILE, tags, where)
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _registered(folder: Path, name: str, tags: Mapping[str, str], where: str) -> bytes:
    path = folder / name
    content = path.read_bytes() if path.is_file() else b""
    require_registered(name, content, tags, error=ChangedError, where=where)
    return content


def _described(task: Task) -> dict[str, Any]:
    """What `MLmodel` says; JSON is YAML too."""
    number = task.label.range is not None
    outputs = [{"name": "prediction", "type": "double" if number else "string", "required": False}]
    for name in task.label.classes:
        outputs.append({"name": probability_column(name), "type": "double", "required": False})
    outputs.append({"name": "reason", "type": "string", "required": True})
    return {
        "artifact_path": "model",
        "flavors": {
            "python_function": {
                "loader_module": "serving.pyfunc",
                "python_version": platform.python_version(),  # MLflow warns without
            }
        },
        "signature": {"inputs": json.dumps(_inputs(task)), "outputs": json.dumps(outputs), "params": None},
        "saved_input_example_info": {
            "artifact_path": _EXAMPLE_FILE,
            "pandas_orient": "split",
            "type": "dataframe",
        },
    }


def _inputs(task: Task) -> list[dict[str, Any]]:
    """The features. Any type may come: our preprocessing reads each value by the site's rule, where MLflow
    would refuse a file's whole numbers for a `string` and for a `double`."""
    return [{"name": feature.name, "type": "any", "required": True} for feature in task.features]


def _example(task: Task) -> dict[str, Any]:
    """One row, as MLflow has an input example."""
    row = middle_row(task)
    return {"columns": list(row), "data": [list(row.values())]}
