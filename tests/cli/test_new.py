"""`tidegate new`: from site files to an experiment that runs, and what stands in the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from contract.experiment_file import parse_experiment
from tests.runtimes.conftest import make_site

Command = Callable[..., str]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for seed, name in enumerate(("north", "south")):
        make_site(tmp_path / name, name, seed)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


BOTH = ("--site", "north/site.toml", "--site", "south/site.toml")


def test_a_draft_of_two_sites_can_be_run(tidegate: Command, place: Path) -> None:
    told = tidegate("new", "ill-by-age.toml", *BOTH, "--label", "ill", "--feature", "age")
    assert "`tidegate run ill-by-age.toml`" in told
    experiment = parse_experiment((place / "ill-by-age.toml").read_text(), where="draft")
    assert experiment.name == "ill-by-age"
    assert [feature.name for feature in experiment.task.features] == ["age"]
    tidegate("new", "more.toml", "--from", "ill-by-age.toml", "--set", "strategy.rounds=2")
    more = parse_experiment((place / "more.toml").read_text(), where="variant")
    assert (more.name, more.strategy.rounds) == ("more", 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("x.toml",),
            "no site is named, and there is no profile of a server",
        ),
        (("x.toml", "--site", "away/site.toml"), "no such file"),
        (("x.toml", *BOTH, "--label", "agee"), "'agee' cannot be predicted"),
        (("x.toml", *BOTH, "--label", "ill", "--feature", "size"), "feature 'size' is on no card"),
        (("north/site.toml", *BOTH), "there is a file already"),
        (("away/x.toml", *BOTH, "--label", "ill"), "cannot be written"),
        (("x.toml", "--from", "away.toml"), "cannot be read"),
        (("x.toml", "--from", "north/site.toml"), "an experiment file is expected"),
        (("x.toml", "--from", "y.toml", "--label", "ill"), "--from takes everything"),
        (("x.toml", *BOTH, "--set", "a=1"), "--set goes with --from"),
        (("x.toml", *BOTH), "these can be: "),
    ],
)
def test_what_is_wrong_is_one_sentence(
    tidegate: Command, place: Path, arguments: tuple[str, ...], words: str
) -> None:
    told = tidegate("new", *arguments, code=2)
    assert words in told
    assert told.count("\n") == 1
    assert not (place / "x.toml").exists()
