"""Rows that come after their window was used: the administrator is told, and nobody else can tell."""

from __future__ import annotations

import json
import logging
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from clients import site as sites
from clients.rows import late_rows
from clients.rows.late_rows import Late, UsedWindows
from clients.rows.rows import Rows, read_rows
from clients.site import open_site
from clients.site_config import DataSource, SiteConfig, Storage
from contract.errors import DataError, RefusalCode
from contract.experiment import Experiment
from contract.experiment_file import parse_experiment
from contract.messages import DRIFT_QUERY, REPLY, Instruction, Reply
from tests.cards import card_for
from tests.cli.conftest import tidegate
from tests.clients.test_app import ask, forget_sites
from tests.rows_of_a_site import KEY, card_of, numeric, one_of

__all__ = ["tidegate"]

COLUMNS = (numeric("age", 0, 120), one_of("ill", "0", "1"))
LABELS: dict[str, Any] = {"column": "seen"}
MONTHS: dict[str, Any] = {"column": "seen", "kind": "date", "every": "month"}
Row = tuple[float, str]
"""An age and the value of the time column."""


class Place:
    """A site's folder, whose rows are written and read again and again."""

    def __init__(self, folder: Path, time: dict[str, Any] | None = MONTHS) -> None:
        self.folder = folder
        self.card = card_of(*COLUMNS, holdout={"column": "side"}, **({"time": time} if time else {}))
        self.key = KEY
        self.source: dict[str, Any] = {}

    @property
    def config(self) -> SiteConfig:
        data = DataSource(kind="csv", path=str(self.folder / "rows.csv"), **self.source)
        storage = Storage(folder=self.folder)
        return SiteConfig(name="north", stated_rows=3, data=data, card=self.card, storage=storage)

    @property
    def used(self) -> UsedWindows:
        return UsedWindows(config=self.config, card=self.card, key=self.key)

    def read(self, rows: Sequence[Row]) -> Rows:
        lines = ["age,ill,seen,side", *(f"{age},1,{seen},train" for age, seen in rows)]
        (self.folder / "rows.csv").write_text("\n".join(lines) + "\n")
        return read_rows(self.config, self.card, key=self.key)

    def late(self, rows: Sequence[Row], **more: bool) -> dict[str, Late]:
        return self.used.late(self.read(rows), **more)


JANUARY: list[Row] = [(30, "2026-01-03"), (40, "2026-01-04"), (40, "2026-01-04")]
FEBRUARY: list[Row] = [(50, "2026-02-03")]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_window_that_was_not_used_has_no_late_rows(place: Place) -> None:
    rows = place.read(JANUARY + FEBRUARY)
    assert place.used.late(rows) == {}
    assert not place.config.storage.used_windows.exists()  # looking notes nothing
    place.used.note(rows, ("2026-01",))
    more = [*JANUARY, (60.0, "2026-01-09"), *FEBRUARY * 5]
    assert place.late(more) == {"2026-01": Late(rows=1)}


def test_what_is_noted_is_the_first_use(place: Place) -> None:
    place.used.note(place.read(JANUARY), ("2026-01",))
    more = [*JANUARY, (60.0, "2026-01-09"), (61.0, "2026-01-09")]
    place.used.note(place.read(more), ("2026-01",))  # and used again, with them
    assert place.late(more) == {"2026-01": Late(rows=2)}
    assert place.late(JANUARY[1:]) == {"2026-01": Late(rows=-1)}
    assert place.late(JANUARY) == {}  # as they were


@pytest.mark.parametrize(
    "others",
    [
        [(31, "2026-01-03"), *JANUARY[1:]],  # a corrected value
        [(30, "2026-01-03"), (40, "2026-01-04"), (30, "2026-01-03")],  # another one twice
        [(30, "2026-01-03"), (40, "2026-01-04"), ("", "2026-01-04")],
    ],
)
def test_as_many_rows_that_are_not_the_same_are_seen(place: Place, others: list[Row]) -> None:
    place.used.note(place.read(JANUARY), ("2026-01",))
    assert place.late(others) == {"2026-01": Late(rows=0, changed=True)}
    assert place.late(others, digests=False) == {}
    assert place.late(JANUARY[::-1]) == {}  # in another order they are the same


def test_a_run_on_all_rows_uses_every_window_that_is_complete(place: Place) -> None:
    assert place.card.time is not None
    now: Row = (20, f"{place.card.time.today:%Y-%m-%d}")
    place.used.note(place.read([*JANUARY, *FEBRUARY, now]), ())
    more = [*JANUARY, *FEBRUARY * 2, now, now, (1.0, "2026-03-01")]
    assert place.late(more) == {"2026-02": Late(rows=1)}


def test_a_window_without_rows_was_used_too(place: Place) -> None:
    place.used.note(place.read(JANUARY), ("2026-02",))
    assert place.late(JANUARY) == {}
    assert place.late(JANUARY + FEBRUARY) == {"2026-02": Late(rows=1)}


def test_labels_have_late_rows_too(tmp_path: Path) -> None:
    place = Place(tmp_path, LABELS)
    place.used.note(place.read([(1, "base"), (2, "w1")]), ("base",))
    assert place.late([(1, "base"), (3, "base"), (2, "w1"), (2, "w1")]) == {"base": Late(rows=1)}


def test_without_windows_there_is_nothing_to_note(tmp_path: Path) -> None:
    place = Place(tmp_path, None)
    place.used.note(place.read(JANUARY), ())
    assert place.late(FEBRUARY) == {}
    assert not place.config.storage.used_windows.exists()


def test_of_windows_that_were_cut_otherwise_nothing_is_known(place: Place) -> None:
    place.used.note(place.read(JANUARY), ("2026-01",))
    place.card = card_of(*COLUMNS, holdout={"column": "side"}, time={**MONTHS, "every": "quarter"})
    assert place.late(FEBRUARY) == {}
    place.card = card_of(*COLUMNS, holdout={"column": "side"}, time={**MONTHS, "lag": 3})
    assert place.late(JANUARY[1:]) == {"2026-01": Late(rows=-1)}  # a lag cuts nothing


def test_values_that_are_read_otherwise_are_not_taken_for_others(place: Place) -> None:
    """A change of card, source or key changes every digest; of the rows it says nothing."""
    place.used.note(place.read(JANUARY), ("2026-01",))
    columns = (*COLUMNS[:1], one_of("ill", "0", "1", "2"))
    for change in ("card", "source", "key"):
        other = Place(place.folder)
        if change == "card":
            other.card = card_of(*columns, holdout={"column": "side"}, time=MONTHS)
        elif change == "source":
            other.source = {"na_values": ["40"]}
        else:
            other.key = bytes(32)
        assert other.late(JANUARY) == {}, change
        assert other.late(JANUARY * 2) == {"2026-01": Late(rows=3)}, change  # they are still counted


def test_the_note_is_small_and_tells_a_reader_without_the_key_nothing_of_a_row(place: Place) -> None:
    place.used.note(place.read(JANUARY), ("2026-01",))
    file = place.config.storage.used_windows
    assert file.stat().st_mode & 0o077 == 0
    first = json.loads(file.read_text())
    assert list(first["windows"]) == ["2026-01"]
    assert first["windows"]["2026-01"]["rows"] == 3
    file.unlink()
    place.key = bytes(32)
    place.used.note(place.read(JANUARY), ("2026-01",))
    assert (
        json.loads(file.read_text())["windows"]["2026-01"]["digest"] != first["windows"]["2026-01"]["digest"]
    )


@pytest.mark.parametrize(
    ("late", "words"),
    [
        (
            Late(rows=2),
            "2 rows more than when window w was first used: what was released before has not seen",
        ),
        (Late(rows=-1), "1 row fewer than when window w was first used."),
        (Late(rows=0, changed=True), "As many rows as when window w was first used, but others:"),
    ],
)
def test_what_the_administrator_reads(late: Late, words: str) -> None:
    assert late.words("w").startswith(words)


@pytest.mark.parametrize("broken", ["{", '{"windows": 3}', '{"windows": {"w": {}}, "cut": ""}', "[]"])
def test_a_note_that_is_damaged_is_said_with_its_remedy(place: Place, broken: str) -> None:
    place.config.storage.used_windows.write_text(broken)
    rows = place.read(JANUARY)
    for act in (lambda: place.used.late(rows), lambda: place.used.note(rows, ("2026-01",))):
        with pytest.raises(DataError, match="Remove it"):
            act()


# -- at a site that answers ------------------------------------------------------

TEXT = """\
name = "late"
[task]
time = "seen"
label = { column = "ill" }
[[task.features]]
name = "age"
kind = "numeric"
low = 0
high = 120
[strategy]
rounds = 1
[privacy]
epsilon = 1.0
delta = 1e-4
"""
EXPERIMENT: Experiment = parse_experiment(TEXT, where="late")
CAP = 3.0
FIRST = Instruction(run="r1", step=1, windows=("2026-01",))
SECOND = Instruction(run="r2", step=1, windows=("2026-01",))
DRIFT = Instruction(run="r3", windows=("2026-02",), reference_windows=("2026-01",))


@pytest.fixture(params=["csv", "sql"])
def site(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(sites, "_open", {})
    monkeypatch.setattr("clients.mechanisms.drift.write_local_report", lambda *_: None)  # seconds
    yield lay(tmp_path / "site", request.param)
    forget_sites()


def lay(folder: Path, kind: str) -> Path:
    folder.mkdir()
    rows = [
        (30 + row, row % 2, f"2026-0{1 + row % 2}-09", "train" if row % 3 else "holdout") for row in range(40)
    ]
    if kind == "csv":
        source = 'kind = "csv"\npath = "rows.csv"\n'
        lines = ["age,ill,seen,side", *(",".join(map(str, row)) for row in rows)]
        (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    else:
        source = f'kind = "sql"\nurl = "sqlite:///{folder}/rows.db"\ntable = "visits"\n'
        with sqlite3.connect(folder / "rows.db") as database:
            database.execute("create table visits (age real, ill text, seen text, side text)")
            database.executemany("insert into visits values (?, ?, ?, ?)", rows)
        database.close()
    card = card_for(EXPERIMENT, holdout="side")
    card = card.replace('{ column = "seen" }', '{ column = "seen", kind = "date", every = "month" }')
    (folder / "site.toml").write_text(
        f'name = "north"\nstated_rows = 60\n[data]\n{source}{card}[policy]\nepsilon_cap = {CAP}\n'
    )
    (folder / "late.toml").write_text(TEXT)
    return folder / "site.toml"


def deliver(site: Path, rows: int, *, window: str = "2026-01") -> None:
    """Rows that nobody has seen, of a window that has been used."""
    if site.with_name("rows.csv").exists():
        with site.with_name("rows.csv").open("a") as file:
            file.writelines(f"77,1,{window}-09,train\n" for _ in range(rows))
        return
    with sqlite3.connect(site.with_name("rows.db")) as database:
        one = (77, "1", f"{window}-09", "train")
        database.executemany("insert into visits values (?, ?, ?, ?)", [one] * rows)
    database.close()


def correct(site: Path) -> None:
    if site.with_name("rows.csv").exists():
        file = site.with_name("rows.csv")
        text = file.read_text()
        assert "30,0,2026-01-09,holdout" in text
        file.write_text(text.replace("30,0,2026-01-09,holdout", "31,0,2026-01-09,holdout"))
        return
    with sqlite3.connect(site.with_name("rows.db")) as database:
        database.execute("update visits set age = 31 where age = 30")
    database.close()


def asked(site: Path, instruction: Instruction) -> Message:
    kind = DRIFT_QUERY if instruction.reference_windows else "train"
    return ask(site, kind, instruction=instruction, experiment=EXPERIMENT)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for line in caplog.messages if "first used" in line]


def test_the_log_and_site_check_tell_the_administrator(
    site: Path, caplog: pytest.LogCaptureFixture, tidegate: Callable[..., str]
) -> None:
    command = ("site", "check", site, site.with_name("late.toml"))
    deliver(site, 1)
    assert not asked(site, FIRST).has_error()
    assert told(caplog) == []
    assert json.loads(tidegate(*command, "--json"))["late"] == {}
    deliver(site, 2)
    deliver(site, 5, window="2026-02")  # which nobody has used
    assert not asked(site, SECOND).has_error()
    (line,) = told(caplog)
    assert line.startswith(
        "north, for its administrator alone: 2 rows more than when window 2026-01 was first used"
    )
    assert json.loads(tidegate(*command, "--json"))["late"] == {"2026-01": {"rows": 2, "changed": False}}
    assert "2 rows more than when window 2026-01 was first used" in tidegate(*command, width=400)
    forget_sites()
    assert not asked(site, DRIFT).has_error()
    assert len(told(caplog)) == 2  # of another process, and once in each


def test_a_corrected_value_is_told_by_site_check(site: Path, tidegate: Callable[..., str]) -> None:
    asked(site, FIRST)
    correct(site)
    late = json.loads(tidegate("site", "check", site, site.with_name("late.toml"), "--json"))["late"]
    assert late == {"2026-01": {"rows": 0, "changed": True}}


def shape(site: Path, message: Message) -> str:
    """Everything of an answer but what noise makes: words, names, windows, what was spent, lengths."""
    if message.has_error():
        return str(message.error.reason)
    reply = Reply.from_records(message.content)
    text = re.sub(r"-?\d+(\.\d+)?(e[+-]?\d+)?", "#", reply._public_json())
    assert reply.anchor is not None
    arrays = {name: array.shape for name, array in reply.update.arrays.items()} if reply.update else {}
    spent = f"{reply.spent_in_run} {reply.spent_in_total}"
    return f"{text} {arrays} {spent} {reply.stated_rows} {reply.anchor.entries}"


def written(message: Message) -> object:
    return message.content.config_records[REPLY]["reply"]


def entered(site: Path) -> list[tuple[str, str, str]]:
    return [(entry.kind, entry.request, entry.plan) for entry in open_site(site).ledger.entries()]


@pytest.mark.parametrize("kind", ["csv", "sql"])
@pytest.mark.parametrize("late", ["none", "some", "gone", "damaged", "no folder"])
def test_no_word_of_an_answer_changes_for_a_late_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, late: str
) -> None:
    """Asked until the cap refuses: the same words, the same charges, the same entries, whatever came late."""
    monkeypatch.setattr(sites, "_open", {})
    monkeypatch.setattr("clients.mechanisms.drift.write_local_report", lambda *_: None)
    found = []
    for name in ("plain", "other"):
        site = lay(tmp_path / name, kind)
        site.write_text(site.read_text().replace(f"epsilon_cap = {CAP}", "epsilon_cap = 1.8"))
        answers = [shape(site, asked(site, FIRST))]
        again = written(asked(site, FIRST))
        if name == "other":
            note = open_site(site).config.storage.used_windows
            assert note.exists()
            if late == "some":
                deliver(site, 500)
            elif late == "gone":
                note.unlink()
            elif late == "damaged":
                note.write_text("{")
            elif late == "no folder":
                note.unlink()
                note.mkdir()
        assert written(asked(site, FIRST)) == again  # byte for byte
        for number in range(3):
            for question in (SECOND, DRIFT):
                one = Instruction(
                    run=f"{question.run}-{number}",
                    step=question.step,
                    windows=question.windows,
                    reference_windows=question.reference_windows,
                )
                answers.append(shape(site, asked(site, one)))
        found.append((answers, entered(site)))
        assert RefusalCode.BUDGET in answers
        forget_sites()
    assert found[0] == found[1]


def test_a_late_row_pays_what_its_block_has_paid(site: Path) -> None:
    """It has no budget of its own: what was spent before it came counts on it."""
    asked(site, FIRST)
    before = open_site(site).ledger.spent_by_block()
    deliver(site, 3)
    asked(site, SECOND)
    after = open_site(site).ledger.spent_by_block()
    assert set(after) == set(before)
    block = "2026-01/train"
    assert after[block].epsilon > before[block].epsilon
    assert all(item.epsilon <= CAP for item in after.values())


def test_nothing_is_noted_before_the_charge(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = open_site(site).config.storage.used_windows
    site.write_text(site.read_text().replace(f"epsilon_cap = {CAP}", "epsilon_cap = 0.01"))
    assert asked(site, FIRST).error.reason == RefusalCode.BUDGET
    assert not note.exists()


def test_no_answer_hangs_on_what_is_noted(
    site: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    monkeypatch.setattr(late_rows, "record_digests", lambda _: 1 / 0)
    assert not asked(site, FIRST).has_error()
    assert "was not noted" in caplog.text
