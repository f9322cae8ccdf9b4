"""`make pythons`, and the Python that an environment is made with: what fits is found, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.pythons import QUICK, interpreters, versions

ROOT = Path(__file__).resolve().parents[2]
THIS = "{}.{}".format(*sys.version_info[:2])


def program(folder: Path, name: str, version: str, *, works: bool = True) -> Path:
    """Says that it is this version."""
    fits = "0" if works and version in versions() else "1"
    file = folder / name
    file.write_text(f"#!/bin/sh\n[ {fits} = 0 ] && echo {version}\nexit {fits}\n")
    file.chmod(0o755)
    return file


def chosen(folder: Path, *named: str) -> subprocess.CompletedProcess[str]:
    """What `scripts/python` says where only that folder's programs can be found."""
    return subprocess.run(
        ["/bin/sh", str(ROOT / "scripts/python"), *named],
        env={**os.environ, "PATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_versions_are_those_of_the_project_and_this_one_is_among_them() -> None:
    assert versions() == ["3.11", "3.12", "3.13"]
    assert THIS in versions()


def test_the_newest_that_works_makes_the_environment(tmp_path: Path) -> None:
    program(tmp_path, "python3.13", "3.13", works=False)  # a shim for one that is not installed
    fits = program(tmp_path, "python3.12", "3.12")
    program(tmp_path, "python3.11", "3.11")
    found = chosen(tmp_path)
    assert (found.returncode, found.stdout) == (0, f"{fits}\n")


def test_where_none_fits_it_says_what_to_install(tmp_path: Path) -> None:
    program(tmp_path, "python3", "3.9", works=False)
    found = chosen(tmp_path)
    assert (found.returncode, found.stdout) == (1, "")
    assert "Python 3.11, 3.12 or 3.13" in found.stderr
    assert "python3-venv" in found.stderr


@pytest.mark.parametrize("named", ["", "python3.9", "nowhere"])
def test_one_that_is_named_and_does_not_fit_is_told_in_a_sentence(tmp_path: Path, named: str) -> None:
    program(tmp_path, "python3.12", "3.12")
    program(tmp_path, "python3.9", "3.9", works=False)
    found = chosen(tmp_path, named)
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr.startswith(f"error: PYTHON='{named}' is no Python 3.11, 3.12 or 3.13 ")
    assert chosen(tmp_path, "python3.12").stdout == f"{tmp_path}/python3.12\n"


def test_a_working_interpreter_is_found_for_each_version(tmp_path: Path) -> None:
    shim = program(tmp_path, "shim", "3.12", works=False)
    other = program(tmp_path, "other", "3.12")
    second = program(tmp_path, "second", "3.12")
    old = program(tmp_path, "old", "3.9", works=True)
    found = interpreters(map(str, [shim, old, other, second, sys.executable]), versions())
    assert found == {"3.12": str(other), THIS: sys.executable} | (
        {"3.12": str(other)} if THIS == "3.12" else {}
    )


@pytest.mark.parametrize("name", QUICK)
def test_the_quick_tests_are_there(name: str) -> None:
    assert (ROOT / name).exists()


@pytest.mark.parametrize("index", ["", "https://wheels.example/cpu"])
def test_pytorch_comes_from_another_index_where_one_is_named(tmp_path: Path, index: str) -> None:
    """Its build for the CPU is of the same release, with a name behind it: pip takes it for the newer one."""
    asked = subprocess.run(
        ["make", "--dry-run", f"VENV={tmp_path}/new", f"TORCH_INDEX={index}", f"{tmp_path}/new/.demo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = [line for line in asked.stdout.splitlines() if "pip install" in line.replace(" -m ", " ")]
    assert ("--extra-index-url" in line, line.count(index) > 0) == (bool(index), True)


def test_an_environment_says_which_python_made_it(tmp_path: Path) -> None:
    place, python = tmp_path / "new", tmp_path / "python3.12"
    python.write_text(
        '#!/bin/sh\n[ "$1" = -V ] && echo Python 3.12.9\n'
        '[ "$1" != -m ] || { mkdir -p "$3/bin"; touch "$3/bin/python"; }\n'
    )
    python.chmod(0o755)
    making = ["make", f"VENV={place}", f"PYTHON={python}", f"{place}/bin/python"]
    made = subprocess.run(making, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"with {python} (Python 3.12.9)" in made.stdout
    assert (place / "bin" / "python").exists()
    none = ["make", f"VENV={tmp_path}/none", "PYTHON=", f"{tmp_path}/none/bin/python"]
    told = subprocess.run(none, cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.returncode == 2
    assert "error: PYTHON='' is no Python 3.11, 3.12 or 3.13" in told.stderr
