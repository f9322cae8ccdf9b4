"""A picture in docs/ is that of today's data."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pictures import RECORD, SHOWS, data_digest, file_digest, keep, recorded

DOCS = RECORD.parent


def test_every_picture_is_recorded() -> None:
    assert {path.name for path in DOCS.glob("*.png")} == SHOWS.keys() == recorded().keys()


@pytest.mark.parametrize("name", SHOWS)
def test_a_picture_is_of_todays_data(name: str) -> None:
    known = recorded()[name]
    assert known["picture"] == file_digest(DOCS / name), "the picture is not the one that was recorded"
    assert known["data"] == data_digest(SHOWS[name]), "it shows what was: make it anew by scripts/pictures"


def test_what_is_drawn_makes_a_picture_stale_and_a_comment_does_not(tmp_path: Path) -> None:
    (tmp_path / "rows.py").write_text('"""Rows."""\n\nROWS = 3  # three\n')
    (tmp_path / "plan.toml").write_text("rounds = 3\n[task]\nname = 'x'\n")
    sources = ("rows.py", "plan.toml")
    before = data_digest(sources, tmp_path)
    (tmp_path / "rows.py").write_text('"""Other\nrows."""\nROWS = 3\n')
    (tmp_path / "plan.toml").write_text("# a plan\nrounds = 3\n\n[task]\nname = 'x'\n")
    assert data_digest(sources, tmp_path) == before
    (tmp_path / "rows.py").write_text("ROWS = 4\n")
    assert data_digest(sources, tmp_path) != before
    (tmp_path / "rows.py").write_text("ROWS = 3\n")
    (tmp_path / "plan.toml").write_text("rounds = 4\n[task]\nname = 'x'\n")
    assert data_digest(sources, tmp_path) != before


def test_who_makes_a_picture_records_it(tmp_path: Path) -> None:
    (tmp_path / "fresh.png").write_bytes(b"png")
    for name in SHOWS:
        keep(tmp_path / "fresh.png", tmp_path, name)
    assert (tmp_path / "story.png").read_bytes() == b"png"
    assert (tmp_path / RECORD.name).read_text().count(file_digest(tmp_path / "fresh.png")) == len(SHOWS)
