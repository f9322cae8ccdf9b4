"""What noise leaves of an effect that is there: training as a run does it, on rows drawn from public facts.

Real values fill a public range unevenly, so each number is drawn from the lower part of its range for the
most, and categories are unlike in size. A row's label follows from chance and a sum of its features with
weights drawn alike for all of them, so that a model that knew the weights would reach an AUC of about .8: a
clear effect, most of which is in what varies, as it is in real rows. (With weights that gave each feature the
same part of it, a plan warned of a third of the runs that came out well: a strong effect is rarely even.)
Sites, server, noise (`experiments.benchmarks.utility.train`) and settings are a run's own; beside it stands
logistic regression without privacy on the same rows. Real rows are others, and so is their effect:
this says what rows, sites, ε and settings allow, not what will come out.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contract.errors import ModelError, NotInstalledError
from contract.experiment import CategoricalFeature, Experiment, Task
from contract.installed_models import loaded_once, require_installed, with_package
from contract.models import parameter_count
from contract.recipe import with_recipe
from experiments.benchmarks.utility import Arrays, pooled_auc, train
from experiments.benchmarks.utility_sets import EncodedRows
from experiments.planning.sites import PlannedSite
from experiments.planning.warnings import positive_share

__all__ = [
    "FACTORS",
    "PlantedResult",
    "not_planted",
    "planted_result",
    "planted_rows",
    "refused_by_all",
    "repeats_of",
]

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Times the experiment's ε, of a curve."""
_REPEATS, _REPEATS_OF_PACKAGES = 5, 3
"""With new rows, a new effect and new noise each. A package is trained row by row, which takes longer."""

_MOST_ROWS = 6_000
"""That are trained on; with more, these stand for all, with less noise."""
_MOST_SITES = 8
"""That are trained on, where sites are not taken as one."""
_HELD_OUT = 4_000
_MOST_PARAMETERS = 2_000
_LEAST_SHARE = 1e-6
"""Of the noise: with less, none is to be seen."""
_STRENGTH = 1.6
"""Standard deviation of the weighted sum, in log odds: an AUC of about .8."""
_SHAPE = (2, 8)
"""Of the beta distribution of a number over its range: a mean of a fifth, a deviation of an eighth."""


@dataclass(frozen=True, kw_only=True)
class PlantedResult:
    """What a model reached on rows with a planted effect.

    Attributes:
        epsilon: of training.
        auc, spread: mean and standard deviation over repeats, with a new effect, new rows and new noise each:
            without privacy it varies as much.
        without_privacy: of logistic regression on the same rows.
        rounds: that the plan has at this ε.
        log_loss: mean over repeats.
        constant: the log loss of always saying the share of positives.
    """

    epsilon: float
    auc: float
    spread: float
    without_privacy: float
    rounds: int
    log_loss: float
    constant: float

    @property
    def kept(self) -> float:
        """The share of what can be learnt that is learnt in spite of the noise, from 0 (chance) on."""
        return (self.auc - 0.5) / (self.without_privacy - 0.5)


def not_planted(experiment: Experiment) -> str:
    """Why there is no planted effect for such a label and model, in a sentence; empty where there is.

    It is for two classes, and for a model that is not large. A package's has to be installed here, for it is
    trained here.

    Raises:
        InputError: a package that is installed does not take these settings, or is none.
    """
    what = "What noise leaves of an effect is not simulated here"
    if len(experiment.task.label.classes) != 2 or experiment.model.kind == "cnn":
        return f"{what}: it is for two classes, and a model that takes features."
    try:
        stated = with_package(experiment)
        require_installed(stated.model)
        parameters = parameter_count(stated)
    except NotInstalledError as exc:
        return f"{what}: {exc.what}. {exc.remedy}."
    if refused_by_all(stated):
        return f"{what}: no site would train the model."
    if parameters > _MOST_PARAMETERS:
        return f"{what}: the model has {parameters:,} parameters, and it is for at most {_MOST_PARAMETERS:,}."
    return ""


def repeats_of(experiment: Experiment) -> int:
    """How often an effect is planted at each ε."""
    return _REPEATS_OF_PACKAGES if experiment.model.kind == "package" else _REPEATS


def refused_by_all(experiment: Experiment) -> str:
    """What every site finds wrong with a package's module, as far as it is found here; a sentence, or empty.

    Raises:
        InputError: a package that is installed does not take these settings, or is none.
    """
    from clients.mechanisms.trial import require_sound

    if experiment.model.kind != "package":
        return ""
    try:
        require_sound(with_package(experiment))
    except NotInstalledError:
        return ""
    except ModelError as exc:
        return f"Every site would refuse the model, for {exc}"
    return ""


def planted_result(
    stated: Experiment,
    sites: Sequence[PlannedSite],
    *,
    factor: float = 1.0,
    seed: int = 0,
    told: Callable[[], None] = lambda: None,
) -> PlantedResult:
    """Train on planted rows at so many times the experiment's ε, with and without privacy.

    Args:
        stated: the experiment as its file has it: what it leaves to the recipe is chosen for each ε.
        sites: that state their rows.
        factor: of ε.
        seed: of rows; noise comes from the system.
        told: is called after each repeat.
    """
    epsilon = stated.privacy.epsilon * factor
    privacy = stated.privacy.model_copy(update={"epsilon": epsilon})
    rows = [site.stated_rows for site in sites]
    plan = with_recipe(stated.model_copy(update={"privacy": privacy}), rows)
    sizes, share = _sizes(plan, rows)
    seen = plan.privacy.private and share > _LEAST_SHARE
    private, plain, lost, constant = [], [], [], []
    for repeat in range(repeats_of(plan)):
        rng = np.random.default_rng([seed, repeat])
        both = planted_rows(plan.task, [*sizes, _HELD_OUT], rng, positive=positive_share(plan))
        held = both.site == len(sizes)
        training, held_out = both.rows(~held), both.rows(held)
        with loaded_once():
            model = train(plan, training, rng, share_of_noise=share if seen else 0.0)
            auc, loss = _figures(plan, model, held_out)
        private.append(auc)
        lost.append(loss)
        constant.append(_entropy(float(held_out.labels.mean())))
        plain.append(max(pooled_auc(training, held_out)))
        told()
    return PlantedResult(
        epsilon=epsilon,
        auc=statistics.mean(private),
        spread=statistics.stdev(private),
        without_privacy=statistics.mean(plain),
        rounds=plan.strategy.rounds,
        log_loss=statistics.mean(lost),
        constant=statistics.mean(constant),
    )


def planted_rows(
    task: Task, sizes: Sequence[int], rng: np.random.Generator, *, positive: float
) -> EncodedRows:
    """Rows of sites of these sizes, with one effect in all of them.

    Args:
        task: its features are drawn; two classes.
        sizes: of the sites.
        rng: of rows, effect and chance.
        positive: the share of positives.
    """
    count = sum(sizes)
    features = np.concatenate([_drawn(feature, task, count, rng) for feature in task.features], axis=1)
    score = features @ rng.normal(size=features.shape[1])
    score = _STRENGTH * (score - score.mean()) / (score.std() or 1.0) + rng.logistic(size=count)
    return EncodedRows(
        task=task,
        features=features.astype(np.float32),
        labels=(score > np.quantile(score, 1 - positive)).astype(np.int64),
        site=np.repeat(np.arange(len(sizes)), sizes).astype(np.int64),
        group=np.arange(count),
    )


def _figures(plan: Experiment, model: Arrays, rows: EncodedRows) -> tuple[float, float]:
    """AUC and log loss."""
    from clients.mechanisms.evaluation import exact_scores
    from clients.rows.table import Table

    found = exact_scores(model, Table(features=rows.features, labels=rows.labels), plan)
    return found.auc, found.log_loss


def _entropy(share: float) -> float:
    return -sum(part * math.log(part) for part in (share, 1 - share) if part > 0)


def _drawn(feature: object, task: Task, count: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """A feature's columns, scaled as a site scales them."""
    if isinstance(feature, CategoricalFeature):
        categories = len(feature.categories)
        unit = np.eye(categories)[rng.choice(categories, count, p=rng.dirichlet(np.ones(categories)))]
    else:
        unit = rng.beta(*_SHAPE, (count, 1))
    return 2 * unit - 1 if task.scaling == "symmetric" else unit


def _sizes(experiment: Experiment, rows: Sequence[int]) -> tuple[list[int], float]:
    """Rows of the sites that are trained on, and the share of the noise that they get.

    As many times less noise as there are fewer rows leaves the noise in a step what it was. Imagined rows are
    alike at all sites: where a step is the mean of all rows' gradients, one site stands for all, and gets √K
    times the noise, for so much is that of K sites together.
    """
    shrink = min(1.0, _MOST_ROWS / sum(rows))
    strategy, number = experiment.strategy, len(rows)
    if strategy.aggregation == "mean" and strategy.local_steps == 1:
        size = max(1, round(shrink * sum(rows)))
        return [size], size / sum(rows) * math.sqrt(number)
    kept = min(number, _MOST_SITES)
    sizes = [max(1, round(shrink * sum(rows[place::kept]))) for place in range(kept)]
    return sizes, sum(sizes) / sum(rows) * math.sqrt(number / kept)
