"""`tidegate run` asks a person at a terminal before it spends on what a plan warns of; a script ends."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import typer

from contract.errors import InputError
from experiments.cli import run
from tests.runtimes.conftest import SMALL, make_site


class _RanError(Exception):
    pass


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for seed, name in enumerate(("north", "south")):
        make_site(tmp_path / name, name, seed)
    for file, epsilon in (("small", 2.0), ("hidden", 0.05)):
        text = SMALL.format(
            kind="linear",
            strategy="fedavg",
            rounds=3,
            quorum=2,
            private="true",
            seed="evaluation_epsilon = 4.0",
        )
        (tmp_path / f"{file}.toml").write_text(text.replace("\nepsilon = 2.0", f"\nepsilon = {epsilon}"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("TIDEGATE_HOME", str(tmp_path / "home"))

    def spend(_request: object) -> None:
        raise _RanError

    monkeypatch.setattr("experiments.federated_run.run_experiment", spend)
    return tmp_path


def run_it(file: str, *, yes: bool = False, resume: str | None = None) -> None:
    paths = [Path("north/site.toml"), Path("south/site.toml")]
    run.run(Path(file), site=paths, yes=yes, resume=resume, sign_days=14)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """At a terminal where somebody says no."""
    questions: list[str] = []

    def confirm(question: str, **_options: object) -> bool:
        questions.append(question)
        return False

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(typer, "confirm", confirm)
    return questions


@pytest.mark.usefixtures("place")
def test_nothing_is_spent_on_what_cannot_succeed_by_whom_says_no(
    asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended:
        run_it("hidden.toml")
    assert ended.value.exit_code == 1
    assert asked == ["Run it all the same?"]
    told = capsys.readouterr().err
    assert "WARNING: The model would learn little: at privacy.epsilon = 0.05" in told
    assert "nothing was spent" in told


@pytest.mark.usefixtures("place")
def test_nobody_is_asked_without_need(asked: list[str]) -> None:
    for arguments in ({"file": "small.toml"}, {"file": "hidden.toml", "yes": True}):
        with pytest.raises(_RanError):
            run_it(**arguments)  # type: ignore[arg-type]
    with pytest.raises(_RanError):
        run_it("hidden.toml", resume="begun")
    assert asked == []


@pytest.mark.usefixtures("place")
def test_a_script_spends_nothing_until_it_says_yes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"not begun, and nothing was spent\. The model would .*--yes"):
        run_it("hidden.toml")
    with pytest.raises(_RanError):
        run_it("hidden.toml", yes=True)
    assert "WARNING: The model would learn" in capsys.readouterr().err
