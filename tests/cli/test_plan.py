"""`tidegate plan`: two tables and the reasons why a run would fail, and nothing spent."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runtimes.conftest import SMALL, make_site

Command = Callable[..., str]
BOTH = ("--site", "north/site.toml", "--site", "south/site.toml")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for seed, name in enumerate(("north", "south")):
        make_site(tmp_path / name, name, seed)
    text = SMALL.format(
        kind="linear", strategy="fedavg", rounds=3, quorum=2, private="true", seed="evaluation_epsilon = 4.0"
    )
    (tmp_path / "small.toml").write_text(text)
    (tmp_path / "left.toml").write_text(
        text.replace("learning_rate = 0.5\n", "")
        .replace("epsilon = 4.0", "epsilon = 6.0")
        .replace("\nepsilon = 2.0", "\nepsilon = 9.0")
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("TIDEGATE_HOME", str(tmp_path / "home"))
    return tmp_path


def test_it_says_what_each_site_pays_and_how_well_the_result_is_told(tidegate: Command, place: Path) -> None:
    told = tidegate("plan", "small.toml", *BOTH, width=240)
    for words in ("3 rounds, so 4 exchanges", "north", "south", "where AUC is 0.75", "Nothing was spent"):
        assert words in told
    assert "~39" in told  # of 90 training rows, as no column says how many are held out
    assert not (place / "north" / "tidegate").exists()
    assert not (place / "home").exists()


def test_programs_read_the_same(tidegate: Command, place: Path) -> None:
    found = json.loads(tidegate("plan", "left.toml", *BOTH, "--json"))
    assert found["recipe"].startswith("Chosen by the recipe")
    assert found["exchanges"] == found["settings"]["rounds"] + 1
    assert [one["site"] for one in found["sites"]] == ["north", "south"]
    assert found["sites"][0]["epsilon_of_training_rows"] == pytest.approx(9.0, rel=1e-3)
    assert {one["metric"] for one in found["errors"]} == {"log_loss", "brier", "auc", "accuracy"}
    assert found["warnings"] == []


def test_it_warns_of_a_run_that_cannot_succeed(tidegate: Command, place: Path) -> None:
    text = (place / "small.toml").read_text()
    (place / "few.toml").write_text(
        text.replace("quorum = 2", "quorum = 3").replace("evaluation_epsilon = 4.0", "")
    )
    told = tidegate("plan", "few.toml", *BOTH, width=240)
    assert "strategy.quorum is 3" in told
    assert "No metric could be told" in told
    assert "too noisy" in told
    (place / "much.toml").write_text(text.replace("epsilon = 2.0", "epsilon = 2000.0"))
    assert "Site north would refuse the run: its cap of ε = " in tidegate("plan", "much.toml", *BOTH)


def test_a_figure_that_some_runs_could_not_tell_says_of_how_many(tidegate: Command, place: Path) -> None:
    text = (place / "small.toml").read_text()
    (place / "edge.toml").write_text(text.replace("evaluation_epsilon = 4.0", "evaluation_epsilon = 3.0"))
    errors = json.loads(tidegate("plan", "edge.toml", *BOTH, "--json"))["errors"]
    told = [one["told"] for one in errors if one["error"] is not None and one["told"] < 0.97]
    assert told, errors
    words = tidegate("plan", "edge.toml", *BOTH, width=400)
    for share in told:
        assert f"; told in {share:.0%} of runs" in words
    assert "±: from one imagined effect to the next" in words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("away.toml", *BOTH), "cannot be read"),
        (("small.toml", "--site", "away/site.toml"), "no such file"),
        (("small.toml",), "no server"),
        (("elsewhere.toml", *BOTH), "of the sites in strategy.sites (east, west) none is there"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    tidegate: Command, place: Path, arguments: tuple[str, ...], words: str
) -> None:
    text = (place / "small.toml").read_text()
    elsewhere = text.replace("quorum = 2", 'quorum = 2\nsites = ["east", "west"]')
    (place / "elsewhere.toml").write_text(elsewhere)
    told = tidegate("plan", *arguments, code=2)
    assert words in told
    assert told.count("\n") == 1


def test_the_curve_goes_from_noise_to_what_can_be_learnt(tidegate: Command, place: Path) -> None:
    text = (place / "left.toml").read_text()
    (place / "noisy.toml").write_text(text.replace("\nepsilon = 9.0", "\nepsilon = 0.2"))
    found = json.loads(tidegate("plan", "noisy.toml", *BOTH, "--plot", "curve.png", "--json"))
    curve = found["planted_effect"]
    assert [one["epsilon"] for one in curve] == [0.05, 0.1, 0.2, 0.4, 0.8]
    assert (place / "curve.png").read_bytes().startswith(b"\x89PNG")
    (alone,) = json.loads(tidegate("plan", "left.toml", *BOTH, "--json"))["planted_effect"]
    assert alone["epsilon"] == 9.0
    assert alone["kept"] > 0.5  # about .8; at .05 noise decides, which five repeats do not average out


@pytest.mark.parametrize(
    ("file", "plot", "words"),
    [
        ("small.toml", "curve.jpg", "a plot is a .png or an .svg"),
        ("small.toml", "away/curve.png", "its folder is missing"),
        ("plain.toml", "curve.png", "there is no curve of this experiment"),
    ],
)
def test_a_picture_that_cannot_be_is_refused_at_once(
    tidegate: Command, place: Path, file: str, plot: str, words: str
) -> None:
    text = (place / "small.toml").read_text()
    (place / "plain.toml").write_text(text.replace("private = true", "private = false"))
    assert words in tidegate("plan", file, *BOTH, "--plot", plot, code=2)
    assert not (place / plot).exists()
