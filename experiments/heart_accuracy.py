"""Accuracy on the four hospitals at ε = 1, against the best published non-private federated result.

    python -m experiments.heart_accuracy

Runs `heart-disease.toml` as it is shipped, five times with noise of its own each
time, and takes the mean of the four hospitals' accuracies on the split of the
FLamby benchmark (Ogier du Terrail et al., 2022). Its best non-private federated
result there is .731 (FedAdagrad, mean over five seeds).

Accuracy is computed here without noise, for the test rows are public and lie at
hand. That makes no release: what the sites release of them in the runs is noisy
and charged as always.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from contract.experiment import Experiment

__all__ = ["BEST_PUBLISHED", "HeartRun", "run_heart"]

BEST_PUBLISHED = 0.731
"""FedAdagrad without privacy: mean of the four centres' accuracy, mean over seeds 42 to 46."""


@dataclass(frozen=True, kw_only=True)
class HeartRun:
    """One run: accuracy by hospital, and the ε that the sites' ledgers say it spent."""

    accuracy: dict[str, float]
    epsilon: float
    delta: float

    @property
    def mean(self) -> float:
        """Mean of the hospitals' accuracies, each counting the same."""
        return statistics.mean(self.accuracy.values())


def run_heart(experiment: Experiment, folder: Path, *, runs: int) -> list[HeartRun]:
    """Run the experiment on freshly laid-out hospitals, so that each run's ledgers begin empty."""
    return [_one_run(experiment, folder / f"run-{number}") for number in range(1, runs + 1)]


def _one_run(experiment: Experiment, folder: Path) -> HeartRun:
    from clients.evaluation import exact_scores
    from clients.site import open_site
    from experiments.datasets import prepare_sites
    from experiments.federated_run import Request, run_experiment
    from server.registry import Registry
    from server.settings import read_settings

    settings = read_settings(
        {"TIDEGATE_HOME": str(folder), "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    )
    sites = prepare_sites("heart-disease", folder / "sites")
    result = run_experiment(Request(experiment=experiment, run=folder.name, sites=sites, settings=settings))
    arrays = Registry(settings.tracking_uri, settings.artifact_root).load_arrays(
        experiment.name, result["version"]
    )
    tables = {path.parent.name: open_site(path).table(experiment, (), holdout=True) for path in sites}
    spent = result["privacy"].values()
    return HeartRun(
        accuracy={name: exact_scores(arrays, table, experiment).accuracy for name, table in tables.items()},
        epsilon=max(site["epsilon_in_run"] for site in spent),
        delta=max(site["delta"] for site in spent),
    )


def _print(runs: Sequence[HeartRun]) -> None:
    from experiments.cli.output import console, figure, print_table

    hospitals = list(runs[0].accuracy)
    rows = [
        (number, *(figure(run.accuracy[name]) for name in hospitals), figure(run.mean), f"{run.epsilon:.2f}")
        for number, run in enumerate(runs, start=1)
    ]
    print_table(("run", *hospitals, "mean", "ε"), rows, title="Heart disease: accuracy on held-out patients")
    mean = statistics.mean(run.mean for run in runs)
    console.print(
        f"mean over {len(runs)} runs {mean:.3f} at ε ≤ {max(run.epsilon for run in runs):.2f}, "
        f"δ = {runs[0].delta:g} a hospital; best published without privacy {BEST_PUBLISHED}"
    )


def main() -> None:
    """Run five times and print the table."""
    from experiments.cli.output import quiet_flower
    from experiments.federated_run import read_experiment
    from server.settings import apply_quiet_environment

    apply_quiet_environment()
    quiet_flower()
    experiment = read_experiment(Path(__file__).parent / "heart-disease.toml")
    with tempfile.TemporaryDirectory() as folder:
        _print(run_heart(experiment, Path(folder), runs=5))


if __name__ == "__main__":
    main()
