"""Rows of a CSV file, as texts; what is none ends with a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.errors import InputError
from serving import csv_rows
from serving.csv_rows import read_batches


def written(folder: Path, content: bytes) -> Path:
    path = folder / "rows.csv"
    path.write_bytes(content)
    return path


def test_values_are_texts_as_they_stand(tmp_path: Path) -> None:
    path = written(tmp_path, b'\xef\xbb\xbfage; name\r\n01;"a;""b"""\r\n\r\n1,5;\r\n')
    [batch] = read_batches(path, separator=";")
    assert {name: values.tolist() for name, values in batch.columns.items()} == {
        "age": ["01", "1,5"],
        "name": ['a;"b"', ""],
    }


def test_a_line_of_another_length_is_marked_by_itself(tmp_path: Path) -> None:
    [batch] = read_batches(written(tmp_path, b"a,b\n1,2\n3\n4,5,6\n7,8\n"))
    assert batch.fits.tolist() == [True, False, False, True]
    assert batch.columns["a"].tolist() == ["1", "7"]


def test_many_rows_come_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_rows, "_AT_ONCE", 2)
    path = written(tmp_path, b"a\n1\n2\n3\n4\n")
    assert [batch.columns["a"].tolist() for batch in read_batches(path)] == [["1", "2"], ["3", "4"]]


def test_a_header_alone_has_no_rows(tmp_path: Path) -> None:
    [batch] = read_batches(written(tmp_path, b"a,b"))
    assert (list(batch.columns), batch.fits.tolist()) == (["a", "b"], [])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no header"),
        (b"\n1\n", "no header"),
        (b"a,a\n", "named twice"),
        (b"a\n\xff\n", "not UTF-8"),
        (b"a\n" + b"x" * 200_000, "not a CSV file"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(InputError, match=words):
        list(read_batches(written(tmp_path, content)))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        list(read_batches(tmp_path / "none.csv"))
