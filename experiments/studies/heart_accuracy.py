"""Accuracy on the four hospitals at ε = 1, against the best published non-private federated result.

    python -m experiments.studies.heart_accuracy

Runs `heart-disease.toml` as it is shipped, five times with noise of its own each
time, and takes the mean of the four hospitals' accuracies on the split of the
FLamby benchmark (Ogier du Terrail et al., 2022). Its best non-private federated
result there is .731 (FedAdagrad, mean over five seeds).

Accuracy is computed here without noise, for the test rows are public and lie at
hand (`experiments.studies.heart_scores`). That makes no release: what the sites release of
them in the runs is noisy and charged as always.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from contract.experiment import Experiment
from experiments.studies.heart_scores import HeartScores, linear_scores, score_hospitals

__all__ = ["BEST_PUBLISHED", "HeartRun", "run_heart", "settings_at"]

BEST_PUBLISHED = 0.731
"""FedAdagrad without privacy: mean of the four centres' accuracy, mean over seeds 42 to 46."""


@dataclass(frozen=True, kw_only=True)
class HeartRun:
    """One run: how its model does, and the ε that the sites' ledgers say it spent."""

    scores: HeartScores
    epsilon: float
    delta: float

    @property
    def mean(self) -> float:
        """Mean of the hospitals' accuracies, each counting the same."""
        return self.scores.mean_accuracy


def settings_at(shipped: Experiment, epsilon: float) -> Experiment:
    """The shipped experiment with another ε and the settings that suit it.

    Chosen by cross-validation in simulation on the training rows of FLamby's split alone: five folds,
    stratified by hospital and disease, four times over, the noise in the proportion to the rows that it
    has in a whole run. The measure is AUC plus accuracy (half that of all patients, half the mean of the
    hospitals'). Tried were both scalings, clipping norms .25 to 2, 1 to 60 rounds, learning rates .05 to
    20, momentum, the share of averaged rounds, and at ε = .1 to 5 inputs in other codes (resting ECG, chest
    pain) or left out (resting ECG, resting pressure, fasting sugar). Two settings were then taken for all
    ε; neither is the best at each: at ε = .1 chest pain in two categories instead of four did better
    (1.61), at ε = .3 and .5 worse.

    The resting ECG is left out: its three columns lengthen every gradient, and each is noise of its own.
    Below ε = 1 noise outweighs what further rounds could learn, and two rounds are about one step along
    the difference of the classes' means. The shipped settings reach 1.657 by this measure at ε = 1,
    these 1.665; at ε = .5 it is 1.643 and 1.659, at ε = .1 it is 1.376 and 1.573.

    A first choice, with the resting ECG, had already been measured on the splits that
    `heart_resplits.measure` reports (.986 of the AUC without privacy); its small margin is why inputs were
    looked at. They were judged on the training rows, and the result was measured once chosen.
    """
    clipping_norm, rounds, learning_rate = (0.25, 2, 2.0) if epsilon < 1 else (1.5, 5, 1.0)
    features = tuple(feature for feature in shipped.task.features if feature.name != "resting_ecg")
    strategy = {"rounds": rounds, "learning_rate": learning_rate}
    privacy = {"epsilon": epsilon, "evaluation_epsilon": epsilon, "clipping_norm": clipping_norm}
    return shipped.model_copy(
        update={
            "task": shipped.task.model_copy(update={"scaling": "symmetric", "features": features}),
            "strategy": shipped.strategy.model_copy(update=strategy),
            "privacy": shipped.privacy.model_copy(update=privacy),
        }
    )


def run_heart(experiment: Experiment, folder: Path, *, runs: int) -> list[HeartRun]:
    """Run the experiment on freshly laid-out hospitals, so that each run's ledgers begin empty."""
    return [_one_run(experiment, folder / f"run-{number}") for number in range(1, runs + 1)]


def _one_run(experiment: Experiment, folder: Path) -> HeartRun:
    from clients.site import open_site
    from experiments.data.datasets import prepare_sites
    from experiments.federated_run import Request, run_experiment
    from server.registry.registry import Registry
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
        scores=score_hospitals({name: linear_scores(arrays, table) for name, table in tables.items()}),
        epsilon=max(site["epsilon_in_run"] for site in spent),
        delta=max(site["delta"] for site in spent),
    )


def _print(runs: Sequence[HeartRun]) -> None:
    from terminal.output import figure, print_table, say

    hospitals = list(runs[0].scores.accuracy)
    rows = [
        (
            number,
            *(figure(run.scores.accuracy[name]) for name in hospitals),
            figure(run.mean),
            f"{run.epsilon:.2f}",
        )
        for number, run in enumerate(runs, start=1)
    ]
    print_table(("run", *hospitals, "mean", "ε"), rows, title="Heart disease: accuracy on held-out patients")
    mean = statistics.mean(run.mean for run in runs)
    say(
        f"mean over {len(runs)} runs {mean:.3f} at ε ≤ {max(run.epsilon for run in runs):.2f}, "
        f"δ = {runs[0].delta:g} a hospital; best published without privacy {BEST_PUBLISHED}"
    )


def main() -> None:
    """Run five times and print the table."""
    from server.settings import apply_quiet_environment
    from terminal.experiment_files import read_experiment
    from terminal.output import quiet_flower

    apply_quiet_environment()
    quiet_flower()
    experiment = read_experiment(Path(__file__).parents[1] / "heart-disease.toml")
    with tempfile.TemporaryDirectory() as folder:
        _print(run_heart(experiment, Path(folder), runs=5))


if __name__ == "__main__":
    main()
