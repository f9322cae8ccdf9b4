"""Odd values in a site's files: none may change an answer's word, or make two persons of one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from clients.site import open_site
from experiments.audit.hostile_server import DRIFT, EVALUATE, RANGES, TRAIN, HostileServer
from tests.adversary import wire
from tests.adversary.conftest import LaySite
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


# -- one person, two texts of the id ---------------------------------------------------

LONG = range(12345678901234560 + 1, 12345678901234560 + 4000, 4)


@pytest.mark.parametrize(
    ("ids", "sign", "kind"),
    [
        (range(1001, 2001), ".", "csv"),
        (range(1001, 2001), ",", "csv"),
        (LONG, ".", "csv"),
        (LONG, ",", "csv"),
        (LONG, ".", "parquet"),
        (range(2**53 - 1000, 2**53), ".", "parquet"),
        (range(2**53 - 1000, 2**53 + 10), ".", "csv"),
    ],
)
def test_a_person_is_one_however_a_file_writes_whole_numbers(
    lay: LaySite, figure: Figure, ids: range, sign: str, kind: str
) -> None:
    """Beside a row without an id pandas has floats for the ids, and writes `1001,0` or `1.2e+16`."""
    site = lay("", person=True)
    rest = {"level": 50.5, "ward": "a", "ill": "1", "side": "x", "secret": "y"}
    whole = pd.DataFrame({**rest, "window": "w1", "patient": np.array(ids, dtype=np.int64)})
    floats = pd.DataFrame({**rest, "window": "w2", "patient": [*map(float, ids), np.nan]})
    (site.parent / "rows").mkdir()
    for place, frame in enumerate((whole, floats)):
        path = site.parent / "rows" / f"{place}.{kind}"
        if kind == "csv":
            frame.to_csv(path, index=False, sep=";", decimal=sign)
        else:
            frame.astype({"patient": float if place else int}).to_parquet(path)
    how = f'kind = "{kind}"\npath = "rows"\nseparator = ";"\ndecimal = "{sign}"'
    site.write_text(site.read_text().replace('kind = "csv"\npath = "rows.csv"', how))
    rows = open_site(site)._rows().rows
    assert rows.person is not None
    one, other = rows.person[: len(ids)], rows.person[len(ids) : 2 * len(ids)]
    strangers = sum(a != b for a, b in zip(one, other, strict=True) if b is not None)
    lost = sum(b is None for b in other)
    figure(f"{ids} in a {kind} with '{sign}': {strangers} became two persons, {lost} are nobody's")
    assert None not in one
    assert strangers == 0
    assert lost == sum(number >= 2**53 for number in ids)
