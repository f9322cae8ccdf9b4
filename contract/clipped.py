"""How many rows' gradients are cut to the clipping norm: a noisy count, and what it costs.

Who never sees a row cannot see whether the clipping norm fits: with nearly every gradient cut, only
directions count; with next to none, all of the noise, which is as large as the norm, is paid for gradients
that are shorter. So in rounds that the experiment names (`strategy.clipped_every`) each site counts its
training rows in two cells, at the model that the round begins with: those whose gradient is longer than the
norm, and the others. `clients.mechanisms.clipped_counts` has the proof.

The counts are a part of `privacy.epsilon`, so that what an administrator approves and a scientist signs
bounds them too: with k counts of noise multiplier z_c and T steps of z, site and server take z such that

    k counts and T steps together are (epsilon, δ)-private,    k counts alone (clipped_epsilon, δ)-private.

Without sub-sampling all of it is one Gaussian mechanism of 1/multiplier² = k / z_c² + T / z². With it, the
site's accountant composes the steps' privacy loss distribution with that of a Gaussian of k / z_c².
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydantic import ConfigDict, with_config

from contract.experiment import Experiment, Privacy
from contract.gaussian import gaussian_multiplier

__all__ = ["ClippedCounts", "clipped_deviation", "clipped_epsilon", "training_multiplier"]

_PART = 0.1
"""Of the run's ε, where the experiment does not say: about one part in a hundred more noise in training."""


_WHOLE = ConfigDict(extra="forbid")
"""As `contract.releases.READ_WHOLE`, whose module needs numpy: a laptop that submits a run has none."""


@with_config(_WHOLE)
@dataclass(frozen=True, kw_only=True)
class ClippedCounts:
    """How many rows' gradients are longer than the clipping norm, and how many are not.

    Rows that add nothing to a step, because something of them is not finite, are in neither.

    Attributes:
        cut, kept: noisy counts.
        noise_deviation: standard deviation of the noise in each.

    Guarantee: one record adds 1 to one of the two, so the L2 sensitivity is 1; r for a person of r rows.
    """

    cut: float
    kept: float
    noise_deviation: float

    def __add__(self, other: ClippedCounts) -> ClippedCounts:
        """Of the rows of both; independent noise adds in variance."""
        return ClippedCounts(
            cut=self.cut + other.cut,
            kept=self.kept + other.kept,
            noise_deviation=math.hypot(self.noise_deviation, other.noise_deviation),
        )

    def times(self, weight: float) -> ClippedCounts:
        """The counts when each row counts for so much; and the noise in them."""
        return ClippedCounts(
            cut=weight * self.cut,
            kept=weight * self.kept,
            noise_deviation=weight * self.noise_deviation,
        )

    @property
    def rows(self) -> float:
        """Estimated number of rows."""
        return self.cut + self.kept

    @property
    def reason(self) -> str:
        """Why the share is not measurable, in words; empty where it is."""
        if self.rows >= max(1.0, 3 * self.noise_deviation * math.sqrt(2)):
            return ""
        return "noise hides how many rows there are" if self.noise_deviation else "there is no row"

    @property
    def share(self) -> float:
        """Of the rows, those that are clipped; noise may put it below 0 or above 1. NaN with a `reason`."""
        return math.nan if self.reason else self.cut / self.rows

    @property
    def error(self) -> float:
        """The standard error of `share`, of the noise alone (delta method): it is about these very rows."""
        share = self.share
        return math.nan if self.reason else self.noise_deviation * math.hypot(share, 1 - share) / self.rows


def clipped_epsilon(privacy: Privacy) -> float:
    """What all counts of a run cost together, were they all that is released."""
    return _PART * privacy.epsilon if privacy.clipped_epsilon is None else privacy.clipped_epsilon


def clipped_deviation(experiment: Experiment) -> float:
    """Of the noise in each count; 0 where nothing is counted."""
    return _multiplier(experiment) * experiment.privacy.rows_per_person


def training_multiplier(experiment: Experiment, times: int) -> float:
    """The noise multiplier of `times` training steps that take all rows, beside the counts of a run.

    Of steps that take a sample, an upper bound: their site's accountant finds a smaller one.
    """
    privacy, counts = experiment.privacy, experiment.clipped_counts
    beside = counts / _multiplier(experiment) ** 2 if counts else 0.0
    return gaussian_multiplier(privacy.epsilon, privacy.delta, times, beside=beside)


def _multiplier(experiment: Experiment) -> float:
    privacy, counts = experiment.privacy, experiment.clipped_counts
    return gaussian_multiplier(clipped_epsilon(privacy), privacy.delta, counts) if counts else 0.0
