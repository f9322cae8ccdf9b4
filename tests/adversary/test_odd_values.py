"""One odd value in a Parquet file's column, and whether the site answers as it does without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.adversary import wire
from tests.adversary.conftest import LaySite
from tests.adversary.hostile_server import DRIFT, EVALUATE, RANGES, TRAIN, HostileServer
from tests.adversary.rows import Figure, make_rows

ROWS = make_rows()
MARS = pa.timestamp("us", tz="Mars/Phobos")


def words(odd: bool) -> Any:
    """One of bytes that are no UTF-8."""
    return pa.array(
        [b"\xff" if odd and place == 1 else b"a" for place in range(len(ROWS))], pa.binary()
    ).view(pa.string())


def dictionary(odd: bool) -> Any:
    held = pa.array([b"a", b"\xff" if odd else b"b"], pa.binary()).view(pa.string())
    places = pa.array([int(place == 1) for place in range(len(ROWS))], pa.int32())
    return pa.DictionaryArray.from_arrays(places, held)


COLUMNS: dict[str, Callable[[bool], Any]] = {
    "a text": words,
    "a text of a dictionary": dictionary,
    "a time of an unknown zone": lambda odd: pa.array([1 if odd else None, *[None] * (len(ROWS) - 1)], MARS),
    "a time beyond Python's": lambda odd: pa.array([2**50 if odd else 0] * len(ROWS), pa.timestamp("s")),
    "a list": lambda odd: pa.array([[1] if odd else None] * len(ROWS), pa.list_(pa.int64())),
}


def in_parquet(site: Path, ward: Any) -> Path:
    """The site's rows as a Parquet file with that column."""
    columns = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    table = pa.table({**columns, "ill": [str(row["ill"]) for row in ROWS], "ward": ward})
    parquet.write_table(table, site.parent / "rows.parquet")
    said = site.read_text().replace(
        'kind = "csv"\npath = "rows.csv"', 'kind = "parquet"\npath = "rows.parquet"'
    )
    site.write_text(said)
    return site


@pytest.mark.parametrize("column", COLUMNS)
def test_no_odd_value_of_a_parquet_file_changes_a_word(lay: LaySite, figure: Figure, column: str) -> None:
    plain, odd = (
        HostileServer(in_parquet(lay(ROWS, cap=20.0), COLUMNS[column](is_odd))) for is_odd in (False, True)
    )
    for kind in (TRAIN, EVALUATE, DRIFT, RANGES):
        one, other = plain.ask(kind), odd.ask(kind)
        figure(f"{column}: {kind} {one.word or 'answered'} / {other.word or 'answered'}")
        assert one.outcome == other.outcome
        assert one.word in ("", "source")  # never `failed`, and a charge for nothing
    assert wire.spent(plain.site) == wire.spent(odd.site)
