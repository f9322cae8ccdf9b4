"""What an installation of one extra holds, and `tidegate …` in a process that can import nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.commands import plain_environment

__all__ = ["OURS", "libraries", "megabytes", "modules", "python_with", "tidegate_with"]

_ROOT = Path(__file__).resolve().parents[1]
_PROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OURS = frozenset(
    {
        "clients",
        "contract",
        "experiments",
        "inference",
        "monitoring",
        "scientist",
        "server",
        "serving",
        "terminal",
    }
)


@cache
def libraries(extra: str) -> frozenset[str]:
    """The canonical names of what `pip install 'tidegate[extra]'` brings, by the metadata of what is here."""
    found: set[tuple[str, str]] = set()
    left = [Requirement(line) for line in _PROJECT["dependencies"]]
    left += [Requirement(line) for line in _PROJECT["optional-dependencies"][extra]]
    while left:
        needed = left.pop()
        name = canonicalize_name(needed.name)
        for chosen in ["", *needed.extras]:
            if (name, chosen) not in found and _installed(name):
                found.add((name, chosen))
                left += _required(name, chosen)
    return frozenset(name for name, _ in found) - {"tidegate"}


def _installed(name: str) -> bool:
    """Whether it is here: what is not, no test here could import (another system's libraries)."""
    if name == "tidegate":
        return True
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _required(name: str, extra: str) -> list[Requirement]:
    if name == "tidegate":  # of this tree, not of what an earlier one left in the environment's metadata
        lines = _PROJECT["optional-dependencies"][extra] if extra else []
        return [Requirement(line) for line in lines]
    needed = [Requirement(line) for line in metadata.requires(name) or []]
    return [one for one in needed if one.marker is None or one.marker.evaluate({"extra": extra})]


def megabytes(names: Iterable[str]) -> float:
    """What these take on disk, by their own lists of files."""
    return sum(file.size or 0 for name in names for file in metadata.files(name) or []) / 1e6


@cache
def _by_module() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()


def modules(extra: str) -> set[str]:
    """The top-level modules that can be imported where that extra was installed."""
    names = libraries(extra)
    found = {
        module
        for module, owners in _by_module().items()
        if any(canonicalize_name(owner) in names for owner in owners)
    }
    return found | OURS


_WITHOUT = """
import json, sys
refused = set(json.loads(sys.argv.pop(1)))
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Without())
"""
_TIDEGATE = """
from experiments.cli.main import main
main()
"""


def tidegate_with(
    extra: str, place: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command in `place`, as where nothing but that extra was installed."""
    return python_with(extra, place, _TIDEGATE, *arguments, environment=environment)


def python_with(
    extra: str, place: Path, program: str, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program in `place`, as where nothing but that extra was installed."""
    refused = json.dumps(sorted(_by_module().keys() - modules(extra)))
    paths = [str(_ROOT), *filter(None, [plain_environment().get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, "-c", _WITHOUT + program, refused, *arguments],
        cwd=place,
        env={**plain_environment(), "PYTHONPATH": os.pathsep.join(paths), **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
