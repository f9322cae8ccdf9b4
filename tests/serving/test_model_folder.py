"""A model's folder: read as what its experiment says, or refused; nothing in it is ever run or unpickled."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from contract.errors import InputError
from contract.experiment import Experiment
from contract.experiment_file import parse_experiment_json
from contract.model_version import ARRAYS_FILE, EXPERIMENT_FILE, SUMS_FILE, sums_of
from server.registry.model_files import write_model
from serving.model_folder import read_folder, read_model

ARRAYS = {
    "layers.0.weight": np.arange(3, dtype=np.float32)[None],
    "layers.0.bias": np.ones(1, dtype=np.float32),
}


def experiment(**model: object) -> Experiment:
    features = [{"name": f"x{number}", "kind": "numeric", "low": 0, "high": 1} for number in range(3)]
    whole = {"name": "small", "task": {"label": {"column": "ill"}, "features": features}, "model": model}
    return parse_experiment_json(json.dumps(whole), where="small")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model(tmp_path, ARRAYS, experiment(), about={})
    return tmp_path


def test_what_was_written_is_read(folder: Path) -> None:
    found, arrays = read_folder(folder)
    assert found == experiment()
    assert found.digest == experiment().digest
    assert arrays.keys() == ARRAYS.keys()
    assert all(np.array_equal(arrays[name], ARRAYS[name]) for name in ARRAYS)


@pytest.mark.parametrize("name", [ARRAYS_FILE, EXPERIMENT_FILE])
def test_a_changed_byte_is_found(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-30] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: not the file of which"):
        read_folder(folder)


@pytest.mark.parametrize("name", [ARRAYS_FILE, EXPERIMENT_FILE, SUMS_FILE])
def test_a_file_that_is_not_there_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InputError, match=name):
        read_folder(folder)


def npz(**arrays: np.ndarray) -> bytes:  # type: ignore[type-arg]
    file = io.BytesIO()
    np.savez(file, allow_pickle=True, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


class Trap:
    """What would run if it were unpickled."""

    sprung = False

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return _spring, ()


def _spring() -> None:
    Trap.sprung = True


def packed(name: str, size: int) -> bytes:
    """A small file that becomes a large one."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.npy", b"\0" * size)
        archive.writestr("layers.0.bias.npy", b"")
    return file.getvalue()


def declared(shape: str) -> bytes:
    """Arrays that say in their header that they are larger than the file."""
    file = io.BytesIO()
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    with zipfile.ZipFile(file, "w") as archive:
        for name in ARRAYS:
            archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00v\x00" + header.encode() + b"\0" * 12)
    return file.getvalue()


HOSTILE: dict[str, Callable[[], bytes]] = {
    "no archive": lambda: b"PK nothing",
    "nothing": lambda: b"",
    "a pickled object": lambda: npz(**{**ARRAYS, "layers.0.bias": np.array([Trap()], dtype=object)}),
    "another shape": lambda: npz(**{**ARRAYS, "layers.0.weight": np.zeros((3, 1), np.float32)}),
    "another type": lambda: npz(**{**ARRAYS, "layers.0.weight": np.zeros((1, 3), np.int32)}),
    "an array too many": lambda: npz(**ARRAYS, more=np.zeros(1)),
    "an array too few": lambda: npz(**{"layers.0.bias": ARRAYS["layers.0.bias"]}),
    "a bomb": lambda: packed("layers.0.weight", 2**27),
    "a shape that is not there": lambda: declared("(1, 3)"),
    "a shape without end": lambda: declared("(1000000000000,)"),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_other_arrays_are_refused(content: Callable[[], bytes]) -> None:
    files = {ARRAYS_FILE: content(), EXPERIMENT_FILE: experiment().model_dump_json().encode()}
    with pytest.raises(InputError, match="not the arrays of the experiment's model"):
        read_model(files, where="it")
    assert not Trap.sprung


def test_a_model_of_another_size_is_refused_before_it_is_read(folder: Path) -> None:
    other = experiment(kind="mlp", hidden=[8192] * 4).model_dump_json().encode()
    files = {EXPERIMENT_FILE: other, ARRAYS_FILE: (folder / ARRAYS_FILE).read_bytes()}
    (folder / EXPERIMENT_FILE).write_bytes(other)
    (folder / SUMS_FILE).write_text(sums_of(files))
    with pytest.raises(InputError):
        read_folder(folder)
