"""The journal of answers: whole records, in order, once; whatever a crash left at its end."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from contract.errors import StorageError
from inference import journal as module
from inference.journal import Journal


class Kept:
    def __init__(self) -> None:
        self.records: list[int] = []
        self.away = False

    def __call__(self, records: Sequence[dict[str, Any]]) -> None:
        if self.away:
            raise StorageError("away")
        self.records += [one["n"] for one in records]


def test_what_was_written_is_moved_once_and_in_order(tmp_path: Path) -> None:
    kept = Kept()
    journal = Journal(tmp_path / "a", kept)
    for number in range(0, 1000, 2):
        journal.append([{"n": number}, {"n": number + 1}])
    journal.flush()
    journal.append([{"n": 1000}])
    journal.close()
    assert kept.records == list(range(1001))
    assert (tmp_path / "a").stat().st_size == 0


@pytest.mark.parametrize(
    "torn", [b"", b'{"n":', b"x" * 100_000, b"\n\n", b"\xff\n", b"7\n", b"[" * 9000 + b"]" * 9000 + b"\n"]
)
def test_a_crash_leaves_whole_records(tmp_path: Path, torn: bytes) -> None:
    first, kept = Kept(), Kept()
    journal = Journal(tmp_path / "a", first)
    journal.append([{"n": 1}, {"n": 2}])
    os.close(journal._file)
    with (tmp_path / "a").open("ab") as file:
        file.write(torn)
    again = Journal(tmp_path / "a", kept)
    again.append([{"n": 3}])
    again.close()
    assert kept.records == [1, 2, 3]


def test_where_the_log_is_away_it_waits(tmp_path: Path) -> None:
    kept = Kept()
    journal = Journal(tmp_path / "a", kept)
    journal.append([{"n": 1}])
    kept.away = True
    with pytest.raises(StorageError):
        journal.flush()
    journal.append([{"n": 2}])
    kept.away = False
    journal.close()
    assert kept.records == [1, 2]


def test_what_is_moved_is_taken_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", 4)  # less than a record
    kept = Kept()
    journal = Journal(tmp_path / "a", kept)
    for number in range(50):
        journal.append([{"n": number}])
        if number % 7 == 0:
            journal.flush()
            assert (tmp_path / "a").stat().st_size == 0
    journal.close()
    assert kept.records == list(range(50))


def test_only_one_writes_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a", Kept())
    with pytest.raises(StorageError, match="another service"):
        Journal(tmp_path / "a", Kept())
    journal.close()
    Journal(tmp_path / "a", Kept()).close()


def test_half_a_write_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept()
    journal = Journal(tmp_path / "a", kept)
    journal.append([{"n": 1}])
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, content: write(file, content[:4]))
    with pytest.raises(StorageError, match="No space left"):
        journal.append([{"n": 2}])
    monkeypatch.undo()
    journal.append([{"n": 3}])
    journal.close()
    assert kept.records == [1, 3]


def test_what_others_cut_is_said_and_not_read_for_ever(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a", Kept())
    journal.append([{"n": 1}])
    os.truncate(tmp_path / "a", 3)
    with pytest.raises(StorageError, match="changed by others"):
        journal.flush()
