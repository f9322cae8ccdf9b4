"""Flower's processes under our start: what they import, and what they leave."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import server.line.secret

_PROGRAM = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("secret", sys.argv[1])
secret = importlib.util.module_from_spec(spec)
spec.loader.exec_module(secret)
package, command, others = sys.argv[2], sys.argv[3], sys.argv[4:]
secret._skip_package(package)
module = importlib.import_module(f"{package}.{command}")
assert callable(getattr(module, command))
print([name for name in others if name in sys.modules])
"""


@pytest.mark.parametrize(
    "names",
    [
        ("flwr.supercore.cli", "flower_superexec", "flwr.supercore.cli.flwr_agentapp", "alembic", "torch"),
        ("flwr.superlink.cli", "flwr_serverapp", "flwr.superlink.cli.flower_superlink", "torch"),
    ],
)
def test_flowers_processes_import_none_of_its_other_commands(names: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", _PROGRAM, str(Path(server.line.secret.__file__)), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
