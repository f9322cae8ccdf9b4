"""A card whose time is a date: rows lie in calendar windows, whatever source wrote the date and how."""

from __future__ import annotations

import datetime
import struct
import zoneinfo
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pydantic import ValidationError

from clients.rows.rows import Rows, read_rows
from clients.site import split_of
from clients.site_config import DataSource
from contract.card import Card, Time
from contract.errors import CardError
from contract.experiment import Experiment, Label, NumericFeature, Task
from serving.values import dates
from tests.rows_of_a_site import KEY, card_of, numeric, one_of, site

COLUMNS = (numeric("age", 0, 120), one_of("ill", "0", "1"))
ASKED = Experiment(
    name="small",
    task=Task(
        time="seen",
        label=Label(column="ill"),
        features=(NumericFeature(name="age", kind="numeric", low=0, high=120),),
    ),
)


def dated(every: str = "week", zone: str = "Europe/Berlin") -> Card:
    time = {"column": "seen", "kind": "date", "every": every, "zone": zone}
    return card_of(*COLUMNS, time=time, holdout={"column": "side"})


def read(folder: Path, values: list[Any], card: Card, **source: Any) -> Rows:
    lines = ["age,ill,seen,side", *(f'50,1,"{value}",train' for value in values)]
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    data = DataSource(kind="csv", path=str(folder / "rows.csv"), **source)
    return read_rows(site(card, **data.model_dump()), card, key=KEY)


def windows(rows: Rows) -> list[Any]:
    assert rows.window is not None
    return rows.window.tolist()


def test_each_date_lies_in_its_window(tmp_path: Path) -> None:
    values = [
        "2026-01-31",
        "2026-01-31T08:30",
        "2026-01-31 23:59:59.5",
        "2027-01-01",
        "NA",
        "31.01.2026",
        "x",
    ]
    rows = read(tmp_path, values, dated())
    assert windows(rows) == ["2026-W05", "2026-W05", "2026-W05", "2026-W53", None, None, None]
    assert rows.reading.undated == 2  # what is missing is no date, and no mistake either
    assert len(rows.of(("2026-W05",))) == 3
    assert windows(read(tmp_path, values[:1], dated("quarter"))) == ["2026-Q1"]


@pytest.mark.parametrize(
    ("zone", "day"),
    [("Europe/Berlin", "2026-02-01"), ("UTC", "2026-01-31"), ("America/New_York", "2026-01-31")],
)
def test_a_time_that_states_its_zone_is_of_the_sites_day(tmp_path: Path, zone: str, day: str) -> None:
    assert windows(read(tmp_path, ["2026-01-31 23:30:00+00"], dated("day", zone))) == [day]
    midnight = windows(read(tmp_path, ["2026-02-01T00:00Z"], dated("day", zone)))
    assert midnight == ["2026-01-31" if zone == "America/New_York" else "2026-02-01"]


def test_a_date_of_another_form_is_read_by_the_form_that_the_administrator_names(tmp_path: Path) -> None:
    rows = read(tmp_path, ["31.01.2026 08:30", "2026-01-31"], dated("month"), date_format="%d.%m.%Y %H:%M")
    assert windows(rows) == ["2026-01", None]
    assert rows.reading.undated == 1
    for form in ("%Y-%m", "%Y-%m-%d %Y", "%Y-%m-%d %", "\ud800"):
        with pytest.raises(ValidationError, match="day, month and year"):
            DataSource(kind="csv", path="rows.csv", date_format=form)


def test_every_source_says_the_same(tmp_path: Path) -> None:
    import sqlalchemy as sa

    moments = pd.to_datetime(["2026-01-31 08:30", None, "2026-02-01 00:00"])
    frame = pd.DataFrame({"age": 50, "ill": 1, "seen": moments, "side": "train"})
    frame.to_parquet(tmp_path / "rows.parquet")
    frame.to_sql("visits", sa.create_engine(f"sqlite:///{tmp_path}/rows.db"), index=False)
    frame.to_csv(tmp_path / "rows.csv", index=False)
    for source in (
        {"kind": "parquet", "path": str(tmp_path / "rows.parquet")},
        {"kind": "csv", "path": str(tmp_path / "rows.csv")},
        {"kind": "sql", "url": f"sqlite:///{tmp_path}/rows.db", "table": "visits"},
    ):
        data = DataSource.model_validate(source)
        rows = read_rows(site(dated("day"), **data.model_dump()), dated("day"), key=KEY)
        assert windows(rows) == ["2026-01-31", None, "2026-02-01"], source
        assert rows.reading.undated == 0


class _Strange(datetime.datetime):
    def date(self) -> Any:
        raise RuntimeError("a driver's own")


def test_no_value_makes_reading_fail() -> None:
    values = [
        *(
            datetime.date(1, 1, 1),
            datetime.datetime.max.replace(tzinfo=datetime.UTC),
            pd.NaT,
            None,
            float("nan"),
        ),
        *(_Strange(2026, 1, 1), 20260131, b"2026-01-31", "2026-02-30", "9999-12-31T23:59-23:59", "-1", "٢"),
    ]
    found, unreadable = dates(pd.Series(values, dtype=object), missing=("-1",), zone="Asia/Tokyo")
    assert found.tolist()[0] == datetime.date(1, 1, 1)
    assert [place for place, day in enumerate(found) if day is not None] == [0, 7]
    assert unreadable == 4


def test_only_a_window_of_the_cards_kind_is_asked_for() -> None:
    dated().require(ASKED, windows=("2026-W05", "2031-W01"))
    with pytest.raises(CardError, match=r"'2026-02' is no week of 'seen': one is named like 2026-W06"):
        dated().require(ASKED, windows=("2026-W05", "2026-02"))


def test_nobody_is_answered_on_a_window_that_is_not_complete() -> None:
    late = dated().model_copy(update={"time": dated().time.model_copy(update={"lag": 3})})  # type: ignore[union-attr]
    for card, complete in ((dated(), datetime.date(2026, 2, 2)), (late, datetime.date(2026, 2, 5))):
        card.require(ASKED, windows=("2026-W05",), today=complete)
        with pytest.raises(CardError, match=f"'2026-W05' is complete from {complete} on, and today is"):
            card.require(ASKED, windows=("2026-W05",), today=complete - datetime.timedelta(days=1))
    with pytest.raises(CardError, match="complete from 9999-12-31"):
        dated().require(ASKED, windows=("9999-W52",), today=dated().today)
    assert late.dealing == dated().dealing
    assert card_of(*COLUMNS, time={"column": "seen"}).time.complaint("9999", datetime.date(1, 1, 1)) == ""  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("time", "words"),
    [
        ({"kind": "date"}, "every"),
        ({"every": "week"}, "every"),
        ({"lag": 3}, "lag"),
        ({"kind": "date", "every": "year"}, "every"),
        ({"kind": "date", "every": "day", "zone": "Berlin"}, "zone 'Berlin' is none"),
        ({"kind": "date", "every": "day", "zone": "../UTC"}, "zone '../UTC' is none"),
        ({"kind": "date", "every": "day", "zone": "localtime"}, "zone 'localtime' is none"),
        ({"kind": "date", "every": "day", "zone": "right/UTC"}, "zone 'right/UTC' is none"),
    ],
)
def test_a_time_that_cuts_no_windows_is_refused(time: dict[str, str], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Time.model_validate({"column": "seen", **time})


def test_another_period_or_zone_deals_records_anew() -> None:
    dealt = {card.dealing for card in (dated(), dated("month"), dated(zone="UTC"))}
    assert len(dealt) == 3


def tzif(rule: str, changes: dict[int, int], *, before: int = 3600) -> bytes:
    """A zone's file (RFC 9636): seconds from UTC `before` and from each change on; afterwards the rule."""
    offsets = [before, *changes.values()]
    types = b"".join(struct.pack(">lBB", offset, 0, 0) for offset in offsets)
    count = len(offsets)

    def block(form: str) -> bytes:
        head = b"TZif2" + b"\0" * 15 + struct.pack(">6l", 0, 0, 0, len(changes), count, 4)
        return (
            head + struct.pack(f">{len(changes)}{form}", *changes) + bytes(range(1, count)) + types + b"LMT\0"
        )

    return block("l") + block("q") + f"\n{rule}\n".encode()


LATE_2025 = int(datetime.datetime(2025, 12, 1, tzinfo=datetime.UTC).timestamp())


@pytest.fixture
def update_zone(tmp_path: Path) -> Iterator[Callable[[bytes], None]]:
    """Puts the file of Africa/Casablanca in place, as a new process would find it."""
    path = tmp_path / "zones" / "Africa" / "Casablanca"
    path.parent.mkdir(parents=True)

    def update(content: bytes) -> None:
        path.write_bytes(content)
        zoneinfo.ZoneInfo.clear_cache()

    zoneinfo.reset_tzpath(to=[path.parents[1]])
    yield update
    zoneinfo.reset_tzpath()
    zoneinfo.ZoneInfo.clear_cache()


def test_other_rules_of_a_time_zone_deal_records_anew(
    tmp_path: Path, update_zone: Callable[[bytes], None]
) -> None:
    """An update of tzdata moves a row to another window: under the old name it would pay there afresh."""

    def dealt(content: bytes) -> tuple[str, list[str]]:
        update_zone(content)
        card = dated("day", zone="Africa/Casablanca")
        rows = read(tmp_path, ["2025-12-31T23:30:00+00:00"], card)
        return split_of(site(card, kind="csv", path="x"), card, lambda: KEY).name, windows(rows)

    before, other = dealt(tzif("<+01>-1", {})), dealt(tzif("<+00>0", {LATE_2025: 0}))
    assert (before[1], other[1]) == (["2026-01-01"], ["2025-12-31"])
    assert before[0] != other[0]
    # the same rules, packed otherwise, are no others
    assert dealt(tzif("<+01>-1", {LATE_2025: 3600})) == before
    later = dealt(tzif("<+00>0", {LATE_2025 + 1: 0}))
    assert later[0] not in (before[0], other[0])
