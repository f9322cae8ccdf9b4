"""What every number of a reply is held against: public facts alone.

A site may hold `ROWS_OVER_STATED` times the rows that it states. Each of them adds 1 to one cell of a
histogram, so that no count, and no sum of a histogram's counts, is below none or above them all, but for
noise: of k normal numbers none passes `greatest_normal(k)` deviations (`contract.norm_bound`). The
deviation is not the site's to say: it follows from the experiment, on both sides alike. Counts without
noise are whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from contract.errors import ReleaseError
from contract.experiment import Experiment
from contract.gaussian import gaussian_multiplier
from contract.norm_bound import ROWS_OVER_STATED, greatest_normal
from contract.releases import COMPARISON_SENSITIVITY, Array
from monitoring.binning import l2_sensitivity

__all__ = [
    "ReplySize",
    "comparison_deviation",
    "drift_deviation",
    "evaluation_deviation",
    "most_rows",
    "ranges_deviation",
    "require_counts",
    "require_deviation",
]

_WORDS = 2**17
"""Bytes of a reply beside its arrays and counts: names, texts as long as checks allow, two histograms."""
_A_COUNT = 32
_A_NAME = 2_000
"""Two hundred letters, six bytes each, with what stands around them."""

_SAME_DEVIATION = 1e-3
"""Site and server compute a deviation each for itself, and both to nine digits."""
_LARGEST_COUNT = 1e18
"""Above any number of rows and any noise: sums of such counts are finite."""


def most_rows(stated_rows: int) -> float:
    """How many rows a site can have that states so many."""
    return ROWS_OVER_STATED * stated_rows


@dataclass(frozen=True, kw_only=True)
class ReplySize:
    """How many bytes a reply may have, by what was asked for. A text of 63 MB takes 1.6 GB when it is read.

    Attributes:
        arrays: for the packed arrays (`contract.messages.packed_limit`).
        text: for all else.
    """

    arrays: int = 0
    text: int = _WORDS

    @classmethod
    def of_counts(cls, counts: int, *, features: int) -> ReplySize:
        """Of a reply that holds so many counts, of so many features."""
        return cls(text=_WORDS + _A_COUNT * counts + _A_NAME * features)


def evaluation_deviation(experiment: Experiment, times: int) -> float:
    """Of the noise in each count of a score histogram, of which `times` share the budget; 0 if none."""
    privacy = experiment.privacy
    return _noise(experiment, privacy.evaluation_epsilon, times) * privacy.rows_per_person


def comparison_deviation(experiment: Experiment) -> float:
    """Of the noise in the gain of a comparison; in its other numbers it is this over their weight."""
    return COMPARISON_SENSITIVITY * evaluation_deviation(experiment, 1)


def drift_deviation(experiment: Experiment) -> float:
    """Of the noise in each count of a drift check, in either window."""
    sensitivity = l2_sensitivity(experiment.task, rows_per_unit=experiment.privacy.rows_per_person)
    return _noise(experiment, experiment.drift.epsilon, 1) * sensitivity


def ranges_deviation(experiment: Experiment, epsilon: float, features: int) -> float:
    """Of the noise in each count of an answer to a question for the ranges of so many features."""
    sensitivity = experiment.privacy.rows_per_person * math.sqrt(features)
    return _noise(experiment, epsilon, 1) * sensitivity


def require_deviation(stated: Iterable[float], deviation: float) -> None:
    """Refuse noise that is not what the experiment asks for.

    Raises:
        ReleaseError: with both.
    """
    for found in stated:
        if not math.isclose(found, deviation, rel_tol=_SAME_DEVIATION):
            raise ReleaseError(
                f"scores refused: their noise has a deviation of {found:.4g}, "
                f"by the experiment {deviation:.4g}"
            )


def require_counts(counts: Array, stated_rows: int, deviation: float) -> None:
    """Refuse counts that no rows and no noise can make.

    Args:
        counts: of one histogram, into whose cells each row falls once.
        stated_rows: of the site.
        deviation: of the noise in each count.

    Raises:
        ReleaseError: a count is not finite, not whole, or out of bounds; or their sum is.
    """
    if not np.isfinite(counts).all():
        raise ReleaseError("scores refused: a count is not finite")
    most, noise = most_rows(stated_rows), deviation * greatest_normal(len(counts))
    above = min(most + noise, _LARGEST_COUNT)
    if counts.size and (counts.min() < -noise or counts.max() > above):
        raise ReleaseError(
            f"scores refused: a count is not between 0 and {most:,.0f} rows, give or take noise"
        )
    noise = deviation * math.sqrt(len(counts)) * greatest_normal(1)
    if not -noise <= counts.sum() <= most + noise:
        raise ReleaseError(
            f"scores refused: the counts are of {counts.sum():,.0f} rows, and of {stated_rows:,} stated "
            f"rows at most {most:,.0f}, give or take noise"
        )
    if deviation == 0 and (counts != np.rint(counts)).any():
        raise ReleaseError("scores refused: a count without noise is not whole")


def _noise(experiment: Experiment, epsilon: float, times: int) -> float:
    """The noise multiplier of `times` mechanisms together; 0 in a run that is not private."""
    privacy = experiment.privacy
    return gaussian_multiplier(epsilon, privacy.delta, times) if privacy.private else 0.0
