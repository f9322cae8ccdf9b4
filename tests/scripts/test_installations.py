"""`make installations`: each extra has a use that is tried, and what is wrong with one is a sentence."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from scripts.installations import USES, Use, tried

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(sys.executable).parents[1]


def test_every_extra_that_a_user_installs_is_tried() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert USES.keys() == project["optional-dependencies"].keys() - {"engine", "dev"}


@pytest.mark.parametrize(
    ("use", "wrong"),
    [
        (Use(program="import contract", lacks=("nowhere",)), ""),
        (Use(program="import nowhere"), "imports: ModuleNotFoundError: No module named 'nowhere'"),
        (Use(program="", lacks=("json", "nowhere")), "it brings: json"),
        (Use(program="", command=("nothing",)), "tidegate nothing: "),
    ],
)
def test_what_is_wrong_with_an_installation_is_said(use: Use, wrong: str, tmp_path: Path) -> None:
    found = tried(HERE, tmp_path, use)
    assert found.startswith(wrong) if wrong else found == ""


def test_an_unknown_extra_is_refused_before_anything_is_installed(tmp_path: Path) -> None:
    program = str(ROOT / "scripts" / "installations.py")
    done = subprocess.run(
        [sys.executable, program, "nowhere"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: no extra nowhere: there are scientist, predict")
