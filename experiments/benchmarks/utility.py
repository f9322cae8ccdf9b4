"""How well a model learns with no setting of training stated, over a regression without any privacy.

Each data set lies at its natural sites, split anew for each seed. A run here is what sites and server do
between messages: the plan that `contract.recipe` makes, the noise that a site's plan is charged for, a
site's noisy steps, the server's aggregation and the average of the last models; and, where an outcome is
rare, that it begins anew with what its first evaluation counts (`server.exchange.first_share`), as if 30 %
more rows were held out. Ledgers, messages and other evaluations, which touch no number of the model, are
left out; `tests/experiments/test_utility.py` holds it against `tidegate run`'s own path. AUC is exact, on
held-out rows that are public.

Beside it stands logistic regression on the rows of all sites in one place, with the same public scaling: the
better of scikit-learn's default penalty and next to none.

The recipe's constants were chosen on `heart-disease`, `bank-marketing` and `online-shoppers` (two to five of
these seeds, in a simulation of the same mechanism); the other three were first tried when they stood.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from contract.experiment import Experiment, Model, Privacy
from contract.recipe import with_recipe
from experiments.benchmarks.measurement import Measurement
from experiments.benchmarks.utility_sets import HELD_OUT, SETS, EncodedRows, load, rare

if TYPE_CHECKING:
    from contract.messages import Reply
    from contract.releases import ScoreHistogram

__all__ = [
    "Arrays",
    "auc_of",
    "measure",
    "measure_one",
    "pooled_auc",
    "ready_plan",
    "scores",
    "stated_for",
    "train",
]

SEEDS = range(5)
GOALS = {3.0: 0.97, 1.0: 0.94}
"""What share of the AUC without privacy is wanted, by ε."""

_RARE_SHARE = 0.03
_NETWORK = Model(kind="mlp", hidden=(32,))
_CHOSEN_ON = ("heart-disease", "bank-marketing", "online-shoppers")

Arrays = Mapping[str, npt.NDArray[Any]]


def ready_plan(rows: EncodedRows, epsilon: float, model: Model | None = None) -> Experiment:
    """An experiment on training rows that states no setting of training, once the recipe has chosen them."""
    return with_recipe(stated_for(rows, epsilon, model), _sizes(rows))


def stated_for(
    rows: EncodedRows, epsilon: float, model: Model | None = None, *, evaluation_epsilon: float = 1.0
) -> Experiment:
    """The same as its file would have it, before the recipe."""
    delta = min(1e-5, 10.0 ** -(len(str(max(_sizes(rows)))) + 1))
    return Experiment(
        name="utility",
        task=rows.task,
        model=model or Model(),
        privacy=Privacy(epsilon=epsilon, delta=delta, evaluation_epsilon=evaluation_epsilon),
    )


def train(
    plan: Experiment,
    rows: EncodedRows,
    rng: np.random.Generator,
    *,
    share_of_noise: float = 1.0,
    watch: Callable[[int, Mapping[str, Reply], Arrays], None] = lambda _number, _replies, _model: None,
) -> Arrays:
    """The model of a private run: each site's real noise, from the operating system's entropy.

    Args:
        plan: of `ready_plan`, on the same rows.
        rows: those of training.
        rng: for the first values of a network.
        share_of_noise: that is added, where the rows stand for others: a tenth of the rows with a tenth of
            the noise learn what all would.
        watch: is told of each round: its number, the replies, and the model that it began from.
    """
    from clients.ledger.plan import Split
    from clients.ledger.plans import train_plan
    from clients.mechanisms.noise import NoNoise, SystemNoise
    from clients.mechanisms.training import LocalSteps, train_locally
    from clients.rows.table import Table
    from contract.messages import Instruction, Reply
    from contract.models import initial_arrays
    from contract.releases import Spent
    from server.exchange.first_share import begun_anew
    from server.exchange.strategies import aggregate, build_strategy
    from server.line.flower import assume_identity

    assume_identity(1)  # Flower's strategies address messages, which nobody sends
    noise = train_plan(plan, Instruction(run="r", step=1), Split(name="s", lasting=True)).noise_multiplier
    noise *= share_of_noise
    spent = Spent(
        epsilon=plan.privacy.epsilon, delta=plan.privacy.delta, unit="record", method="PLD", block="all/train"
    )
    tables = {
        f"site-{site}": Table(
            features=rows.features[rows.site == site], labels=rows.labels[rows.site == site]
        )
        for site in np.unique(rows.site)
    }
    strategy, source = build_strategy(plan.strategy), SystemNoise() if noise else NoNoise()
    model: Any = initial_arrays(plan, rng)
    kept = max(1, round(plan.strategy.average_last * plan.strategy.rounds))
    total = {name: np.zeros(value.shape) for name, value in model.items()}
    for number in range(1, plan.strategy.rounds + 1):
        replies = {}
        for site, table in tables.items():
            stated = len(table.labels)
            steps = LocalSteps(experiment=plan, stated_rows=stated, noise_multiplier=noise)
            update = train_locally(model, table, steps, source)
            replies[site] = Reply(
                site=site,
                stated_rows=stated,
                mechanism="",
                spent_in_run=spent,
                spent_in_total=spent,
                update=update,
            )
        watch(number, replies, model)
        anew = number == 1 and begun_anew(plan, model, _first_counts(plan, rows, rng, share_of_noise))
        if anew:
            strategy, model = build_strategy(plan.strategy), anew[0]
        else:
            model = aggregate(strategy, number, model, replies)
        if number > plan.strategy.rounds - kept:
            total = {name: value + model[name] for name, value in total.items()}
    return {name: (value / kept).astype(np.float32) for name, value in total.items()}


def _first_counts(
    plan: Experiment, rows: EncodedRows, rng: np.random.Generator, share_of_noise: float
) -> ScoreHistogram | None:
    """What the sites' held-out rows would say of a first model that gives every row about the same score.

    Their noise is that of real evaluations; they are imagined, as many as `HELD_OUT` of all rows.
    """
    from clients.ledger.plan import Split
    from clients.ledger.plans import evaluate_plan
    from contract.messages import Instruction
    from contract.releases import SCORE_BINS, ScoreHistogram

    if len(plan.task.label.classes) != 2 or not plan.strategy.evaluates_in(1):
        return None
    split = Split(name="s", lasting=True)
    noise = share_of_noise * evaluate_plan(plan, Instruction(run="r", step=1), split).noise_multiplier
    sites = len(np.unique(rows.site))
    held_out = round(HELD_OUT / (1 - HELD_OUT) * len(rows.labels))
    positives = rng.binomial(held_out, rows.labels.mean())
    counts = np.zeros((2, SCORE_BINS))
    counts[:, SCORE_BINS // 2] = held_out - positives, positives
    negative, positive = counts + rng.normal(0, noise * math.sqrt(sites), counts.shape)
    return ScoreHistogram(negative=negative, positive=positive, noise_deviation=noise * math.sqrt(sites))


def auc_of(model: Arrays, rows: EncodedRows) -> float:
    """Of a linear model or a network, on these rows."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(rows.labels, scores(model, rows)))


def scores(model: Arrays, rows: EncodedRows) -> npt.NDArray[Any]:
    """What a linear model or a network says of each row: of the last of two classes, or the number."""
    values: npt.NDArray[Any] = rows.features
    layers = len(model) // 2
    for layer in range(layers):
        values = values @ model[f"layers.{layer}.weight"].T + model[f"layers.{layer}.bias"]
        if layer < layers - 1:
            values = np.maximum(values, 0)
    return values[:, 0]


def pooled_auc(training: EncodedRows, held_out: EncodedRows) -> tuple[float, float]:
    """Of logistic regression without privacy on all rows: with the default penalty, and with next to none."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    found = []
    for inverse_penalty in (1.0, 1e4):
        model = LogisticRegression(C=inverse_penalty, max_iter=300)
        model.fit(training.features, training.labels)
        found.append(float(roc_auc_score(held_out.labels, model.decision_function(held_out.features))))
    return found[0], found[1]


def measure(told: Callable[[int, str], None] = lambda _done, _what: None) -> list[Measurement]:
    """AUC at the recipe's settings over that of pooled logistic regression; and of numbers, the error.

    Args:
        told: is given how many percent are done, and of what.
    """
    from experiments.benchmarks import utility_numbers

    found: list[Measurement] = []
    cases: list[tuple[str, Callable[[], EncodedRows]]] = [
        *((name, lambda name=name: load(name)) for name in SETS),
        *(
            (
                f"{name}, {_RARE_SHARE:.0%} positive{', which is stated' if stated else ''}",
                lambda name=name, stated=stated: rare(load(name), _RARE_SHARE, 0, stated=stated),
            )
            for name in ("bank-marketing", "credit-default", "online-shoppers", "rand-health")
            for stated in (False, True)
        ),
    ]
    total = len(cases) + len(utility_numbers.LABELS)
    for number, (name, rows) in enumerate(cases):
        told(100 * number // total, f"({name})")
        found += measure_one(name, rows())
        if name in SETS:
            found += measure_one(name, rows(), model=_NETWORK)
    for number, (name, label) in enumerate(utility_numbers.LABELS):
        told(100 * (len(cases) + number) // total, f"({name}, {label})")
        found += utility_numbers.measure(number)
    return found


def measure_one(
    name: str, rows: EncodedRows, *, seeds: Sequence[int] = SEEDS, model: Model | None = None
) -> list[Measurement]:
    """A data set at each ε."""
    splits = [(rows.rows(~held), rows.rows(held)) for held in map(rows.held_out, seeds)]
    pooled = max(map(statistics.mean, zip(*(pooled_auc(*split) for split in splits), strict=True)))
    found = []
    for epsilon, goal in GOALS.items():
        aucs = []
        for seed, (training, held_out) in zip(seeds, splits, strict=True):
            plan = ready_plan(training, epsilon, model)
            aucs.append(auc_of(train(plan, training, np.random.default_rng(seed)), held_out))
        ours, spread = statistics.mean(aucs), statistics.pstdev(aucs)
        found.append(
            Measurement(
                name=f"{name}, {model.kind if model else 'linear'}, ε = {epsilon:g}",
                ours=ours / pooled,
                theirs=None,
                unit="ratio",
                goal=goal,
                at_least=True,
                note=f"AUC {ours:.3f} ± {spread:.3f} by split, over {pooled:.3f} of pooled logistic "
                f"regression without privacy; {plan.strategy.rounds} rounds, step "
                f"{plan.strategy.learning_rate:g}, clipping norm {plan.privacy.clipping_norm:g}"
                + (
                    "; the recipe was chosen on this set"
                    if name.split(",", maxsplit=1)[0] in _CHOSEN_ON
                    else ""
                ),
            )
        )
    return found


def _sizes(rows: EncodedRows) -> list[int]:
    return [int(size) for size in np.unique(rows.site, return_counts=True)[1]]
