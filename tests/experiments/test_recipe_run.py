"""A run of an experiment that states no settings: what the recipe chose is charged, kept and told."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from contract.experiment_file import parse_experiment
from contract.recipe import with_recipe
from tests.cards import card_for
from tests.commands import tidegate
from tests.mlflow_database import lay_mlflow_database

pytestmark = pytest.mark.e2e

EXPERIMENT = """\
name = "small"
[task]
label = { column = "ill" }
[[task.features]]
name = "age"
kind = "numeric"
low = 0
high = 120
[privacy]
delta = 1e-4
"""
SITE = """\
name = "{name}"
stated_rows = {rows}
[data]
kind = "csv"
path = "rows.csv"
"""


@pytest.fixture
def two_sites(tmp_path: Path) -> Callable[[], list[str]]:
    def options() -> list[str]:
        card = card_for(parse_experiment(EXPERIMENT, where="small"), holdout="side")
        rows = [f"{20 + one},{one % 3 % 2},{'train' if one % 4 else 'holdout'}" for one in range(40)]
        for name, stated in (("north", 30), ("south", 50)):
            (tmp_path / name).mkdir()
            (tmp_path / name / "site.toml").write_text(SITE.format(name=name, rows=stated) + card)
            (tmp_path / name / "rows.csv").write_text("\n".join(["age,ill,side", *rows]) + "\n")
        return ["--site", "north/site.toml", "--site", "south/site.toml"]

    return options


def test_what_the_recipe_chose_is_charged_kept_and_told(
    tmp_path: Path, two_sites: Callable[[], list[str]]
) -> None:
    (tmp_path / "small.toml").write_text(EXPERIMENT)
    lay_mlflow_database(tmp_path)
    plan = with_recipe(parse_experiment(EXPERIMENT, where="small"), [30, 50])
    done = tidegate(tmp_path, "run", "small.toml", *two_sites(), "--yes", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["recipe"] == plan.strategy.reason
    assert result["rounds"] == plan.strategy.rounds
    for site in ("north", "south"):
        charged = (tmp_path / site / "tidegate" / "ledger.db").read_bytes()
        assert f"small/{plan.digest[:16]}/train".encode() in charged  # the plan's own name: concrete values
    (database,) = tmp_path.rglob("mlflow.db")
    with sqlite3.connect(database) as connection:
        params = dict(connection.execute("select key, value from params"))
    assert params["strategy.learning_rate"] == str(plan.strategy.learning_rate)
    assert params["strategy.reason"] == plan.strategy.reason
