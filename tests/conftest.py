"""What holds for every test: where public data sets are, and that no connection leaves this machine.

Also the order of tests, and the line that says which of them were left out.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from contract.collector import collect_rarely
from tests.connections import HOOK, watched_environment
from tests.mlflow_database import _mlflow_databases

__all__ = ["_mlflow_databases"]

ROOT = Path(__file__).resolve().parents[1]

collect_ignore = [
    "example_model"
]  # a package of its own, that tests install: collected, it would be imported

_left: dict[str, int] = {}
"""How many long tests of each file this run leaves out."""

collect_rarely()  # as every command does: a worker imports whatever they all import


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first, and of these the groups of several files; a file's tests on one worker, as they share
    fixtures: a server costs seconds of a processor."""
    grouped = {item for item in items if is_marked(item, "xdist_group")}
    files = {path: pytest.mark.xdist_group(name_of(path)) for path in {item.path for item in items}}
    for item in items:
        if item not in grouped:
            item.add_marker(files[item.path])
    items.sort(key=lambda item: (not is_marked(item, "e2e"), item not in grouped))


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Every worker leaves out the same tests; it tells the process that prints."""
    left = Counter(name_of(item.path) for item in items if is_marked(item, "long"))
    _left.update(left)
    if items and hasattr(items[0].config, "workeroutput"):
        items[0].config.workeroutput["left"] = _left


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's
def pytest_testnodedown(node: Any, error: object) -> None:
    _left.update(getattr(node, "workeroutput", {}).get("left", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Which tests were left out; what tests/failure did and what it cost: each of its tests has counted."""
    if _left:
        files = ", ".join(f"{count} of {path}" for path, count in sorted(_left.items()))
        terminalreporter.write_line(f"left for `make long`, {sum(_left.values())} tests: {files}")
    reports = [one for found in terminalreporter.stats.values() for one in found]
    counts = [dict(one.user_properties) for one in reports if getattr(one, "when", None) == "call"]
    faults, lost, doubled = (
        sum(count.get(name, 0) for count in counts) for name in ("faults", "lost", "doubled")
    )
    if faults:
        words = f"faults injected {faults}, work lost {lost}, charges doubled {doubled}"
        terminalreporter.write_sep("=", words)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def is_marked(item: pytest.Item, name: str) -> bool:
    return any(item.iter_markers(name))


@pytest.fixture(scope="session", autouse=True)
def _no_connection_leaves_this_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Watches this process and every Python process that a test starts; the last test answers for all."""
    environment, log = watched_environment(tmp_path_factory.mktemp("connections"))
    os.environ.update(environment)
    exec(HOOK, {})  # noqa: S102 - what its children run, in this process too
    yield
    assert not log.exists(), f"connections to other machines:\n{log.read_text()}"


@pytest.fixture(scope="session", autouse=True)
def _no_profile_of_this_user(tmp_path_factory: pytest.TempPathFactory) -> None:
    """`tidegate run` of a test goes to no server that whoever runs the tests is connected to."""
    os.environ["XDG_CONFIG_HOME"] = str(tmp_path_factory.mktemp("config"))


@pytest.fixture
def data_dir(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """`data_dir(name)` is the data set's folder; the test is skipped, by its name, where there is none."""
    root = Path(os.environ.get("TIDEGATE_DATA_DIR") or ROOT.parent / "shared" / "data")

    def folder(name: str) -> Path:
        if not (root / name).is_dir():
            pytest.skip(f"data set '{name}' is not here")
        monkeypatch.setenv("TIDEGATE_DATA_DIR", str(root))
        return root / name

    return folder
