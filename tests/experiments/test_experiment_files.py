from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from clients.rows.rows import read_rows
from clients.rows.table import prepare
from clients.site_config import holdout_key, read_site_config
from contract.experiment import Experiment
from contract.experiment_file import parse_experiment
from experiments.data.datasets import prepare_sites
from experiments.data.layout import BASE, RAND_BASE

FOLDER = Path(__file__).resolve().parents[2] / "experiments"
SHIPPED = sorted(path.stem for path in FOLDER.glob("*.toml"))
NEEDS_A_FILE = ("heart-disease", "bank-marketing")


def shipped(name: str) -> Experiment:
    path = FOLDER / f"{name}.toml"
    return parse_experiment(path.read_text(encoding="utf-8"), where=path.name)


def test_three_are_shipped() -> None:
    assert {"bank-marketing", "heart-disease", "rand-health"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_file_is_valid_private_and_named_after_itself(name: str) -> None:
    experiment = shipped(name)
    assert experiment.name == name
    assert experiment.privacy.private
    assert experiment.privacy.seed is None


FIRST_WINDOWS = {"rand-health": RAND_BASE, "bank-marketing": (BASE,)}
"""On which the first model is trained, where the set has windows."""


@pytest.mark.parametrize("name", ["rand-health", *NEEDS_A_FILE])
def test_its_sites_fit_its_task(name: str, tmp_path: Path, data_dir: Callable[[str], Path]) -> None:
    if name in NEEDS_A_FILE:
        data_dir(name)
    experiment = shipped(name)
    for path in prepare_sites(name, tmp_path):
        config, windows = read_site_config(path), FIRST_WINDOWS.get(name, ())
        config.offered.require(experiment, windows=windows)
        rows = read_rows(config, config.offered, key=holdout_key(config.storage))
        training = prepare(rows.of(windows, holdout=False), experiment, config.offered)
        assert training.fit.left_out == {}
        assert all(column.meaning for column in config.offered.columns)
        assert abs(len(training.labels) / config.stated_rows - 1) < 0.05
        assert experiment.privacy.delta < 1 / len(training.labels)
        assert experiment.privacy.delta <= config.policy.delta_cap


def test_few_recoded_disease_counts_leave_their_public_range() -> None:
    from statsmodels.datasets import randhie

    disea = {feature.name: feature for feature in shipped("rand-health").task.features}["disea"]
    recoded = randhie.load_pandas().data["disea"] * 2 + 5
    assert disea.kind == "numeric"
    assert disea.low <= recoded.min()
    assert (recoded > disea.high).mean() < 0.05


def test_the_zeros_of_cholesterol_are_clamped_and_counted(
    tmp_path: Path, data_dir: Callable[[str], Path]
) -> None:
    data_dir("heart-disease")
    experiment = shipped("heart-disease")
    counts = {}
    for path in prepare_sites("heart-disease", tmp_path):
        config = read_site_config(path)
        table = prepare(read_rows(config, config.offered, key=bytes(32)), experiment, config.offered)
        counts[path.parent.name] = table.fit.clamped.get("cholesterol", 0)
        assert np.abs(table.features).max() <= 1
    assert counts == {
        "cleveland": 8,
        "hungary": 16,
        "switzerland": 46,
        "long-beach": 36,
    }  # 0, 2, 46, 33 are zeros
