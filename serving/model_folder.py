"""A model version's folder: `arrays.npz`, and `experiment.json` that says how to use them.

`SHA256SUMS` has the hash of both, in the form of the program `sha256sum`. It finds damage; who wants to know
that nobody changed the folder compares with the hashes of the version's record, as `tidegate models` does.
Nothing is unpickled: each array is read in the type and shape that the experiment's model has.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from contract.errors import InputError
from contract.experiment import Experiment
from contract.experiment_file import parse_experiment_json
from contract.model_version import ARRAYS_FILE, EXPERIMENT_FILE, SUMS_FILE, sha256
from contract.models import model_shapes

__all__ = ["read_folder", "read_model"]

Arrays = dict[str, npt.NDArray[np.float32]]

_MOST_EXPERIMENT, _MOST_ARRAYS = 2**24, 2**30
"""Bytes of each file."""
_MOST_HEADER = 2**12
"""Bytes of an array's own header."""
_REMEDY = "Fetch the version again: tidegate models fetch NAME VERSION FOLDER"


def read_folder(folder: Path) -> tuple[Experiment, Arrays]:
    """The experiment and the arrays of a folder, after its own hashes were compared.

    Raises:
        InputError: a file is missing, too large, damaged, or no model's.
    """
    files = {
        EXPERIMENT_FILE: _content(folder / EXPERIMENT_FILE, _MOST_EXPERIMENT),
        ARRAYS_FILE: _content(folder / ARRAYS_FILE, _MOST_ARRAYS),
    }
    said = dict(line.split("  ", 1)[::-1] for line in _lines(folder / SUMS_FILE) if "  " in line)
    for name, content in files.items():
        if said.get(name) != sha256(content):
            raise InputError(
                f"not the file of which {SUMS_FILE} has the hash", where=str(folder / name), remedy=_REMEDY
            )
    return read_model(files, where=str(folder))


def read_model(files: Mapping[str, bytes], *, where: str) -> tuple[Experiment, Arrays]:
    """The experiment and the arrays of a version's files, whose hashes were compared.

    Raises:
        InputError: they are none, or the arrays are another model's.
    """
    experiment = parse_experiment_json(_text(files[EXPERIMENT_FILE], where), where=where)
    return experiment, _arrays(files[ARRAYS_FILE], experiment, where)


def _arrays(content: bytes, experiment: Experiment, where: str) -> Arrays:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return _read(archive, model_shapes(experiment))
    except (ValueError, KeyError, OSError, NotImplementedError, RuntimeError, zipfile.BadZipFile) as exc:
        raise InputError("not the arrays of the experiment's model", where=where, remedy=_REMEDY) from exc


def _read(archive: zipfile.ZipFile, shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
    known = {entry.filename: entry for entry in archive.infolist()}
    if known.keys() != {f"{name}.npy" for name in shapes}:
        raise ValueError("other names")
    return {name: _array(archive, known[f"{name}.npy"], shape) for name, shape in shapes.items()}


def _array(
    archive: zipfile.ZipFile, entry: zipfile.ZipInfo, shape: tuple[int, ...]
) -> npt.NDArray[np.float32]:
    """One array, of which no more is read than its shape needs."""
    wanted = 4 * math.prod(shape)
    if entry.compress_type != zipfile.ZIP_STORED or not wanted <= entry.file_size <= wanted + _MOST_HEADER:
        raise ValueError("packed, or of another size")
    file = io.BytesIO(archive.read(entry))
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("another form of header")
    found, is_fortran, kind = np.lib.format.read_array_header_1_0(file, max_header_size=_MOST_HEADER)
    if found != shape or is_fortran or kind != np.dtype("<f4"):
        raise ValueError("another shape or type")
    values: npt.NDArray[Any] = np.frombuffer(file.read(), dtype="<f4")
    return values.reshape(shape)


def _lines(path: Path) -> list[str]:
    return _text(_content(path, _MOST_HEADER), str(path)).splitlines()


def _text(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise InputError("not UTF-8", where=where, remedy=_REMEDY) from exc


def _content(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as exc:
        raise InputError(
            f"cannot be read: {exc.strerror}",
            where=str(path),
            remedy="Name a folder that `tidegate models fetch` wrote",
        ) from exc
    if len(content) > most:
        raise InputError(f"longer than {most:,} bytes", where=str(path), remedy=_REMEDY)
    return content
