"""Whether `tidegate plan` foretells what runs do: its errors of metrics, and its warnings.

A run here is a plan made from public facts, then training as `experiments.benchmarks.utility` has it, with
real noise, then an evaluation with the noise that its sites are charged for. Of public data sets, with some
rows at some sites, ε and a model: each pair of `ROWS` and `EPSILONS` once for each seed, sites and model
drawn for it. Half of the ε are small, for runs that fail must be among them.

What is held against the plan is made with full knowledge, on all held-out rows of the data set, and was laid
down before the first of these runs:

* A run **fails** that did not learn or did not tell. It did not learn where its exact AUC is not above
  `_LEAST_AUC`, or keeps less than half of what logistic regression without privacy on the same rows has over
  chance. It did not tell where the AUC of its evaluation is not measurable. All others **succeed**: there is
  nothing between.
* A run **was warned of** where the plan has any warning.
* The **seen error** of a figure is its standard deviation over `_EVALUATIONS` evaluations of the run's model,
  each of rows drawn anew, with replacement, from the held-out ones of its sites, with new noise. The
  **foretold** one is what the plan's table has for the level that is nearest to the model's AUC. Where most
  evaluations have no such figure, "too noisy" is what a plan should say; a plan that says so of a figure that
  is there, or does not of one that is not, is wrong.

Constants of `experiments.planning` were chosen on runs of the sets of `CHOSEN_ON`, by their own labels; the
goals are of the others: a data set and three labels on which nothing of a plan was chosen.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from clients.ledger.plan import Split
from clients.ledger.plans import run_plans
from contract.experiment import Experiment, Label, Model
from contract.releases import SCORE_BINS, ScoreHistogram
from experiments.benchmarks.measurement import Measurement
from experiments.benchmarks.utility import auc_of, pooled_auc, scores, stated_for, train
from experiments.benchmarks.utility_numbers import numbers
from experiments.benchmarks.utility_sets import SETS, EncodedRows
from experiments.planning.plan import Plan, PlanSettings, make_plan
from experiments.planning.sites import PlannedSite
from server.rounds import pooled

__all__ = [
    "CHOSEN_ON",
    "EPSILONS",
    "ROWS",
    "TASKS",
    "Case",
    "Outcome",
    "cases",
    "highest",
    "measure",
    "outcomes_of",
    "summed_up",
]


def highest(name: str, label: str, share: float = 0.3) -> EncodedRows:
    """A data set in which it is predicted whether a numeric column is among the highest of all.

    Args:
        name: of `SETS`.
        label: the column.
        share: of rows that are.
    """
    rows = numbers(name, label)
    classes = Label(column=label, classes=("usual", "high"))
    return replace(
        rows,
        task=rows.task.model_copy(update={"label": classes}),
        labels=(rows.labels > np.quantile(rows.labels, 1 - share)).astype(np.int64),
    )


CHOSEN_ON = ("heart-disease", "online-shoppers", "rand-health", "diabetes-130", "credit-default")
"""Data sets on which constants of the plan were chosen."""
TASKS: Mapping[str, Callable[[], EncodedRows]] = {
    **SETS,
    **{
        f"{name}, the highest {label}": functools.partial(highest, name, label)
        for name, label in (
            ("heart-disease", "age"),
            ("rand-health", "disea"),
            ("diabetes-130", "time_in_hospital"),
        )
    },
}
"""What is predicted: each set's own label, or whether a number is among the highest tenths of all."""
REPORTED = tuple(name for name in TASKS if name not in CHOSEN_ON)
"""What the goals are measured on; the others, named, say how well the choice fits its own sets."""
ROWS = (100, 600, 4_000)
"""Of training, over all sites; a set that has fewer gives all that it has."""
EPSILONS = (0.1, 0.3, 1.0, 3.0)

_SITES = (0, 2, 4)
"""Over how many the rows are spread evenly; 0 for the data set's own sites."""
_MODELS = (Model(), Model(kind="mlp", hidden=(8,)))
_EVALUATION_EPSILONS = (1.0, 8.0)
_RUNS = 2
"""Of each plan."""
_EVALUATIONS = 100
_LEAST_AUC, _LEAST_KEPT = 0.55, 0.5
_FACTOR = 1.5
_HELD_OUT_SHARE = 0.3
"""Of a site's rows; a plan that knows no card takes the same."""

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A setting of a run.

    Attributes:
        name: of `TASKS`.
        rows: of training, over all sites.
        epsilon: of training.
        evaluation_epsilon: of evaluation.
        sites: over how many the rows are spread evenly; 0 for the set's own.
        model: linear, or a small network.
        seed: of split, rows and first values; noise comes from the system.
    """

    name: str
    rows: int
    epsilon: float
    evaluation_epsilon: float
    sites: int
    model: Model
    seed: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a plan said, and what its run did.

    Attributes:
        case: the setting.
        warnings: of the plan.
        auc: exact, of the run's model.
        without_privacy: that of logistic regression on the same rows.
        told: whether the run's evaluation has an AUC.
        errors: by figure, the foretold standard error and the seen one; NaN where there is none.
    """

    case: Case
    warnings: tuple[str, ...]
    auc: float
    without_privacy: float
    told: bool
    errors: dict[str, tuple[float, float]]

    @property
    def learnt(self) -> bool:
        """Whether the model learnt what there is to learn, by half at least."""
        kept = (self.auc - 0.5) / max(self.without_privacy - 0.5, 1e-9)
        return self.auc > _LEAST_AUC and kept >= _LEAST_KEPT

    @property
    def failed(self) -> bool:
        """Whether it did not learn, or did not tell."""
        return not (self.learnt and self.told)

    @property
    def right(self) -> dict[str, bool]:
        """By figure, whether the foretold error is within the factor of the seen one."""
        return {name: _is_near(*pair) for name, pair in self.errors.items()}


def cases(names: Iterable[str], seeds: Iterable[int]) -> list[Case]:
    """Each pair of rows and ε once for each set and seed."""
    found = []
    for name, seed in itertools.product(names, seeds):
        rng = np.random.default_rng([seed, sorted(TASKS).index(name)])
        found += [
            Case(
                name=name,
                rows=rows,
                epsilon=epsilon,
                evaluation_epsilon=float(rng.choice(_EVALUATION_EPSILONS)),
                sites=int(rng.choice(_SITES)),
                model=_MODELS[int(rng.integers(len(_MODELS)))],
                seed=seed,
            )
            for rows, epsilon in itertools.product(ROWS, EPSILONS)
        ]
    return found


def outcomes_of(case: Case, rows: EncodedRows, *, runs: int = _RUNS) -> list[Outcome]:
    """Plan once; then train and evaluate so many times on the same rows, with new noise each.

    Args:
        case: the setting.
        rows: all of its task.
        runs: of the same plan.
    """
    rng = np.random.default_rng([case.seed, case.rows, round(1000 * case.epsilon)])
    held = rows.held_out(case.seed)
    training, held_out = _taken(rows.rows(~held), case, rng), rows.rows(held)
    names, sizes = np.unique(training.site, return_counts=True)
    sites = [
        PlannedSite(name=f"site-{site}", stated_rows=int(size))
        for site, size in zip(names, sizes, strict=True)
    ]
    stated = stated_for(training, case.epsilon, case.model, evaluation_epsilon=case.evaluation_epsilon)
    plan = make_plan(stated, sites, PlanSettings())
    without_privacy = max(pooled_auc(training, held_out))
    pools = [held_out.rows(held_out.site == site) if case.sites == 0 else held_out for site in names]
    found = []
    for _ in range(runs):
        model = train(plan.experiment, training, rng)
        auc = auc_of(model, held_out)
        cells = [_cells(scores(model, pool), pool.labels) for pool in pools]
        seen = _evaluations(plan.experiment, cells, [site.held_out_rows for site in sites], rng)
        found.append(
            Outcome(
                case=case,
                warnings=plan.warnings,
                auc=auc,
                without_privacy=without_privacy,
                told=math.isfinite(seen[0].auc),
                errors={name: (_foretold(plan, name, auc), _spread(seen, name)) for name in _figures(plan)},
            )
        )
    return found


def measure(
    told: Callable[[int, str], None] = lambda _done, _what: None,
    *,
    names: Sequence[str] = REPORTED,
    seeds: Sequence[int] = range(1),
) -> list[Measurement]:
    """Runs of every case; the goals of tasks that nothing was chosen on, then those of the others.

    Args:
        told: is given how many percent are done, and of what.
        names: of `TASKS`.
        seeds: each case once for each.
    """
    done, all_cases, found = 0, cases(names, seeds), []
    for name in names:
        rows = TASKS[name]()
        for case in (one for one in all_cases if one.name == name):
            told(100 * done // len(all_cases), f"({name})")
            found += outcomes_of(case, rows)
            done += 1
    new = [one for one in found if one.case.name not in CHOSEN_ON]
    old = [one for one in found if one.case.name in CHOSEN_ON]
    return [*summed_up(new, ""), *summed_up(old, ", on sets that the plan was chosen on")]


def summed_up(outcomes: Sequence[Outcome], what: str) -> list[Measurement]:
    """The goals; of no outcomes none, and of no failure or no success none for that."""
    if not outcomes:
        return []
    right = [within for one in outcomes for within in one.right.values()]
    failed = [one for one in outcomes if one.failed]
    succeeded = [one for one in outcomes if not one.failed]
    by_figure = {name: sum(one.right[name] for one in outcomes) / len(outcomes) for name in outcomes[0].right}
    found = [
        Measurement(
            name=f"a plan's errors of metrics within a factor {_FACTOR:g} of the seen ones{what}",
            ours=sum(right) / len(right),
            theirs=None,
            unit="ratio",
            goal=0.9,
            at_least=True,
            note=f"{sum(right)} of {len(right)} figures of {len(outcomes)} runs; "
            + ", ".join(f"{name} {share:.0%}" for name, share in by_figure.items()),
        )
    ]
    if failed:
        found.append(
            _warned(f"of runs that fail, those that were warned of{what}", failed, 0.9, at_least=True)
        )
    if succeeded:
        found.append(
            _warned(f"of runs that succeed, those that were warned of{what}", succeeded, 0.1, at_least=False)
        )
    return found


def _warned(name: str, outcomes: Sequence[Outcome], goal: float, *, at_least: bool) -> Measurement:
    warned = [one for one in outcomes if one.warnings]
    wrong = [one for one in outcomes if bool(one.warnings) != at_least]
    listed = "; ".join(_named(one) for one in wrong[:5])
    return Measurement(
        name=name,
        ours=len(warned) / len(outcomes),
        theirs=None,
        unit="ratio",
        goal=goal,
        at_least=at_least,
        note=f"{len(warned)} of {len(outcomes)} runs" + (f"; not as it should be: {listed}" if wrong else ""),
    )


def _named(one: Outcome) -> str:
    case = one.case
    return (
        f"{case.name}, {case.rows:,} rows, ε = {case.epsilon:g}, {case.model.kind}: AUC {one.auc:.2f} "
        f"({one.without_privacy:.2f} without privacy)"
    )


def _taken(rows: EncodedRows, case: Case, rng: np.random.Generator) -> EncodedRows:
    """So many rows, at the set's own sites or spread evenly; each site has two at least."""
    chosen = rng.permutation(len(rows.labels))[: case.rows]
    some = rows.rows(chosen)
    if case.sites:
        return EncodedRows(
            task=some.task,
            features=some.features,
            labels=some.labels,
            site=np.arange(len(chosen)) % case.sites,
            group=some.group,
        )
    names, sizes = np.unique(some.site, return_counts=True)
    return some.rows(np.isin(some.site, names[sizes > 1]))


def _cells(score: npt.NDArray[Any], labels: npt.NDArray[Any]) -> _Floats:
    """The share of rows in each cell of a histogram: of negatives by score, then of positives."""
    chance = 1 / (1 + np.exp(-score.astype(np.float64)))
    cell = np.minimum((SCORE_BINS * chance).astype(int), SCORE_BINS - 1)
    counts = [np.bincount(cell[labels == side], minlength=SCORE_BINS) for side in (0, 1)]
    found: _Floats = np.concatenate(counts) / len(labels)
    return found


def _evaluations(
    experiment: Experiment, pools: Sequence[_Floats], rows: Sequence[int], rng: np.random.Generator
) -> list[Any]:
    """The metrics of all sites together, evaluation after evaluation."""
    deviation = run_plans("r", experiment, (), Split(name="s", lasting=True))[1].noise_multiplier
    found = []
    for _ in range(_EVALUATIONS):
        releases = {}
        for number, (shares, count) in enumerate(zip(pools, rows, strict=True)):
            counts = rng.multinomial(count, shares) + rng.normal(0, deviation, 2 * SCORE_BINS)
            releases[f"site-{number}"] = ScoreHistogram(
                negative=counts[:SCORE_BINS], positive=counts[SCORE_BINS:], noise_deviation=deviation
            )
        found.append(pooled(releases))
    return found


def _figures(plan: Plan) -> list[str]:
    return list(dict.fromkeys(error.figure.name for error in plan.errors))


def _foretold(plan: Plan, name: str, auc: float) -> float:
    """What the plan's table has for the level that is nearest to the model's AUC."""
    named = [error for error in plan.errors if error.figure.name == name]
    return min(named, key=lambda error: abs(error.level - auc)).error


def _spread(seen: Sequence[Any], name: str) -> float:
    values = np.array([getattr(one, name) if one is not None else math.nan for one in seen])
    readable = values[np.isfinite(values)]
    return float(readable.std()) if len(readable) > len(values) / 2 else math.nan


def _is_near(foretold: float, seen: float) -> bool:
    if math.isnan(foretold) or math.isnan(seen):
        return math.isnan(foretold) and math.isnan(seen)
    return seen / _FACTOR <= foretold <= seen * _FACTOR
