"""The examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("contract", "serving", "terminal", "clients", "monitoring", "server", "scientist", "experiments")
OPTIONS = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL


def test_the_examples_in_the_docstrings_are_true() -> None:
    """One test of all: pytest's own collector would import every module of the project in each worker."""
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    files.append(ROOT / "tests" / "adversary" / "privacy.py")
    with_examples = [path for path in files if ">>> " in path.read_text(encoding="utf-8")]
    assert len(with_examples) > 20
    for path in with_examples:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found = doctest.testmod(importlib.import_module(name), optionflags=OPTIONS)
        assert found.attempted > 0, f"{name}: no example is found"
        assert found.failed == 0, f"{name}: the examples that fail are printed above"
