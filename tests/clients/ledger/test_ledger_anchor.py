"""A ledger that was put back to an earlier state is not opened: nothing that was spent is forgotten."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from clients.keys import site_signer
from clients.ledger.chain import Ledger
from clients.ledger.plan import Cap, Plan
from contract.errors import BudgetError, InputError, LedgerError

PLAN = Plan(name="r/train", run="r", purpose="train", blocks=("w1/train",), noise_multiplier=20.0, uses=50)


def open_ledger(folder: Path, *, epsilon: float = 8.0, at: str = "2026-03-01T00:00:00+00:00") -> Ledger:
    cap = Cap(epsilon=epsilon, delta=1e-5)
    return Ledger(folder / "ledger.db", site="north", cap=cap, clock=lambda: at, signer=site_signer(folder))


def release(ledger: Ledger, number: int) -> None:
    ledger.authorise(PLAN)
    ledger.reserve(f"r/train/{number}", PLAN.name)
    ledger.commit(f"r/train/{number}", PLAN.name, b"reply", {"releases": ["update"]})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A site's storage folder with a ledger of five entries, closed; `copy.db` is of its first three."""
    ledger = open_ledger(tmp_path)
    release(ledger, 1)
    ledger.close()
    shutil.copy(tmp_path / "ledger.db", tmp_path / "copy.db")
    ledger = open_ledger(tmp_path)
    release(ledger, 2)
    ledger.close()
    assert not (tmp_path / "ledger.db-wal").exists()
    return tmp_path


def anchor_of(folder: Path) -> int:
    lines = (folder / "ledger.anchor").read_text().splitlines()
    return max(int(json.loads(line)["entries"]) for line in lines if line.strip())


def test_the_anchor_is_the_ledgers_last_entry(folder: Path) -> None:
    ledger = open_ledger(folder)
    assert ledger.anchor == (5, ledger.entries()[-1].hash)
    assert anchor_of(folder) == 5
    assert (folder / "site.key").stat().st_mode & 0o777 == 0o600
    assert all(entry.signature for entry in ledger.entries())
    assert ledger.verify() == 5


def test_a_copy_from_earlier_is_refused(folder: Path) -> None:
    shutil.copy(folder / "copy.db", folder / "ledger.db")
    with pytest.raises(LedgerError, match=r"has 3 entries, and had 5.*restore"):
        open_ledger(folder)


def test_a_copy_that_went_another_way_is_refused(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As long as the ledger, and signed with its key: as on a machine that was put back whole."""
    other = tmp_path_factory.mktemp("other")
    shutil.copy(folder / "copy.db", other / "ledger.db")
    shutil.copy(folder / "site.key", other / "site.key")
    keep = (folder / "ledger.anchor").read_bytes()
    shutil.copy(folder / "ledger.anchor", other / "ledger.anchor")
    anchored_anew(other, 3)
    fork = open_ledger(other)
    release(fork, 7)
    release(fork, 8)
    fork.close()
    shutil.copy(other / "ledger.db", folder / "ledger.db")
    with pytest.raises(LedgerError, match="entry 5, which its anchor names"):
        open_ledger(folder)
    assert (folder / "ledger.anchor").read_bytes() == keep


def anchored_anew(folder: Path, entries: int) -> None:
    """As whoever has the site's key could."""
    from clients.ledger.anchor import AnchorFile

    with sqlite3.connect(folder / "ledger.db") as connection:
        (head,) = connection.execute("select hash from entries where sequence = ?", (entries,)).fetchone()
    AnchorFile(folder / "ledger.db", site="north", signer=site_signer(folder)).reset(entries, head)


def gone(folder: Path) -> None:
    (folder / "ledger.db").unlink()


def emptied(folder: Path) -> None:
    (folder / "ledger.db").write_bytes(b"")


def without_tables(folder: Path) -> None:
    (folder / "ledger.db").unlink()
    with sqlite3.connect(folder / "ledger.db") as connection:
        connection.execute("pragma user_version = 1")


@pytest.mark.parametrize("spoil", [gone, emptied, without_tables])
def test_no_new_ledger_is_begun_where_there_was_one(folder: Path, spoil: Callable[[Path], None]) -> None:
    spoil(folder)
    with pytest.raises(LedgerError, match=r"is gone, though 5 entries were made.*restore"):
        open_ledger(folder)
    with sqlite3.connect(folder / "ledger.db") as connection:
        assert connection.execute("select * from sqlite_master").fetchall() == []


def test_a_lost_wal_is_noticed(folder: Path) -> None:
    """As after `kill -9`: the newest entries lie beside the file, not in it."""
    reader = sqlite3.connect(folder / "ledger.db")
    reader.execute("begin")
    reader.execute("select count(*) from entries").fetchall()  # keeps SQLite from moving them over
    ledger = open_ledger(folder)
    release(ledger, 3)
    wal = folder / "ledger.db-wal"
    assert wal.stat().st_size > 0
    ledger._store.engine.dispose()
    for kept in ("ledger.db", "ledger.db-wal"):
        shutil.copy(folder / kept, folder / f"{kept}.now")
    reader.close()
    for path in folder.glob("ledger.db-*[!w]"):
        path.unlink()
    (folder / "ledger.db.now").replace(folder / "ledger.db")
    with pytest.raises(LedgerError, match=r"has 5 entries, and had 7.*-wal"):
        open_ledger(folder)
    for path in folder.glob("ledger.db-shm"):
        path.unlink()
    (folder / "ledger.db-wal.now").replace(wal)
    assert open_ledger(folder).anchor[0] == 7


def no_anchor(folder: Path) -> None:
    (folder / "ledger.anchor").unlink()


def another_number(folder: Path) -> None:
    content = (folder / "ledger.anchor").read_bytes()
    (folder / "ledger.anchor").write_bytes(
        content.replace(b'"entries":5', b'"entries":3').replace(b'"entries":4', b'"entries":2')
    )


def noise(folder: Path) -> None:
    (folder / "ledger.anchor").write_bytes(os.urandom(1024))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (no_anchor, "anchor is gone"),
        (another_number, "not one that this site's key signed"),
        (noise, "key signed"),
    ],
)
def test_an_anchor_that_is_gone_or_forged_is_refused(
    folder: Path, spoil: Callable[[Path], None], sentence: str
) -> None:
    spoil(folder)
    with pytest.raises(LedgerError, match=sentence):
        open_ledger(folder)


def test_an_anchor_of_another_site_is_refused(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("south")
    shutil.copy(folder / "site.key", other / "site.key")
    south = Ledger(
        other / "ledger.db",
        site="south",
        cap=Cap(epsilon=8.0, delta=1e-5),
        clock=lambda: "",
        signer=site_signer(other),
    )
    south.close()
    shutil.copy(other / "ledger.anchor", folder / "ledger.anchor")
    with pytest.raises(LedgerError, match="key signed"):
        open_ledger(folder)


def test_a_crash_before_the_anchor_is_in_order(folder: Path) -> None:
    before = (folder / "ledger.anchor").read_bytes()
    ledger = open_ledger(folder)
    release(ledger, 3)
    ledger.close()
    (folder / "ledger.anchor").write_bytes(before)
    again = open_ledger(folder)
    assert again.anchor[0] == anchor_of(folder) == 7
    assert again.verify() == 7


def test_an_anchor_whose_writing_was_cut_off_leaves_the_one_before(folder: Path) -> None:
    """The ledger then must be longer: it is always written first."""
    content = (folder / "ledger.anchor").read_bytes()
    newest = max((0, 512), key=lambda at: json.loads(content[at : at + 512])["entries"])
    torn = content[:newest] + content[newest : newest + 99] + b"\0" * 413 + content[newest + 512 :]
    (folder / "ledger.anchor").write_bytes(torn)
    ledger = open_ledger(folder)
    assert ledger.anchor[0] == anchor_of(folder) == 5
    ledger.close()
    (folder / "ledger.anchor").write_bytes(torn)
    with sqlite3.connect(folder / "ledger.db") as connection:
        for name in ("entries_no_delete", "replies_no_delete"):
            connection.execute(f"drop trigger {name}")
        connection.execute("delete from entries where sequence = 5")
        connection.execute("delete from replies where request = 'r/train/2'")
    with pytest.raises(LedgerError, match="has 4 entries, and had 5"):
        open_ledger(folder)


def test_a_reply_whose_writer_was_stopped_before_the_anchor_is_anchored_before_it_goes_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = open_ledger(folder), open_ledger(folder)
    writer.reserve("r/train/3", PLAN.name)

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writer._anchor, "write", stopped)
    with pytest.raises(KeyboardInterrupt):
        writer.commit("r/train/3", PLAN.name, b"reply", {"releases": []})
    assert anchor_of(folder) == 6
    assert reader.stored_reply("r/train/3") == b"reply"
    assert anchor_of(folder) == 7


def test_two_processes_never_put_the_anchor_back(folder: Path) -> None:
    two = [open_ledger(folder) for _ in range(2)]
    for number in range(10):
        two[number % 2].reserve(f"more/{number}", PLAN.name)
        assert anchor_of(folder) == 6 + number
        two[number % 2].authorise(PLAN)  # enters nothing
        assert anchor_of(folder) == 6 + number


def test_a_file_that_is_swapped_under_a_running_site_is_noticed(folder: Path) -> None:
    ledger = open_ledger(folder)
    ledger._store.engine.dispose()
    shutil.copy(folder / "copy.db", folder / "ledger.db")
    with pytest.raises(LedgerError, match="entry 5 does not fit"):
        ledger.reserve("r/train/9", PLAN.name)


def test_a_clock_that_is_set_back_gives_nothing_back(folder: Path) -> None:
    spent = open_ledger(folder).spent()
    early = open_ledger(folder, at="1970-01-01T00:00:00+00:00")
    assert early.spent() == spent
    release(early, 3)
    assert early.spent().epsilon > spent.epsilon
    with pytest.raises(BudgetError):
        open_ledger(folder, epsilon=spent.epsilon).reserve("r/train/4", PLAN.name)


# -- keys ------------------------------------------------------------------------------------------


def test_another_key_is_refused(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (folder / "site.key").unlink()
    with pytest.raises(LedgerError, match="the key that signs the ledger is gone"):
        open_ledger(folder)
    other = tmp_path_factory.mktemp("other")
    site_signer(other)
    shutil.copy(other / "site.key", folder / "site.key")
    with pytest.raises(LedgerError, match="key signed"):
        open_ledger(folder)
    no_anchor(folder)
    with pytest.raises(LedgerError, match="another key than this site's"):
        open_ledger(folder)


def test_a_node_key_can_sign_too(tmp_path: Path) -> None:
    from clients.keys import _KeySigner, verifies

    for curve in (ec.SECP256R1(), ec.SECP384R1()):
        signer = _KeySigner(ec.generate_private_key(curve))
        assert verifies(signer.public, signer.sign(b"a"), b"a")
        assert not verifies(signer.public, signer.sign(b"a"), b"b")
    assert not verifies("no key", b"", b"")


def test_a_site_key_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "site.key").write_text("no key")
    with pytest.raises(InputError, match=r"site\.key"):
        site_signer(tmp_path)


def test_an_entry_that_the_key_did_not_sign_is_noticed(folder: Path) -> None:
    """Somebody who may write the file, but has not the key, continues the chain."""
    unsigned = sqlite3.connect(folder / "ledger.db")
    unsigned.execute("insert into entries values (?, ?, ?, ?, ?, ?, ?)", forged(folder))
    unsigned.commit()
    unsigned.close()
    with pytest.raises(LedgerError, match="the signature of entry 6"):
        open_ledger(folder)


def forged(folder: Path) -> tuple[Any, ...]:
    from clients.ledger.entries import sealed

    connection = sqlite3.connect(folder / "ledger.db")
    (head,) = connection.execute("select hash from entries where sequence = 5").fetchone()
    connection.close()
    other = folder / "other"
    columns = sealed(head, 6, "close", PLAN.name, "", {"at": ""}, site_signer(other))
    return tuple(columns.values())


def test_a_signed_ledger_takes_no_entry_without_the_key(folder: Path) -> None:
    bare = Ledger(folder / "ledger.db", site="north", cap=Cap(epsilon=8.0, delta=1e-5), clock=lambda: "")
    assert bare.verify() == 5
    with pytest.raises(LedgerError, match="no key was given"):
        bare.reserve("r/train/3", PLAN.name)


def test_a_ledger_of_the_first_format_says_what_to_do(folder: Path) -> None:
    with sqlite3.connect(folder / "ledger.db") as connection:
        connection.execute("drop trigger about_no_update")
        connection.execute("update about set version = 1")
    with pytest.raises(LedgerError, match=r"format 1, whose entries are not signed.*begin another storage"):
        open_ledger(folder)
