"""A plan takes the sites of the profile's server, or of the server here; a run there is asked about too."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from contract.errors import InputError
from experiments.cli import confirmation
from terminal.experiment_files import read_experiment
from tests.scientist.conftest import Standing

Command = Callable[..., str]

ILL = """\
name = "ill"
[task]
label = { column = "ill", classes = ["no", "yes"] }
[[task.features]]
name = "age"
kind = "numeric"
low = 0
high = 120
[strategy]
rounds = 5
[privacy]
epsilon = 3.0
evaluation_epsilon = 3.0
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ill.toml"
    path.write_text(ILL)
    return path


def test_the_server_s_sites_are_planned_from_either_side(
    standing: Standing, tidegate: Command, file: Path
) -> None:
    standing.connect("ada", "scientist")
    there = json.loads(tidegate("plan", file, "--json"))
    assert [(one["site"], one["stated_rows"], one["cap"]) for one in there["sites"]] == [
        ("north", 5000, None),
        ("south", 5000, None),
    ]
    assert there["warnings"] == []
    assert "the site knows" in tidegate("plan", file, width=240)
    standing.here()
    here = json.loads(tidegate("plan", file, "--json"))
    del here["planted_effect"], there["planted_effect"]  # which have noise of the system
    assert here == there


def test_a_run_there_is_told_what_the_cards_do_not_offer(
    standing: Standing, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    standing.connect("ada", "scientist")
    file.write_text(ILL.replace('"age"', '"size"').replace("rounds = 5", "rounds = 5\nquorum = 3"))
    with pytest.raises(InputError, match="the card offers no column 'size'"):
        confirmation.confirm_there(read_experiment(file), (), yes=False)  # no terminal: nobody can be asked
    confirmation.confirm_there(read_experiment(file), (), yes=True)
    told = capsys.readouterr().err
    assert "WARNING: Site north would refuse the run: the card offers no column 'size'" in told
    assert "strategy.quorum is 3" in told


def test_a_laptop_without_a_heavy_library_is_warned() -> None:
    program = """
import sys
for heavy in ("numpy", "pandas", "torch", "flwr", "sqlalchemy"):
    sys.modules[heavy] = None
import experiments.cli.confirmation
from contract.experiment_file import parse_experiment
from experiments.planning.sites import PlannedSite
from experiments.planning.warnings import doubts, refusals
plan = parse_experiment(sys.stdin.read(), where="it")
sites = [PlannedSite(name="north", stated_rows=9), PlannedSite(name="south", stated_rows=9)]
print(*refusals(plan, sites), *doubts(plan, sites))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], input=ILL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "The model would learn little" in done.stdout
