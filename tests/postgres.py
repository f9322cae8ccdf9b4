"""A real PostgreSQL for tests: `TIDEGATE_TEST_POSTGRES`, or one started here."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

__all__ = ["ROLE_WITH_PASSWORD", "installed", "postgres"]

ROLE_WITH_PASSWORD = "tidegate_reader"  # noqa: S105  # a name
"""The one role of which the server started here asks a password."""


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The URL of a database whose owner may do everything; the test is skipped where there is none."""
    given = os.environ.get("TIDEGATE_TEST_POSTGRES")
    if given:
        yield given
        return
    initdb, control = installed("initdb"), installed("pg_ctl")
    if initdb is None or control is None:
        pytest.skip("PostgreSQL is not installed, and TIDEGATE_TEST_POSTGRES is not set")
    with tempfile.TemporaryDirectory() as folder:
        if (account := _account()) is not None:
            shutil.chown(folder, account)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        data = f"{folder}/data"
        _run(initdb, "-D", data, "-U", "tidegate", "-A", "trust", "-N")
        _ask_for_a_password(Path(data) / "pg_hba.conf")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        _run(control, "-D", data, "-w", "-l", f"{folder}/log", "-o", options, "start")
        try:
            yield f"postgresql://tidegate@127.0.0.1:{port}/postgres"
        finally:
            _run(control, "-D", data, "-m", "immediate", "stop")


def installed(name: str) -> str | None:
    candidates = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(candidates[-1]) if candidates else shutil.which(name)


def _account() -> str | None:
    """PostgreSQL refuses to run as root: an account to run it as, then."""
    if os.geteuid() != 0:
        return None
    return next((user.pw_name for user in pwd.getpwall() if user.pw_name in ("postgres", "nobody")), None)


def _run(*command: str) -> None:
    subprocess.run(command, user=_account(), cwd="/", check=True, capture_output=True, timeout=600)


def _ask_for_a_password(access: Path) -> None:
    """The first line that fits decides; all other roles are trusted."""
    rule = f"host all {ROLE_WITH_PASSWORD} 127.0.0.1/32 scram-sha-256\n"
    access.write_text(rule + access.read_text(encoding="utf-8"), encoding="utf-8")
