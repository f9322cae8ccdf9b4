"""Installs each extra by pip into an environment of its own, and tries what it is for: `make installations`.

What is installed is a copy of this tree, away from it, so that nothing of the checkout is found by chance.
The laptop's three and the inference service's take a minute; the others bring PyTorch, MLflow or Ray, and
take pip some minutes each.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started as a file, it sees its own folder only
from contract.errors import TidegateError
from experiments.benchmarks.installation import copy_tree, install
from scripts.environments import columns

_EVERY = """
import importlib, pkgutil, sys
for name in sys.argv[1:]:
    package = importlib.import_module(name)
    for one in pkgutil.walk_packages(package.__path__, name + "."):
        importlib.import_module(one.name)
"""
"""Imports every module of the packages that are named."""
_HEAVY = ("torch", "mlflow", "flwr", "ray")


@dataclass(frozen=True, kw_only=True)
class Use:
    """What an extra is for.

    Attributes:
        program: Python that must run where it is installed.
        packages: what the program is given.
        command: of `tidegate`, that must end well.
        lacks: libraries that must not come with it.
    """

    program: str
    packages: tuple[str, ...] = ()
    command: tuple[str, ...] = ("--help",)
    lacks: tuple[str, ...] = ()


USES = {
    "scientist": Use(
        program=f"{_EVERY}\nfrom experiments import connect, Experiment",
        packages=("scientist",),
        command=("connect", "--help"),
        lacks=(*_HEAVY, "numpy"),
    ),
    "predict": Use(
        program="import serving.prediction", command=("models", "predict", "--help"), lacks=_HEAVY
    ),
    "notebook": Use(program="import matplotlib\nfrom experiments import connect, Experiment", lacks=_HEAVY),
    "server": Use(program=_EVERY, packages=("server",), command=("server", "--help"), lacks=("torch",)),
    "site": Use(
        program=_EVERY,
        packages=("clients", "monitoring"),
        command=("site", "init", "made", "--name", "north"),
        lacks=("mlflow",),
    ),
    "inference": Use(
        program=_EVERY,
        packages=("inference",),
        command=("site", "serve", "--help"),
        lacks=(*_HEAVY, "pandas"),
    ),
    "data": Use(program="import experiments.data.datasets, pooch, sklearn, statsmodels"),
    "simulation": Use(program="import ray"),
    "all": Use(
        program=_EVERY, packages=("clients", "server", "monitoring", "serving"), command=("demo", "--help")
    ),
}


def tried(environment: Path, place: Path, use: Use) -> str:
    """What is wrong with an installation; nothing where it does what it is for.

    Args:
        environment: where it was installed.
        place: an empty folder, in which it is tried.
        use: what it is for.
    """
    absent = (
        "import importlib.util, sys\nsys.exit(' '.join(filter(importlib.util.find_spec, sys.argv[1:])) or 0)"
    )
    for what, words in (
        ("imports", ["python", "-c", use.program, *use.packages]),
        ("it brings", ["python", "-c", absent, *use.lacks]),
        (f"tidegate {' '.join(use.command)}", ["tidegate", *use.command]),
    ):
        command = [str(environment / "bin" / words[0]), *words[1:]]
        done = subprocess.run(
            command, cwd=place, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            return f"{what}: {(done.stderr.strip() or done.stdout.strip()).splitlines()[-1]}"
    return ""


def main() -> int:
    """Install, try, print the table; 1 where something is wrong."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    asked.add_argument("extras", nargs="*", help=f"of {', '.join(USES)}; all without", metavar="EXTRA")
    extras = asked.parse_args().extras or list(USES)
    if unknown := sorted({*extras} - USES.keys()):
        raise SystemExit(f"error: no extra {', '.join(unknown)}: there are {', '.join(USES)}")
    rows = [("extra", "pip, s", "MB", "came out")]
    for extra in extras:
        print(f"{extra}: pip says nothing for a while", flush=True)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "place").mkdir()
            try:
                seconds, size = install(
                    copy_tree(folder / "tree"), folder / "environment", folder / "cache", extra
                )
            except TidegateError as exc:
                rows.append((extra, "", "", str(exc)))
                continue
            wrong = tried(folder / "environment", folder / "place", USES[extra])
            rows.append((extra, f"{seconds:.0f}", f"{size:,.0f}", wrong or "yes"))
    print(columns(rows))
    return int(any(row[-1] != "yes" for row in rows[1:]))


if __name__ == "__main__":
    sys.exit(main())
