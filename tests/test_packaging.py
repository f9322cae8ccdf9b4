"""What is packed is what is installed: every file of the packages, from a source distribution too."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from tests.installations import OURS

ROOT = Path(__file__).resolve().parents[1]
_BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


def build(what: str, tree: Path, into: Path) -> Path:
    done = subprocess.run(
        [sys.executable, "-c", _BUILD, what, str(into)],
        cwd=tree, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return into / done.stdout.splitlines()[-1]


def test_a_wheel_from_the_source_distribution_holds_every_file(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for package in OURS:
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    files = {
        str(path.relative_to(tree)) for one in OURS for path in (tree / one).rglob("*") if path.is_file()
    }
    with tarfile.open(build("build_sdist", tree, tmp_path)) as packed:
        packed.extractall(tmp_path / "unpacked", filter="data")
    [source] = (tmp_path / "unpacked").iterdir()
    with zipfile.ZipFile(build("build_wheel", source, tmp_path)) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
        [entry] = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
        assert "tidegate = experiments.cli.main:main" in wheel.read(entry).decode()
    assert held == files
