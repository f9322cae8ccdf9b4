"""A folder has one server at a time, and none for longer than its process lives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from contract.errors import AddressError
from server.line.processes import alone_in
from tests.commands import tidegate

HOLDS = """
import sys, time
from pathlib import Path
from server.line.processes import alone_in
with alone_in(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_server_of_a_folder_is_refused_whatever_its_ports(tmp_path: Path) -> None:
    """It would hand out the same messages; one that is killed outright leaves the folder to the next."""
    home = tmp_path / ".tidegate"
    home.mkdir()
    holder = subprocess.Popen([sys.executable, "-c", HOLDS, home], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        told = tidegate(tmp_path, "server", "up", "--port", "0", "--ui-port", "0")
        assert told.returncode == 2, told.stderr
        assert "a server of this folder runs already" in told.stderr
        assert {path.name for path in home.iterdir()} == {"server.lock"}
    finally:
        holder.kill()
        holder.wait()
    with alone_in(home), pytest.raises(AddressError, match="runs already"), alone_in(home):
        pass
    with alone_in(home):
        assert (home / "server.lock").stat().st_mode & 0o077 == 0
