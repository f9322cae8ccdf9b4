"""A closed window is compared with its season, and the verdict, the lists and the schedule say so."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from clients import site as sites_open
from clients.app import app
from clients.site import open_site
from contract.experiment import Experiment
from contract.experiment_file import parse_experiment
from contract.verdicts import Verdict
from experiments.runtimes.inline import InlineGrid
from server.cycle import run_cycle
from server.jobs.job import Job
from server.jobs.training_job import Services
from server.line.flower import assume_identity
from server.registry.registry import Registry
from server.settings import read_settings
from server.state.storage import State, open_state
from server.window_runs import outcome_words
from tests.cards import card_for

TEXT = """\
name = "seasonal"
[task]
time = "seen"
label = { column = "ill" }
[[task.features]]
name = "level"
kind = "numeric"
low = 0
high = 100
[strategy]
grace = 0.1
round_timeout = 300.0
[privacy]
private = false
seed = 7
[drift]
reference = "same-season"
[retraining]
enabled = false
"""
EXPERIMENT = parse_experiment(TEXT, where="test")
TOGETHER = parse_experiment(TEXT.replace('reference = "same-season"\n', ""), where="test")
WINTER, SUMMER = ("2024-01", "2025-01"), ("2024-07", "2025-07")
TRAINED = (*WINTER, *SUMMER)
SITES = ("north", "south")

Command = Callable[..., str]


@pytest.fixture
def sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    monkeypatch.setattr(sites_open, "_open", {})
    monkeypatch.setattr("clients.mechanisms.drift.write_local_report", lambda *_: None)  # seconds
    yield [_site(tmp_path / name, name, seed) for seed, name in enumerate(SITES)]
    for known in sites_open._open.values():
        known.ledger.close()


def _site(folder: Path, name: str, seed: int) -> Path:
    """Each winter's levels are low and each summer's are high; nothing else changes from year to year."""
    rng = np.random.default_rng(seed)
    lines = ["level,ill,seen,side"]
    for window in (*TRAINED, "2026-01", "2026-04", "2026-07"):
        low, high = (10, 50) if window.endswith("01") else (50, 90)
        lines += [
            f"{rng.uniform(low, high):.3f},{row % 2},{window}-11,{'holdout' if row % 4 == 0 else 'train'}"
            for row in range(200)
        ]
    folder.mkdir()
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    card = card_for(EXPERIMENT, holdout="side")
    card = card.replace('{ column = "seen" }', '{ column = "seen", kind = "date", every = "month" }')
    (folder / "site.toml").write_text(
        f'name = "{name}"\nstated_rows = 900\n[data]\nkind = "csv"\npath = "rows.csv"\n'
        f"{card}[policy]\nrequire_private = false\n"
    )
    return folder / "site.toml"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[State]:
    """The state that the commands read."""
    monkeypatch.setenv("TIDEGATE_HOME", str(tmp_path / "home"))
    with open_state(read_settings().state_url) as state:
        yield state


def champion(state: State, *windows: str) -> None:
    state.start_run("r1", experiment=EXPERIMENT, job="train", trigger="test", code_hash="c0de")
    state.link_run("r1", model_version=1, result=json.dumps({"windows": windows}))
    state.record_decision(
        EXPERIMENT.name, window="w", kind="promote", subject="version 1", by="test", reason=""
    )


def check(
    window: str, sites: list[Path], state: State, tmp_path: Path, experiment: Experiment = EXPERIMENT
) -> Verdict:
    job = Job(kind="cycle", run=f"check-{window}", experiment=experiment, window=window)
    grid = InlineGrid(app, sites, job.to_run_config())
    assume_identity(grid.run_id)
    (tmp_path / "file").write_text("")
    nowhere = Registry(f"sqlite:///{tmp_path}/file/mlflow.db", tmp_path / "artifacts")
    run_cycle(job, Services(grid=grid, state=state, registry=nowhere, rng=np.random.default_rng(7)))
    found = [one for one in state.verdicts(experiment.name) if one.window == window]
    return Verdict.from_json(json.dumps(dict(found[-1].verdict)))


def test_what_changes_with_the_season_alone_is_no_drift(
    sites: list[Path], home: State, tmp_path: Path
) -> None:
    champion(home, *TRAINED)
    for window, reference, season in (("2026-01", WINTER, "January"), ("2026-07", SUMMER, "July")):
        verdict = check(window, sites, home, tmp_path)
        assert verdict.reference_window == "+".join(reference)
        assert verdict.reference == f"the training windows of {season}"
        assert not verdict.alarm


def test_the_same_window_against_all_of_them_is(sites: list[Path], home: State, tmp_path: Path) -> None:
    champion(home, *TRAINED)
    verdict = check("2026-01", sites, home, tmp_path, TOGETHER)
    assert verdict.reference_window == "+".join(TRAINED)
    assert verdict.reference == ""
    assert verdict.sites_in_alarm == SITES


def test_each_season_is_asked_for_its_own_blocks(sites: list[Path], home: State, tmp_path: Path) -> None:
    champion(home, *TRAINED)
    check("2026-01", sites, home, tmp_path)
    for path in sites:
        plans = [
            entry.body["blocks"] for entry in open_site(path).ledger.entries() if entry.kind == "authorise"
        ]
        blocks = {block.split("/")[0] for found in plans for block in found}
        assert blocks == {*WINTER, "2026-01"}


@pytest.mark.parametrize(
    ("trained", "words"),
    [
        (TRAINED, "all training windows: none of them is of April"),
        ((), "all rows: the model was not trained on windows, and so on none of April alone"),
    ],
)
def test_a_season_that_was_not_trained_on_is_judged_and_that_is_said(
    sites: list[Path], home: State, tmp_path: Path, tidegate: Command, trained: tuple[str, ...], words: str
) -> None:
    champion(home, *trained)
    verdict = check("2026-04", sites, home, tmp_path)
    assert (verdict.reference_window, verdict.reference) == ("+".join(trained), words)
    run = home.run("check-2026-04")
    assert run is not None
    assert f"against {words}" in outcome_words(run)
    assert words in tidegate("drift", "list", "seasonal", width=300)
    told = tidegate("drift", "show", "seasonal", "2026-04", width=300)
    assert f"Compared with {words}." in told
    assert ("against all rows" in " ".join(told.split())) == (not trained)


def test_the_lists_say_what_was_compared_with_what(
    sites: list[Path], home: State, tmp_path: Path, tidegate: Command
) -> None:
    champion(home, *TRAINED)
    check("2026-01", sites, home, tmp_path)
    words = "the training windows of January"
    assert words in tidegate("drift", "list", "seasonal", width=300)
    told = tidegate("drift", "show", "seasonal", "2026-01", width=300)
    assert f"Compared with {words}." in told
    assert "against 2024-01, 2025-01" in " ".join(told.split())
    (listed,) = json.loads(tidegate("drift", "list", "seasonal", "--json"))["verdicts"]
    shown = json.loads(tidegate("drift", "show", "seasonal", "2026-01", "--json"))
    assert listed == shown
    assert shown["verdict"]["reference"] == words
    assert shown["verdict"]["reference_window"] == "2024-01+2025-01"


def test_a_check_by_hand_of_a_label_is_refused_before_anybody_is_asked(
    tmp_path: Path, home: State, tidegate: Command
) -> None:
    champion(home, *TRAINED)
    (tmp_path / "seasonal.toml").write_text(TEXT)
    told = tidegate("drift", "check", tmp_path / "seasonal.toml", "base", code=2)
    assert "'base' is no day, week, month or quarter, so it has no season" in told
    assert "Seasons need calendar windows" in told
    assert [run.name for run in home.runs()] == ["r1"]


def test_a_verdict_of_an_older_program_names_no_season() -> None:
    old = {
        "window": "w",
        "reference_window": "v",
        "false_alarm_rate": 0.01,
        "sites": [],
        "pooled": {"site": "all sites", "features": []},
    }
    assert Verdict.from_json(json.dumps(old)).reference == ""
