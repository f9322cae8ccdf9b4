"""`tidegate site ledger`, `status` and `evidence`: what a person sees, and with which exit code."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from clients.cli.block_table import bar, block_table
from clients.cli.ledger_plot import plot_ledger
from clients.keys import make_node_key
from clients.ledger.chain import Ledger
from clients.ledger.plan import Plan
from clients.ledger.replay import block_totals, history
from clients.site import close_site, open_site
from contract.epsilon import epsilon_words, left_words

SITE = """\
name = "north"
stated_rows = 50
[data]
kind = "csv"
path = "rows.csv"
[policy]
epsilon_cap = 4.0
"""

Command = Callable[..., str]


def charge(ledger: Ledger, run: str, block: str, *, noise: float = 5.0, uses: int = 1, used: int = 1) -> None:
    name = f"{run}/train"
    ledger.authorise(
        Plan(name=name, run=run, purpose="train", blocks=(block,), noise_multiplier=noise, uses=uses)
    )
    for number in range(used):
        ledger.reserve(f"{name}/{number}", name)
        body = {"releases": ["update"], "experiment": "d" * 64, "private": noise > 0}
        ledger.commit(f"{name}/{number}", name, b"reply", body)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site that spent a little on one block, and on another has an open plan."""
    file = tmp_path / "north" / "site.toml"
    file.parent.mkdir()
    file.write_text(SITE)
    make_node_key(file.parent / "keys")
    ledger = open_site(file).ledger
    charge(ledger, "run-1", "w1/train")
    charge(ledger, "run-2", "w2/train", uses=4)
    return file


@pytest.fixture
def plain(site: Path) -> Path:
    """The same site after a run that was not private."""
    charge(open_site(site).ledger, "run-3", "w3/train", noise=0.0)
    return site


def test_what_is_guaranteed_and_what_was_counted_are_told_apart(tidegate: Command, site: Path) -> None:
    told = tidegate("site", "ledger", site)
    assert "guaranteed: the cap, ε = 4 at δ = 1e-4" in told
    assert "counted so far: what ran" in told.replace("\n", " ")
    block = json.loads(tidegate("site", "ledger", site, "--json"))["blocks"][0]
    assert block["guaranteed"] == 4.0


def test_a_refusal_is_in_the_egress_log(tidegate: Command, site: Path) -> None:
    open_site(site).ledger.refuse("run-9/train/1", "budget")
    told = tidegate("site", "egress", site)
    (line,) = [line for line in told.splitlines() if "run-9" in line]
    assert "refused: budget" in line
    assert json.loads(tidegate("site", "egress", site, "--json"))[-1]["word"] == "budget"


def test_no_field_of_the_audit_log_is_cut_at_80_columns(tidegate: Command, site: Path) -> None:
    ledger = open_site(site).ledger
    request = "visits-readmission-20261129-072011/train/12"
    ledger.refuse(request, "budget")
    for command in (("egress",), ("ledger", "--entries")):
        told = tidegate("site", command[0], site, *command[1:], width=80, colour=True)
        told = re.sub("\x1b\\[[0-9;]*m", "", told)
        assert "…" not in told.replace("SHA-256…", "")
        cells = [line.split("│") for line in told.splitlines() if line.startswith("│")]
        assert any(request in "".join(row[place].strip() for row in cells) for place in range(1, 6))
        assert re.search(r"│ \d\d-\d\d \d\d:\d\d:\d\d │", told)
    piped = tidegate("site", "egress", site, width=80)
    (line,) = [line for line in piped.splitlines() if request in line]
    assert re.search(r"[0-9a-f]{64}", piped)
    assert "refused: budget" in line


def test_a_narrow_terminal_leaves_out_the_bar_and_no_figure(tidegate: Command, site: Path) -> None:
    total = block_totals(open_site(site).ledger)[1]
    for width in (60, 40):
        told = tidegate("site", "ledger", site, width=width, colour=True)
        assert "█" not in told
        assert "…" not in told
        assert left_words(4.0, total.promised.epsilon) in told


def test_where_the_cap_was_lowered_since_it_is_not_said_to_be_guaranteed(
    tidegate: Command, site: Path
) -> None:
    close_site(site)
    site.write_text(SITE.replace("epsilon_cap = 4.0", "epsilon_cap = 0.1"))
    told = " ".join(tidegate("site", "ledger", site).split())
    assert "but not of w1/train, w2/train: more was spent there than today's cap" in told
    blocks = json.loads(tidegate("site", "ledger", site, "--json"))["blocks"]
    assert [block["guaranteed"] for block in blocks] == [None, None]


def test_a_backup_and_what_putting_it_back_costs(tidegate: Command, site: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.db"
    assert "7 entries, checked" in tidegate("site", "backup", site, kept)
    assert "there is a file already" in tidegate("site", "backup", site, kept, code=2)
    charge(open_site(site).ledger, "run-3", "w3/train")
    ledger = open_site(site).config.storage.ledger
    close_site(site)
    ledger.unlink()
    (here,) = sorted(path for path in ledger.parent.glob("ledger.anchor"))
    anchor = here.read_bytes()
    asked = tidegate("site", "restore", site, kept, "--window", "w1", code=2)
    assert "the backup has 7 entries; entries that are missing: 4" in asked
    assert "Look for the newest backup first" in asked
    assert "--yes" in asked
    assert not ledger.exists()
    assert here.read_bytes() == anchor
    told = tidegate("site", "restore", site, kept, "--window", "w1", "--window", "w2", "--yes")
    assert "entries that are missing: 4" in told
    assert "put back 7 entries" in told
    assert "the windows w1, w2 and the whole data set count as having spent the cap" in told
    values = json.loads(tidegate("site", "ledger", site, "--json"))
    assert values["entries"] == 8
    assert {block["block"]: block["left"] for block in values["blocks"]} == dict.fromkeys(
        ("all/holdout", "all/train", "w1/train", "w2/train"), 0.0
    )
    words = " ".join(tidegate("site", "ledger", site).split())
    assert "nobody knows whether the lost entries protected persons or records" in words
    assert "restore" in tidegate("site", "ledger", site, "--entries")
    whole = tidegate("site", "restore", site, kept, code=2)
    assert "the ledger is whole, with 8 entries" in whole


@pytest.mark.parametrize("mask", [0o000, 0o022])
def test_what_is_put_back_on_a_new_machine_is_its_users_alone(
    tidegate: Command, site: Path, tmp_path: Path, mask: int
) -> None:
    before = os.umask(mask)
    try:
        tidegate("site", "backup", site, tmp_path / "kept.db")
        folder = open_site(site).config.storage.folder
        close_site(site)
        folder.rename(tmp_path / "old")
        tidegate("site", "restore", site, tmp_path / "kept.db", "--yes")
        assert os.umask(mask) == mask  # a command changes that of its own files alone
    finally:
        os.umask(before)
    written = [tmp_path / "kept.db", folder, *folder.rglob("*")]
    assert folder / "ledger.db" in written
    assert [path for path in written if path.stat().st_mode & 0o077] == []


@pytest.mark.parametrize(("answer", "code"), [("n\n", 1), ("y\n", 0)])
def test_on_a_terminal_it_asks_before_what_cannot_be_undone(
    tidegate: Command, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    kept = tmp_path / "kept.db"
    tidegate("site", "backup", site, kept)
    charge(open_site(site).ledger, "run-3", "w3/train")
    ledger = open_site(site).config.storage.ledger
    close_site(site)
    ledger.unlink()
    terminal = io.StringIO(answer)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    told = tidegate("site", "restore", site, kept, code=code)
    assert "nothing may be released from this site again: every window, also those to come" in told
    assert ("nothing was changed" in told) == (not ledger.exists()) == bool(code)


def test_a_person_whose_rows_are_in_every_window_leaves_nothing_to_release(
    tidegate: Command, site: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.db"
    ledger = open_site(site).ledger
    name = "run-3/train"
    ledger.authorise(
        Plan(name=name, run="run-3", purpose="train", blocks=("all/train",), noise_multiplier=9.0, uses=1)
    )
    tidegate("site", "backup", site, tmp_path / "records.db")
    ledger.authorise(
        Plan(
            name="run-4/train",
            run="run-4",
            purpose="train",
            blocks=("all/train",),
            noise_multiplier=9.0,
            uses=1,
            unit="person",
        )
    )
    tidegate("site", "backup", site, kept)
    charge(ledger, "run-5", "w3/train")
    file = open_site(site).config.storage.ledger
    close_site(site)
    file.unlink()
    of_records = tidegate("site", "restore", site, tmp_path / "records.db", "--window", "w1", code=2)
    assert "nothing may be released" not in of_records
    asked = tidegate("site", "restore", site, kept, "--window", "w1", code=2)
    assert "nothing may be released from this site again: a person's rows are in every window" in asked


def test_a_whole_backup_is_put_back_without_a_question(tidegate: Command, site: Path, tmp_path: Path) -> None:
    tidegate("site", "backup", site, tmp_path / "kept.db")
    file = open_site(site).config.storage.ledger
    close_site(site)
    file.unlink()
    assert "nothing was lost" in tidegate("site", "restore", site, tmp_path / "kept.db")


def test_windows_that_come_later_are_told_from_those_of_the_rows(
    tidegate: Command, site: Path, tmp_path: Path
) -> None:
    kept, rows = tmp_path / "kept.db", site.with_name("rows.csv")
    card = (
        '[card]\ncolumns = [{ name = "level", kind = "numeric", low = 0, high = 9, meaning = "a level" }]\n'
    )
    site.write_text(f'{SITE}{card}time = {{ column = "window" }}\n')
    rows.write_text("level,window\n1,w1\n2,w2\n3,\n")
    tidegate("site", "backup", site, kept)
    charge(open_site(site).ledger, "run-3", "w2/train")
    ledger = open_site(site).config.storage.ledger
    close_site(site)
    ledger.unlink()
    told = tidegate("site", "restore", site, kept, "--later-windows", "--window", "w0", "--yes")
    assert "the windows w0, w1, w2 and the whole data set" in told
    site.write_text(f"{SITE}{card}")
    assert "no windows" in tidegate("site", "restore", site, kept, "--later-windows", code=2)


def test_a_ledger_by_block(tidegate: Command, site: Path) -> None:
    told = tidegate("site", "ledger", site)
    first, second = (next(line for line in told.splitlines() if block in line) for block in ("w1/", "w2/"))
    assert "cap ε = 4" in told
    assert "7 entries verify" in told
    total = block_totals(open_site(site).ledger)[1]
    promised = total.promised.epsilon
    figures = (epsilon_words(total.spent.epsilon), epsilon_words(promised), left_words(4.0, promised))
    assert sum(map(float, figures[1:])) <= 4.0
    assert second.split()[:4] == ["w2/train", *figures]
    assert "promised: that, and what open plans may spend beside it" in told.replace("\n", " ")
    status = tidegate("site", "status", site)
    assert f"w2/train: ε = {figures[0]} spent, at most {figures[1]} with open plans, at δ = 1e-4" in status
    assert "█" in first
    assert "▒" not in first
    assert "▒" in second
    assert "1 Gaussian privacy filter" in told


def test_a_ledger_as_json(tidegate: Command, site: Path) -> None:
    told = json.loads(tidegate("site", "ledger", site, "--json"))
    assert told["cap"] == {"epsilon": 4.0, "delta": 1e-4}
    assert [block["block"] for block in told["blocks"]] == ["w1/train", "w2/train"]
    assert told["blocks"][1]["left"] == pytest.approx(4.0 - told["blocks"][1]["promised"]["epsilon"])
    assert json.loads(tidegate("site", "ledger", site, "--verify", "--json")) == {
        "site": "north",
        "entries": told["entries"],
    }
    entries = json.loads(tidegate("site", "ledger", site, "--entries", "--json"))
    assert [entry["sequence"] for entry in entries] == list(range(1, 8))


def test_entries_and_the_chain(tidegate: Command, site: Path) -> None:
    assert tidegate("site", "ledger", site, "--verify") == "7 entries verify\n"
    told = tidegate("site", "ledger", site, "--entries")
    assert told.count("commit") == 2
    assert "NOT PRIVATE" not in told


def test_an_empty_ledger(tidegate: Command, tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(SITE)
    assert "0 entries verify" in tidegate(
        "site", "ledger", tmp_path / "site.toml", "--plot", tmp_path / "a.png"
    )
    assert (tmp_path / "a.png").stat().st_size > 1000
    assert "nothing was spent" in tidegate("site", "status", tmp_path / "site.toml")


def test_what_is_not_private_is_red_everywhere(tidegate: Command, plain: Path, tmp_path: Path) -> None:
    evidence = tmp_path / "evidence.json"
    tidegate("site", "ledger", plain, "--export", evidence)
    for command in (
        ("ledger", plain),
        ("ledger", plain, "--entries"),
        ("status", plain),
        ("evidence", evidence),
    ):
        told = tidegate("site", *command, colour=True)
        lines = [line for line in told.splitlines() if "NOT PRIVATE" in line]
        assert lines, told
        assert all("\x1b[31m" in line or "\x1b[1;31m" in line for line in lines)
        others = [line for line in told.splitlines() if "w1/train" in line or "run-1/train" in line]
        assert not any("\x1b[31m" in line for line in others if "no privacy guarantee" not in line)
    assert "[31mNO" in tidegate("site", "egress", plain, colour=True)
    blocks = json.loads(tidegate("site", "ledger", plain, "--json"))["blocks"]
    assert [block["private"] for block in blocks] == [True, True, False]
    assert blocks[2]["spent"]["epsilon"] is None


def test_status_says_what_the_site_is_and_its_worst_block(tidegate: Command, site: Path) -> None:
    told = tidegate("site", "status", site)
    for words in (
        "north, 50 rows stated",
        "any experiment",
        "private runs only",
        "7 entries verify",
        "w2/train",
    ):
        assert words in told
    assert "w1/train" not in told
    assert "never ran" in told
    status = json.loads(tidegate("site", "status", site, "--json"))
    assert status["worst"]["block"] == "w2/train"
    log = open_site(site).config.storage.logs / "agent.log"
    log.parent.mkdir(parents=True)
    line = "2026-03-01 08:00:00,000 INFO tidegate.agent: site 'north' {}\n"
    log.write_text(line.format("is connected to 10.0.0.1:9092 as node 77"))
    assert "connected to 10.0.0.1:9092, by its log at 2026-03-01" in tidegate("site", "status", site)
    log.write_text(log.read_text() + line.format("has stopped"))
    assert "stopped, by its log at" in tidegate("site", "status", site)
    log.rename(log.with_name("agent.log.1"))  # it was full
    log.write_text("2026-03-01 11:00:00,000 INFO tidegate.agent: answered\n")
    assert "stopped, by its log at" in tidegate("site", "status", site)


def test_evidence_is_exported_and_checked_without_the_site(
    tidegate: Command, site: Path, tmp_path: Path
) -> None:
    first, second, key = tmp_path / "first.json", tmp_path / "second.json", site.parent / "keys" / "node.pub"
    told = json.loads(tidegate("site", "ledger", site, "--export", first, "--json"))["evidence"]
    charge(open_site(site).ledger, "run-3", "w3/train")
    assert f"wrote {second}" in tidegate("site", "ledger", site, "--export", second)
    site.rename(tmp_path / "elsewhere.toml")
    assert "claim" in tidegate("site", "evidence", first)
    found = tidegate("site", "evidence", second, "--public-key", key, "--after", first)
    for words in ("It holds: 11 entries", "the given key's", "4 entries were added", "w3/train"):
        assert words in found
    assert "claim" not in found
    values = json.loads(tidegate("site", "evidence", first, "--public-key", key, "--json"))
    assert values["holds"]
    assert (values["entries"], values["head"]) == (told["entries"], told["head"])
    assert values["fingerprint"] == told["fingerprint"]
    rewound = tidegate("site", "evidence", first, "--public-key", key, "--after", second, code=1)
    assert rewound.count("error: ") == 1
    assert "rewound" in rewound


def test_evidence_that_is_there_is_not_written_over(tidegate: Command, site: Path, tmp_path: Path) -> None:
    path = tmp_path / "evidence.json"
    tidegate("site", "ledger", site, "--export", path)
    before = path.read_bytes()
    assert "there is a file already" in tidegate("site", "ledger", site, "--export", path, code=2)
    assert path.read_bytes() == before
    nowhere = tmp_path / "nowhere" / "evidence.json"
    assert "cannot be written" in tidegate("site", "ledger", site, "--export", nowhere, code=2)


def test_a_site_without_a_key_says_what_to_do(tidegate: Command, site: Path, tmp_path: Path) -> None:
    key = (site.parent / "keys" / "node.key").rename(tmp_path / "kept.key")
    told = tidegate("site", "ledger", site, "--export", tmp_path / "evidence.json", code=2)
    assert "node.key: no such file" in told
    assert "--key" in told
    assert not (tmp_path / "evidence.json").exists()
    tidegate("site", "ledger", site, "--export", tmp_path / "evidence.json", "--key", key)


@pytest.mark.parametrize(
    ("old", "new"), [('r":5', 'r":9'), ('"uses":4', '"uses":1'), ("w1/train", "w9/train")]
)
def test_what_was_changed_ends_with_one_sentence_and_exit_code_1(
    tidegate: Command, site: Path, tmp_path: Path, old: str, new: str
) -> None:
    path = tmp_path / "evidence.json"
    tidegate("site", "ledger", site, "--export", path)
    values = json.loads(path.read_text())
    payload = base64.b64decode(values["payload"]).decode()
    assert old in payload
    values["payload"] = base64.b64encode(payload.replace(old, new, 1).encode()).decode()
    path.write_text(json.dumps(values))
    told = tidegate("site", "evidence", path, code=1)
    assert told.startswith(f"error: {path}: ")
    assert "the signature does not fit" in told
    assert len(told.splitlines()) == 1


def test_another_key_ends_with_exit_code_1(tidegate: Command, site: Path, tmp_path: Path) -> None:
    path = tmp_path / "evidence.json"
    tidegate("site", "ledger", site, "--export", path)
    _, other = make_node_key(tmp_path / "other")
    assert "it is signed with the key" in tidegate("site", "evidence", path, "--public-key", other, code=1)


def test_what_is_not_evidence_ends_with_exit_code_2_as_a_program(site: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.json").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "experiments.cli.main", "site", "evidence", str(tmp_path / "empty.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "not evidence of a ledger" in done.stderr
    assert "Traceback" not in done.stderr


def test_files_that_are_missing_or_folders_end_with_exit_code_2(tidegate: Command, tmp_path: Path) -> None:
    assert "no such file" in tidegate("site", "evidence", tmp_path / "nothing.json", code=2)
    assert "a folder, not a file" in tidegate("site", "evidence", tmp_path, code=2)


@pytest.mark.parametrize("command", ["status", "ledger", "egress"])
def test_a_folder_that_this_user_may_not_enter_ends_with_one_sentence(
    tidegate: Command, site: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def denied(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    close_site(site)
    monkeypatch.setattr(Path, "exists", denied)
    told = tidegate("site", command, site, code=1)
    assert f"{site.parent / 'tidegate'}: the site's own files cannot be read: Permission denied" in told
    assert len(told.splitlines()) == 1


def test_a_file_that_links_to_itself_ends_with_exit_code_2(tidegate: Command, tmp_path: Path) -> None:
    loop = tmp_path / "site.toml"
    loop.symlink_to(loop)
    assert "symbolic links" in tidegate("site", "status", loop, code=2)


@pytest.mark.parametrize(("name", "begins"), [("a.png", b"\x89PNG"), ("a.SVG", b"<?xml")])
def test_a_plot_is_written_in_the_named_form(
    tidegate: Command, plain: Path, tmp_path: Path, name: str, begins: bytes
) -> None:
    assert f"wrote {tmp_path / name}" in tidegate("site", "ledger", plain, "--plot", tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(begins)


def test_a_plot_names_what_it_shows(plain: Path, tidegate: Command) -> None:
    ledger = open_site(plain).ledger
    moments = history(ledger.entries(), cap=ledger.cap)
    svg = plot_ledger(moments, site="north", cap=ledger.cap, kind="svg").decode()
    words = (
        "ε, cumulative, at δ = 1e-4",
        "Time (UTC)",
        "ε now, at δ = 1e-4",
        "counted so far",
        "promised",
        "cap ε = 4",
        "w1/train",
        "w3/train",
    )
    assert all(f"<!-- {word}" in svg for word in (*words, "not private", "NOT PRIVATE (ε = ∞)"))
    assert "#c00000" in svg
    assert "a .png or an .svg" in tidegate("site", "ledger", plain, "--plot", "a.gif", code=2)


def test_a_bar_shows_shares_of_the_cap(plain: Path) -> None:
    ledger = open_site(plain).ledger
    totals = {total.block: total for total in block_totals(ledger)}
    spent = bar(totals["w1/train"], ledger.cap).plain
    assert spent == "█" * spent.count("█") + "·" * (14 - spent.count("█"))
    assert spent.count("█") == -(-14 * totals["w1/train"].spent.epsilon // 4)
    assert "NOT PRIVATE" in bar(totals["w3/train"], ledger.cap).plain
    assert [epsilon_words(value) for value in (1.2301, 1.23, 4.0 + 1e-12)] == ["1.24", "1.23", "4.00"]
    assert epsilon_words(float("inf")) == "∞"


def test_the_table_fits_into_80_columns(plain: Path) -> None:
    ledger, text = open_site(plain).ledger, io.StringIO()
    Console(width=80, file=text).print(block_table(block_totals(ledger), ledger.cap, title="north"))
    rows = [line for line in text.getvalue().splitlines() if "/train" in line]
    assert len(rows) == 3
    assert all("…" not in row for row in rows)
