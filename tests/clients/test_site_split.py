"""Which records two tasks share: the ledger's blocks mean the same rows only where the split is one."""

from __future__ import annotations

from pathlib import Path

import pytest

from clients.site import Site
from clients.site_config import read_site_config
from contract.experiment import Label, NumericFeature, Task

AGE = NumericFeature(name="age", kind="numeric", low=0, high=120)
DOSE = NumericFeature(name="dose", kind="numeric", low=0, high=9)
TASK = Task(label=Label(column="ill"), features=(AGE,), time="window")
OTHERS = {
    "another feature": TASK.model_copy(update={"features": (AGE, DOSE)}),
    "another label": TASK.model_copy(update={"label": Label(column="cured")}),
    "another time": TASK.model_copy(update={"time": "month"}),
    "by person": TASK.model_copy(update={"person": "patient"}),
}


def site(folder: Path, more: str = "") -> Site:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "site.toml"
    path.write_text(f'name = "north"\nstated_rows = 90\n[data]\nkind = "csv"\npath = "rows.csv"\n{more}')
    return Site(read_site_config(path))


@pytest.mark.parametrize("task", OTHERS.values(), ids=OTHERS)
def test_records_dealt_by_their_values_are_dealt_anew_by_another_task(tmp_path: Path, task: Task) -> None:
    here = site(tmp_path)
    wider = AGE.model_copy(update={"high": 150.0})
    assert here.split(TASK) == here.split(TASK.model_copy(update={"features": (wider,)}))
    assert here.split(task) != here.split(TASK)


def test_a_column_that_says_the_side_says_it_to_every_task(tmp_path: Path) -> None:
    here = site(tmp_path, 'holdout_column = "side"\n')
    assert here.split(OTHERS["another feature"]) == here.split(TASK)
    assert here.split(OTHERS["another time"]) != here.split(TASK)


def test_persons_are_dealt_by_their_name_whatever_the_features(tmp_path: Path) -> None:
    here, task = site(tmp_path), OTHERS["by person"]
    assert here.split(task.model_copy(update={"features": (AGE, DOSE)})) == here.split(task)


def test_another_share_or_key_deals_anew(tmp_path: Path) -> None:
    first = site(tmp_path / "a").split(TASK)
    assert site(tmp_path / "a", "holdout_share = 0.2\n").split(TASK) != first
    assert site(tmp_path / "b").split(TASK) != first
