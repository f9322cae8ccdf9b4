"""Which rows there are, whose, and on which side: of each row by itself, whatever it and the others hold.

A privacy budget for training rows beside one for held-out rows (parallel composition), and one for
each window, is right only if adding or removing a row leaves every other row where it is.
"""

from __future__ import annotations

import csv
import io
import sqlite3
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet as pq

from clients.mechanisms.drift import noisy_counts
from clients.mechanisms.noise import SystemNoise
from clients.mechanisms.ranges import noisy_range_counts
from clients.rows.rows import Rows, read_rows, rows_of
from clients.rows.sources import check_source
from clients.rows.table import prepare
from clients.site_config import DataSource
from contract.card import Card
from contract.experiment import CategoricalFeature, Experiment, Label, NumericFeature, Privacy, Task
from tests.rows_of_a_site import KEY, card_of, numeric, one_of, rows, site

COLUMNS = ("dose", "ward", "ill", "who", "week")
CARD = card_of(
    numeric("dose", 0, 10),
    one_of("ward", "1", "2", "NA"),
    one_of("ill", "0", "1"),
    person="who",
    time={"column": "week"},
)
OF_RECORDS = card_of(*CARD.model_dump()["columns"], time={"column": "week"})
OF_SIDES = card_of(*CARD.model_dump()["columns"], time={"column": "week"}, holdout={"column": "who"})
OF_IDS = card_of(*CARD.model_dump()["columns"], time={"column": "week"}, holdout={"record": "who"})
CARDS = (CARD, OF_RECORDS, OF_SIDES, OF_IDS)
RECORDS = Experiment(
    name="odd",
    task=Task(
        label=Label(column="ill"),
        features=(
            NumericFeature(name="dose", kind="numeric", low=0, high=9, transform="log1p"),
            CategoricalFeature(name="ward", kind="categorical", categories=("1", "2", "3"), other="3"),
        ),
    ),
)
PERSONS = RECORDS.model_copy(update={"privacy": Privacy(unit="person", rows_per_person=2)})

CELLS = st.one_of(
    st.sampled_from(
        [
            *("", " ", "NA", "1", "1.0", "2", "0", "01", "w1", " w1", "w1\0", "w1.0", "train", "holdout"),
            *(
                "1e400",
                "inf",
                "-1e999",
                "nan",
                "1,5",
                "1_0",
                "4O",
                "\u0663",
                "1001",
                "1001.0",
                "1001.",
                "x" * 300,
            ),
            *(
                '"',
                '""',
                '"a',
                'a"',
                'a"b',
                ",",
                ";",
                "\n",
                "\r",
                "\r\n",
                '"\n1,1,1,1,1\n"',
                "\x1b[2J",
                "\u2028",
            ),
        ]
    ),
    st.text(max_size=4),
)
ROW = st.tuples(*[CELLS] * len(COLUMNS))
OBJECTS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), CELLS, st.binary(max_size=4)
)
LINES = st.one_of(
    st.binary(max_size=30), st.lists(CELLS, max_size=7).map(lambda cells: _utf8(",".join(cells)))
)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def as_csv(folder: Path, table: list[tuple[str, ...]]) -> DataSource:
    """As a program writes it that quotes properly."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([COLUMNS, *table])
    (folder / "rows.csv").write_bytes(_utf8(text.getvalue()))
    return DataSource(kind="csv", path=str(folder / "rows.csv"))


def as_lines(folder: Path, table: list[bytes]) -> DataSource:
    """As a program writes it that does not."""
    (folder / "rows.csv").write_bytes(b"\n".join([",".join(COLUMNS).encode(), *table, b""]))
    return DataSource(kind="csv", path=str(folder / "rows.csv"))


def as_sqlite(folder: Path, table: list[tuple[Any, ...]]) -> DataSource:
    path = folder / "rows.db"
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path)
    connection.execute(f"CREATE TABLE visits ({', '.join(COLUMNS)})")
    written = [tuple(_utf8(cell) if isinstance(cell, str) else cell for cell in row) for row in table]
    for row, raw in zip(table, written, strict=True):  # a text of any bytes, as some drivers write it
        marks = ", ".join("CAST(? AS TEXT)" if isinstance(cell, str) else "?" for cell in row)
        connection.execute(f"INSERT INTO visits VALUES ({marks})", raw)  # noqa: S608
    connection.commit()
    connection.close()
    return DataSource(kind="sql", url=f"sqlite:///{path}", table="visits")


def as_parquet_text(folder: Path, table: list[tuple[str, ...]]) -> DataSource:
    """Texts of any bytes, as writers in other languages allow."""
    columns = {}
    for place, name in enumerate(COLUMNS):
        raw = pa.array([_utf8(row[place]) for row in table], pa.binary())
        columns[name] = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())
    return _parquet(folder, columns)


PARQUET = {
    pa.int64(): st.none() | st.integers(-(2**63), 2**63 - 1),
    pa.uint64(): st.none() | st.integers(0, 2**64 - 1),
    pa.float64(): st.none() | st.floats(),
    pa.bool_(): st.none() | st.booleans(),
    pa.decimal128(38, 2): st.none() | st.integers(-(10**30), 10**30).map(lambda cents: Decimal(cents) / 100),
    pa.timestamp("s"): st.none() | st.integers(-(2**50), 2**50),
    pa.date32(): st.none() | st.integers(-(2**31), 2**31 - 1),
    pa.dictionary(pa.int32(), pa.string()): st.none() | st.sampled_from(["1", "1.0", "NA"]),
    pa.null(): st.none(),
}


def _parquet(folder: Path, columns: dict[str, Any]) -> DataSource:
    pq.write_table(pa.table(columns), folder / "rows.parquet")
    return DataSource(kind="parquet", path=str(folder / "rows.parquet"))


def described(found: Rows) -> list[tuple[Any, ...]]:
    """Each row: its values, person, window and side."""
    values = zip(*(found.frame[name] for name in found.frame), strict=True)
    persons = [None] * len(found) if found.person is None else found.person.tolist()
    windows = [None] * len(found) if found.window is None else found.window.tolist()
    texts = [tuple(None if value != value else value for value in row) for row in values]  # noqa: PLR0124
    return list(zip(texts, persons, windows, found.holdout.tolist(), strict=True))


def encoded(found: Rows, experiment: Experiment, card: Card) -> list[tuple[Any, ...]]:
    table = prepare(found, experiment, card)
    assert table.features.shape == (table.fit.kept, experiment.task.width)
    assert len(table.labels) == table.fit.kept <= table.fit.rows == len(found)
    assert np.isfinite(table.features).all()
    assert ((table.features >= 0) & (table.features <= 1)).all()
    return list(zip(table.features.tolist(), table.labels.tolist(), strict=True))


def check(source: DataSource, singles: list[DataSource], card: Card, folder: Path) -> None:
    """What holds for every table, read whole and row by row."""
    experiment = PERSONS if card.person else RECORDS
    del folder
    whole = read(source, card)
    left_out = whole.reading.without_side + whole.reading.repeated
    assert len(whole) == len(whole.frame) == whole.reading.rows - left_out
    apart = [read(single, card) for single in singles]
    rows_apart = [row for one in apart for row in described(one)]
    encoded_apart = [row for one in apart for row in encoded(one, experiment, card)]
    if card.holdout.record is None:
        assert described(whole) == rows_apart
        assert encoded(whole, experiment, card) == encoded_apart
    else:  # one row of each record, as it is alone
        ids = {name for single in singles for name in persons_of(single) if name is not None}
        assert len(whole) == len(ids)
        assert all(row in rows_apart for row in described(whole))
        assert all(row in encoded_apart for row in encoded(whole, experiment, card))
    assert whole.window is not None
    chosen = described(whole.of(("w1",)))
    assert chosen == [row for row in described(whole) if row[2] == "w1"]
    assert len(whole.of((), holdout=True)) + len(whole.of((), holdout=False)) == len(whole)
    if whole.person is not None:
        sides: dict[str, bool] = {}
        for person, side in zip(whole.person, whole.holdout, strict=True):
            assert sides.setdefault(person, side) == side
    counts = noisy_counts(whole, experiment, card, 1.0, SystemNoise())
    assert all(np.isfinite(values).all() for values in counts.values())
    (ranges,) = noisy_range_counts(whole, experiment, ("dose",), 1.0, SystemNoise())
    assert np.isfinite(ranges.counts).all()


def persons_of(source: DataSource) -> list[str | None]:
    found = read(source, CARD).person
    assert found is not None
    return list(found)


def read(source: DataSource, card: Card) -> Rows:
    config = site(card, **source.model_dump())
    check_source(config, card)
    return read_rows(config, card, key=KEY)


def written(write: Any, table: list[Any], card: Card) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "whole").mkdir()
        singles = []
        for number, row in enumerate(table):
            (folder / str(number)).mkdir()
            singles.append(write(folder / str(number), [row]))
        check(write(folder / "whole", table), singles, card, folder)


SOME = settings(deadline=None, max_examples=60)
TWO_OPEN_QUOTES = [b'1,"2,0,a,w1', b"2,1,1,b,w1", b'3,2",1,c,w1']


@SOME
@given(st.lists(ROW, max_size=5), st.sampled_from(CARDS))
@example([("1", "1", "0", "1001", "w1"), ("1", "1", "0", "1001.0", "w1")], CARD)
@example([("1", "1", '"\n1,1,1,1,1\n"', "b", "w1")], OF_RECORDS)
def test_any_csv_file_is_read_row_by_row(table: list[tuple[str, ...]], card: Card) -> None:
    written(as_csv, table, card)


@SOME
@given(st.lists(LINES, max_size=6), st.sampled_from(CARDS))
@example(TWO_OPEN_QUOTES, CARD)
@example([b"\xff,\xfe,1,\xc3,w1", b"1,1,1,\xc3\xbc,w1"], CARD)
def test_any_lines_are_read_line_by_line(table: list[bytes], card: Card) -> None:
    written(as_lines, table, card)


@SOME
@given(st.lists(st.tuples(*[OBJECTS] * len(COLUMNS)), max_size=5), st.sampled_from(CARDS))
@example([(1, "\ud800", 0, "a", "w1"), (1.0, b"\xff", None, 1001, "w1"), (1, 1, 1, 1001.0, "w1")], CARD)
def test_any_table_of_a_database_is_read_row_by_row(table: list[tuple[Any, ...]], card: Card) -> None:
    written(as_sqlite, table, card)


@SOME
@given(st.lists(ROW, max_size=5), st.sampled_from(CARDS))
@example([("1", "\ud800", "0", "a", "w1"), ("1", "1", "0", "b", "w1")], CARD)
def test_any_texts_of_a_parquet_file_are_read_row_by_row(table: list[tuple[str, ...]], card: Card) -> None:
    written(as_parquet_text, table, card)


@SOME
@given(st.data(), st.sampled_from(CARDS))
def test_any_types_of_a_parquet_file_are_read_row_by_row(data: st.DataObject, card: Card) -> None:
    kinds = [data.draw(st.sampled_from(list(PARQUET))) for _ in COLUMNS]
    table = data.draw(st.lists(st.tuples(*(PARQUET[kind] for kind in kinds)), max_size=4))

    def as_parquet(folder: Path, some: list[tuple[Any, ...]]) -> DataSource:
        columns = {}
        for place, (name, kind) in enumerate(zip(COLUMNS, kinds, strict=True)):
            columns[name] = pa.array([row[place] for row in some], kind)
        return _parquet(folder, columns)

    for name, kind in zip(COLUMNS, kinds, strict=True):
        if name == "dose" and pa.types.is_temporal(kind):
            return  # refused before a row is read
    written(as_parquet, table, card)


def many(number: int, seed: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "dose": rng.uniform(0, 12, number),
            "ward": rng.choice(["1", "2"], number),
            "ill": rng.choice(["0", "1"], number),
            "who": rng.integers(0, number // 5 + 1, number).astype(str),
            "week": rng.choice(["w1", "w2"], number),
        }
    )


def test_the_hash_holds_out_its_share_and_depends_on_the_key() -> None:
    one, other = (
        rows_of(many(20_000), OF_RECORDS, source=DataSource(kind="csv", path="x"), key=key).holdout
        for key in (KEY, KEY[::-1])
    )
    assert abs(one.mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 20_000)
    assert abs((one & other).mean() - 0.09) < 5 * np.sqrt(0.09 * 0.91 / 20_000)


def test_order_does_not_matter() -> None:
    whole, order = many(500), np.random.default_rng(2).permutation(500)
    before = rows(whole, OF_RECORDS)
    after = rows(whole.iloc[order].reset_index(drop=True), OF_RECORDS)
    assert before.holdout[order].tolist() == after.holdout.tolist()


def test_all_rows_of_a_person_are_on_one_side() -> None:
    found = rows(many(2_000), CARD)
    assert (pd.Series(found.holdout).groupby(found.person).nunique() == 1).all()
    assert 0 < found.holdout.mean() < 1


def test_windows_and_sides_part_the_rows() -> None:
    found = rows(many(1_000), OF_RECORDS)
    parts = [found.of((week,), holdout=side) for week in ("w1", "w2") for side in (True, False)]
    assert sum(map(len, parts)) == 1_000
    assert all(len(part) > 0 for part in parts)
    assert parts[0].window is not None
    assert set(parts[0].window) == {"w1"}
    assert len(found.of(("w1", "w2"))) == 1_000
    for name in ("w9", "w1\0", "w1 ", "W1", ""):
        assert len(found.of((name,))) == 0


def test_rows_without_a_window_are_in_none_but_the_whole() -> None:
    found = rows(many(4).assign(week=["w1", None, "", "NA"]), OF_RECORDS)
    assert len(found.of(())) == 4
    assert len(found.of(("w1",))) == 1
    assert len(rows(many(4), card_of(numeric("dose"))).of(("w1",))) == 0


@pytest.mark.parametrize("side", ["test", "Holdout", "1", "", None])
def test_a_row_whose_column_says_no_side_is_on_none(side: str | None) -> None:
    raw = many(3).assign(who=["train", " holdout ", side])
    found = rows(raw, OF_SIDES)
    assert found.holdout.tolist() == [False, True]
    assert found.reading.without_side == 1
    assert found.reading.rows == 3


@pytest.mark.parametrize("kind", ["csv", "sql"])
def test_a_record_that_is_delivered_again_counts_once(kind: str) -> None:
    """Else its part in a count or a sum would be as many times what is charged for it."""
    raw = many(400).assign(who=[f"{number}" for number in range(400)])
    again = raw[100:140].assign(who=[f"{number}.0" for number in range(100, 140)], ill="1", week="w1")
    source = {"url": "sqlite:///rows.db", "table": "rows"} if kind == "sql" else {"path": "rows.csv"}

    def found(raw: pd.DataFrame) -> Rows:
        data = DataSource.model_validate({"kind": kind, **source})
        return rows_of(raw.reset_index(drop=True), OF_IDS, source=data, key=KEY)

    twice = found(pd.concat([raw, again, raw[:1]]))
    assert twice.reading.repeated == 41
    assert twice.reading.without_side == 0
    assert len(twice) == 400
    if kind == "csv":  # what is delivered last counts
        last = found(pd.concat([raw[1:100], raw[140:], again, raw[:1]]))
        assert described(twice) == described(last)
    else:  # whatever order the database gives
        assert sorted(map(repr, described(found(pd.concat([again, raw[:1], raw]))))) == sorted(
            map(repr, described(twice))
        )


def test_the_administrator_is_told_what_was_read() -> None:
    raw = pd.DataFrame(
        {"dose": ["1", "x", "1e400", ""], "ward": ["1.0", "icu", "icu", "NA"], "ill": ["0"] * 4}
    )
    found = rows(raw, card_of(*CARD.model_dump()["columns"]))
    assert found.reading.unreadable == {"dose": 2}
    assert found.reading.undeclared == {"ward": {"icu": 2}}
    assert found.frame["ward"].tolist() == ["1", "icu", "icu", "NA"]


def test_missing_values_are_said_by_column() -> None:
    raw = pd.DataFrame({"dose": ["9", "-9.0"], "ward": ["9", "1"], "ill": ["9", "1"]})
    found = rows(raw, card_of(*CARD.model_dump()["columns"]), missing={"dose": ("-9",), "ward": ("9",)})
    np.testing.assert_array_equal(found.frame["dose"], [9, np.nan])
    assert found.frame["ward"].tolist() == [None, "1"]
    assert found.frame["ill"].tolist() == ["9", "1"]
