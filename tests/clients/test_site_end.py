"""A process that ends leaves each ledger whole in its one file, whatever it forgot to close."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtimes.conftest import make_site

_PROGRAM = """\
import os, sys
from pathlib import Path
from contract.collector import collect_rarely
from clients.site import open_site

collect_rarely()
for place in sys.argv[2:]:
    ledger = open_site(Path(place)).ledger
    ledger.kept = [ledger]  # a cycle, that nothing looks for
exec(sys.argv[1])
"""
ENDINGS = {"as it should": "", "by exit": "sys.exit(2)", "in an error": "1 / 0"}


def sidelogs(folder: Path, ending: str) -> list[Path]:
    places = [str(make_site(folder / name, name, seed=1)) for name in ("north", "south")]
    subprocess.run([sys.executable, "-c", _PROGRAM, ending, *places], check=False, capture_output=True)
    assert len(list(folder.rglob("ledger.db"))) == 2
    return list(folder.rglob("ledger.db-wal"))


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
def test_each_ledger_is_in_its_one_file(tmp_path: Path, ending: str) -> None:
    assert sidelogs(tmp_path, ending) == []


def test_a_process_that_is_killed_closes_nothing(tmp_path: Path) -> None:
    assert len(sidelogs(tmp_path, "os.kill(os.getpid(), 9)")) == 2
