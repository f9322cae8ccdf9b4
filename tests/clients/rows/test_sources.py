"""What a source must be before a row is read, and that no row makes reading fail."""

from __future__ import annotations

import gzip
import sqlite3
from csv import QUOTE_ALL, QUOTE_MINIMAL, QUOTE_NONNUMERIC
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import sqlalchemy as sa
from pyarrow import parquet as pq

from clients.rows.rows import Rows, read_rows
from clients.rows.sources import check_source, column_names, other_encodings
from clients.rows.unfit_lines import sentences
from clients.site_config import SiteConfig
from contract.card import Card
from contract.errors import DataError
from tests.rows_of_a_site import KEY, card_of, numeric, one_of, site

AGE, WARD, ILL = numeric("age", 0, 120), one_of("ward", "1", "2", "east"), one_of("ill", "0", "1")
CARD = card_of(AGE, WARD, ILL, person="patient", time={"column": "week"})
TWO = card_of(AGE, WARD)
ROWS = pd.DataFrame(
    {
        "age": [30.5, None, 70.0],
        "ward": ["1", "2", None],
        "patient": ["a", "a", "b"],
        "week": ["w01", "w01", "w02"],
        "ill": [0, 1, 0],
        "secret_note": ["x", "y", "z"],
    }
)


def read(config: SiteConfig, card: Card = CARD) -> Rows:
    check_source(config, card)
    return read_rows(config, card, key=KEY)


def refusal(config: SiteConfig, card: Card = CARD) -> str:
    """Of both: what is refused once rows are read was refused before."""
    with pytest.raises(DataError) as caught:
        check_source(config, card)
    with pytest.raises(DataError):
        read_rows(config, card, key=KEY)
    assert "site 'north'" in caught.value.where
    assert caught.value.remedy
    return str(caught.value)


def csv(path: Path, frame: pd.DataFrame = ROWS, **options: Any) -> SiteConfig:
    frame.to_csv(path, index=False, **options)
    return site(kind="csv", path=str(path))


def lines(path: Path, *text: str | bytes, **data: Any) -> SiteConfig:
    written = [line if isinstance(line, bytes) else line.encode("utf-8", "surrogatepass") for line in text]
    path.write_bytes(b"\n".join([*written, b""]))
    return site(kind="csv", path=str(path), **data)


def parquet(path: Path, **columns: Any) -> SiteConfig:
    pq.write_table(pa.table(columns), path)
    return site(kind="parquet", path=str(path))


def database(path: Path, **data: Any) -> SiteConfig:
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "CREATE TABLE visits "
                "(age REAL, ward INTEGER, patient TEXT, week TEXT, ill INTEGER, secret_note TEXT, day DATE)"
            )
        )
        connection.execute(
            sa.text(
                "INSERT INTO visits VALUES (30.5,1,'a','w01',0,'x',NULL), "
                "(NULL,2,'a','w01',1,'y',NULL), (70,NULL,'b','w02',0,'z',NULL)"
            )
        )
    engine.dispose()
    return site(kind="sql", url=f"sqlite:///{path}", **(data or {"table": "visits"}))


def kinds(folder: Path) -> dict[str, SiteConfig]:
    ROWS.assign(ward=pd.array([1, 2, None], dtype="Int64")).to_parquet(folder / "rows.parquet")
    return {
        "csv": csv(folder / "rows.csv"),
        "parquet": site(kind="parquet", path=str(folder / "rows.parquet")),
        "table": database(folder / "table.db"),
        "query": database(folder / "query.db", query="SELECT * FROM visits ORDER BY rowid -- all"),
    }


@pytest.mark.parametrize("kind", ["csv", "parquet", "table", "query"])
def test_every_source_gives_the_same_rows_of_the_columns_of_the_card(tmp_path: Path, kind: str) -> None:
    config = kinds(tmp_path)[kind]
    found = read(config)
    assert list(found.frame.columns) == ["age", "ward", "ill"]
    np.testing.assert_array_equal(found.frame["age"], [30.5, np.nan, 70.0])
    assert found.frame["ward"].tolist() == ["1", "2", None]
    assert found.frame["ill"].tolist() == ["0", "1", "0"]
    assert found.person is not None
    assert found.person.tolist() == ["a", "a", "b"]
    assert found.window is not None
    assert found.window.tolist() == ["w01", "w01", "w02"]
    assert {"age", "secret_note"} <= set(column_names(config))


def test_new_files_in_a_folder_are_new_rows(tmp_path: Path) -> None:
    csv(tmp_path / "a.csv")
    config = site(kind="csv", path=str(tmp_path))
    assert len(read(config)) == 3
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    assert len(read(config)) == 6
    csv(tmp_path / "c.csv", ROWS[ROWS.columns[::-1]])
    assert read(config).frame["age"].sum() == 3 * 100.5
    assert len(read(site(kind="csv", path=str(tmp_path / "c*.csv")))) == 3


def test_columns_are_found_by_the_names_of_the_source(tmp_path: Path) -> None:
    frame = ROWS.rename(columns={"age": "AGE_Y"}).assign(side=["train", "holdout", "other"])
    csv(tmp_path / "rows.csv", frame)
    card = card_of(AGE, holdout={"column": "set"})
    columns = {"age": "AGE_Y", "set": "side"}
    found = read(site(kind="csv", path=str(tmp_path / "rows.csv"), columns=columns), card)
    assert found.frame["age"].iloc[0] == 30.5
    assert found.holdout.tolist() == [False, True]
    assert found.reading.without_side == 1


def test_separator_decimal_and_missing_values_are_the_sites_own(tmp_path: Path) -> None:
    csv(tmp_path / "rows.csv", ROWS, sep=";", na_rep="?", decimal=",")
    config = site(kind="csv", path=str(tmp_path / "rows.csv"), separator=";", decimal=",", na_values=("?",))
    found = read(config)
    np.testing.assert_array_equal(found.frame["age"], [30.5, np.nan, 70.0])
    assert found.reading.unreadable == {}


def test_a_wrong_separator_is_named(tmp_path: Path) -> None:
    message = refusal(csv(tmp_path / "rows.csv", ROWS, sep=";"))
    assert "one column only" in message
    assert "data.separator" in message


def test_a_missing_file_an_empty_folder_and_an_empty_file_are_named(tmp_path: Path) -> None:
    assert "no such file" in refusal(site(kind="csv", path=str(tmp_path / "rows.csv")))
    assert "no such file" in refusal(site(kind="csv", path=str(tmp_path / "*.csv")))
    assert "holds no .csv" in refusal(site(kind="csv", path=str(tmp_path)))
    for text in ("", "\n", "\n\nage,ward\n", " , ,\n"):
        (tmp_path / "rows.csv").write_text(text)
        message = refusal(site(kind="csv", path=str(tmp_path)))
        assert str(tmp_path / "rows.csv") in message
        assert "no header" in message


@pytest.mark.parametrize("kind", ["csv", "csv without line break", "parquet", "sql"])
def test_a_source_without_rows_is_a_source(tmp_path: Path, kind: str) -> None:
    if kind == "sql":
        config = database(tmp_path / "rows.db", query="SELECT * FROM visits WHERE age > 1000")
    elif kind == "parquet":
        ROWS.head(0).to_parquet(tmp_path / "rows.parquet")
        config = site(kind="parquet", path=str(tmp_path))
    else:
        (tmp_path / "rows.csv").write_text(",".join(ROWS.columns) + ("\n" if kind == "csv" else ""))
        config = site(kind="csv", path=str(tmp_path))
    found = read(config)
    assert len(found) == 0
    assert len(found.of(("w01",), holdout=True)) == 0


@pytest.mark.parametrize("kind", ["csv", "parquet", "table", "query"])
def test_a_column_that_is_not_there_is_refused_with_the_nearest(tmp_path: Path, kind: str) -> None:
    message = refusal(kinds(tmp_path)[kind], card_of(numeric("agee", 0, 1)))
    assert "column 'agee' of the card is missing (nearest: 'age')" in message
    assert "data.columns" in message


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    twice = lines(tmp_path / "rows.csv", "age, ward ,ward", "1,2,3")
    assert f"{tmp_path / 'rows.csv'}: column 'ward' is there 2 times" in refusal(twice, TWO)
    assert len(read(twice, card_of(AGE))) == 1
    table = pa.table([pa.array([1]), pa.array([2]), pa.array([3])], names=["age", "ward", "ward"])
    pq.write_table(table, tmp_path / "rows.parquet")
    message = refusal(site(kind="parquet", path=str(tmp_path / "rows.parquet")), TWO)
    assert f"{tmp_path / 'rows.parquet'}: column 'ward' is there 2 times" in message
    query = database(tmp_path / "rows.db", query="SELECT age, ward, patient AS ward FROM visits")
    assert "column 'ward' is there 2 times" in refusal(query, TWO)


def test_a_header_in_the_midst_of_joined_files_is_no_row(tmp_path: Path) -> None:
    found = read(lines(tmp_path / "rows.csv", "age,ward", "1,2", " age,ward", "2,1"), TWO)
    assert found.frame["age"].tolist() == [1, 2]
    assert found.reading.left_out == {str(tmp_path / "rows.csv"): 1}


@pytest.mark.parametrize("kind", [pa.timestamp("us", "UTC"), pa.duration("s"), pa.time64("us"), pa.date64()])
def test_dates_for_numbers_are_refused_where_a_file_says_so(tmp_path: Path, kind: pa.DataType) -> None:
    config = parquet(tmp_path / "rows.parquet", age=pa.array([0], kind))
    with pytest.raises(DataError, match=r"north.*rows\.parquet: column 'age' holds dates") as caught:
        check_source(config, card_of(AGE))
    assert caught.value.remedy
    assert read_rows(config, card_of(AGE), key=KEY).reading.unreadable == {"age": 1}


def test_dates_for_numbers_are_refused_where_a_table_says_so(tmp_path: Path) -> None:
    dated = database(tmp_path / "rows.db", table="visits", columns={"age": "day"})
    with pytest.raises(DataError, match=r"north.*table 'visits': column 'day' holds dates"):
        check_source(dated, CARD)


def test_dates_in_the_text_of_a_numeric_column_are_counted(tmp_path: Path) -> None:
    found = read(lines(tmp_path / "rows.csv", "age,ward", "2026-03-02,1", "4O,1", "31,1"), TWO)
    np.testing.assert_array_equal(found.frame["age"], [np.nan, np.nan, 31])
    assert found.reading.unreadable == {"age": 2}


ODD = {
    "too many": "1,2,3",
    "too few": "1",
    "an open quote": '"1,2',
    "an open quote at the end": '1,"2',
    "text after a quote": '1,"2"x',
    "bytes": b'\xff"\xfe',
    "a long one": "x" * 200_000 + ',"',
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_a_line_that_does_not_fit_is_left_out_by_itself(tmp_path: Path, odd: str | bytes) -> None:
    """Before, between and after good lines: a second quotation mark does not close the first."""
    found = read(lines(tmp_path / "rows.csv", "age,ward", odd, "1,2", odd, "2,east", odd), TWO)
    assert found.frame["age"].tolist() == [1, 2]
    assert found.frame["ward"].tolist() == ["2", "east"]
    assert found.reading.left_out == {str(tmp_path / "rows.csv"): 3}


@pytest.mark.parametrize("quoting", [QUOTE_MINIMAL, QUOTE_ALL, QUOTE_NONNUMERIC])
def test_values_with_separators_and_quotes_are_read_as_csv(tmp_path: Path, quoting: Any) -> None:
    frame = pd.DataFrame({"age": [1, 2], "ward": ['a,"b"', "1"]})
    assert read(csv(tmp_path / "rows.csv", frame, quoting=quoting), TWO).frame["ward"].tolist() == [
        'a,"b"',
        "1",
    ]


def test_line_breaks_within_values_are_read_where_the_site_says_so(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    text = ("age,ward,note", '1,2,"two\nlines"', '2,1,"a ""word"""')
    found = read(lines(path, *text), TWO)
    assert found.frame["age"].tolist() == [2]
    assert found.reading.left_out == {str(path): 2}
    found = read(lines(path, *text, "1,2", "", '3,1,"open', line_breaks=True), TWO)
    assert found.frame["age"].tolist() == [1, 2, 3]
    assert found.reading.left_out == {str(path): 1}


def causes(config: SiteConfig) -> dict[str, tuple[int, tuple[int, ...]]]:
    """How many lines were left out for which cause, and which come first."""
    found = read(config, TWO).reading
    (unfit,) = found.unfit.values()
    assert sum(lines.count for lines in unfit) == sum(found.left_out.values())
    return {lines.cause: (lines.count, lines.first) for lines in unfit}


def test_lines_that_are_no_rows_are_told_apart_by_cause(tmp_path: Path) -> None:
    text = (
        "age,ward",  # 1
        '1,"two',  # a value over three lines, one of them blank
        "",
        'lines"',
        "1,2",
        "age,ward",  # 6
        "1,2,3",
        "3",  # 8
        '4,"stray',
        "4,1",
        '5,"over',  # 11
        "more, and, more",
        'lines"',
        '6,"1"x',
        '7,"open to the end',  # 15
    )
    path = tmp_path / "rows.csv"
    assert causes(lines(path, *text)) == {
        "line break": (5, (2, 11)),
        "repeated header": (1, (6,)),
        "number of values": (2, (7, 8)),
        "quotation mark": (3, (9, 14, 15)),
    }
    assert read(lines(path, *text), TWO).frame["age"].tolist() == [1, 4]


def test_an_open_quotation_mark_is_a_line_break_only_where_the_lines_make_one_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    two_stray_marks = ("age,ward", '1,"a', "too few", '"b,2', "1,2")
    assert causes(lines(path, *two_stray_marks)) == {
        "quotation mark": (2, (2, 4)),
        "number of values": (1, (3,)),
    }
    stray_before_a_value = ("age,ward", '1,"a', '2,"b', 'c"', "1,2")
    assert causes(lines(path, *stray_before_a_value)) == {
        "quotation mark": (1, (2,)),
        "line break": (2, (3,)),
    }
    of_many_lines = ("age,ward", '1,"a', *["too few"] * 1000, 'b"')
    assert causes(lines(path, *of_many_lines))["quotation mark"] == (1, (2,))


def test_lines_left_out_where_values_may_go_on_over_lines(tmp_path: Path) -> None:
    text = ("age,ward", '1,"two', 'lines"', "", "age,ward", "3", '4,"open', "5,1")
    assert causes(lines(tmp_path / "rows.csv", *text, line_breaks=True)) == {
        "repeated header": (1, (5,)),
        "number of values": (1, (6,)),
    }
    text = ("age,ward", '4"open",1', '4,1,"a', 'b"', "5,1")
    assert causes(lines(tmp_path / "rows.csv", *text, line_breaks=True)) == {"quotation mark": (1, (3,))}


def test_the_sentence_on_lines_left_out_names_the_first_and_the_setting(tmp_path: Path) -> None:
    text = ("age,ward", *('1,"two', 'lines"') * 2, *("age,ward" for _ in range(9)), "3")
    reading = read(lines(tmp_path / "rows.csv", *text), TWO).reading
    assert [told.partition("rows.csv: ")[2] for told in sentences(reading.unfit)] == [
        "4 lines were left out, for values go on over several lines: line 2 opens a quotation mark that a "
        "later line closes (line 4 does so too). Set data.line_breaks = true in site.toml.",
        "9 lines were left out: a repeated header (the first: lines 6, 7, 8, 9, 10). Nothing is to be done.",
        "1 line was left out for too few or too many values (line 15); the header has 2. Correct the "
        "file, or leave it out.",
    ]


def test_the_header_is_the_first_line_whatever_follows(tmp_path: Path) -> None:
    assert "no header" in refusal(lines(tmp_path / "rows.csv", '"age,ward', '1",2'), TWO)


def test_a_last_line_without_a_line_break_is_a_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("age,ward\n30,1\n40,2")
    assert read(site(kind="csv", path=str(path)), TWO).frame["age"].tolist() == [30, 40]


def test_bytes_that_are_no_text_spoil_their_own_value(tmp_path: Path) -> None:
    """Two persons of a Latin-1 file stay two."""
    named = card_of(AGE, person="name")
    text = (b"age,name", "1,Müller".encode("latin-1"), "2,Möller".encode("latin-1"), b"3,a\0b", b"\xc3,a")
    config = lines(tmp_path / "rows.csv", *text)
    assert '"windows-1252"' in other_encodings(config)[0]
    found = read(config, named)
    assert found.person is not None
    assert found.person.tolist() == ["M\\xfcller", "M\\xf6ller", "a\0b", "a"]
    np.testing.assert_array_equal(found.frame["age"], [1, 2, 3, np.nan])
    path = tmp_path / "rows.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE visits (age, name)")
        connection.execute(
            "INSERT INTO visits VALUES (1, CAST(x'4dfc6c6c6572' AS TEXT)), (2, x'4df66c6c6572')"
        )
    connection.close()
    found = read(site(kind="sql", url=f"sqlite:///{path}", table="visits"), named)
    assert found.person is not None
    assert found.person.tolist() == ["M\\xfcller", "M\\xf6ller"]


@pytest.mark.parametrize("encoding", ["windows-1252", "latin-1", "cp850", "utf-16", "utf-16-be"])
def test_a_file_is_read_in_the_encoding_that_the_site_names(tmp_path: Path, encoding: str) -> None:
    named = card_of(AGE, person="Übername")
    text = "age,Übername\n1,Müller\n2,Möller\n"
    (tmp_path / "rows.csv").write_bytes(text.encode(encoding))
    config = site(kind="csv", path=str(tmp_path / "rows.csv"), encoding=encoding)
    found = read(config, named)
    assert found.person is not None
    assert found.person.tolist() == ["Müller", "Möller"]
    assert other_encodings(config) == ()
    told = other_encodings(site(kind="csv", path=str(tmp_path / "rows.csv")))
    meant = "utf-16" if encoding.startswith("utf-16") else "windows-1252"
    path = tmp_path / "rows.csv"
    assert told == (f'{path}: this file is not UTF-8: set data.encoding = "{meant}", or convert it',)


def test_a_byte_that_the_encoding_has_not_spoils_its_own_value(tmp_path: Path) -> None:
    config = lines(tmp_path / "rows.csv", b"age,ward", b"1,a\x81", b"2,b", encoding="windows-1252")
    assert read(config, TWO).frame["ward"].tolist() == ["a\\x81", "b"]
    assert "this file is not cp1252: correct data.encoding" in other_encodings(config)[0]


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    for encoding in ("utf-8", "utf-8-sig"):
        text = (b"\xef\xbb\xbfage,ward\r", b"1,2\r")
        config = lines(tmp_path / "rows.csv", *text, encoding=encoding)
        assert len(read(config, TWO)) == 1
        assert other_encodings(config) == ()
    assert other_encodings(lines(tmp_path / "rows.csv", b"age,ward", b"1,a\0b")) == ()


def test_what_python_has_not_is_read_from_parquet(tmp_path: Path) -> None:
    """A lone surrogate, and dates beyond the year 9999, beside good values."""
    texts = pa.array([b"a", b"\xed\xa0\x80", None, "ü".encode()], pa.binary())
    config = parquet(
        tmp_path / "rows.parquet",
        ward=pa.Array.from_buffers(pa.string(), 4, texts.buffers()),
        day=pa.array([0, 2**50, None, 86_400], pa.timestamp("s")),
        age=pa.array([1, None, 2**60, -1], pa.int64()),
        code=pa.array(["1", "2", None, "1"]).dictionary_encode(),
    )
    card = card_of(AGE, WARD, one_of("day", "1970-01-01"), one_of("code", "1"))
    found = read(config, card).frame
    assert found["ward"].tolist() == ["a", "\\xed\\xa0\\x80", None, "ü"]
    assert found["day"].tolist()[::3] == ["1970-01-01", "1970-01-02"]
    assert found["day"].tolist()[1:3] == [None, None]
    np.testing.assert_array_equal(found["age"], [1, np.nan, 2**60, -1])
    assert found["code"].tolist() == ["1", "2", None, "1"]


def test_an_odd_value_of_a_dictionary_spoils_itself_alone(tmp_path: Path) -> None:
    words = pa.array([b"1", b"\xff"], pa.binary()).view(pa.string())
    ward = pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 0], pa.int32()), words)
    found = read(parquet(tmp_path / "rows.parquet", age=pa.array([1, 2, 3, 4]), ward=ward), TWO)
    assert found.frame["ward"].tolist() == ["1", "\\xff", None, "1"]


@pytest.mark.parametrize(
    "values",
    [
        pa.array([None, None], pa.timestamp("us", tz="Mars/Phobos")),
        pa.array([[1], None]),
        pa.array([{"a": 1}, None]),
    ],
    ids=["a zone that nobody knows", "lists", "structs"],
)
def test_a_type_that_cannot_be_read_is_refused_before_a_row_is(tmp_path: Path, values: Any) -> None:
    config = parquet(tmp_path / "rows.parquet", age=pa.array([1, 2]), ward=values)
    with pytest.raises(DataError, match=r"north.*rows\.parquet: column 'ward' is of the type") as caught:
        check_source(config, TWO)
    assert caught.value.remedy
    check_source(config, card_of(AGE))  # a column that is not on the card matters to nobody
    assert read_rows(config, TWO, key=KEY).frame["age"].tolist() == [1, 2]


def test_a_parquet_file_that_pandas_wrote_with_an_index_has_its_columns(tmp_path: Path) -> None:
    ROWS.set_index("age").to_parquet(tmp_path / "rows.parquet")
    assert read(site(kind="parquet", path=str(tmp_path)), card_of(AGE)).frame["age"].tolist()[::2] == [
        30.5,
        70,
    ]


@pytest.mark.parametrize("text", [b"age,ward\n", b"PAR1" * 9, b""])
def test_what_is_no_parquet_file_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "rows.parquet").write_bytes(text)
    message = refusal(site(kind="parquet", path=str(tmp_path / "rows.parquet")))
    assert f"{tmp_path / 'rows.parquet'}" in message
    assert "broken" in message


STORED = """\
NULL; 1; -9223372036854775808; 9223372036854775807; 1.5; 9e999; -9e999; 1e-320; ''; 'a'; x''; x'ff00';
CAST(x'4dfc' AS TEXT); CAST(x'eda080' AS TEXT); CAST(x'0000' AS TEXT); zeroblob(100000); 'NaN'; '1_0';
'2026-03-02'; '24:00'; '0000-00-00'; '[1'; printf('%.*c', 5000, '9'); char(55296); char(1114111)"""
"""Values of every storage class of SQLite, which puts any into a column of any type."""


@pytest.mark.parametrize(
    "kind", ["", "INTEGER", "REAL", "NUMERIC", "TEXT", "BLOB", "DATE", "BOOLEAN", "JSON"]
)
def test_no_value_that_sqlite_holds_makes_a_table_unreadable(tmp_path: Path, kind: str) -> None:
    path, values = tmp_path / "rows.db", [value.strip() for value in STORED.split(";")]
    with sqlite3.connect(path) as connection:
        connection.execute(f"CREATE TABLE visits (value {kind})")
        for value in values:
            connection.execute(f"INSERT INTO visits VALUES ({value})")  # noqa: S608
    connection.close()
    source = {"table": "visits", "columns": dict.fromkeys(("text", "amount", "whose"), "value")}
    card = card_of(one_of("text", "a"), numeric("amount", 0, 1), person="whose")
    found = read_rows(site(kind="sql", url=f"sqlite:///{path}", **source), card, key=KEY)
    assert len(found) == len(values)
    assert np.isfinite(found.frame["amount"].dropna()).all()


def test_a_broken_gzip_file_is_named(tmp_path: Path) -> None:
    whole = gzip.compress(ROWS.to_csv(index=False).encode())
    for text in (b"age,ward\n", whole[:15], b""):
        (tmp_path / "rows.csv.gz").write_bytes(text)
        assert str(tmp_path / "rows.csv.gz") in refusal(site(kind="csv", path=str(tmp_path)))


def test_a_database_that_is_not_there_is_named_and_not_made(tmp_path: Path) -> None:
    path = tmp_path / "none.db"
    assert "refused or cannot be reached" in refusal(
        site(kind="sql", url=f"sqlite:///{path}", table="visits")
    )
    assert not path.exists()


def test_a_missing_table_and_a_wrong_query_are_named(tmp_path: Path) -> None:
    config = database(tmp_path / "a.db", table="visit")
    assert "no table 'visit'" in refusal(config)
    assert "no such column" in refusal(database(tmp_path / "b.db", query="SELECT absent FROM visits"))


def test_a_server_that_does_not_answer_is_named_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEGATE_TEST_PASSWORD", "hunter2")
    url = "postgresql+psycopg://reader@127.0.0.1:9/clinic?connect_timeout=2"
    message = refusal(site(kind="sql", url=url, table="visits", password_env="TIDEGATE_TEST_PASSWORD"))
    assert "cannot be reached" in message
    assert "hunter2" not in message


TWICE = "WITH g AS (SELECT json_extract(doc, '$.age') AS age, ward FROM notes) SELECT a.* FROM g a JOIN g b"


@pytest.mark.parametrize("source", [{"query": TWICE}, {"table": "pairs"}])
def test_no_row_is_read_to_see_whether_a_source_is_there(tmp_path: Path, source: dict[str, str]) -> None:
    """SQLite fills a CTE that is named twice, though nothing is to come out: a row would decide the word."""
    path = tmp_path / "rows.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE notes (doc, ward)")
        connection.execute("INSERT INTO notes VALUES ('no JSON', 1)")
        connection.execute(f"CREATE VIEW pairs AS {TWICE}")
    connection.close()
    config = site(kind="sql", url=f"sqlite:///{path}", **source)
    check_source(config, TWO)
    assert column_names(config) == ["age", "ward"]
    with pytest.raises(DataError, match="malformed JSON"):
        read_rows(config, TWO, key=KEY)


def test_a_view_of_what_is_gone_is_named_before_a_row_is_read(tmp_path: Path) -> None:
    config = database(tmp_path / "a.db", table="seen")
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute("CREATE VIEW seen AS SELECT absent AS age, ward FROM visits")
    connection.close()
    assert "no such column" in refusal(config, TWO)


def test_a_query_cannot_write(tmp_path: Path) -> None:
    config = database(tmp_path / "a.db", query="DELETE FROM visits RETURNING *")
    assert "refused" in refusal(config)
    assert len(read(config.model_copy(update={"data": database(tmp_path / "b.db").data}))) == 3
    with sqlite3.connect(tmp_path / "a.db") as connection:
        assert connection.execute("SELECT count(*) FROM visits").fetchone() == (3,)
    connection.close()
