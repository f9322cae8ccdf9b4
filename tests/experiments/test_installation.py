"""Each installation brings what its commands need; without it a command says which one to make."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest

from experiments.installation import missing_library
from tests.installations import OURS, libraries, megabytes, modules, tidegate_with

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"fastapi", "flwr", "mlflow", "numpy", "pandas", "scipy", "sqlalchemy", "torch"}


def test_the_scientists_installation_is_small() -> None:
    names = libraries("scientist")
    assert {"httpx", "pydantic", "rich", "typer"} <= names
    assert not names & HEAVY
    assert megabytes(names) <= 60


def test_the_sizes_that_the_guide_states_are_those_of_today() -> None:
    text = (ROOT / "docs" / "operator.md").read_text(encoding="utf-8")
    table = text.partition("## What an installation takes")[2].partition("\n## ")[0]
    stated = {
        name: float(size.replace(",", ""))
        for name, size in re.findall(r"^\| `(\w+)`.*\| ([\d,]+) \|$", table, re.MULTILINE)
    }
    plain = {"scientist", "predict", "notebook", "inference", "server", "simulation"}
    assert stated.keys() == plain | {"site", "all"}
    cpu = "+cpu" in metadata.version("torch")  # with NVIDIA's libraries these two are others
    for extra in stated if cpu else plain:
        assert megabytes(libraries(extra)) == pytest.approx(stated[extra], rel=0.15), extra


def test_predicting_needs_numpy_and_no_more() -> None:
    assert libraries("predict") - libraries("scientist") == {"numpy"}


def test_the_sides_are_apart() -> None:
    site, server, both = libraries("site"), libraries("server"), libraries("all")
    assert {"torch", "opacus", "evidently", "dp-accounting"} <= site - server
    assert {"mlflow", "apscheduler"} <= server - site
    assert {"flwr", "sqlalchemy", "numpy"} <= site & server - libraries("scientist")
    assert both >= site | server | libraries("data")


@pytest.mark.parametrize(
    ("package", "extra"),
    [
        ("scientist", "scientist"),
        ("serving", "predict"),
        ("inference", "inference"),
        ("clients", "site"),
        ("server", "server"),
        ("experiments", "all"),
    ],
)
def test_no_package_imports_what_its_installation_lacks(package: str, extra: str) -> None:
    lacking = {
        (str(path.relative_to(ROOT)), name)
        for path in (ROOT / package).rglob("*.py")
        for name in imported(path) - modules(extra) - sys.stdlib_module_names
    }
    assert lacking <= ELSEWHERE


ELSEWHERE = {
    ("clients/cli/ledger_plot.py", "matplotlib"),  # says itself that a plot needs more
    ("experiments/reference.py", "docstring_parser"),  # for who works on Tidegate, of the extra `dev`
    ("serving/package_forward.py", "torch"),  # of a model that comes as a package
    ("serving/export/graph.py", "torch"),  # the same
    ("serving/export/graph.py", "onnx"),  # the server's, which makes what others serve
    ("serving/export/variants.py", "onnx"),
    ("serving/export/variants.py", "onnxruntime"),
    ("serving/onnx_session.py", "onnxruntime"),  # the inference service's, which has it
    ("experiments/runtimes/simulation.py", "ray"),  # the same, of the extra `simulation`
}


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("group", ["", "run", "runs", "site up", "server up"])
def test_help_needs_no_more_than_the_least_installation(group: str, tmp_path: Path) -> None:
    done = tidegate_with("scientist", tmp_path, *group.split(), "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        ("site ledger site.toml", "site"),
        ("site up site.toml", "site"),
        ("server up", "server"),
        ("schedule list", "server"),
        ("drift list heart-disease", "server"),
        ("models list heart-disease", "server"),
        ("run FILE", "all"),
        ("ranges FILE", "all"),
        ("demo", "all"),
        ("data heart-disease rows", "all"),
    ],
)
def test_a_command_without_its_libraries_says_what_to_install(
    arguments: str, extra: str, tmp_path: Path
) -> None:
    file = str(ROOT / "experiments" / "heart-disease.toml")
    done = tidegate_with("scientist", tmp_path, *arguments.replace("FILE", file).split())
    assert done.returncode == 2, done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert f"pip install 'tidegate[{extra}]'" in done.stderr
    asks_a_profile = arguments.split(maxsplit=1)[0] in ("schedule", "drift", "models")
    assert ("Or `tidegate connect` first" in done.stderr) is asks_a_profile
    assert list(tmp_path.iterdir()) == []


def test_a_module_of_ours_that_is_missing_is_no_matter_of_installation() -> None:
    for name in sorted({*OURS, "json"}):
        with pytest.raises(ModuleNotFoundError) as caught:
            importlib.import_module(f"{name}.nowhere")
        assert missing_library(caught.value) is None
