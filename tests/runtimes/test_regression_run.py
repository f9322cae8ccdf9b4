"""A number is predicted privately: through the real ClientApp, gate, ledger and server, into the registry."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from contract.experiment import Experiment
from contract.experiment_file import parse_experiment
from experiments.federated_run import Request, run_experiment
from server.settings import ServerSettings
from terminal.output import metrics_headings, metrics_rows
from tests.cards import card_for

FILE = """
name = "stay"
[task]
scaling = "symmetric"
label = { column = "days", kind = "numeric", low = 0, high = 20 }
[[task.features]]
name = "age"
kind = "numeric"
low = 0
high = 100
[strategy]
rounds = 12
learning_rate = 6.0
evaluate_every = 6
clipped_every = 6
quorum = 2
grace = 2.0
[privacy]
epsilon = 20.0
evaluation_epsilon = 20.0
clipping_norm = 0.3
"""


def make_site(folder: Path, name: str, experiment: Experiment, *, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    age = rng.uniform(0, 100, 1500)
    days = 0.15 * age + rng.normal(0, 1, 1500)
    folder.mkdir(parents=True)
    lines = ["age,days", *(f"{one:.3f},{other:.3f}" for one, other in zip(age, days, strict=True))]
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    path = folder / "site.toml"
    path.write_text(
        f'name = "{name}"\nstated_rows = 1000\n[data]\nkind = "csv"\npath = "rows.csv"\n'
        f"{card_for(experiment)}[policy]\nepsilon_cap = 90.0\n"
    )
    return path


def test_a_number_is_predicted_from_the_rows_to_the_passport(
    tmp_path: Path, settings: Callable[[str], ServerSettings]
) -> None:
    experiment, here = parse_experiment(FILE, where="stay.toml"), settings("home")
    sites = [
        make_site(tmp_path / name, name, experiment, seed=seed)
        for seed, name in enumerate(("north", "south"))
    ]
    result = run_experiment(
        Request(experiment=experiment, run="stay-1", sites=sites, settings=here, runtime="inline")
    )
    assert result["status"] == "succeeded", result
    overall = result["metrics"]["overall"]
    assert overall["mae"] == pytest.approx(1.0, abs=0.5)  # what the noise of the rows leaves is .8
    assert 0 < overall["mae_error"] < 0.3
    assert overall["r2"] > 0.6
    assert metrics_headings(json.loads(json.dumps(result)))[2:5] == ("MAE", "RMSE", "R²")
    assert len(metrics_rows(result)[0]) == len(metrics_headings(result))
    assert sorted(result["diagnosis"]["clipped"]) == ["1", "7"]
    early, late = (result["diagnosis"]["clipped"][number]["overall"] for number in ("1", "7"))
    assert 0.02 < early["share"] < 0.2  # rows at either end of the range pull harder than the norm
    assert late["share"] < early["share"] / 2  # what is learnt pulls no more
    assert early["error"] < 0.01
    (passport,) = here.home.rglob("passport.md")
    text = passport.read_text()
    assert "`days`, a number from 0 to 20" in text
    assert "| site | MAE | RMSE | R² |" in text
    assert "noisy sums of errors" in text
    assert "| counts of clipped gradients | 2, for ε = 2 within that of training |" in text
    assert "clipped: Gaussian, noise multiplier" in text
    assert "% clipped" in text
    assert [one.name for one in here.home.rglob("*.png") if one.name == "learning-curve.png"]
