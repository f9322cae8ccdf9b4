"""A file is there whole, as it was or as it is to be, and nothing is left beside it."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from contract.whole_file import replace_file, written_aside


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_it_takes_the_place_of_what_was_there_and_is_this_users_alone(tmp_path: Path) -> None:
    path, before = tmp_path / "kept", os.umask(0)
    try:
        path.write_bytes(b"old")
        replace_file(path, b"new")
    finally:
        os.umask(before)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names(tmp_path) == ["kept"]


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kept"
    path.write_bytes(b"old")

    def full(_file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["kept"]


def test_what_cannot_be_replaced_stays(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(OSError, match="directory"):
        replace_file(folder, b"new")
    assert names(tmp_path) == ["folder"]


def test_a_link_is_replaced_and_what_it_leads_to_is_not(tmp_path: Path) -> None:
    """Or whoever may write into a folder has this user write elsewhere."""
    other, path = tmp_path / "other", tmp_path / "kept"
    other.write_bytes(b"another's")
    path.symlink_to(other)
    replace_file(path, b"new")
    assert (other.read_bytes(), path.read_bytes(), path.is_symlink()) == (b"another's", b"new", False)


def test_where_root_acts_for_a_service_the_file_stays_the_services(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sudo tidegate server revoke` would leave a file that the server, which is not root, cannot read."""
    path, given = tmp_path / "kept", list[tuple[int, int]]()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", lambda _file, user, group: given.append((user, group)))
    replace_file(path, b"new")
    assert given == [], "whoever makes it has it"
    was = path.stat()
    replace_file(path, b"newer")
    assert given == [(was.st_uid, was.st_gid)]
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    replace_file(path, b"newest")
    assert len(given) == 1


@pytest.mark.parametrize("link", [False, True])
def test_its_place_is_on_the_disk_too_once_it_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: bool
) -> None:
    """Or a key is gone when the power fails, and what was signed with it stays."""
    path, synced, usual = tmp_path / "kept", list[list[str]](), os.fsync

    def sync(file: int) -> None:
        usual(file)
        if stat.S_ISDIR(os.fstat(file).st_mode):
            synced.append(names(tmp_path))

    monkeypatch.setattr(os, "fsync", sync)
    with written_aside(path, b"new") as aside:
        if link:
            path.hardlink_to(aside)
        else:
            aside.replace(path)
        assert synced == []
    assert synced == [["kept"]]


def test_a_reader_sees_the_one_or_the_other(tmp_path: Path) -> None:
    path, whole = tmp_path / "kept", {bytes([byte]) * 50_000 for byte in b"ab"}
    replace_file(path, next(iter(whole)))
    seen: set[bytes] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(20):
        for content in whole:
            replace_file(path, content)
    done.set()
    reader.join()
    assert seen <= whole
    assert names(tmp_path) == ["kept"]


def test_of_two_that_are_linked_into_place_the_first_stays(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    for content in (b"first", b"second"):
        with written_aside(path, content) as aside:
            if content == b"first":
                path.hardlink_to(aside)
            else:
                with pytest.raises(FileExistsError):
                    path.hardlink_to(aside)
    assert path.read_bytes() == b"first"
    assert names(tmp_path) == ["kept"]
