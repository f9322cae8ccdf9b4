"""`make newest`: which pins are lifted, which tests run, and what the table says."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from scripts.newest import ADAPTED, CHECKS_THE_PIN, KEPT, Row, name_of, pins, requirements, table

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def row(**changed: str | bool) -> Row:
    values = {
        "library": "flwr",
        "pinned": "1.0",
        "newest": "1.1",
        "tried": "1.1",
        "tests": "9 passed in 1.0s",
    }
    return Row(**{**values, "passed": True, **changed})  # type: ignore[arg-type]


def test_only_the_adapted_libraries_lose_their_pin() -> None:
    found = requirements(PROJECT, set(ADAPTED) - KEPT)
    exact = {name_of(one) for one in found if "==" in one}
    assert exact == KEPT
    assert any(re.fullmatch(r"flwr>=1\.\d+\.\d+", one) for one in found)
    assert "pandas>=2.3,<3" in found  # a range stays as it is
    assert not any(one.startswith("tidegate") for one in found)
    assert requirements(PROJECT, ()).count("pandas>=2.3,<3") == 1
    assert any(one.startswith("torch==") for one in requirements(PROJECT, ()))


def test_every_exact_pin_of_the_project_has_an_adapter_whose_tests_are_known() -> None:
    exact = {name_of(one) for one in requirements(PROJECT, ()) if "==" in one}
    assert exact <= set(ADAPTED)
    for places in ADAPTED.values():
        assert all((ROOT / place).exists() for place in places), places
    file, _, test = CHECKS_THE_PIN.partition("::")
    assert f"def {test}(" in (ROOT / file).read_text()


def test_every_adapted_library_is_in_the_constraints_as_its_metadata_spells_it() -> None:
    pinned = pins((ROOT / "constraints.txt").read_text())
    assert set(ADAPTED) <= set(pinned)
    assert pins("# a==1\nAPScheduler==3.11.3\nimportlib_metadata==9.1.0\n") == {
        "apscheduler": "3.11.3",
        "importlib-metadata": "9.1.0",
    }


def test_the_table_says_what_was_tried_and_what_could_not_be() -> None:
    said = table(
        [
            row(),
            row(library="mlflow", newest="3.18.0", tried="3.17.2"),
            row(library="torch", newest="2.15.0", tried="2.13.0"),
            row(library="opacus", newest=""),
        ]
    ).splitlines()
    assert said[0].split() == ["library", "pinned", "newest", "tried", "tests"]
    assert said[1].split() == ["flwr", "1.0", "1.1", "1.1", "9", "passed", "in", "1.0s"]
    assert said[2].endswith("9 passed in 1.0s; 3.18.0 could not be installed")
    assert said[3].endswith("2.15.0 was not tried: --lift torch")
    assert "not said" in said[4]


def test_an_unknown_library_is_refused_before_anything_is_installed() -> None:
    asked = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "newest.py"), "flower"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == 2
    assert "no adapter for flower; there are flwr, mlflow" in asked.stderr
