"""`tidegate site init`, `card` and `check`: a new administrator's way from a CSV file to an approved run."""

from __future__ import annotations

import json
import os
import random
import re
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from clients.cli.card import _append
from clients.site_config import read_site_config
from contract.errors import SiteConfigError
from tests import commands

Command = Callable[..., str]

EXPERIMENT = """\
name = "visits"
[task]
person = "patient"
time = "month"
label = { column = "ill" }
[[task.features]]
name = "age"
kind = "numeric"
low = 20
high = 80
missing = 50
[[task.features]]
name = "ward"
kind = "categorical"
categories = ["icu", "er", "other"]
other = "other"
[[task.features]]
name = "pressure"
kind = "numeric"
low = 80
high = 180
[strategy]
rounds = 2
learning_rate = 1.0
quorum = 2
[privacy]
unit = "person"
rows_per_person = 2
epsilon = 2.0
delta = 1e-5
"""


def deliver(folder: Path, seed: int) -> None:
    """300 visits of 120 patients: ids, dates, codes, a free text, missing values."""
    draw = random.Random(seed)
    lines = ["number,patient,visited,month,age,ward,pressure,note,ill"]
    for number in range(300):
        patient, month = draw.randrange(120), draw.randrange(1, 5)
        age = 20 + patient * 7 % 71 if draw.random() > 0.05 else ""
        pressure = round(draw.gauss(130, 18)) if draw.random() > 0.05 else "?"
        ill = draw.randrange(2) if draw.random() > 0.03 else ""
        ward = draw.choice(["icu", "er", "general"])
        day = draw.randrange(1, 28)
        lines.append(
            f"{number + 1},P{1000 + patient},2026-{month:02d}-{day:02d},2026-{month:02d},{age},"
            f"{ward},{pressure},patient {number} feels {draw.choice(['well', 'bad'])} today,{ill}"
        )
    (folder / "rows" / "visits.csv").write_text("\n".join(lines) + "\n")


def finish(file: Path) -> None:
    """What the administrator does to a draft."""
    lines = [line for line in file.read_text().splitlines() if not line.startswith("draft")]
    text = "\n".join(line.partition("# REPLACE:")[0].rstrip() for line in lines) + "\n"
    before, _, after = text.partition('name = "pressure"')
    low, high = (next(line for line in after.splitlines() if line.startswith(key)) for key in ("low", "high"))
    file.write_text(
        f'{before}name = "pressure"{after.replace(low, "low = 60.0").replace(high, "high = 220.0")}'
    )


@pytest.fixture
def drafted(tidegate: Command, tmp_path: Path) -> Path:
    """A site with rows and a draft."""
    file = tmp_path / "north" / "site.toml"
    tidegate("site", "init", file.parent, "--name", "north", "--rows", 200)
    deliver(file.parent, 1)
    tidegate("site", "card", file, "--write")
    (tmp_path / "exp.toml").write_text(EXPERIMENT)
    return file


@pytest.fixture
def site(drafted: Path) -> Path:
    """The same with its card."""
    finish(drafted)
    return drafted


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# -- init -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o022, 0o000, 0o077])
def test_a_new_site_is_its_users_alone(tidegate: Command, tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        told = tidegate("site", "init", tmp_path / "north", "--name", "north", "--rows", 50_000)
    finally:
        os.umask(before)
    assert "next: `tidegate site card" in told
    modes = {
        name: stat.S_IMODE((tmp_path / "north" / name).stat().st_mode)
        for name in ("", "keys", "keys/node.key")
    }
    assert modes == {"": 0o700, "keys": 0o700, "keys/node.key": 0o600}
    config = read_site_config(tmp_path / "north" / "site.toml")
    assert config.card is None
    assert config.policy.delta_cap < 1 / 50_000


def test_init_makes_a_revoked_site_another_key_and_changes_nothing_else(
    tidegate: Command, tmp_path: Path
) -> None:
    """As a site is told that was revoked: to come in again it moves its key away."""
    again = ("site", "init", tmp_path / "north", "--name", "north")
    tidegate(*again)
    keys, file = tmp_path / "north" / "keys", tmp_path / "north" / "site.toml"
    file.write_text(file.read_text() + "# mine\n")
    before, public = file.read_text(), (keys / "node.pub").read_text()
    assert "there is a site already" in tidegate(*again, code=2)
    (keys / "node.key").rename(tmp_path / "old.key")
    assert "there is a site already" in tidegate(*again[:-1], "south", code=2)
    assert not (keys / "node.key").exists()
    assert "made a new key" in tidegate(*again)
    assert file.read_text() == before
    assert (keys / "node.key").read_text() != (tmp_path / "old.key").read_text()
    assert (keys / "node.key").stat().st_mode & 0o777 == 0o600
    assert (keys / "node.pub").read_text() != public


def test_init_refuses_what_the_site_would_refuse_later(tidegate: Command, tmp_path: Path) -> None:
    assert "cannot be named 'a\"b'" in tidegate("site", "init", tmp_path / "n", "--name", 'a"b', code=2)
    assert "State at least 1 row" in tidegate(
        "site", "init", tmp_path / "n", "--name", "n", "--rows", 0, code=2
    )
    assert not (tmp_path / "n").exists()
    tidegate("site", "init", tmp_path / "n", "--name", "n")
    assert "a site already" in tidegate("site", "init", tmp_path / "n", "--name", "n", code=2)


def test_init_where_nothing_can_be_made_says_so(
    tidegate: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    told = tidegate("site", "init", tmp_path / "file" / "n", "--name", "n", code=2)
    assert "no site can be made there: Not a directory. Name a folder that this user may write to" in told

    def full(path: Path, *_: object, **__: object) -> int:
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        assert "No space left" in tidegate("site", "init", tmp_path / "n", "--name", "n", code=2)
    tidegate("site", "init", tmp_path / "n", "--name", "n")  # what was begun can be made again


# -- card -----------------------------------------------------------------------------------


def test_a_draft_is_printed_and_nothing_is_written(tidegate: Command, tmp_path: Path) -> None:
    file = tmp_path / "north" / "site.toml"
    tidegate("site", "init", file.parent, "--name", "north")
    assert "no .csv" in tidegate("site", "card", file, code=2)
    deliver(file.parent, 1)
    before = file.read_text()
    told = tidegate("site", "card", file)
    assert told.startswith("# What this site offers. Drafted from 300 rows")
    assert "#   'note': free text" in told
    values = json.loads(tidegate("site", "card", file, "--json"))
    assert values["toml"] == told
    assert set(values["left_out"]) == {"number", "patient", "visited", "note"}
    assert file.read_text() == before
    assert "the site has no card" in tidegate("site", "card", file, "--sign", tmp_path / "c.json", code=2)


def test_write_keeps_the_rest_and_refuses_a_second_time(tidegate: Command, tmp_path: Path) -> None:
    file = tmp_path / "north" / "site.toml"
    tidegate("site", "init", file.parent, "--name", "north")
    deliver(file.parent, 1)
    file.chmod(0o640)
    before = file.read_text()
    told = tidegate("site", "card", file, "--write")
    assert "lines say REPLACE, 4 columns are not offered" in told
    assert file.read_text().partition("# Not offered:\n")[2].count("\n#   '") == 4 - 1
    assert file.read_text().startswith(before.rstrip())
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert sorted(path.name for path in file.parent.iterdir()) == ["keys", "rows", "site.toml"]
    card = read_site_config(file).card
    assert card is not None
    assert card.draft
    written = file.read_text()
    assert "a card already" in tidegate("site", "card", file, "--write", code=2)
    assert file.read_text() == written


def test_a_draft_that_does_not_fit_the_rest_of_the_file_is_not_written(
    tidegate: Command, tmp_path: Path
) -> None:
    file = tmp_path / "north" / "site.toml"
    tidegate("site", "init", file.parent, "--name", "north")
    before = file.read_text()
    with pytest.raises(SiteConfigError, match=r"site\.toml with the draft"):
        _append(file, "[policy]\n")
    assert file.read_text() == before


@pytest.mark.parametrize("name", ["number", "visited", "note"])
def test_a_renamed_column_that_no_card_offers_hinders_no_draft(
    tidegate: Command, tmp_path: Path, name: str
) -> None:
    """An id, a date, free text: the draft is written, and says so once it is to be a card."""
    file = tmp_path / "north" / "site.toml"
    tidegate("site", "init", file.parent, "--name", "north")
    deliver(file.parent, 1)
    edit(file, 'path = "rows" ', f'columns = {{ zz = "{name}" }}\npath = "rows" ')
    tidegate("site", "card", file, "--write")
    assert "a DRAFT" in tidegate("site", "status", file)
    edit(file, "draft = true", "")
    told = tidegate("site", "status", file, code=2)
    assert "data.columns names 'zz', which is not on the card" in told
    assert "leave it out of data.columns" in told


def test_a_draft_says_what_is_to_be_done(tidegate: Command, drafted: Path, tmp_path: Path) -> None:
    told = tidegate("site", "card", drafted)
    assert "A DRAFT: the site answers nobody" in told
    assert "Still to be replaced" in told
    assert "a DRAFT" in tidegate("site", "status", drafted)
    values = json.loads(tidegate("site", "card", drafted, "--json"))
    lines = drafted.read_text().splitlines()
    assert values["card"]["draft"]
    assert all("REPLACE:" in lines[number - 1] for number in values["lines_to_replace"])
    assert "the card is a draft" in tidegate("site", "card", drafted, "--sign", tmp_path / "c.json", code=2)
    assert not (tmp_path / "c.json").exists()


@pytest.mark.parametrize("draft", ["draft = true", "draft = false"])
def test_a_draft_stays_one_until_each_line_is_replaced(
    tidegate: Command, drafted: Path, tmp_path: Path, draft: str
) -> None:
    """Else a card would come from the rows, which is what nobody may publish or be answered on."""
    edit(drafted, "draft = true", draft)
    experiment = tmp_path / "exp.toml"
    edit(experiment, "quorum = 2", "quorum = 1")
    assert "A DRAFT: the site answers nobody until" in tidegate("site", "card", drafted)
    assert "a DRAFT" in tidegate("site", "status", drafted)
    commands = {
        "sign": ("site", "card", drafted, "--sign", tmp_path / "c.json"),
        "cost": ("site", "cost", drafted, experiment),
        "check": ("site", "check", drafted, experiment),
        "run": ("run", experiment, "--yes", "--site", drafted),
        "up": ("site", "up", drafted, "--superlink", "127.0.0.1:9", "--root-certificates", "ca.pem"),
    }
    for command in commands.values():
        assert "the card is a draft" in tidegate(*command, code=2)
    told = tidegate("site", "doctor", drafted, code=1)
    assert "the card is a draft" in told
    if draft == "draft = false":
        lines = ", ".join(map(str, read_site_config(drafted).to_replace))
        told = tidegate(*commands["sign"], code=2)
        assert f"still say REPLACE (line {lines})" in told
    assert not (tmp_path / "c.json").exists()


@pytest.mark.parametrize("encoding", ["windows-1252", "utf-16"])
def test_a_file_in_another_encoding_is_told_and_can_be_named(
    tidegate: Command, tmp_path: Path, encoding: str
) -> None:
    file, experiment = tmp_path / "north" / "site.toml", tmp_path / "exp.toml"
    experiment.write_text(EXPERIMENT)
    tidegate("site", "init", file.parent, "--name", "north")
    deliver(file.parent, 1)
    rows = file.parent / "rows" / "visits.csv"
    rows.write_bytes(rows.read_text().replace("general", "Übergang").encode(encoding))
    told = f'this file is not UTF-8: set data.encoding = "{encoding}", or convert it'
    if encoding == "utf-16":
        assert told in tidegate("site", "card", file, code=2)
    else:
        assert f"# NOT TEXT: {rows}: {told}" in tidegate("site", "card", file)
        before = file.read_text()
        assert told in tidegate("site", "card", file, "--write").replace("\n", " ")
        finish(file)
        assert told in tidegate("site", "check", file, experiment).replace("\n", " ")
        assert told in tidegate("site", "doctor", file).replace("\n", " ")
        file.write_text(before)
    edit(file, '# encoding = "windows-1252" ', f'encoding = "{encoding}" # ')
    tidegate("site", "card", file, "--write")
    assert '"Übergang"' in file.read_text()
    finish(file)
    for command in (("site", "check", file, experiment), ("site", "doctor", file)):
        assert "data.encoding" not in tidegate(*command)


def test_a_card_is_shown_as_it_tells_the_world(tidegate: Command, site: Path) -> None:
    edit(site, 'meaning = "" ', 'meaning = "[/red] Years" ')
    told = tidegate("site", "card", site)
    for words in (
        "north, 200 rows stated",
        "'patient': the privacy unit",
        "'month': each",
        "30% of the persons",
    ):
        assert words in told
    assert "[/red] Years" in told
    assert "REPLACE" not in told
    assert "unit person, windows of 'month'" in tidegate("site", "status", site)
    status = json.loads(tidegate("site", "status", site, "--json"))
    assert status["card"]["person"] == "patient"


def test_a_signed_card_holds_for_its_key_alone(tidegate: Command, site: Path, tmp_path: Path) -> None:
    signed, public = tmp_path / "card.json", site.parent / "keys" / "node.pub"
    assert "signed with SHA256:" in tidegate("site", "card", site, "--sign", signed)
    assert "a file already" in tidegate("site", "card", site, "--sign", signed, code=2)
    told = tidegate("site", "card", signed, "--public-key", public)
    assert "It holds" in told
    assert "pressure" in told
    values = json.loads(tidegate("site", "card", signed, "--public-key", public, "--json"))
    assert (values["holds"], values["site"], values["stated_rows"]) == (True, "north", 200)
    tidegate("site", "init", tmp_path / "other", "--name", "other")
    other = tmp_path / "other" / "keys" / "node.pub"
    assert "not this key's" in tidegate("site", "card", signed, "--public-key", other, code=2)
    assert "--public-key" in tidegate("site", "card", signed, code=2)
    assert "not JSON" in tidegate("site", "card", site, "--public-key", public, code=2)
    assert "no such file" in tidegate("site", "card", tmp_path / "no.json", "--public-key", public, code=2)


# -- check ----------------------------------------------------------------------------------


def test_check_counts_for_the_administrator(tidegate: Command, site: Path, tmp_path: Path) -> None:
    told = tidegate("site", "check", site, tmp_path / "exp.toml", width=80)
    assert told.startswith("Exact counts of private rows, for you alone")
    assert all(len(line) <= 80 for line in told.splitlines() if line.startswith(" "))
    assert "values that are no number" in told
    assert "'ill' leaves rows out" in told
    assert "the experiment uses at most 2 of each" in told
    values = json.loads(tidegate("site", "check", site, tmp_path / "exp.toml", "--json"))
    assert values["rows"] == 300
    rows = (site.parent / "rows" / "visits.csv").read_text().splitlines()[1:]
    fields = [line.split(",") for line in rows]
    columns = {column["name"]: column for column in values["columns"]}
    assert columns["age"]["filled"] == sum(not row[4] for row in fields)
    assert columns["age"]["clamped"] == sum(bool(row[4]) and int(row[4]) > 80 for row in fields)
    assert columns["ward"]["other"] == sum(row[5] == "general" for row in fields)
    assert columns["pressure"]["unreadable"] == sum(row[6] == "?" for row in fields)
    assert columns["ill"]["left_out"] == {"no label": sum(not row[8] for row in fields)}
    assert sum(values["kept"].values()) == sum(row[6] != "?" and bool(row[8]) for row in fields)
    assert values["persons"]["count"] == len({row[1] for row in fields})
    assert [window["window"] for window in values["windows"]] == [f"2026-0{number}" for number in range(1, 5)]


def test_check_of_windows(tidegate: Command, site: Path, tmp_path: Path) -> None:
    told = tidegate(
        "site", "check", site, tmp_path / "exp.toml", "--window", "2026-01", "--window", "2026-09"
    )
    assert "No row says '2026-09'" in told
    assert "2026-02" not in told.partition("No row says")[0]
    nothing = tidegate("site", "check", site, tmp_path / "exp.toml", "--window", "2026-09")
    assert "0 training rows and 0 held-out rows fit" in nothing
    assert "noise alone" in nothing
    assert "The windows that rows name, for you alone: '2026-01', '2026-02', '2026-03', '2026-04'." in nothing
    assert "person" not in nothing


def test_check_of_a_window_counts_its_rows_alone(tidegate: Command, site: Path, tmp_path: Path) -> None:
    told = tidegate("site", "check", site, tmp_path / "exp.toml", "--window", "2026-01", "--json")
    values = json.loads(told)
    rows = (site.parent / "rows" / "visits.csv").read_text().splitlines()[1:]
    fields = [line.split(",") for line in rows]
    (pressure,) = (column for column in values["columns"] if column["name"] == "pressure")
    unreadable = sum(row[6] == "?" and row[3] == "2026-01" for row in fields)
    assert 0 < unreadable < sum(row[6] == "?" for row in fields)
    assert pressure["unreadable"] == pressure["missing"] == unreadable


def test_check_names_categories_that_one_side_lists_alone(
    tidegate: Command, site: Path, tmp_path: Path
) -> None:
    """A slip in the experiment's list costs rows; a stand-in such as 'other' is the experiment's own."""
    experiment = tmp_path / "exp.toml"
    assert "not on the card" not in tidegate("site", "check", site, experiment)
    edit(experiment, '["icu", "er", "other"]\nother = "other"', '["icu", "err"]')
    told = tidegate("site", "check", site, experiment)
    assert "for a category that the experiment does not list" in told
    assert "Of 'ward' the experiment lists 'err', which is not on the card: no row here has it" in told
    values = json.loads(tidegate("site", "check", site, experiment, "--json"))
    assert [column["not_on_card"] for column in values["columns"] if column["name"] == "ward"] == [["err"]]


def test_check_lists_at_most_ten_windows(tidegate: Command, site: Path, tmp_path: Path) -> None:
    for year in range(2000, 2011):
        deliver(site.parent, 2)
        (site.parent / "rows" / "visits.csv").rename(site.parent / "rows" / f"{year}.csv")
        edit(site.parent / "rows" / f"{year}.csv", ",2026-01,", f",{year}-01,")
    nothing = tidegate("site", "check", site, tmp_path / "exp.toml", "--window", "2026-09")
    (listed,) = (line for line in nothing.splitlines() if "windows that rows name" in line)
    assert listed.startswith("The last 10 of 14 windows that rows name, for you alone: '2004-01', ")
    assert listed.endswith(", '2026-02', '2026-03', '2026-04'.")


def test_draft_and_check_tell_which_lines_were_left_out(
    tidegate: Command, drafted: Path, tmp_path: Path
) -> None:
    rows = drafted.parent / "rows" / "visits.csv"
    header = rows.read_text().partition("\n")[0]
    edit(rows, " feels bad today,1\n", "\nfeels bad today,1\n")
    text = rows.read_text()
    broken = text.count("\nfeels")
    rows.write_text(re.sub(r"(patient \d+\nfeels bad today)", r'"\1"', text) + f"{header}\nno row\n")
    text = drafted.read_text()
    drafted.write_text(text.partition("# What this site offers")[0])
    told = tidegate("site", "card", drafted, "--write")
    checked = tidegate("site", "check", drafted, tmp_path / "exp.toml", code=2)
    last = 300 + broken + 2
    for words in (
        f"{2 * broken} lines were left out, for values go on over several lines: line ",
        "Set data.line_breaks = true in site.toml.",
        f"1 line was left out: a repeated header (line {last}). Nothing is to be done.",
        f"1 line was left out for too few or too many values (line {last + 1}); the header has 9.",
    ):
        assert words in told
        assert words in checked
    values = json.loads(
        tidegate("site", "check", drafted, tmp_path / "exp.toml", "--json", code=2).partition("\nerror:")[0]
    )
    (causes,) = values["lines_left_out_by_cause"].values()
    assert {lines["cause"] for lines in causes} == {"line break", "repeated header", "number of values"}
    edit(drafted, "# separator", "line_breaks = true\n# separator")
    checked = tidegate("site", "check", drafted, tmp_path / "exp.toml", code=2)
    assert "300 rows of all windows" in checked
    assert "several lines" not in checked


def test_check_counts_one_as_one(tidegate: Command, site: Path, tmp_path: Path) -> None:
    (site.parent / "rows" / "visits.csv").write_text(
        "patient,month,age,ward,pressure,ill\nP1,2026-01,30,icu,x,1\n,2026-01,30,icu,90,1\n"
    )
    told = tidegate("site", "check", site, tmp_path / "exp.toml")
    assert "1 person, with at most 1 row each;" in told
    assert "0 persons have more. 1 row names no person." in told
    assert "1 value that is no number; it counts as missing" in told


def test_check_tells_undeclared_values_in_one_line_each(
    tidegate: Command, site: Path, tmp_path: Path
) -> None:
    edit(site.parent / "rows" / "visits.csv", ",icu,", ",[/red]\x1b[2Jicu,")
    told = tidegate("site", "check", site, tmp_path / "exp.toml")
    assert "'ward' has values that the card does not declare: [/red]\\x1b[2Jicu (" in told
    assert "\x1b" not in told


def test_every_complaint_of_the_card_is_a_line(tidegate: Command, site: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    text = EXPERIMENT.replace('"patient"', '"pat"').replace('name = "age"', 'name = "years"')
    wrong.write_text(text.replace('"icu", "er"', '"ICU", "ER"').replace("high = 180", "high = 400"))
    told = tidegate("site", "check", site, wrong, code=2)
    complaints = [line for line in told.splitlines() if line.startswith("- ")]
    assert len(complaints) == 4
    assert "site 'north': the card does not offer" in told
    values = tidegate("site", "check", site, wrong, "--json", code=2)
    assert [f"- {line}" for line in json.loads(values.partition("\nerror:")[0])["complaints"]] == complaints


def test_check_before_there_is_a_card(tidegate: Command, drafted: Path, tmp_path: Path) -> None:
    exp = tmp_path / "exp.toml"
    edit(exp, "low = 80\nhigh = 180", "low = 100\nhigh = 150")
    told = tidegate("site", "check", drafted, exp, code=2)
    assert "held-out rows fit" in told
    assert "the card is a draft" in told
    bare = tmp_path / "bare" / "site.toml"
    tidegate("site", "init", bare.parent, "--name", "bare")
    assert "Draft one with `tidegate site card`" in tidegate("site", "check", bare, exp, code=2)


def test_a_source_that_is_not_there(tidegate: Command, site: Path, tmp_path: Path) -> None:
    rows = site.parent / "rows" / "visits.csv"
    edit(rows, ",pressure,", ",presure,")
    told = tidegate("site", "check", site, tmp_path / "exp.toml", code=2)
    for words in ("site 'north'", "visits.csv", "column 'pressure'", "nearest: 'presure'"):
        assert words in told
    rows.unlink()
    assert "data.path" in tidegate("site", "check", site, tmp_path / "exp.toml", code=2)


def test_check_leaves_a_site_that_opens(tidegate: Command, site: Path, tmp_path: Path) -> None:
    """It makes the hold-out key, and so it must make the ledger: a used site without one is refused."""
    tidegate("site", "check", site, tmp_path / "exp.toml")
    done = commands.tidegate(tmp_path, "site", "status", str(site))
    assert done.returncode == 0, done.stderr


# -- the whole way --------------------------------------------------------------------------


@pytest.mark.e2e
def test_from_a_csv_file_to_an_approved_run(tmp_path: Path) -> None:
    (tmp_path / "exp.toml").write_text(EXPERIMENT)

    def tidegate(*arguments: str, code: int = 0) -> str:
        done = commands.tidegate(tmp_path, *arguments)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    for seed, name in enumerate(("north", "south")):
        tidegate("site", "init", name, "--name", name, "--rows", "200")
        deliver(tmp_path / name, seed)
        tidegate("site", "card", f"{name}/site.toml", "--write")
    run = ("run", "exp.toml", "--site", "north/site.toml", "--site", "south/site.toml", "--yes", "--json")
    assert "draft" in tidegate(*run, code=2)
    for name in ("north", "south"):
        finish(tmp_path / name / "site.toml")
        tidegate("site", "check", f"{name}/site.toml", "exp.toml")
        cost = json.loads(tidegate("site", "cost", f"{name}/site.toml", "exp.toml", "--json"))
        assert cost["fits"]
        site = tmp_path / name / "site.toml"
        edit(site, "require_private", f'approved_experiments = ["{cost["digest"]}"]\nrequire_private')
    for _ in range(2):
        said = tidegate(*run)
        assert json.loads(said[said.index("{") :].rpartition("}")[0] + "}")["status"] == "succeeded"
