"""Tests the adapters against the newest releases of the libraries that they adapt: `make newest`.

An environment of its own is made of the newest releases that pyproject.toml's ranges allow, with the exact
pins of `ADAPTED` lifted and without constraints.txt. Then the tests of each adapter run, and a table says
which releases pass. torch keeps its pin, for a newer one brings gigabytes of CUDA: `--lift torch` tries it.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started as a file, it sees its own folder only
from scripts.environments import ROOT, columns, make_environment, python_in, run_pip, run_tests

VENV = ROOT / ".venv-newest"

ADAPTED: Mapping[str, tuple[str, ...]] = {
    "flwr": ("tests/server/line", "tests/clients/line", "tests/server/gateway", "tests/runtimes"),
    "mlflow": ("tests/server/registry", "tests/server/api/test_mlflow.py", "tests/e2e/test_services.py"),
    "opacus": ("tests/clients/mechanisms",),
    "dp-accounting": ("tests/clients/ledger/test_accounting.py", "tests/golden"),
    "evidently": ("tests/monitoring/test_report.py", "tests/monitoring/test_detectors.py"),
    "apscheduler": ("tests/monitoring/test_schedule.py", "tests/server/test_schedule.py"),
    "ray": ("tests/runtimes/test_parity.py",),
    "torch": ("tests/clients/mechanisms", "tests/clients/test_app.py"),
}
"""Each library that one module of ours adapts, and the tests of that module."""

KEPT = frozenset({"torch"})
"""Those that keep their pin unless `--lift` names them."""

CHECKS_THE_PIN = (
    "tests/runtimes/test_private_modules.py::test_flower_is_the_version_that_the_adapters_were_written_for"
)
_NAME = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One library in the table.

    Attributes:
        pinned: the release in constraints.txt.
        newest: the newest in the package index; empty where the index does not say.
        tried: the release that was installed.
        tests: the last line of pytest.
        passed: whether all of them did.
    """

    library: str
    pinned: str
    newest: str
    tried: str
    tests: str
    passed: bool


def requirements(project: Mapping[str, object], lift: Iterable[str]) -> list[str]:
    """Everything that the project and its extras need, with `==` made `>=` for those that are lifted."""
    found: list[str] = list(project["dependencies"])  # type: ignore[call-overload]
    extras: Mapping[str, list[str]] = project["optional-dependencies"]  # type: ignore[assignment]
    for needed in extras.values():
        found += [one for one in needed if name_of(one) != project["name"]]  # an extra may name another
    lifted = set(lift)
    return [one.replace("==", ">=") if name_of(one) in lifted else one for one in dict.fromkeys(found)]


def name_of(requirement: str) -> str:
    """The library that a requirement or a line of constraints.txt names."""
    match = _NAME.match(requirement)
    return match[0].lower().replace("_", "-") if match else ""


def pins(constraints: str) -> dict[str, str]:
    """The release of each library in the text of constraints.txt."""
    lines = (line.partition("==") for line in constraints.splitlines() if not line.startswith("#"))
    return {name_of(name): version for name, equals, version in lines if equals}


def table(rows: Sequence[Row]) -> str:
    """The rows as text, one library a line."""
    cells = [("library", "pinned", "newest", "tried", "tests")]
    cells += [(row.library, row.pinned, row.newest or "not said", row.tried, _told(row)) for row in rows]
    return columns(cells)


def _told(row: Row) -> str:
    if row.newest in ("", row.tried):
        return row.tests
    if row.library in KEPT:
        return f"{row.tests}; {row.newest} was not tried: --lift {row.library}"
    return f"{row.tests}; {row.newest} could not be installed"


def main() -> int:
    """Make the environment, run the tests, print the table; 1 if a test failed."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    asked.add_argument("libraries", nargs="*", help="whose tests to run; all without", metavar="LIBRARY")
    asked.add_argument("--lift", action="append", default=[], choices=sorted(KEPT), help="lift this pin too")
    given = asked.parse_args()
    if unknown := set(given.libraries) - set(ADAPTED):
        asked.error(f"no adapter for {', '.join(sorted(unknown))}; there are {', '.join(ADAPTED)}")
    lift = set(ADAPTED) - KEPT | set(given.lift)
    if not _install(lift):
        print(
            "error: pip found no releases that go together; what stands against it is above", file=sys.stderr
        )
        return 1
    pinned = pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    rows = [_try(library, pinned[library]) for library in given.libraries or ADAPTED]
    print(table(rows))
    return 0 if all(row.passed for row in rows) else 1


def _install(lift: Iterable[str]) -> bool:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    make_environment(VENV)
    wanted = requirements(project, lift)
    own = ("--no-deps", "--editable", str(ROOT))  # its pins are what is lifted here
    return run_pip(VENV, "--upgrade", "--upgrade-strategy", "eager", *wanted) and run_pip(VENV, *own)


def _try(library: str, pinned: str) -> Row:
    print(f"{library}: {' '.join(ADAPTED[library])}", flush=True)
    last, passed = run_tests(VENV, "--deselect", CHECKS_THE_PIN, *ADAPTED[library])
    return Row(
        library=library,
        pinned=pinned,
        newest=_asked_of_pip("index", "versions", library, pattern=rf"{library} \((.+?)\)"),
        tried=_asked_of_pip("show", library, pattern=r"Version: (\S+)"),
        tests=last,
        passed=passed,
    )


def _asked_of_pip(*words: str, pattern: str) -> str:
    """What pip answers, as the pattern has it; empty where it does not."""
    asked = subprocess.run(
        [str(python_in(VENV)), "-m", "pip", "--disable-pip-version-check", *words],
        check=False,
        text=True,
        capture_output=True,
    )
    found = re.search(pattern, asked.stdout, re.IGNORECASE)
    return found[1] if found else ""


if __name__ == "__main__":
    sys.exit(main())
