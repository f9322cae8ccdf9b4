"""The regression study drafts its experiments from the cards, as `tidegate new` does."""

from __future__ import annotations

from pathlib import Path

from clients.site import open_site
from experiments.data.datasets import prepare_sites
from experiments.studies.regression import LABELS, SETTINGS, drafted


def test_the_number_is_predicted_from_all_other_columns(tmp_path: Path) -> None:
    sites = prepare_sites("rand-health", tmp_path)
    experiment = drafted("rand-health", sites)
    label = experiment.task.label
    assert (label.kind, label.column) == ("numeric", LABELS["rand-health"])
    assert label.column not in {feature.name for feature in experiment.task.features}
    assert experiment.gate.metric == "mae"
    assert experiment.privacy.epsilon == SETTINGS["privacy"]["epsilon"]
    table = open_site(sites[0]).table(experiment, (), holdout=True)
    assert len(table.labels) > 100
    assert float(abs(table.labels).max()) <= 1
