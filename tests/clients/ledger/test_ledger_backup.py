"""A backup is whole, and putting an older one back gives no budget back."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from clients.keys import site_signer
from clients.ledger.backup import Prospect, Restored, back_up, look, restore
from clients.ledger.chain import Ledger
from clients.ledger.entry_bodies import require_sound
from clients.ledger.plan import Cap, Plan
from clients.ledger.replay import block_totals, totals_of
from clients.ledger.spending import RESTORED
from contract.errors import BudgetError, InputError, LedgerError

CAP = Cap(epsilon=8.0, delta=1e-5)


def now() -> str:
    return "2026-03-01T00:00:00+00:00"


def open_ledger(folder: Path) -> Ledger:
    return Ledger(folder / "ledger.db", site="north", cap=CAP, clock=now, signer=site_signer(folder))


def plan(run: str, block: str = "w1/train", **values: Any) -> Plan:
    settings: dict[str, Any] = {"noise_multiplier": 20.0, "uses": 2, **values}
    return Plan(name=f"{run}/train", run=run, purpose="train", blocks=(block,), **settings)


def release(ledger: Ledger, run: str, block: str = "w1/train") -> None:
    charged = plan(run, block)
    ledger.authorise(charged)
    ledger.reserve(f"{run}/train/1", charged.name)
    ledger.commit(f"{run}/train/1", charged.name, b"reply", {"releases": ["update"]})


def put_back(
    folder: Path,
    *,
    backup: str = "backup.db",
    windows: Sequence[str] | None = None,
    split: str | None = None,
) -> Restored:
    return restore(
        folder / "ledger.db",
        folder / backup,
        site="north",
        cap=CAP,
        clock=now,
        signer=site_signer(folder),
        windows=windows,
        split=split,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A ledger of six entries, and a backup of its first three."""
    ledger = open_ledger(tmp_path)
    release(ledger, "run-1")
    assert back_up(tmp_path / "ledger.db", tmp_path / "backup.db") == ledger.anchor == (3, ledger.anchor[1])
    release(ledger, "run-2", "w2/train")
    ledger.close()
    return tmp_path


def test_a_backup_is_one_whole_file_though_others_write(folder: Path) -> None:
    ledger = open_ledger(folder)
    release(ledger, "run-3")
    entries, head = back_up(folder / "ledger.db", folder / "now.db")
    assert (entries, head) == ledger.anchor
    assert (folder / "now.db").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in folder.glob("*now.db*")) == ["now.db"]
    with sqlite3.connect(folder / "now.db") as connection:
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
        assert connection.execute("select count(*) from replies").fetchone() == (3,)
    with pytest.raises(InputError, match="there is a file already"):
        back_up(folder / "ledger.db", folder / "now.db")
    with pytest.raises(InputError, match="cannot be written"):
        back_up(folder / "ledger.db", folder / "nowhere" / "now.db")


def test_what_is_no_ledger_gives_no_backup(folder: Path) -> None:
    (folder / "text").write_text("no ledger" * 1000)
    with pytest.raises(LedgerError, match="not a ledger that can be read"):
        back_up(folder / "text", folder / "now.db")
    with pytest.raises(InputError, match="has no ledger yet"):
        back_up(folder / "nothing", folder / "now.db")
    with sqlite3.connect(folder / "ledger.db") as connection:
        connection.execute("drop trigger replies_no_update")
        connection.execute("update replies set reply = x'00' where request = 'run-1/train/1'")
    with pytest.raises(LedgerError, match="stored reply of entry 3"):
        back_up(folder / "ledger.db", folder / "now.db")
    assert not (folder / "now.db").exists()


def lose(folder: Path) -> None:
    for path in folder.glob("ledger.db*"):
        path.unlink()


def test_after_a_loss_a_card_that_cuts_windows_anew_gives_no_budget_back(tmp_path: Path) -> None:
    """January's records are in other windows once weeks take the place of months."""
    open_ledger(tmp_path).close()
    back_up(tmp_path / "ledger.db", tmp_path / "backup.db")
    ledger = open_ledger(tmp_path)
    months = plan("run-1", "2026-01/train", split="months")
    ledger.authorise(months)
    ledger.reserve("run-1/train/1", months.name)
    ledger.close()
    lose(tmp_path)
    put_back(tmp_path, windows=["2026-01"], split="months")
    ledger = open_ledger(tmp_path)
    require_sound(ledger.entries(), where="here")
    for lost in (plan("a", "2026-01/train", split="months"), plan("b", "2026-W05/train", split="weeks")):
        with pytest.raises(BudgetError, match="not known since the ledger was restored"):
            ledger.authorise(lost)
    ledger.authorise(plan("c", "2026-02/train", split="months"))
    ledger.close()


def test_after_a_loss_every_block_counts_as_having_spent_the_cap(folder: Path) -> None:
    lose(folder)
    done = put_back(folder)
    assert (done.entries, done.lost, done.kept) == (3, 4, None)
    ledger = open_ledger(folder)
    assert ledger.verify() == 4
    require_sound(ledger.entries(), where="here")
    for block in ("w1/train", "w2/train", "w1/holdout", "w9/train", "all/train"):
        with pytest.raises(BudgetError, match="since the ledger was restored"):
            ledger.authorise(plan("run-9", block, noise_multiplier=1e6))
    with pytest.raises(BudgetError):
        ledger.reserve("run-1/train/2", "run-1/train")
    spent = ledger.spent()
    assert (spent.epsilon, spent.method, spent.unit) == (8.0, RESTORED, "record")
    totals = {total.block: total for total in block_totals(ledger)}
    assert set(totals) == {"w1/train", "all/train", "all/holdout"}
    assert all(total.spent.epsilon == 8.0 and total.left(8.0) == 0 for total in totals.values())
    assert totals_of(ledger.entries(), cap=CAP) == block_totals(ledger)
    raised = Ledger(
        folder / "ledger.db",
        site="north",
        cap=Cap(epsilon=80.0, delta=1e-5),
        clock=now,
        signer=site_signer(folder),
    )
    with pytest.raises(BudgetError):  # a larger cap does not tell what was lost
        raised.authorise(plan("run-9", noise_multiplier=1e6))


def test_windows_that_come_later_are_new_where_those_of_now_were_named(folder: Path) -> None:
    lose(folder)
    put_back(folder, windows=["w1", "w2"])
    ledger = open_ledger(folder)
    for block in ("w1/train", "w2/train", "w2/holdout", "all/train", "all/holdout"):
        with pytest.raises(BudgetError, match="since the ledger was restored"):
            ledger.check(plan("run-9", block, noise_multiplier=1e6))
    with pytest.raises(BudgetError):  # of another split nobody knows which rows it means
        ledger.check(plan("run-9", "w3/train", split="another"))
    assert ledger.would_spend([plan("run-9", "w2/train")])["w2/train"].epsilon == float("inf")
    release(ledger, "run-9", "w3/train")
    assert 0 < ledger.spent_by_block()["w3/train"].epsilon < 1


def test_a_backup_names_its_own_blocks_whatever_windows_are_said_to_be_there(folder: Path) -> None:
    lose(folder)
    put_back(folder, windows=["w7"])
    with pytest.raises(BudgetError, match="since the ledger was restored"):
        open_ledger(folder).check(plan("run-9", "w1/train", noise_multiplier=1e6))


def test_a_backup_that_reaches_to_the_anchor_loses_nothing(folder: Path) -> None:
    back_up(folder / "ledger.db", folder / "now.db")
    lose(folder)
    done = put_back(folder, backup="now.db")
    assert done.lost == 0
    ledger = open_ledger(folder)
    assert ledger.verify() == 7
    release(ledger, "run-9")


def test_it_can_be_said_beforehand_what_a_restore_would_lose(folder: Path) -> None:
    back_up(folder / "ledger.db", folder / "now.db")
    lose(folder)
    files = sorted(folder.iterdir())

    def seen(backup: str) -> Prospect:
        signer = site_signer(folder)
        return look(folder / "ledger.db", folder / backup, site="north", cap=CAP, clock=now, signer=signer)

    assert seen("backup.db") == Prospect(entries=3, whole=False, lost=4, persons=False)
    assert seen("now.db") == Prospect(entries=7, whole=True, lost=0, persons=False)
    with (folder / "ledger.anchor").open("r+b") as anchor:  # one was being written: it is not known which
        anchor.write(b"torn")
    assert seen("now.db").lost is None
    assert put_back(folder, backup="now.db").lost is None
    assert sorted(set(folder.iterdir()) - set(files)) == [folder / "ledger.db"]


def test_a_ledger_that_is_whole_is_left(folder: Path) -> None:
    before = (folder / "ledger.db").read_bytes()
    with pytest.raises(InputError, match="the ledger is whole, with 7 entries"):
        put_back(folder)
    assert (folder / "ledger.db").read_bytes() == before


def test_an_older_file_in_place_may_itself_be_the_backup_and_is_kept(folder: Path) -> None:
    shutil.copy(folder / "backup.db", folder / "ledger.db")
    (folder / "ledger.db-wal").write_bytes(b"of another file")
    done = put_back(folder, backup="ledger.db")
    assert done.lost == 4
    assert done.kept == folder / "ledger.db.replaced-1"
    assert done.kept.exists()
    assert not (folder / "ledger.db-wal").exists()
    assert open_ledger(folder).verify() == 4


@pytest.mark.parametrize("step", ["move", "rename"])
def test_a_restore_that_is_cut_off_opens_no_ledger_and_can_be_repeated(
    folder: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    shutil.copy(folder / "backup.db", folder / "ledger.db")
    (folder / "ledger.anchor").unlink()  # the worst case: nobody knows how long it was

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        if step == "move":
            patched.setattr("clients.ledger.backup._move_away", cut)
        else:
            patched.setattr(Path, "rename", cut)
        with pytest.raises(KeyboardInterrupt):
            put_back(folder)
    with pytest.raises(LedgerError):
        open_ledger(folder)
    if not (folder / "ledger.db").exists():
        shutil.copy(folder / "backup.db", folder / "ledger.db")
    put_back(folder)
    with pytest.raises(BudgetError):
        open_ledger(folder).check(plan("run-9", noise_multiplier=1e6))


def test_a_new_key_goes_on_where_the_old_one_was_lost(folder: Path) -> None:
    old = site_signer(folder).public
    (folder / "site.key").unlink()
    (folder / "ledger.anchor").unlink()
    done = put_back(folder)
    assert done.lost is None
    ledger = open_ledger(folder)
    assert ledger.key == old
    assert ledger.entries()[-1].body["key"] == site_signer(folder).public != old
    assert ledger.verify() == 4


def test_a_backup_of_another_site_or_with_a_fault_is_refused(folder: Path) -> None:
    lose(folder)
    with sqlite3.connect(folder / "backup.db") as connection:
        connection.execute("drop trigger about_no_update")
        connection.execute("update about set site = 'south'")
    with pytest.raises(LedgerError, match="of site 'south', not 'north'"):
        put_back(folder)
    with sqlite3.connect(folder / "backup.db") as connection:
        connection.execute("drop trigger entries_no_update")
        connection.execute("update entries set body = replace(body, ':20', ':90')")
    with pytest.raises(LedgerError, match="not a whole ledger"):
        put_back(folder)
    with pytest.raises(InputError, match="printable"):
        put_back(folder, windows=["w1\0"])
    assert not (folder / "ledger.db").exists()


def test_a_site_whose_machine_is_gone_goes_on_with_the_backup_and_its_key(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    new = tmp_path_factory.mktemp("new")
    for name in ("backup.db", "site.key"):
        shutil.copy(folder / name, new / name)
    done = put_back(new, windows=["w1", "w2"])
    assert (done.entries, done.lost) == (3, None)
    with pytest.raises(BudgetError):
        open_ledger(new).check(plan("run-9", noise_multiplier=1e6))
    release(open_ledger(new), "run-9", "w3/train")
