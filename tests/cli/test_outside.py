"""Commands that look at a server's state where no server was: they say so, and make nothing."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.registry.registry import Registry
from server.state import sqlite_files
from server.state.storage import open_state
from tests.cli.conftest import tidegate
from tests.commands import tidegate as in_process_of_its_own
from tests.mlflow_database import lay_mlflow_database
from tests.runtimes.conftest import SMALL

__all__ = ["tidegate"]

READING = [
    ("server", "status"),
    ("server", "status", "--json"),
    ("server", "status", "--watch"),
    ("server", "status", "--run", "r"),
    ("server", "sites"),
    ("server", "sites", "--json"),
    ("server", "backup", "saved"),
    ("drift", "list", "small"),
    ("drift", "list", "small", "--json"),
    ("drift", "show", "small", "w1"),
    ("drift", "check", "small.toml", "w1"),
    ("models", "list", "small"),
    ("models", "list", "small", "--json"),
    ("models", "show", "small", "1"),
    ("models", "ui", "--port", "0"),
    ("schedule", "list"),
    ("schedule", "list", "--json"),
    ("schedule", "list", "small"),
]
CHANGING = [
    ("server", "admit", "north", "node.pub"),
    ("server", "readmit", "north"),
    ("server", "dismiss", "north"),
    ("models", "approve", "small", "1", "--by", "A", "--reason", "r"),
    ("models", "refuse", "small", "1", "--by", "A", "--reason", "r"),
    ("models", "rollback", "small", "1", "--by", "A", "--reason", "r"),
    ("schedule", "add", "small.toml"),
    ("schedule", "unsign", "small"),
    ("schedule", "pause", "small"),
    ("schedule", "resume", "small"),
    ("schedule", "remove", "small"),
]


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which no command was run."""
    text = SMALL.format(
        kind="linear", strategy="fedavg", rounds=1, quorum=1, private="false", seed="seed = 7"
    )
    (tmp_path / "small.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith(("TIDEGATE_", "MLFLOW_")) and name != "TIDEGATE_DATA_DIR":
            monkeypatch.delenv(name)
    return tmp_path


@pytest.mark.parametrize("command", [*READING, *CHANGING], ids=" ".join)
def test_it_says_that_no_server_is_here_and_makes_nothing(
    command: tuple[str, ...], outside: Path, tidegate: object
) -> None:
    told = tidegate(*command, code=2)  # type: ignore[operator]
    assert any(
        words in told
        for words in (
            "there is no server here",
            "there are no models here",
            "no server was started from here",
        )
    )
    assert "TIDEGATE_HOME" in told or "MLFLOW_TRACKING_URI" in told
    assert [path.name for path in outside.iterdir()] == ["small.toml"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_files, "BUSY_SECONDS", 0.2)
    monkeypatch.setattr("server.state.database.BUSY_SECONDS", 0.2)


STATE = [command for command in READING if command[0] in ("schedule",) or command[:2] == ("server", "sites")]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("command", [*STATE, ("server", "status"), ("drift", "list", "small")], ids=" ".join)
def test_a_locked_state_is_one_sentence(command: tuple[str, ...], outside: Path, tidegate: object) -> None:
    open_state(f"sqlite:///{outside}/.tidegate/state.db").close()
    holder = sqlite3.connect(outside / ".tidegate" / "state.db", isolation_level=None)
    holder.execute("PRAGMA locking_mode=EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    told = tidegate(*command, code=1)  # type: ignore[operator]
    holder.close()
    assert "another process has held the state database" in told
    assert "Stop it" in told
    assert told.count("\n") == 1
    tidegate(*STATE[0])  # type: ignore[operator]


@pytest.mark.usefixtures("quick")
def test_a_locked_mlflow_is_one_sentence(outside: Path, tidegate: object) -> None:
    Registry(f"sqlite:///{outside}/mlruns/mlflow.db", outside / "mlruns" / "artifacts").connect()
    holder = sqlite3.connect(outside / "mlruns" / "mlflow.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    told = tidegate("models", "list", "small", code=1)  # type: ignore[operator]
    holder.close()
    assert "another process has held MLflow's database" in told
    assert told.count("\n") == 1


@pytest.mark.usefixtures("quick")
def test_a_locked_superlink_is_one_sentence(outside: Path, tidegate: object) -> None:
    (outside / ".tidegate").mkdir()
    holder = sqlite3.connect(outside / ".tidegate" / "superlink.db", isolation_level=None)
    holder.execute("CREATE TABLE a (b TEXT)")
    holder.execute("BEGIN EXCLUSIVE")
    told = tidegate("server", "up", "--port", "0", "--ui-port", "0", code=1)  # type: ignore[operator]
    holder.close()
    assert "superlink.db: another process has held the SuperLink's database" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    "by", ["", "  ", "a" * 201, "a\x1b[2J", "a\udcff"], ids=["nothing", "blanks", "long", "steers", "bytes"]
)
def test_a_decision_by_nobody_is_refused(by: str, outside: Path, tidegate: object) -> None:
    arguments = ("models", "approve", "small", "1", "--by", by, "--reason", "r")
    assert "--by: this cannot be recorded" in tidegate(*arguments, code=2)  # type: ignore[operator]
    assert outside.exists()


@pytest.fixture
def read_only(outside: Path) -> Iterator[Path]:
    """An operator's folder on a disk that cannot be written any more."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(outside)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        open_state(f"sqlite:///{outside}/.tidegate/state.db").close()
        lay_mlflow_database(outside / "mlruns" / "mlflow.db")
        subprocess.run(["mount", "-o", "remount,ro", str(outside)], check=True)
        yield outside
    finally:
        os.chdir("/")
        subprocess.run(["umount", "--lazy", str(outside)], check=True)


@pytest.mark.parametrize(
    "command",
    [("server", "up"), ("server", "status"), ("models", "list", "small"), ("server", "backup", "saved")],
    ids=" ".join,
)
def test_a_folder_that_cannot_be_written_is_one_sentence(command: tuple[str, ...], read_only: Path) -> None:
    done = in_process_of_its_own(read_only, *command)
    assert "Traceback" not in done.stderr
    assert done.returncode in (1, 2), (done.stdout, done.stderr)
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_an_interface_that_ends_badly_is_no_success(
    outside: Path, tidegate: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_mlflow_database(outside / "mlruns" / "mlflow.db")
    failing = [sys.executable, "-c", "raise SystemExit(3)"]
    monkeypatch.setattr("server.registry.registry_ui.serve_command", lambda *_: failing)
    assert "the MLflow UI ended with status 3" in tidegate("models", "ui", "--port", "0", code=1)  # type: ignore[operator]


def test_where_others_reach_the_server_no_port_leads_to_the_interface(
    outside: Path, tidegate: object
) -> None:
    lay_mlflow_database(outside / "mlruns" / "mlflow.db")
    (outside / ".tidegate").mkdir(exist_ok=True)
    (outside / ".tidegate" / "server.toml").write_text('hosts = ["tidegate.example.org"]\n')
    said = tidegate("models", "ui", "--port", "0", code=2)  # type: ignore[operator]
    assert "https://tidegate.example.org:8443/mlflow/" in " ".join(said.split())
