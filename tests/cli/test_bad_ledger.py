"""What a person meets whose ledger is not as the site left it: one sentence, no training, no byte changed."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from clients.keys import site_signer
from clients.ledger.chain import Cap, Ledger, Plan
from tests import commands
from tests.cli.test_bad_input import EXPERIMENT, ROWS, SITE, edit, write_rows
from tests.permissions import obey_permissions

pytestmark = pytest.mark.e2e

RUN = ("run", "experiment.toml", "--yes", "--site", "site.toml", "--json")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site that one run has trained on: its ledger has entries and replies."""
    place = tmp_path_factory.mktemp("trained")
    (place / "experiment.toml").write_text(EXPERIMENT)
    (place / "site.toml").write_text(SITE)
    write_rows(place, ROWS)
    done = tidegate(place, *RUN)
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture
def place(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "site"))


def tidegate(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, by a user who is bound by a file's permissions even where the tests run as root."""
    return commands.tidegate(place, *arguments, before=obey_permissions)


def refused(place: Path, *words: str) -> None:
    """Training ends with one error that holds the words, and every file beside the ledger is as before."""
    before = kept(place)
    done = tidegate(place, *RUN)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode in (1, 2), done.stderr
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert kept(place) == before


def kept(place: Path) -> dict[str, bytes]:
    """What the site's folder holds, but for SQLite's passing files."""
    files = (place / "tidegate").iterdir()
    return {file.name: file.read_bytes() for file in files if file.suffix in (".db", ".key")}


def ledger_of(place: Path) -> Path:
    return place / "tidegate" / "ledger.db"


def change(place: Path, statement: str) -> None:
    """As somebody would who may write the file, and who leaves its triggers as they were."""
    connection = sqlite3.connect(ledger_of(place))
    query = "select name, sql from sqlite_master where type = 'trigger'"
    triggers = connection.execute(query).fetchall()
    for name, _ in triggers:
        connection.execute(f"drop trigger {name}")
    connection.execute(statement)
    for _, sql in triggers:
        with suppress(sqlite3.OperationalError):  # of a table that is no longer there
            connection.execute(sql)
    connection.commit()
    connection.close()


def test_a_cap_of_zero(place: Path) -> None:
    (place / "site.toml").write_text(SITE + "[policy]\nepsilon_cap = 0\n")
    refused(place, "site.toml", "'policy.epsilon_cap' = 0", "greater than or equal to 0.001")


def test_a_cap_lowered_under_what_is_spent(place: Path) -> None:
    (place / "site.toml").write_text(SITE + "[policy]\nepsilon_cap = 0.5\n")
    refused(place, "site 'north'", "cap of 0.5")
    status = tidegate(place, "site", "status", "site.toml")
    assert status.returncode == 0, status.stderr


def test_a_clock_that_was_set_back_changes_no_order(place: Path) -> None:
    """The sequence orders the entries; their times are for people."""
    for path in (place / "tidegate").glob("ledger.*"):
        path.unlink()
    cap, signer = Cap(epsilon=8.0, delta=1e-4), site_signer(place / "tidegate")
    late = Ledger(
        ledger_of(place), site="north", cap=cap, clock=lambda: "2039-01-01T00:00:00+00:00", signer=signer
    )
    plan = Plan(
        name="early/train",
        run="early",
        purpose="train",
        blocks=("all/train",),
        noise_multiplier=5.0,
        uses=1,
    )
    late.authorise(plan)
    late.reserve("early/train/1", plan.name)
    late.close()
    done = tidegate(place, *RUN)
    assert done.returncode == 0, done.stderr
    afterwards = Ledger(ledger_of(place), site="north", cap=cap, clock=lambda: "")
    times = [entry.body["at"] for entry in afterwards.entries()]
    assert times != sorted(times)
    assert afterwards.verify() == len(times)
    assert afterwards.spent().epsilon > afterwards.spent(run="early").epsilon > 0
    afterwards.close()


@pytest.mark.parametrize(("name", "mode"), [("ledger.db", 0o400), ("ledger.db", 0o000), ("", 0o500)])
def test_a_ledger_that_may_not_be_written(place: Path, name: str, mode: int) -> None:
    """Neither may it be read in the second case; in the third its folder may not be written."""
    path = place / "tidegate" / name
    old = path.stat().st_mode
    path.chmod(mode)
    try:
        refused(place, "ledger.db", "nothing was released")
    finally:
        path.chmod(old)


def test_a_folder_where_the_ledger_should_be(place: Path) -> None:
    ledger_of(place).unlink()
    ledger_of(place).mkdir()
    before = (place / "tidegate" / "holdout.key").read_bytes()
    done = tidegate(place, *RUN)
    assert done.returncode == 1
    assert "ledger.db" in done.stderr
    assert "Traceback" not in done.stderr
    assert (place / "tidegate" / "holdout.key").read_bytes() == before


def test_a_ledger_that_was_taken_away(place: Path) -> None:
    """A new one would forget what was spent; the hold-out key tells that there was one."""
    ledger_of(place).unlink()
    refused(place, "ledger.db")
    assert not ledger_of(place).exists()


@pytest.mark.parametrize("left", [0, 100, -800], ids=["nothing", "a header", "all but the last bytes"])
def test_a_ledger_that_was_cut_off(place: Path, left: int) -> None:
    """An empty file is no new ledger either, where the hold-out key tells that there was one."""
    ledger_of(place).write_bytes(ledger_of(place).read_bytes()[:left])
    refused(place, "ledger.db")


def test_a_ledger_of_another_site(place: Path) -> None:
    edit(place / "site.toml", '"north"', '"south"')
    refused(place, "belongs to site 'north', not 'south'")


def test_a_ledger_of_a_newer_program(place: Path) -> None:
    """Which may have tables and triggers of its own: nothing is put beside them before it is refused."""
    change(place, "update about set version = 99")
    connection = sqlite3.connect(ledger_of(place))
    connection.execute("drop trigger replies_no_delete")
    connection.close()
    refused(place, "format 99", "Install the newer Tidegate")


@pytest.mark.parametrize(
    "statement",
    [
        "update entries set body = replace(body, '\"uses\":2', '\"uses\":1') where sequence = 1",
        "update entries set body = 'x' where sequence = 2",
        "update replies set reply = x'00' where rowid = 1",
        "drop table entries",
        "delete from about",
    ],
)
def test_a_ledger_that_something_else_changed(place: Path, statement: str) -> None:
    """Not only `tidegate site status` must notice: a run must not train on what it says."""
    change(place, statement)
    refused(place, "ledger.db")
