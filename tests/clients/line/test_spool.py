"""What a message is called is no part of a path, and no other message's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from clients.line.spool import Spool, read_work
from tests.hostile import HOSTILE
from tests.works import make_work


@pytest.mark.parametrize("name", ["../../../x", "/etc/x", "..", "a\0b", "w" * 5000, "", HOSTILE, "x/../../y"])
def test_a_message_lies_in_the_spool_whatever_its_id(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "spool"
    spool, work = Spool(folder), replace(make_work("query.x"), message_id=name)
    spool.keep(work)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [spool.path(work)]
    assert spool.path(work).parent == folder
    assert spool.waiting() == [spool.path(work)]
    assert read_work(spool.path(work)).message_id == name
    assert spool.path(replace(work, message_id=name + "x")) != spool.path(work)
    spool.done(work)
    assert not list(folder.iterdir())
