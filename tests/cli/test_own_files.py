"""Whatever a command writes is its user's alone, whatever the umask: states, keys, logs, models."""

from __future__ import annotations

import os
from pathlib import Path

from tests.commands import tidegate
from tests.failure.conftest import lay_out
from tests.mlflow_database import lay_mlflow_database
from tests.runtimes.conftest import SMALL


def test_nobody_else_can_read_what_commands_write(tmp_path: Path) -> None:
    sites = lay_out(tmp_path / "sites")
    text = SMALL.format(
        kind="linear", strategy="fedavg", rounds=1, quorum=3, private="false", seed="seed = 7"
    )
    (tmp_path / "small.toml").write_text(text)
    lay_mlflow_database(tmp_path / "mlruns" / "mlflow.db")
    given = set(tmp_path.rglob("*"))
    named = [word for site in sites for word in ("--site", str(site))]
    for command in (
        ("run", "small.toml", *named),
        ("schedule", "add", "small.toml"),
        ("site", "init", "fourth", "--name", "fourth"),
        ("data", "rand-health", "laid-out"),
    ):
        done = tidegate(tmp_path, *command, before=open_to_all)
        assert done.returncode in (0, 2), done.stderr  # 2: the data set is not here
    written = set(tmp_path.rglob("*")) - given
    assert {"state.db", "model", "site.toml", "ledger.db"} <= {path.name for path in written}
    assert [path for path in written if path.stat().st_mode & 0o077] == []


def open_to_all() -> None:
    os.umask(0)
