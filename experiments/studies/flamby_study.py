"""The parts of the study `experiments.studies.flamby_heart`: what is trained, and the figures that come out.

Without privacy: FLamby's methods on its own inputs and split, over its seeds. With privacy: on that split by
the product's whole path, and over other splits by the same path without the registry, beside logistic
regression without privacy on the same training patients.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from contract.experiment import Experiment
from experiments.data.layout import SiteRows
from experiments.studies.heart_accuracy import settings_at
from experiments.studies.heart_resplits import Interval
from experiments.studies.heart_scores import HeartScores

__all__ = ["FULL", "PUBLISHED", "QUICK", "Extent", "Figures", "Study", "run_study"]

PUBLISHED: Mapping[str, tuple[float, float | None]] = {
    "each centre alone": (0.730, None),
    "pooled": (0.735, 0.795),
    "FedAvg": (0.685, 0.748),
    "FedProx": (0.685, 0.748),
    "SCAFFOLD": (0.684, 0.748),
    "FedAdam": (0.726, 0.779),
    "FedAdagrad": (0.731, 0.779),
    "Cyclic": (0.718, 0.785),
}
"""FLamby's accuracy, mean of the centres and over all patients, means of seeds 42 to 46; "alone" is the mean
of the centres' own models on their own patients, from its result files."""

CLAIMED: Mapping[float, float] = {0.1: 0.606, 1.0: 0.685, 5.0: 0.704}
"""FLamby's private accuracy, mean of the centres, at the ε that it claims and its code does not hold: it runs
1500 steps and charges 15 epochs, shuffles where it counts on Poisson sampling, and draws the noise of all
hospitals from one seed."""


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How much is run: FLamby's seeds, private runs on its split, other splits, and each ε."""

    seeds: Sequence[int]
    runs: int
    splits: Sequence[int]
    epsilons: Sequence[float]


FULL = Extent(seeds=range(42, 47), runs=5, splits=range(30), epsilons=(0.1, 0.3, 0.5, 1.0, 5.0))
QUICK = Extent(seeds=range(42, 44), runs=1, splits=range(3), epsilons=(0.5,))


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One row of a table, means over seeds, runs or splits.

    Attributes:
        name: the method, or the settings.
        mean_accuracy: mean of the hospitals' accuracies.
        pooled_accuracy, auc: over all held-out patients together.
        mean_auc: mean over the hospitals that hold out both classes.
        epsilon: the most that a site's ledger states; None without privacy.
        published: FLamby's mean accuracy and its accuracy over all patients, where it has them.
        intervals: over splits, of each figure by its name.
    """

    name: str
    mean_accuracy: float
    pooled_accuracy: float
    auc: float
    mean_auc: float
    epsilon: float | None = None
    published: tuple[float | None, float | None] = (None, None)
    intervals: Mapping[str, Interval] | None = None


@dataclass(frozen=True, kw_only=True)
class Study:
    """What came out.

    Attributes:
        benchmark: FLamby's methods without privacy, on its split.
        private: ours on that split.
        resplits: ours, and logistic regression without privacy, over the other splits.
        delta: at each hospital.
    """

    benchmark: list[Figures]
    private: list[Figures]
    resplits: list[Figures]
    delta: float

    @property
    def best_without_privacy(self) -> float:
        """The highest AUC of the logistic regressions without privacy over the other splits."""
        return max(row.auc for row in self.resplits if row.epsilon is None)


def run_study(extent: Extent, told: Callable[[int, int, str], None] = lambda *_: None) -> Study:
    """Run all parts.

    Args:
        extent: how much.
        told: is given how many steps are done, of how many, and what was just done.
    """
    from experiments.data.datasets import dataset_sites
    from terminal.experiment_files import read_experiment

    shipped = read_experiment(Path(__file__).parents[1] / "heart-disease.toml")
    total = len(extent.seeds) + len(_plans(shipped, extent)) + len(extent.splits)
    done = itertools.count(1)

    def tell_step(note: str) -> None:
        told(next(done), total, note)

    sites = dataset_sites("heart-disease")
    return Study(
        benchmark=_benchmark(sites, extent, tell_step),
        private=_private(shipped, extent, tell_step),
        resplits=_resplits(shipped, sites, extent, tell_step),
        delta=shipped.privacy.delta,
    )


def _plans(shipped: Experiment, extent: Extent) -> dict[str, Experiment]:
    """The experiments by their names in the tables; the shipped one stands where its ε is asked for."""
    plans = {f"ε = {epsilon:g}": settings_at(shipped, epsilon) for epsilon in extent.epsilons}
    at = shipped.privacy.epsilon
    return plans | ({f"ε = {at:g}, shipped": shipped} if at in extent.epsilons else {})


def _benchmark(sites: Sequence[SiteRows], extent: Extent, told: Callable[[str], None]) -> list[Figures]:
    from experiments.studies.flamby_baselines import METHODS, Recipe, first_model, train_adam
    from experiments.studies.flamby_rows import flamby_inputs, score, scored
    from experiments.studies.heart_scores import score_hospitals

    rows, recipe = flamby_inputs(sites), Recipe()
    found: dict[str, list[HeartScores]] = {}
    for seed in extent.seeds:
        start = first_model(seed)
        own = {
            name: train_adam(centre, start, recipe, np.random.default_rng(seed))
            for name, centre in rows.train.items()
        }
        alone = score_hospitals({name: scored(own[name], held) for name, held in rows.held.items()})
        found.setdefault("each centre alone", []).append(alone)
        together = train_adam(rows.all_train, start, recipe, np.random.default_rng(seed))
        found.setdefault("pooled", []).append(score(together, rows))
        for name, method in METHODS.items():
            model = method(list(rows.train.values()), start, recipe, np.random.default_rng(seed))
            found.setdefault(name, []).append(score(model, rows))
        told(f"(the benchmark's methods, seed {seed})")
    return [
        _figures(name, scores, published=PUBLISHED.get(name, (None, None))) for name, scores in found.items()
    ]


def _private(shipped: Experiment, extent: Extent, told: Callable[[str], None]) -> list[Figures]:
    from experiments.studies.heart_accuracy import run_heart

    figures = []
    for name, experiment in _plans(shipped, extent).items():
        with tempfile.TemporaryDirectory() as folder:
            runs = run_heart(experiment, Path(folder), runs=extent.runs)
        spent = max(run.epsilon for run in runs)
        claimed = CLAIMED.get(experiment.privacy.epsilon)
        figures.append(_figures(name, [run.scores for run in runs], epsilon=spent, published=(claimed, None)))
        told(f"({name}, FLamby's split)")
    return figures


def _resplits(
    shipped: Experiment, sites: Sequence[SiteRows], extent: Extent, told: Callable[[str], None]
) -> list[Figures]:
    from experiments.studies.heart_resplits import pooled_without_privacy, resplit, run_on_split

    found: dict[str, list[HeartScores]] = {}
    spent: dict[str, float] = {}
    for seed in extent.splits:
        split = resplit(sites, seed)
        for name, inputs, penalty in _regressions(shipped):
            scores = pooled_without_privacy(inputs, split, penalty=penalty)
            found.setdefault(name, []).append(scores)
        for name, experiment in _plans(shipped, extent).items():
            with tempfile.TemporaryDirectory() as folder:
                run = run_on_split(experiment, split, Path(folder) / f"split-{seed}")
            found.setdefault(name, []).append(run.scores)
            spent[name] = max(spent.get(name, 0.0), run.epsilon)
        told(f"(split {seed})")
    return [_figures(name, scores, epsilon=spent.get(name), spread=True) for name, scores in found.items()]


def _regressions(shipped: Experiment) -> Iterator[tuple[str, Experiment, float]]:
    """Logistic regressions without privacy: name, whose inputs, and penalty."""
    for inputs, experiment in (("", shipped), (", no ECG", settings_at(shipped, 1.0))):
        yield f"not private{inputs}", experiment, 1.0
        yield f"not private{inputs}, no penalty", experiment, 0.0


def _figures(
    name: str,
    scores: Sequence[HeartScores],
    *,
    epsilon: float | None = None,
    published: tuple[float | None, float | None] = (None, None),
    spread: bool = False,
) -> Figures:
    from experiments.studies.heart_resplits import interval

    kinds = ("mean_accuracy", "pooled_accuracy", "auc", "mean_auc")
    values = {kind: [getattr(score, kind) for score in scores] for kind in kinds}
    return Figures(
        name=name,
        **{kind: statistics.mean(found) for kind, found in values.items()},
        epsilon=epsilon,
        published=published,
        intervals={kind: interval(found) for kind, found in values.items()} if spread else None,
    )
