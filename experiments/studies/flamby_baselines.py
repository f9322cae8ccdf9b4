"""Training without privacy as the FLamby benchmark does it on Fed-Heart-Disease: alone, pooled, federated.

The recipe is that of the benchmark's repository (owkin/FLamby: `common.py` and `dataset.py` of
`fed_heart_disease`, and the settings that stand in its result files of seeds 42 to 46; Ogier du Terrail
et al., 2022), written anew here:

* logistic regression on 13 inputs, mean log loss, batches of 4 rows, shuffled anew in every pass;
* federated: 15 rounds of 100 local SGD steps, averages weighted by training rows; local learning rate
  .001 for FedAvg, FedProx (μ = .01) and SCAFFOLD, .01 for FedAdam and Cyclic, .003162 for FedAdagrad;
  the server's is .01 for FedAdam and .316228 for FedAdagrad, with β₁ = .9, β₂ = .999, τ = 10⁻⁸;
* alone and pooled: 50 epochs of Adam (Kingma and Ba, 2015) with learning rate .001;
* the rows are those of `flamby_rows`, whose z-scores use the data: **nothing here is private**.

The first model of a seed is the one that torch draws for `Linear(13, 1)`, bit by bit FLamby's, and Cyclic
visits the centres in FLamby's order; the order of rows in batches is of our own drawing.

Cyclic weight transfer is here twice. In the versions of the benchmark's code that we read, each centre trains
a copy of its own, which nobody hands on, and the first centre's is evaluated; `cyclic(..., hand_on=False)`
does that, and gives four of the five seeds' published means, and all five figures over all patients, to the
third digit. Handed on, as Chang et al. (2018) describe it, the weights do as well in the centres' mean and
worse over all patients.

The server's steps are our own, not those of Flower's strategies: Flower's FedAdam corrects the bias of its
moments, and its FedAdagrad has no momentum, so neither gives the published figures; SCAFFOLD and Cyclic
are not in Flower.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from experiments.studies.flamby_rows import Centre, Vector

__all__ = [
    "METHODS",
    "Recipe",
    "cyclic",
    "fed_adagrad",
    "fed_adam",
    "fed_avg",
    "fed_prox",
    "first_model",
    "scaffold",
    "train_adam",
]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How long is trained; the defaults are FLamby's.

    Attributes:
        rounds: of the federated methods. FLamby's rule gives 15: 486 // 4 centres // 4 rows
            × 50 epochs // 100 steps.
        steps: SGD steps of a centre in a round.
        batch_size: rows of a step.
        epochs: passes over the rows, for training alone and pooled.
    """

    rounds: int = 15
    steps: int = 100
    batch_size: int = 4
    epochs: int = 50


Batches = Iterator[tuple[Vector, Vector]]
Method = Callable[[Sequence[Centre], Vector, Recipe, np.random.Generator], Vector]


def first_model(seed: int, inputs: int = 13) -> Vector:
    """The weights and the intercept that `torch.nn.Linear(inputs, 1)` draws after `manual_seed(seed)`."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    bound = 1 / inputs**0.5
    drawn = [torch.empty(count).uniform_(-bound, bound, generator=generator) for count in (inputs, 1)]
    return torch.cat(drawn).numpy().astype(np.float64)


def fed_avg(
    centres: Sequence[Centre],
    start: Vector,
    recipe: Recipe,
    rng: np.random.Generator,
    *,
    learning_rate: float = 1e-3,
    proximal_mu: float = 0.0,
) -> Vector:
    """Federated averaging (McMahan et al., 2017); with `proximal_mu`, FedProx (Li et al., 2020)."""
    batches, shares, model = _all_batches(centres, recipe, rng), _shares(centres), start
    for _ in range(recipe.rounds):
        local = [_sgd(model, own, recipe.steps, learning_rate, proximal_mu=proximal_mu) for own in batches]
        model = shares @ np.stack(local)
    return model


def fed_prox(centres: Sequence[Centre], start: Vector, recipe: Recipe, rng: np.random.Generator) -> Vector:
    """FedProx with FLamby's μ."""
    return fed_avg(centres, start, recipe, rng, proximal_mu=0.01)


def scaffold(
    centres: Sequence[Centre],
    start: Vector,
    recipe: Recipe,
    rng: np.random.Generator,
    *,
    learning_rate: float = 1e-3,
) -> Vector:
    """SCAFFOLD (Karimireddy et al., 2020), control variates by its option II, all centres in each round.

    A centre's control variate is the mean of its gradients over the last round; each of its steps
    takes its own away and adds the server's.
    """
    batches, shares, model = _all_batches(centres, recipe, rng), _shares(centres), start
    controls = np.zeros((len(centres), len(start)))
    for _ in range(recipe.rounds):
        drifts = shares @ controls - controls
        local = np.stack(
            [
                _sgd(model, own, recipe.steps, learning_rate, drift=drift)
                for own, drift in zip(batches, drifts, strict=True)
            ]
        )
        controls = (model - local) / (recipe.steps * learning_rate) - drifts
        model = shares @ local
    return model


def fed_adam(centres: Sequence[Centre], start: Vector, recipe: Recipe, rng: np.random.Generator) -> Vector:
    """FedAdam (Reddi et al., 2021, algorithm 2), without a correction of bias."""
    decayed = 0.999
    return _fed_opt(
        centres,
        start,
        recipe,
        rng,
        learning_rate=1e-2,
        server_learning_rate=1e-2,
        second_moment=lambda moment, change: decayed * moment + (1 - decayed) * change**2,
    )


def fed_adagrad(centres: Sequence[Centre], start: Vector, recipe: Recipe, rng: np.random.Generator) -> Vector:
    """FedAdagrad (Reddi et al., 2021, algorithm 2), with momentum."""
    return _fed_opt(
        centres,
        start,
        recipe,
        rng,
        learning_rate=0.003162,
        server_learning_rate=0.316228,
        second_moment=lambda moment, change: moment + change**2,
    )


def cyclic(
    centres: Sequence[Centre],
    start: Vector,
    recipe: Recipe,
    rng: np.random.Generator,
    *,
    learning_rate: float = 1e-2,
    hand_on: bool = True,
) -> Vector:
    """Cyclic weight transfer (Chang et al., 2018): one centre a round, in an order drawn anew each cycle.

    Without `hand_on` every centre goes on from its own last weights, and the first centre's are returned.
    """
    batches, models = _all_batches(centres, recipe, rng), [start] * len(centres)
    order: list[int] = []
    for _ in range(recipe.rounds):
        order = order or rng.permutation(len(centres)).tolist()
        turn = order.pop(0)
        trained = _sgd(models[turn], batches[turn], recipe.steps, learning_rate)
        models = [trained if hand_on or place == turn else model for place, model in enumerate(models)]
    return models[0]


def train_adam(centre: Centre, start: Vector, recipe: Recipe, rng: np.random.Generator) -> Vector:
    """One centre's rows, or all in one place: `recipe.epochs` passes of Adam with torch's defaults.

    By hand: a step of torch's own takes longer than all else here.
    """
    model, batches = start, _batches(centre, recipe.batch_size, rng)
    first, second = np.zeros_like(start), np.zeros_like(start)
    for step in range(1, 1 + recipe.epochs * -(-len(centre.labels) // recipe.batch_size)):
        gradient = _gradient(model, *next(batches))
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        unbiased, deviation = first / (1 - 0.9**step), np.sqrt(second / (1 - 0.999**step))
        model = model - 1e-3 * unbiased / (deviation + 1e-8)
    return model


METHODS: dict[str, Method] = {
    "FedAvg": fed_avg,
    "FedProx": fed_prox,
    "SCAFFOLD": scaffold,
    "FedAdam": fed_adam,
    "FedAdagrad": fed_adagrad,
    "Cyclic": partial(cyclic, hand_on=False),
    "Cyclic, weights handed on": cyclic,
}
"""Those that give one model of all centres, by their names in the benchmark."""


def _fed_opt(  # noqa: PLR0913 - what Reddi et al. name
    centres: Sequence[Centre],
    start: Vector,
    recipe: Recipe,
    rng: np.random.Generator,
    *,
    learning_rate: float,
    server_learning_rate: float,
    second_moment: Callable[[Vector, Vector], Vector],
    momentum: float = 0.9,
    adaptivity: float = 1e-8,
) -> Vector:
    batches, shares, model = _all_batches(centres, recipe, rng), _shares(centres), start
    first, second = np.zeros_like(start), np.zeros_like(start)
    for _ in range(recipe.rounds):
        local = [_sgd(model, own, recipe.steps, learning_rate) for own in batches]
        change = shares @ np.stack(local) - model
        first = momentum * first + (1 - momentum) * change
        second = second_moment(second, change)
        model = model + server_learning_rate * first / (np.sqrt(second) + adaptivity)
    return model


def _sgd(
    start: Vector,
    batches: Batches,
    steps: int,
    learning_rate: float,
    *,
    proximal_mu: float = 0.0,
    drift: Vector | float = 0.0,
) -> Vector:
    """`steps` steps from `start`, each along the batch's gradient, the pull to `start`, and `drift`."""
    model = start
    for _ in range(steps):
        gradient = _gradient(model, *next(batches)) + proximal_mu * (model - start) + drift
        model = model - learning_rate * gradient
    return model


def _gradient(model: Vector, inputs: Vector, labels: Vector) -> Vector:
    """Of the mean log loss; tanh is the logistic function without its overflow."""
    residuals = 0.5 * (1 + np.tanh(inputs @ model / 2)) - labels
    gradient: Vector = residuals @ inputs / len(labels)
    return gradient


def _all_batches(centres: Sequence[Centre], recipe: Recipe, rng: np.random.Generator) -> list[Batches]:
    """Each with a generator of its own, spawned: that leaves what `rng` itself draws as it was."""
    own = rng.spawn(len(centres))
    return [_batches(centre, recipe.batch_size, one) for centre, one in zip(centres, own, strict=True)]


def _batches(centre: Centre, size: int, rng: np.random.Generator) -> Batches:
    """Batches without end, the rows in a new order in each pass; a pass's last one may be smaller."""
    while True:
        order = rng.permutation(len(centre.labels))
        for place in range(0, len(order), size):
            chosen = order[place : place + size]
            yield centre.inputs[chosen], centre.labels[chosen]


def _shares(centres: Sequence[Centre]) -> Vector:
    """Each centre's part of all training rows."""
    rows = np.array([len(centre.labels) for centre in centres], dtype=np.float64)
    shares: Vector = rows / rows.sum()
    return shares
