"""What a reply must be before anything is made of it: refused otherwise, with its reason.

A reply may come from anybody who holds an admitted key: from an honest site with a fault, an
old version or another's site.toml, or from one that means harm. What fails is named in the
round's report and the round goes on without it; nothing here can end a run. Sizes are looked
at before anything is unpacked (`contract.messages.unpack`).

Checks bound what one update can do, and do not find a bad one that keeps within the bounds:
for that there is `strategy.aggregation`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from contract.errors import ReleaseError
from contract.experiment import Experiment
from contract.messages import Reply
from contract.models import parameter_shapes
from contract.norm_bound import (
    ROWS_OVER_STATED,
    gaussian_multiplier,
    greatest_normal,
    l2_norm,
    update_bound,
)
from contract.quantization import distance, is_quantized, step_shapes
from contract.releases import COMPARISON_SENSITIVITY, SCORE_BINS, Comparison, ScoreHistogram, Spent
from monitoring.binning import feature_bins

__all__ = ["check_comparison", "check_drift", "check_public", "check_scores", "check_update", "model_shapes"]

Arrays = Mapping[str, np.ndarray[Any, Any]]

_SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}")
_MOST_ROWS = 10**12
_LONGEST_TEXT = 10_000
_SAME_DEVIATION = 1e-3
"""Site and server compute a deviation each for itself, and both to nine digits."""


def model_shapes(experiment: Experiment) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter of the experiment's model."""
    task = experiment.task
    return parameter_shapes(experiment.model, inputs=task.width, classes=len(task.label.classes))


def check_public(
    reply: Reply, experiment: Experiment, *, request: str | None = None, stated: Mapping[str, int]
) -> None:
    """What a site says of itself.

    Args:
        reply: what came.
        experiment: the plan.
        request: what the reply must say that it answers; None where sites answer a question once and for all.
        stated: the rows that each site stated before, in this run.

    Raises:
        ReleaseError: with what is wrong.
    """
    if request is not None and reply.request != request:
        raise ReleaseError(f"old reply: it answers '{reply.request[:200]}' and not '{request}'")
    if not _SITE_NAME.fullmatch(reply.site):
        raise ReleaseError("reply refused: its site's name is none")
    if not 1 <= reply.stated_rows <= _MOST_ROWS:
        raise ReleaseError(f"reply refused: it states {_shown(reply.stated_rows)} rows")
    before = stated.get(reply.site, reply.stated_rows)
    if reply.stated_rows != before:
        raise ReleaseError(
            f"reply refused: it states {reply.stated_rows:,} rows, and stated {before:,} in this run before"
        )
    if reply.private != experiment.privacy.private:
        raise ReleaseError(
            f"reply refused: it is {'' if reply.private else 'not '}private, contrary to the experiment"
        )
    if not all(_sound(spent) for spent in (reply.spent_in_run, reply.spent_in_total)):
        raise ReleaseError("reply refused: the ε that it says was spent is none")
    if len(reply.mechanism) > _LONGEST_TEXT:
        raise ReleaseError(f"reply refused: its mechanism has {len(reply.mechanism):,} characters")


def check_update(reply: Reply, experiment: Experiment, model: Arrays) -> None:
    """The update fits the model, is finite, and is no longer than an honest site's can be.

    Args:
        reply: what came; `check_public` has passed it.
        experiment: the plan.
        model: what the round began with.

    Raises:
        ReleaseError: with what is wrong.
    """
    if reply.update is None:
        raise ReleaseError("update refused: there is none")
    shapes, quantized = model_shapes(experiment), is_quantized(experiment)
    arrays, steps = reply.update.arrays, reply.update.steps
    _check_arrays(arrays, shapes, np.int8 if quantized else np.float32)
    _check_arrays(steps, step_shapes(shapes) if quantized else {}, np.float32)
    size = sum(array.size for array in arrays.values())
    bound = update_bound(experiment, reply.stated_rows, size)
    if math.isfinite(bound) and not (norm := distance(reply.update, model)) <= bound + _rounding(model):
        raise ReleaseError(
            f"update refused: its norm is {norm:.3g}, and of {reply.stated_rows:,} stated rows "
            f"at most {bound:.3g}"
        )


def check_scores(reply: Reply, experiment: Experiment, *, evaluations: int) -> None:
    """The evaluation of a model is the histogram that the plan asks for.

    Args:
        reply: what came; `check_public` has passed it.
        experiment: the plan.
        evaluations: how many of them share `evaluation_epsilon`.

    Raises:
        ReleaseError: with what is wrong.
    """
    if reply.scores is None:
        raise ReleaseError("scores refused: there are none")
    _check_histogram(reply.scores, reply, experiment, _deviation(experiment, evaluations))


def check_comparison(reply: Reply, experiment: Experiment) -> None:
    """Both evaluations, and the paired difference.

    Raises:
        ReleaseError: with what is wrong.
    """
    deviation = COMPARISON_SENSITIVITY * _deviation(experiment, 1)
    if reply.scores is None or reply.challenger_scores is None or reply.comparison is None:
        raise ReleaseError("scores refused: a comparison has two evaluations and a paired difference")
    for histogram in (reply.scores, reply.challenger_scores):
        _check_histogram(histogram, reply, experiment, deviation)
    _check_deviation(reply.comparison, deviation)
    most = ROWS_OVER_STATED * reply.stated_rows + deviation * greatest_normal(2)
    if not max(abs(reply.comparison.gain), abs(reply.comparison.rows)) <= most:
        raise ReleaseError(f"scores refused: a paired difference of more than {most:,.0f} rows")


def check_drift(reply: Reply, experiment: Experiment) -> None:
    """The counts of a drift check are over the bins that the task makes.

    Raises:
        ReleaseError: with what is wrong.
    """
    if reply.drift is None:
        raise ReleaseError("scores refused: there are no counts for the drift check")
    bins = feature_bins(experiment.task, experiment.drift.bins)
    expected = [(item.feature, len(item.cells)) for item in bins]
    features = reply.drift.features
    for counts in ([item.reference for item in features], [item.current for item in features]):
        if [(item.feature, len(found)) for item, found in zip(features, counts, strict=True)] != expected:
            raise ReleaseError("scores refused: the drift check's counts are over other features or bins")
        if not all(np.isfinite(found).all() for found in counts):
            raise ReleaseError("scores refused: a count of the drift check is not finite")
    deviations = (reply.drift.reference_deviation, reply.drift.current_deviation)
    if not all(math.isfinite(deviation) and deviation >= 0 for deviation in deviations):
        raise ReleaseError("scores refused: the noise of the drift check's counts is not stated")


def _check_arrays(arrays: Arrays, shapes: Mapping[str, tuple[int, ...]], dtype: type[np.number[Any]]) -> None:
    other = sorted({str(array.dtype) for array in arrays.values() if array.dtype != dtype})
    if other:
        raise ReleaseError(
            f"update refused: it is of type {', '.join(other)[:100]}, not {dtype.__name__}, "
            "as another version of Tidegate may make it"
        )
    if {name: array.shape for name, array in arrays.items()} != shapes:
        raise ReleaseError("update refused: its parameters are of other names or shapes than the model's")
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ReleaseError("update refused: it holds a number that is not finite")


def _check_histogram(
    histogram: ScoreHistogram, reply: Reply, experiment: Experiment, deviation: float
) -> None:
    if len(histogram.negative) != SCORE_BINS:
        raise ReleaseError(f"scores refused: {len(histogram.negative):,} bins, where {SCORE_BINS} are agreed")
    if histogram.binary != (len(experiment.task.label.classes) == 2):
        raise ReleaseError("scores refused: they are of a task of another number of classes")
    _check_deviation(histogram, deviation)
    counts = np.concatenate([histogram.negative, histogram.positive])
    noise = deviation * greatest_normal(len(counts))
    most = ROWS_OVER_STATED * reply.stated_rows
    if not np.isfinite(counts).all() or counts.min() < -noise or counts.max() > most + noise:
        raise ReleaseError(
            f"scores refused: a count is not between 0 and {most:,.0f} rows, give or take noise"
        )


def _check_deviation(released: ScoreHistogram | Comparison, deviation: float) -> None:
    if not math.isclose(released.noise_deviation, deviation, rel_tol=_SAME_DEVIATION):
        raise ReleaseError(
            f"scores refused: their noise has a deviation of {released.noise_deviation:.4g}, "
            f"by the experiment {deviation:.4g}"
        )


def _deviation(experiment: Experiment, times: int) -> float:
    """Of the noise in each count, when `times` evaluations share the budget for them; 0 if none."""
    privacy = experiment.privacy
    if not privacy.private:
        return 0.0
    multiplier = gaussian_multiplier(privacy.evaluation_epsilon, privacy.delta, times)
    return multiplier * privacy.rows_per_person


def _rounding(model: Arrays) -> float:
    """What storing the parameters as float32 can add to a norm."""
    return 1e-6 * l2_norm(model.values())


def _sound(spent: Spent) -> bool:
    words = len(spent.method) <= _LONGEST_TEXT and len(spent.block) <= _LONGEST_TEXT
    return words and spent.epsilon >= 0 and 0 <= spent.delta < 1  # infinite where nothing is guaranteed


def _shown(rows: int) -> str:
    """A number that may have thousands of digits."""
    return f"{rows:,}" if abs(rows) < 10**18 else "more than 10¹⁸"
