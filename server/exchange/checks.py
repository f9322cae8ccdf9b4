"""What a reply must be before anything is made of it: refused otherwise, with its reason.

A reply may come from anybody who holds an admitted key: from an honest site with a fault, an
old version or another's site.toml, or from one that means harm. What fails is named in the
round's report and the round goes on without it; nothing here can end a run. Sizes are looked
at before anything is unpacked (`contract.messages.unpack`).

Checks bound what one reply can do, and do not find a bad one that keeps within the bounds:
a site can say what its rows might be. For updates there is `strategy.aggregation`; whatever
is added up over sites weighs no site above a share (`server.exchange.weights`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from contract.clipped import clipped_deviation
from contract.errors import ReleaseError
from contract.experiment import Experiment
from contract.messages import Reply
from contract.models import model_shapes
from contract.norm_bound import greatest_normal, l2_norm, update_bound
from contract.quantization import distance, is_quantized, step_shapes
from contract.regression import GREATEST, WEIGHTS, ErrorSums, Scores
from contract.releases import (
    ROWS_WEIGHT,
    SCORE_BINS,
    SCORES_WEIGHT,
    SQUARES_WEIGHT,
    FeatureCounts,
    RangeCounts,
    Spent,
)
from contract.verdicts import POOLED
from monitoring.binning import feature_bins
from server.exchange.bounds import (
    comparison_deviation,
    drift_deviation,
    evaluation_deviation,
    most_rows,
    ranges_deviation,
    require_counts,
    require_deviation,
)
from server.state.participation import printable

__all__ = [
    "check_clipped",
    "check_comparison",
    "check_drift",
    "check_public",
    "check_ranges",
    "check_scores",
    "check_update",
]

Arrays = Mapping[str, np.ndarray[Any, Any]]

_SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}")
_UNKNOWN_NODE = re.compile(r"node \d+.*")
"""As who was never heard of is spoken of (`server.exchange.answers`)."""
_MOST_ROWS = 10**12
_LONGEST_TEXT = 2_000
_LARGEST_PARAMETER = 1e9
"""Where nothing is clipped: beyond any model that fits anything, and its squares and sums are finite."""
_CHARGED_AGAIN = 10
"""How many times its plan a run may have cost a site: an answer that a crash took is charged again."""
_LARGEST_EPSILON = 1e9
_LARGEST_SUM = 1e18


def check_public(
    reply: Reply,
    experiment: Experiment,
    *,
    asked: Collection[str],
    request: str | None = None,
    stated: Mapping[str, int],
    question_epsilon: float = 0.0,
) -> None:
    """What a site says of itself, and that it says nothing else than it was asked.

    Args:
        reply: what came.
        experiment: the plan.
        asked: the releases that were asked for, by name; whether they are there, the others say.
        request: what the reply must say that it answers; None where sites answer a question once and for all.
        stated: the rows that each site stated before: in this run, and where sites are admitted by key
            at its admission.
        question_epsilon: what a question beside the experiment may cost.

    Raises:
        ReleaseError: with what is wrong.
    """
    if request is not None and reply.request != request:
        raise ReleaseError(f"old reply: it answers '{printable(reply.request)}' and not '{request}'")
    if not _SITE_NAME.fullmatch(reply.site):
        raise ReleaseError("reply refused: its site's name is none")
    if reply.site == POOLED or _UNKNOWN_NODE.fullmatch(reply.site):
        raise ReleaseError(f"reply refused: '{reply.site}' is no site's name")
    if unasked := sorted(reply.releases().keys() - set(asked)):
        raise ReleaseError(f"reply refused: it holds {', '.join(unasked)}, which was not asked for")
    _check_rows(reply, stated)
    if reply.private != experiment.privacy.private:
        raise ReleaseError(
            f"reply refused: it is {'' if reply.private else 'not '}private, contrary to the experiment"
        )
    privacy = experiment.privacy
    plan = privacy.epsilon * privacy.runs + 2 * privacy.evaluation_epsilon + experiment.drift.epsilon
    in_run = _CHARGED_AGAIN * (plan + question_epsilon) if privacy.private else math.inf
    for spent, most in ((reply.spent_in_run, in_run), (reply.spent_in_total, math.inf)):
        _check_spent(spent, most, privacy.delta)
    for text in (reply.mechanism, *(_words(reply.spent_in_run)), *(_words(reply.spent_in_total))):
        if len(text) > _LONGEST_TEXT or not text.isprintable():
            raise ReleaseError("reply refused: a text is too long, or cannot be printed")


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


def check_scores(reply: Reply, experiment: Experiment) -> None:
    """The evaluation of a model is the histogram that the plan asks for, or the sums.

    Args:
        reply: what came; `check_public` has passed it.
        experiment: the plan: its evaluations share `evaluation_epsilon`.

    Raises:
        ReleaseError: with what is wrong.
    """
    if reply.scores is None:
        raise ReleaseError("scores refused: there are none")
    deviation = evaluation_deviation(experiment, experiment.strategy.evaluations)
    _check_scores(reply.scores, reply, experiment, deviation)


def check_clipped(reply: Reply, experiment: Experiment) -> None:
    """The counts of clipped gradients are such as the site's rows and the plan's noise can make.

    Args:
        reply: what came in a round that counts; `check_public` has passed it.
        experiment: the plan.

    Raises:
        ReleaseError: with what is wrong.
    """
    found = reply.clipped
    if found is None:
        raise ReleaseError("scores refused: clipped gradients are not counted, as this round asks")
    deviation = clipped_deviation(experiment)
    require_deviation([found.noise_deviation], deviation)
    require_counts(np.array([found.cut, found.kept]), reply.stated_rows, deviation)


def check_comparison(reply: Reply, experiment: Experiment) -> None:
    """Both evaluations, and the paired difference: of no row more than 1 either way.

    Raises:
        ReleaseError: with what is wrong.
    """
    deviation = comparison_deviation(experiment)
    if reply.scores is None or reply.challenger_scores is None or reply.comparison is None:
        raise ReleaseError("scores refused: a comparison has two evaluations and a paired difference")
    for scores in (reply.scores, reply.challenger_scores):
        _check_scores(scores, reply, experiment, deviation / SCORES_WEIGHT)
    found = reply.comparison
    require_deviation([found.noise_deviation], deviation)
    most, noise = most_rows(reply.stated_rows), deviation * greatest_normal(3)
    in_rows, in_squares = noise / ROWS_WEIGHT, noise / SQUARES_WEIGHT
    if not -in_rows <= found.rows <= most + in_rows:
        raise ReleaseError(f"scores refused: a paired difference of more than {most:,.0f} rows, or of none")
    rows = max(found.rows, 0.0) + in_rows + _rounding_of(found.rows)
    if not abs(found.gain) <= rows + noise:
        raise ReleaseError("scores refused: a paired difference of more than 1 a row")
    if not -in_squares <= found.squares <= rows + in_squares:
        raise ReleaseError("scores refused: squares of a paired difference of more than 1 a row, or below 0")


def check_drift(reply: Reply, experiment: Experiment, *, window: str, reference_window: str) -> None:
    """The counts of a drift check are of the windows that were asked for, over the bins that the task makes.

    Each row is in one cell of every feature, so the counts of each are bounded by the rows.

    Raises:
        ReleaseError: with what is wrong.
    """
    if reply.drift is None:
        raise ReleaseError("scores refused: there are no counts for the drift check")
    if (reply.drift.window, reply.drift.reference_window) != (window, reference_window):
        raise ReleaseError(
            f"scores refused: the drift check is of '{printable(reply.drift.window)}' against "
            f"'{printable(reply.drift.reference_window)}', and '{window}' against '{reference_window}' "
            "was asked for"
        )
    bins = feature_bins(experiment.task, experiment.drift.bins)
    features, expected = reply.drift.features, [(item.feature, (len(item.cells),)) for item in bins]
    for shapes in (_shapes(features, "reference"), _shapes(features, "current")):
        if shapes != expected:
            raise ReleaseError("scores refused: the drift check's counts are over other features or bins")
    deviation = drift_deviation(experiment)
    require_deviation((reply.drift.reference_deviation, reply.drift.current_deviation), deviation)
    for item in features:
        require_counts(item.reference, reply.stated_rows, deviation)
        require_counts(item.current, reply.stated_rows, deviation)


def check_ranges(reply: Reply, experiment: Experiment, *, features: Collection[str], epsilon: float) -> None:
    """The counts that ranges are told from are of the features that were asked for.

    Args:
        reply: what came; `check_public` has passed it.
        experiment: whose task has the features, and whose δ the answer.
        features: what was asked for.
        epsilon: what the answer may cost.

    Raises:
        ReleaseError: with what is wrong.
    """
    counted: tuple[RangeCounts, ...] = () if reply.ranges is None else reply.ranges.features
    if reply.ranges is None or sorted(item.feature for item in counted) != sorted(features):
        raise ReleaseError("scores refused: they do not count the features that were asked for")
    deviation = ranges_deviation(experiment, epsilon, len(features))
    require_deviation([reply.ranges.noise_deviation], deviation)
    for item in counted:
        require_counts(item.counts, reply.stated_rows, deviation)


def _check_rows(reply: Reply, stated: Mapping[str, int]) -> None:
    if not 1 <= reply.stated_rows <= _MOST_ROWS:
        raise ReleaseError(f"reply refused: it states {_shown(reply.stated_rows)} rows")
    before = stated.get(reply.site, reply.stated_rows)
    if reply.stated_rows != before:
        raise ReleaseError(
            f"reply refused: it states {reply.stated_rows:,} rows, and stated {before:,} before"
        )


def _check_spent(spent: Spent, most: float, delta: float) -> None:
    """Infinite only where nothing is guaranteed, now or in the past; never NaN."""
    total = spent.epsilon == math.inf or 0 <= spent.epsilon <= _LARGEST_EPSILON
    if not (total and spent.epsilon <= most and 0 <= spent.delta <= delta * (1 + 1e-9)):
        raise ReleaseError("reply refused: the ε or δ that it says was spent is none that the plan allows")


def _check_arrays(arrays: Arrays, shapes: Mapping[str, tuple[int, ...]], dtype: type[np.number[Any]]) -> None:
    other = sorted({str(array.dtype) for array in arrays.values() if array.dtype != dtype})
    if other:
        raise ReleaseError(
            f"update refused: it is of type {', '.join(other)[:100]}, not {dtype.__name__}, "
            "as another version of Tidegate may make it"
        )
    if {name: array.shape for name, array in arrays.items()} != shapes:
        raise ReleaseError("update refused: its parameters are of other names or shapes than the model's")
    for array in arrays.values():
        if not np.isfinite(array).all():
            raise ReleaseError("update refused: it holds a number that is not finite")
        if array.dtype != np.int8 and array.size and np.abs(array).max() > _LARGEST_PARAMETER:
            raise ReleaseError(f"update refused: it holds a number above {_LARGEST_PARAMETER:g}")


def _check_scores(scores: Scores, reply: Reply, experiment: Experiment, deviation: float) -> None:
    if isinstance(scores, ErrorSums):
        _check_sums(scores, reply, experiment, deviation)
        return
    histogram = scores
    if experiment.task.label.range is not None:
        raise ReleaseError("scores refused: they are of classes, and the task's label is a number")
    if len(histogram.negative) != SCORE_BINS:
        raise ReleaseError(f"scores refused: {len(histogram.negative):,} bins, where {SCORE_BINS} are agreed")
    if histogram.binary != (len(experiment.task.label.classes) == 2):
        raise ReleaseError("scores refused: they are of a task of another number of classes")
    require_deviation([histogram.noise_deviation], deviation)
    require_counts(np.concatenate([histogram.negative, histogram.positive]), reply.stated_rows, deviation)


def _check_sums(found: ErrorSums, reply: Reply, experiment: Experiment, deviation: float) -> None:
    label = experiment.task.label.range
    if label is None:
        raise ReleaseError("scores refused: they are of a number, and the task's label has classes")
    if not math.isclose(found.span, label.high - label.low):
        raise ReleaseError("scores refused: they are of a label of another range")
    require_deviation([found.noise_deviation], deviation)
    noise = deviation * greatest_normal(len(found.sums))
    most = most_rows(reply.stated_rows) * WEIGHTS * GREATEST + noise
    if not (np.abs(found.sums) <= np.minimum(most, _LARGEST_SUM)).all() or found.sums[:4].min() < -noise:
        raise ReleaseError("scores refused: a sum is none that rows and noise can make")


def _shapes(features: Collection[FeatureCounts], side: str) -> list[tuple[str, tuple[int, ...]]]:
    return [(item.feature, getattr(item, side).shape) for item in features]


def _rounding(model: Arrays) -> float:
    """What storing the parameters as float32 can add to a norm."""
    return 1e-6 * l2_norm(model.values())


def _rounding_of(rows: float) -> float:
    """What adding up that many numbers of at most 1 may be off by."""
    return 1e-9 * abs(rows)


def _words(spent: Spent) -> tuple[str, str]:
    return spent.method, spent.block


def _shown(rows: int) -> str:
    """A number that may have thousands of digits."""
    return f"{rows:,}" if abs(rows) < 10**18 else "more than 10¹⁸"
