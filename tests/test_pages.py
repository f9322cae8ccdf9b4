"""What the pages show is what there is: commands and keys that exist, blocks that run as they are written."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import typer
from pydantic import TypeAdapter

from clients.policy import Allow
from contract.experiment import Drift, Label, Model
from experiments.cli.main import app
from tests.scientist.conftest import Standing, standing, tidegate
from tests.scientist.test_model_use import rows_in

__all__ = ["standing", "tidegate"]

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)
_INLINE = re.compile(r"`(tidegate [^`\n]+)`")


def blocks(page: str, kind: str) -> list[str]:
    """The blocks of a language on a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [body for language, body in _BLOCK.findall(text) if language == kind]


def commands(page: Path) -> list[str]:
    """Each `tidegate …` of a page's bash blocks, lines that go on joined."""
    text = "\n".join(blocks(str(page.relative_to(ROOT)), "bash")).replace("\\\n", " ")
    return [line for line in text.splitlines() if line.startswith("tidegate ")]


def _words(line: str) -> list[str]:
    """Those of the command itself: the shell's signs end it."""
    return list(itertools.takewhile(lambda word: word[0] not in "<>|&", shlex.split(line, comments=True)[1:]))


def parsed(line: str) -> dict[str, Any]:
    """What the command line makes of it; nothing is done."""
    words, found, name, above = (
        _words(line),
        typer.main.get_command(app),
        "tidegate",
        None,
    )
    while True:
        context = found.make_context(name, words, parent=above)
        if not isinstance(found, click.Group):
            return context.params
        name, command, words = found.resolve_command(context, [*context._protected_args, *context.args])
        assert command is not None
        found, above = command, context


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_command_of_a_block_is_one(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for line in commands(page):
        try:
            parsed(line.replace("VERSION", "1"))
        except click.UsageError as exc:
            pytest.fail(f"{page.name}: {line}: {exc.format_message()}")


def test_there_are_commands_to_look_at() -> None:
    assert sum(len(commands(page)) for page in PAGES) > 30
    with pytest.raises(click.UsageError):
        parsed("tidegate plan visits.toml --kurve")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_option_of_a_command_in_a_sentence_exists(page: Path) -> None:
    wrong = []
    for line in _INLINE.findall(_BLOCK.sub("", page.read_text(encoding="utf-8"))):
        found: click.Command = typer.main.get_command(app)
        for word in line.split()[1:]:
            if isinstance(found, click.Group):
                if word in found.commands:
                    found = found.commands[word]
                elif re.fullmatch(r"[a-z][a-z-]*", word):
                    wrong.append(f"{line}: no command '{word}'")
                    break
        known = {name for one in found.params for name in (*one.opts, *one.secondary_opts)} | {"--help"}
        wrong += [
            f"{line}: no option {one}" for one in re.findall(r"(?<!\S)--[a-z-]+", line) if one not in known
        ]
    assert wrong == []


def test_each_table_of_keys_is_read() -> None:
    readers: dict[str, Any] = {"model": Model, "label": Label, "drift": Drift, "allow": Allow}
    read = []
    for page in ("docs/data-scientist.md", "docs/own-models.md"):
        for block in blocks(page, "toml"):
            found = tomllib.loads(block)
            if "project" in found:
                example = tomllib.loads((ROOT / "tests/example_model/pyproject.toml").read_text())
                assert found["project"]["entry-points"] == example["project"]["entry-points"]
                continue
            (name,) = found
            name, table = (name, found[name]) if name in readers else next(iter(found[name].items()))
            TypeAdapter(readers[name]).validate_python(table)
            read.append(name)
    assert sorted(read) == sorted(readers)


def test_the_commands_of_a_scientists_page_do_what_it_says(
    standing: Standing, tidegate: Callable[..., str], tmp_path: Path
) -> None:
    """By a profile, in a fresh folder, with this federation's names for label, model and version."""
    standing.connect("ada", "scientist")
    for name in ("TIDEGATE_HOME", "MLFLOW_TRACKING_URI", "TIDEGATE_ARTIFACT_ROOT"):
        standing.patch.delenv(name, raising=False)
    lines = commands(ROOT / "docs/data-scientist.md")
    rows_in(tmp_path, standing).rename("patients.csv")
    ran = []
    for line in lines:
        words = shlex.split(line.replace("--label readmitted", "--label ill --feature age"))[1:]
        if words[0] == "models":
            words = ["fake" if word == "readmitted" else "2" if word == "3" else word for word in words]
        if words[0] in ("new", "plan", "models"):
            tidegate(*words)
            ran.append(" ".join(words[:2]))
    assert len(ran) == 5
    assert Path("larger.toml").exists()
    assert Path("predictions.csv").read_text().count("\n") == 5
    standing.here()
    (block,) = blocks("docs/data-scientist.md", "python")
    names: dict[str, Any] = {}
    exec(block.split("import mlflow")[0], names)  # noqa: S102 - the rest: tests/server/registry/test_pyfunc.py
    assert names["found"].reason.tolist()[0] == ""


@pytest.mark.long
@pytest.mark.e2e
def test_the_program_of_the_page_on_python_runs(data_dir: Callable[[str], Path], tmp_path: Path) -> None:
    (block,) = blocks("docs/python.md", "python")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW")}
    done = subprocess.run(
        [sys.executable, "-c", block],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "round 60" in done.stdout
    assert "'prediction': [" in done.stdout
