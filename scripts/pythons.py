"""Installs Tidegate for each Python that is found here, and runs the quick tests: `make pythons`.

Looked for are `python3.11` to `python3.13` on the path and, where pyenv is, among its versions. Each gets an
environment of its own, `.venv-python3.12` and so on, with the releases of constraints.txt.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started as a file, it sees its own folder only
from scripts.environments import ROOT, columns, make_environment, run_pip, run_tests

QUICK = (
    "tests/contract",
    "tests/serving",
    "tests/terminal",
    "tests/monitoring",
    "tests/golden",
    "tests/clients",
)
QUICK += (
    "tests/scientist",
    "tests/server/exchange",
    "tests/server/state",
    "tests/experiments/test_federated_run.py",
)
"""What needs no other process, and the whole loop in this one."""


def versions() -> list[str]:
    """Those that pyproject.toml allows: `3.11`, `3.12` …, oldest first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", project["requires-python"])
    if bounds is None:
        raise SystemExit("error: pyproject.toml: requires-python is not of the form >=3.A,<3.B")
    return [f"3.{minor}" for minor in range(int(bounds[1]), int(bounds[2]))]


def interpreters(found: Iterable[str], wanted: Iterable[str]) -> dict[str, str]:
    """The first of those that work, for each version.

    Args:
        found: programs.
        wanted: versions.
    """
    tell = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"
    chosen: dict[str, str] = {}
    for program in found:
        asked = subprocess.run([program, "-c", tell], capture_output=True, text=True, check=False)
        if asked.returncode == 0:  # a shim of pyenv is there also for what is not installed
            chosen.setdefault(asked.stdout.strip(), program)
    return {version: chosen[version] for version in wanted if version in chosen}


def programs(wanted: Iterable[str]) -> list[str]:
    """What may be an interpreter of one of these versions."""
    named = [shutil.which(f"python{version}") for version in wanted]
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    return [*filter(None, named), *sorted(map(str, root.glob("versions/*/bin/python")))]


def main() -> int:
    """Install, test, print the table; 1 where a test failed or an installation did not go."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    asked.add_argument(
        "versions", nargs="*", help="such as 3.12; all that are found without", metavar="VERSION"
    )
    asked.add_argument(
        "--torch-index", default="", help="where pip finds PyTorch's wheels, such as those for the CPU"
    )
    given = asked.parse_args()
    known = versions()
    if unknown := set(given.versions) - set(known):
        asked.error(
            f"not a version that pyproject.toml allows: {', '.join(sorted(unknown))}; {', '.join(known)} are"
        )
    wanted = [version for version in known if version in given.versions or not given.versions]
    found = interpreters(programs(wanted), wanted)
    cells, failed = [("Python", "interpreter", "quick tests")], False
    for version in wanted:
        said, passed = (
            _try(version, found[version], given.torch_index) if version in found else ("not found", True)
        )
        cells.append((version, found.get(version, ""), said))
        failed |= not passed
    print(columns(cells))
    return 1 if failed or not found else 0


def _try(version: str, interpreter: str, torch_index: str) -> tuple[str, bool]:
    print(f"Python {version}: {interpreter}", flush=True)
    environment = ROOT / f".venv-python{version}"
    make_environment(environment, interpreter)
    more = ("--extra-index-url", torch_index) if torch_index else ()
    if not run_pip(environment, *more, "-c", "constraints.txt", "-e", ".[all,dev,simulation]"):
        return "could not be installed; what stands against it is above", False
    return run_tests(environment, "-m", "not e2e", *QUICK)


if __name__ == "__main__":
    sys.exit(main())
