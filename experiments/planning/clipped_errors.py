"""How far off the share of clipped gradients will be told, and what the counts take from training."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from contract.clipped import ClippedCounts, clipped_deviation, clipped_epsilon, training_multiplier
from contract.experiment import Experiment
from contract.gaussian import gaussian_multiplier
from contract.json_values import finite
from experiments.planning.sites import PlannedSite

__all__ = ["ExpectedShares", "expected_shares"]


@dataclass(frozen=True, kw_only=True)
class ExpectedShares:
    """What a run's counts of clipped gradients will tell, each count at the rows that sites state.

    Attributes:
        counts: how many there are in a run.
        epsilon: what they cost together, within the ε of training.
        more_noise: how much more noise training has for them; without sub-sampling, with it about so much.
        overall: the greatest standard error of the share over all rows; NaN where noise hides it.
        sites: the same of each site alone.
    """

    counts: int
    epsilon: float
    more_noise: float
    overall: float
    sites: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """In values that JSON has."""
        return {**finite(vars(self)), "sites": finite(self.sites)}


def expected_shares(experiment: Experiment, sites: Sequence[PlannedSite]) -> ExpectedShares | None:
    """Of a plan; None where nothing is counted."""
    if not experiment.clipped_counts or not sites:
        return None
    privacy, deviation = experiment.privacy, clipped_deviation(experiment)
    counts = {
        site.name: ClippedCounts(cut=float(site.stated_rows), kept=0.0, noise_deviation=deviation)
        for site in sites
    }  # the error is greatest where all rows are in one cell
    without = gaussian_multiplier(privacy.epsilon, privacy.delta, 1)
    return ExpectedShares(
        counts=experiment.clipped_counts,
        epsilon=clipped_epsilon(privacy),
        more_noise=training_multiplier(experiment, 1) / without - 1,
        overall=functools.reduce(operator.add, counts.values()).error,
        sites={name: found.error for name, found in counts.items()},
    )
