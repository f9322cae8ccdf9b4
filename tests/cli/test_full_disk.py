"""Commands on a full disk: nothing is left of what they were to write, and a sentence says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contract.errors import InputError
from terminal.new_files import new_file, write_new, write_plot
from terminal.predictions import write_files
from tests.failure.disk import Disk

_LARGE = bytes(2**21)


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A folder of which the disk has less room than what is written."""
    disk = Disk(tmp_path / "disk", 1, lambda: [])
    if not disk.mounted:
        pytest.skip("no file system can be mounted")
    yield tmp_path / "disk"
    disk.close()


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_new(path, _LARGE),
        lambda path: write_plot(path, lambda _: _LARGE),
        lambda path: write_files({"arrays.npz": b"x", "experiment.json": _LARGE}, path),
    ],
)
def test_a_full_disk_is_named_and_nothing_is_left(full: Path, write: Callable[[Path], None]) -> None:
    with pytest.raises(InputError, match=r"made\.png.*No space left on device.*Free room on that disk"):
        write(full / "made.png")
    assert list(full.iterdir()) == []


def test_a_fault_of_another_file_is_not_this_one_s(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), new_file(tmp_path / "made") as made:
        made.write((tmp_path / "none").read_text())
    assert list(tmp_path.iterdir()) == []


def test_whatever_writes_to_a_full_disk_ends_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tidegate: Callable[..., str]
) -> None:
    """The system names no file when a write fails, as it does where a file cannot be opened."""

    def write() -> None:
        with Path("/dev/full").open("w") as file:
            file.write("x")

    monkeypatch.setattr("experiments.cli.main.app", write)
    told = tidegate("new", code=2)
    assert told == "error: a file: No space left on device. Free room on that disk.\n"
