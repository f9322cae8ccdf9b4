"""Four real hospitals: accuracy at two budgets on the split of the FLamby benchmark, AUC over thirty splits.

The alternative's figures are those that FLamby published (Ogier du Terrail et al., 2022): its own private
results claim an ε that its code does not hold, so its best result without privacy stands beside ours too.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from contract.experiment import Experiment
from experiments.benchmarks.measurement import Measurement

__all__ = ["measure"]

_RUNS = 20


def measure() -> list[Measurement]:
    """Accuracy, mean of the four hospitals and of twenty runs, at ε = 1 and ε = .1; AUC at ε = .5."""
    from experiments.studies import heart_resplits
    from experiments.studies.heart_accuracy import BEST_PUBLISHED, settings_at
    from server.federation import project_root
    from terminal.experiment_files import read_experiment

    shipped = read_experiment(project_root() / "experiments" / "heart-disease.toml")
    note = "theirs, published: best federated result without privacy"
    claimed = "theirs, published: its claimed ε is not held"
    return [
        _measured(shipped, theirs=BEST_PUBLISHED, goal=0.80, note=note),
        _measured(settings_at(shipped, 0.1), theirs=0.606, goal=0.72, note=claimed),
        heart_resplits.measure(),
    ]


def _measured(experiment: Experiment, *, theirs: float, goal: float, note: str) -> Measurement:
    from experiments.studies.heart_accuracy import run_heart

    with tempfile.TemporaryDirectory() as folder:
        runs = run_heart(experiment, Path(folder), runs=_RUNS)
    spent = max(run.epsilon for run in runs)
    return Measurement(
        name=f"heart disease, ε ≤ {spent:.2f}, δ = {runs[0].delta:g} a hospital, mean of {_RUNS} runs",
        ours=statistics.mean(run.mean for run in runs),
        theirs=theirs,
        unit="accuracy",
        goal=goal,
        at_least=True,
        note=note,
    )
