"""Environments beside `.venv` in which tests of this tree run, for `make newest` and `make pythons`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["ROOT", "columns", "make_environment", "python_in", "run_pip", "run_tests"]

ROOT = Path(__file__).resolve().parents[1]


def python_in(environment: Path) -> Path:
    """The interpreter of an environment."""
    return environment / "bin" / "python"


def make_environment(environment: Path, interpreter: str = sys.executable) -> None:
    """Make it, unless it is there."""
    if not python_in(environment).exists():
        subprocess.run([interpreter, "-m", "venv", str(environment)], check=True)


def run_pip(environment: Path, *words: str) -> bool:
    """Let its pip install something; whether it could. What stands against it is printed."""
    command = [str(python_in(environment)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    return subprocess.run([*command, *words], cwd=ROOT, check=False).returncode == 0


def run_tests(environment: Path, *words: str) -> tuple[str, bool]:
    """Run tests of this tree with what an environment holds.

    Args:
        environment: where.
        words: for pytest.

    Returns:
        pytest's last line, and whether all tests passed; if not, all that it said is printed.
    """
    workers = str(min(os.cpu_count() or 1, 4))
    command = [str(python_in(environment)), "-m", "pytest", "-q", "-n", workers]
    command += ["--dist", "loadgroup", "--no-loadscope-reorder", *words]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=variables, check=False, text=True, stdout=subprocess.PIPE)
    if done.returncode:
        print(done.stdout)
    last = (done.stdout.strip().splitlines() or ["no test ran"])[-1].strip("= ")
    return last, done.returncode == 0


def columns(cells: Sequence[Sequence[str]]) -> str:
    """Rows of words as text, in columns."""
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]])
        for line in cells
    )
