"""What the data scientist's installation costs: seconds of `pip install`, and megabytes on disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from contract.errors import DataError, RoundError
from experiments.benchmarks.measurement import Measurement

__all__ = ["copy_tree", "install", "measure", "megabytes"]

_ROOT = Path(__file__).resolve().parents[2]
_OF_PIP = ("_distutils_hack", "distutils-precedence.pth", "pip", "pkg_resources", "setuptools")
"""What a new environment holds before anything is installed."""


def measure() -> list[Measurement]:
    """`pip install 'tidegate[scientist]'` from the source tree, pip's cache empty and then full.

    Raises:
        DataError: this program does not run from its source tree.
        RoundError: pip failed.
    """
    if not (_ROOT / "pyproject.toml").is_file():
        raise DataError(
            "the source tree is needed", where=str(_ROOT), remedy="Run this where Tidegate was checked out"
        )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tree = copy_tree(folder / "tree")
        first, _ = install(tree, folder / "first", folder / "cache")
        again, size = install(tree, folder / "again", folder / "cache")
    what = "pip install 'tidegate[scientist]'"
    return [
        Measurement(
            name=f"{what}, pip's cache empty",
            ours=first,
            theirs=None,
            unit="s",
            goal=20.0,
            note="building its wheel and downloading included",
        ),
        Measurement(name=f"{what}, pip's cache full", ours=again, theirs=None, unit="s", goal=20.0),
        Measurement(
            name=f"{what}, on disk",
            ours=size,
            theirs=None,
            unit="MB",
            goal=60.0,
            note="compiled files included, pip itself not",
        ),
    ]


def copy_tree(tree: Path) -> Path:
    """A copy of what is packed: building leaves files where it is done."""
    for package in _ROOT.glob("*/__init__.py"):
        name = package.parent.name
        shutil.copytree(_ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(_ROOT / name, tree / name)
    return tree


def install(tree: Path, place: Path, cache: Path, extra: str = "scientist") -> tuple[float, float]:
    """Seconds of the installation of an extra into a new environment at `place`, and its megabytes.

    Raises:
        RoundError: pip failed.
    """
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    command = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    constraints = _ROOT / "constraints.txt"
    began = time.perf_counter()
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "-c", str(constraints), f"{tree}[{extra}]"],
        env={**os.environ, "PIP_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RoundError(f"pip ended with status {done.returncode}: {done.stderr[-1000:]}")
    seconds = time.perf_counter() - began
    [packages] = place.glob("lib/python*/site-packages")
    return seconds, megabytes(packages)


def megabytes(packages: Path) -> float:
    """What the files under `packages` take, pip and setuptools left out."""
    files = [path for path in packages.rglob("*") if path.is_file()]
    counted = [path for path in files if not path.relative_to(packages).parts[0].startswith(_OF_PIP)]
    return sum(path.stat().st_size for path in counted) / 1e6
