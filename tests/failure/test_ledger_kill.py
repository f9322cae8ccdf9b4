"""kill -9 at random moments of a ledger's transactions, then an older state put back: never a budget back.

One process imports everything once and forks a writer for each kill. The writer says what it released,
after the ledger has said that it may; it dies by SIGKILL in between. Then the ledger is opened, whole; and an
older copy, the file without its `-wal`, and no file at all are not.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from clients.keys import site_signer
from clients.ledger.chain import Ledger
from clients.ledger.plan import Cap
from contract.errors import LedgerError
from tests.failure.federation import LONG

KILLS = 800 if LONG else 60

PROGRAM = """\
import json, os, random, signal, sys, time
from pathlib import Path
from clients.keys import site_signer
from clients.ledger.chain import Ledger
from clients.ledger.plan import Cap, Plan

folder, rng = Path(sys.argv[1]), random.Random(20261124)
plan = Plan(name="r/train", run="r", purpose="train", blocks=("w1/train",),
            noise_multiplier=2000.0, uses=10**6)

def write(kill, told):
    ledger = Ledger(folder / "ledger.db", site="north", cap=Cap(epsilon=8.0, delta=1e-5),
                    clock=lambda: "2026-03-01T00:00:00+00:00", signer=site_signer(folder))
    ledger.authorise(plan)
    os.write(told, b"open\\n")
    for number in range(10**6):
        ledger.reserve(f"{kill}/{number}", plan.name)
        ledger.commit(f"{kill}/{number}", plan.name, bytes(rng.randrange(2000)), {"releases": ["update"]})
        os.write(told, f"{kill}/{number} {ledger.anchor[0]}\\n".encode())

for line in sys.stdin:
    kill = int(line)
    heard, told = os.pipe()
    child = os.fork()
    if not child:
        os.close(heard)
        try:
            write(kill, told)
        finally:
            os._exit(1)
    os.close(told)
    with os.fdopen(heard) as said:
        before = "" if rng.random() < 0.2 else said.readline()  # some are killed while they open it
        time.sleep(rng.uniform(0.0, 0.12))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        print(json.dumps(before + said.read()), flush=True)
"""


def opened(folder: Path) -> Ledger:
    cap = Cap(epsilon=8.0, delta=1e-5)
    return Ledger(folder / "ledger.db", site="north", cap=cap, clock=lambda: "", signer=site_signer(folder))


def anchored(folder: Path) -> int:
    lines = (folder / "ledger.anchor").read_text().splitlines()
    return max((json.loads(line)["entries"] for line in lines if line.strip()), default=0)


def test_kill_nine_and_older_states_give_no_budget_back(tmp_path: Path) -> None:
    folder, older = tmp_path / "site", tmp_path / "older"
    seen = Counter[str]()
    spent, released = 0.0, set[str]()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        for kill in range(KILLS):
            writer.stdin.write(f"{kill}\n")
            writer.stdin.flush()
            said = json.loads(writer.stdout.readline())
            lines = [line.split() for line in said.splitlines() if line.count(" ") == 1]
            released |= {request for request, _ in lines}
            if (folder / "ledger.db").exists():
                most = max((int(entries) for _, entries in lines), default=0)
                seen["put back"] += refuses_older_states(folder, older, least=most)
                ledger = opened(folder)
                now, (entries, _) = ledger.spent().epsilon, ledger.anchor
                assert now >= spent
                assert entries >= most
                assert anchored(folder) == entries
                spent = now
                ledger.close()
                keep(folder, older)
        writer.stdin.close()
    ledger = opened(folder)
    assert ledger.verify() == ledger.anchor[0]
    committed = {entry.request for entry in ledger.entries() if entry.kind == "commit"}
    assert released <= committed
    print(f"{KILLS} kills, {len(released)} releases, {ledger.anchor[0]} entries; {dict(seen)}")
    assert len(released) > KILLS / 10, "the kills came before any release: they show nothing"
    assert seen["put back"] > KILLS / 4


def keep(folder: Path, older: Path) -> None:
    """As a backup of files would, at a moment when all is in one file."""
    older.mkdir(exist_ok=True)
    shutil.copy(folder / "ledger.db", older / "ledger.db")


def refuses_older_states(folder: Path, older: Path, *, least: int) -> int:
    """How many of the older states could be tried; each was refused, and everything is as it was."""
    tried = 0
    state = {path.name: path.read_bytes() for path in folder.glob("ledger.db*")}
    before = anchored(folder)
    assert before >= least, "it was released before its anchor was on the disk"
    for name in ("an older copy", "without -wal", "none"):
        for path in folder.glob("ledger.db*"):
            path.unlink()
        if name == "an older copy" and (older / "ledger.db").exists():
            shutil.copy(older / "ledger.db", folder / "ledger.db")
        elif name == "without -wal":
            (folder / "ledger.db").write_bytes(state["ledger.db"])
        if holds(folder) < before:
            tried += 1
            with pytest.raises(LedgerError):
                opened(folder)
        for path in folder.glob("ledger.db*"):
            path.unlink()
        for file, content in state.items():
            if not file.endswith("-shm"):
                (folder / file).write_bytes(content)
        assert anchored(folder) == before
    return tried


def holds(folder: Path) -> int:
    """How many entries the file as it lies there has."""
    import sqlite3

    path = folder / "ledger.db"
    if not path.exists():
        return 0
    aside = folder / "look.db"
    shutil.copy(path, aside)
    connection = sqlite3.connect(aside)
    try:
        (count,) = connection.execute("select count(*) from entries").fetchone()
        return int(count)
    except sqlite3.DatabaseError:
        return 0
    finally:
        connection.close()
        for left in folder.glob("look.db*"):
            left.unlink()
