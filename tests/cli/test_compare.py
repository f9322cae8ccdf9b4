"""`tidegate compare`: runs side by side, and a run against what each of its sites alone reaches."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients import site as sites
from clients.site import open_site
from contract.experiment_file import parse_experiment
from server.settings import read_settings
from server.state.storage import open_state
from tests.cards import card_for

EXPERIMENT = """\
name = "small"
[task]
label = { column = "ill" }
[[task.features]]
name = "level"
kind = "numeric"
low = 0
high = 10
[[task.features]]
name = "age"
kind = "numeric"
low = 0
high = 120
[privacy]
epsilon = 5.0
delta = 1e-5
evaluation_epsilon = 8.0
"""
ROWS = 3000
Command = Callable[..., str]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Two sites of unlike size, an experiment file and the server's home."""
    monkeypatch.setattr(sites, "_open", {})
    monkeypatch.setenv("TIDEGATE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TIDEGATE_STATE_URL", raising=False)
    monkeypatch.delenv("TIDEGATE_PROFILE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(EXPERIMENT)
    for number, (name, rows) in enumerate((("north", ROWS), ("south", 200))):
        rng = np.random.default_rng(number)
        level, age = rng.uniform(0, 10, rows), rng.integers(0, 100, rows)
        ill = level - 5 + rng.logistic(size=rows) > 0
        lines = ["level,age,ill", *(f"{a:.3f},{b},{c:d}" for a, b, c in zip(level, age, ill, strict=True))]
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows.csv").write_text("\n".join(lines) + "\n")
        (tmp_path / name / "site.toml").write_text(
            f'name = "{name}"\nstated_rows = {round(0.7 * rows)}\n[data]\nkind = "csv"\npath = "rows.csv"\n'
            f"{card_for(parse_experiment(EXPERIMENT, where='card'))}[policy]\nepsilon_cap = 60.0\n"
        )
    yield tmp_path
    for known in sites._open.values():
        known.ledger.close()


def both(place: Path) -> tuple[str, ...]:
    return ("--site", str(place / "north" / "site.toml"), "--site", str(place / "south" / "site.toml"))


def spent(place: Path, site: str) -> list[str]:
    return [entry.kind for entry in open_site(place / site / "site.toml").ledger.entries()]


def json_of(told: str) -> Any:
    return json.loads(told[told.index("\n{") + 1 if not told.startswith("{") else 0 :])


@pytest.mark.long
def test_a_run_against_each_of_its_sites(tidegate: Command, place: Path) -> None:
    run = json_of(tidegate("run", "small.toml", *both(place), "--json"))
    assert run["diagnosis"]["verdict"] in ("converged", "as-far-as-noise"), run["diagnosis"]
    before = spent(place, "north"), spent(place, "south")
    ask = ("compare", run["run"], "--against", "local", *both(place))

    told = tidegate(*ask, code=2)
    assert "2 runs, one a site, each charged to that site" in told
    assert "south: ε = 10.05 for training rows and 10.05 for held-out rows" in told
    assert "nothing was spent" in told
    assert (spent(place, "north"), spent(place, "south")) == before

    found = json_of(tidegate(*ask, "--yes", "--json"))
    north, south = found["sites"]
    assert (north["site"], south["site"]) == ("north", "south")
    assert north["alone"]["auc"] > 0.7
    for site in (north, south):
        assert site["run"] is not None, site
        gain = site["better_together"]["log_loss"]
        assert gain is None or gain["error"] > 0
    after = spent(place, "north"), spent(place, "south")
    assert all(len(now) > len(then) for now, then in zip(after, before, strict=True))
    with open_state(read_settings().state_url) as state:
        cohorts = {record.name: state.participation(record.name) for record in state.runs()}
    assert {item.site for item in cohorts[north["run"]]} == {"north"}
    assert {item.site for item in cohorts[south["run"]]} == {"south"}

    again = tidegate(*ask)  # what was paid for is found again, and nobody is asked
    assert "together is better at" in again
    assert "charged" not in again
    assert (spent(place, "north"), spent(place, "south")) == after

    side_by_side = tidegate("compare", run["run"], north["run"], "--plot", place / "runs.svg")
    assert "AUC better by" in side_by_side
    assert "<svg" in (place / "runs.svg").read_text()


def test_what_cannot_be_compared_is_refused(tidegate: Command, place: Path) -> None:
    assert "--against local" in tidegate("compare", "a", "b", "--against", "local", code=2)
    assert "--against" in tidegate("compare", "a", "--against", "the-world", code=2)
    assert "a .png or a" in tidegate("compare", "a", "b", "--plot", place / "x.gif", code=2)
    assert "no server here" in tidegate("compare", "a", "--against", "local", *both(place), code=2)
