"""Flower's processes under our start: what they import, and what they leave."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import server.line.secret

_PROGRAM = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("secret", sys.argv[1])
secret = importlib.util.module_from_spec(spec)
spec.loader.exec_module(secret)
secret._skip_package("flwr.supercore.cli")
from flwr.supercore.cli.flower_superexec import flower_superexec
assert callable(flower_superexec)
print([name for name in ("flwr.supercore.cli.flwr_agentapp", "alembic", "torch") if name in sys.modules])
"""


def test_who_starts_runs_imports_none_of_flowers_other_commands() -> None:
    command = [sys.executable, "-c", _PROGRAM, str(Path(server.line.secret.__file__))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
