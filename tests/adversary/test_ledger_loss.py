"""What was spent stays spent, whatever becomes of the ledger's files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.audit.hostile_server import EVALUATE, HostileServer, instruction_for
from tests.adversary import wire
from tests.adversary.conftest import LaySite
from tests.adversary.rows import Figure, Rows


def database(site: Path) -> Path:
    """The ledger's own file."""
    (found,) = site.parent.rglob("ledger.db")
    return found


def beside(path: Path) -> list[Path]:
    return [path.with_name(path.name + ending) for ending in ("-wal", "-shm")]


def without_its_log(site: Path, early: Path, kept: Path) -> None:
    """The file alone, as it lay there while it was open: what was not checkpointed is lost."""
    del early
    path = database(site)
    wire.forget(site)
    for part in beside(path):
        part.unlink(missing_ok=True)
    shutil.copy(kept, path)


def an_older_copy(site: Path, early: Path, kept: Path) -> None:
    del kept
    path = database(site)
    wire.forget(site)
    for part in beside(path):
        part.unlink(missing_ok=True)
    shutil.copy(early, path)


def removed(site: Path, early: Path, kept: Path) -> None:
    del early, kept
    path = database(site)
    wire.forget(site)
    for part in (path, *beside(path)):
        part.unlink(missing_ok=True)


def emptied(site: Path, early: Path, kept: Path) -> None:
    del early, kept
    path = database(site)
    wire.forget(site)
    for part in beside(path):
        part.unlink(missing_ok=True)
    path.write_bytes(b"")


def of_another_site(site: Path, early: Path, kept: Path) -> None:
    """A new ledger of the same name, made elsewhere."""
    del early, kept
    other = site.parents[1] / "elsewhere"
    shutil.copytree(site.parent, other, ignore=shutil.ignore_patterns("tidegate"))
    wire.spent(other / "site.toml")
    wire.forget(other / "site.toml")
    removed(site, site, site)
    shutil.copy(database(other / "site.toml"), site.parent / "tidegate" / "ledger.db")


LOSSES: list[Callable[[Path, Path, Path], None]] = [
    without_its_log,
    an_older_copy,
    removed,
    emptied,
    of_another_site,
]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_no_loss_of_files_gives_budget_back(
    lay: LaySite, rows: Rows, figure: Figure, tmp_path: Path, loss: Callable[[Path, Path, Path], None]
) -> None:
    site = lay(rows, cap=3.0)
    server = HostileServer(site)
    server.ask(EVALUATE, instruction_for(EVALUATE, run="early"))
    wire.forget(site)  # as the end of an agent does
    early, kept = tmp_path / "early.db", tmp_path / "kept.db"
    shutil.copy(database(site), early)
    answered = 1
    for run in range(20):
        answered += not server.ask(EVALUATE, instruction_for(EVALUATE, run=f"r{run}")).refused
    spent = wire.spent(site)
    shutil.copy(database(site), kept)
    loss(site, early, kept)
    try:
        now = wire.spent(site)
    except Exception:
        now = spent
    more = [server.ask(EVALUATE, instruction_for(EVALUATE, run=f"again-{run}")) for run in range(20)]
    again = sum(not answer.refused for answer in more)
    figure(
        f"{loss.__name__.replace('_', ' ')}: spent {spent:.3g} before, {now:.3g} after; "
        f"{again} more answers after {answered} that spent the cap"
    )
    assert again == 0
    assert now >= spent


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_a_check_of_the_ledger_sees_the_loss(
    lay: LaySite, rows: Rows, figure: Figure, tmp_path: Path, loss: Callable[[Path, Path, Path], None]
) -> None:
    site = lay(rows, cap=3.0)
    server = HostileServer(site)
    server.ask(EVALUATE, instruction_for(EVALUATE, run="early"))
    wire.forget(site)
    early, kept = tmp_path / "early.db", tmp_path / "kept.db"
    shutil.copy(database(site), early)
    server.ask(EVALUATE, instruction_for(EVALUATE, run="late"))
    shutil.copy(database(site), kept)
    loss(site, early, kept)
    code, printed = wire.command("site", "ledger", str(site), "--verify")
    name = loss.__name__.replace("_", " ")
    figure(f"{name}: site ledger --verify says {printed.strip()[:60]!r}, exit code {code}")
    assert code in (1, 2)
