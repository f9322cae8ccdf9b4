"""Bank marketing through the financial crisis: a private model, and the loop that follows the drift."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients.app import app
from clients.mechanisms.evaluation import exact_scores
from clients.rows.table import Table
from clients.site import open_site
from contract.experiment import Experiment
from contract.releases import Metrics
from experiments.data.datasets import prepare_sites
from experiments.runtimes.inline import InlineGrid
from server.app import run_job
from server.jobs.job import Job
from server.line.flower import assume_identity
from server.registry.registry import Registry
from server.settings import ServerSettings, read_settings
from server.state.records import RunRecord
from server.state.storage import open_state
from terminal.experiment_files import read_experiment

PLAN = Path(__file__).resolve().parents[2] / "experiments" / "bank-marketing.toml"


class Bank:
    """The five sites and a server, inline."""

    def __init__(self, home: Path) -> None:
        self.experiment: Experiment = read_experiment(PLAN)
        self.sites = prepare_sites("bank-marketing", home / "sites")
        self.settings: ServerSettings = read_settings(
            {
                "TIDEGATE_HOME": str(home),
                "MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow.db",
                "TIDEGATE_ARTIFACT_ROOT": str(home / "artifacts"),
            }
        )

    def train(self, *windows: str) -> dict[str, Any]:
        """Train on these windows, or on all; what `tidegate run` shows of it."""
        self._do(Job(kind="train", run="first", experiment=self.experiment, windows=windows))
        return self.result("first")

    def close(self, window: str) -> dict[str, Any]:
        """Do the cycle of a window that has closed."""
        self._do(Job(kind="cycle", run=f"cycle-{window}", experiment=self.experiment, window=window))
        return self.result(f"cycle-{window}")

    def result(self, run: str) -> dict[str, Any]:
        """The result of a run that no site missed."""
        with open_state(self.settings.state_url) as state:
            record = state.run(run)
        assert isinstance(record, RunRecord)
        assert (record.status, record.error or "") == ("succeeded", "")
        result: dict[str, Any] = json.loads(record.result or "")
        return result

    def decisions(self) -> list[tuple[str, str]]:
        """Everything decided so far."""
        with open_state(self.settings.state_url) as state:
            return [(item.kind, item.subject) for item in state.decisions(self.experiment.name)]

    def exact(self, version: int, *windows: str) -> Metrics:
        """A version's figures on the held-out rows of all sites together, without noise: they are public."""
        registry = Registry(self.settings.tracking_uri, self.settings.artifact_root)
        arrays = registry.load_arrays(self.experiment.name, version)
        return exact_scores(arrays, self._held_out(windows), self.experiment)

    def _held_out(self, windows: tuple[str, ...]) -> Table:
        tables = [open_site(path).table(self.experiment, windows, holdout=True) for path in self.sites]
        return Table(
            features=np.concatenate([table.features for table in tables]),
            labels=np.concatenate([table.labels for table in tables]),
        )

    def _do(self, job: Job) -> None:
        grid = InlineGrid(app, self.sites, job.to_run_config())
        assume_identity(grid.run_id)
        run_job(job, grid, self.settings)


@pytest.fixture
def bank(tmp_path: Path, data_dir: Callable[[str], Path]) -> Bank:
    data_dir("bank-marketing")
    return Bank(tmp_path)


def within_the_budget(result: dict[str, Any], experiment: Experiment) -> bool:
    """Whether every site spent what the plan states, and no more."""
    spent = result["privacy"].values()
    return len(spent) == 5 and all(
        0 < site["epsilon_in_run"] <= experiment.privacy.epsilon + 1e-9
        and site["delta"] == experiment.privacy.delta
        for site in spent
    )


@pytest.mark.long
def test_on_all_windows_it_comes_close_to_training_without_privacy(bank: Bank) -> None:
    """Logistic regression on the same rows pooled, without privacy: AUC .789, log loss .278."""
    result = bank.train()
    assert within_the_budget(result, bank.experiment)
    assert bank.experiment.privacy.epsilon <= 3
    held_out = bank.exact(result["version"])
    assert held_out.auc > 0.77
    assert held_out.log_loss < 0.30  # .354 for whoever says the mean rate of every client
    assert result["metrics"]["overall"]["auc"] == pytest.approx(held_out.auc, abs=0.04)


@pytest.mark.long
def test_the_crisis_raises_an_alarm_and_leads_to_a_better_model(bank: Bank) -> None:
    """Logistic regression on the same two windows, without privacy: AUC .754, log loss .231."""
    first = bank.train("base")
    assert within_the_budget(first, bank.experiment)
    lehman = bank.close("d06")
    assert lehman["alarm"]
    assert lehman["decision"] == "watch"
    after = bank.close("d07")
    assert after["alarm"]
    assert {"mobile-office", "mobile-manual"} <= set(after["sites_in_alarm"])
    assert (after["decision"], after["trained_on"]) == ("retrain", ["d06", "d07"])
    assert within_the_budget(bank.result(after["run"]), bank.experiment)
    assert after["promoted"]
    assert bank.decisions() == [
        ("promote", "version 1"),
        ("watch", "retraining"),
        ("retrain", "retraining"),
        ("promote", "version 2"),
    ]
    champion, challenger = (bank.exact(version, "d06", "d07") for version in (1, 2))
    assert challenger.auc > 0.65
    assert challenger.auc > champion.auc
    assert challenger.log_loss < champion.log_loss - 0.005
