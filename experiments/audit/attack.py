"""The attack: for each canary, was it among the rows?

A canary is a person (or a record) whose clipped gradient is orthogonal to those of
all other canaries, so that one run is an experiment on each of them. Every canary
is there or not by a coin of its own, and is scored by the likelihood ratio of what
the server saw: the best score that there is (Neyman and Pearson, 1933). Where the
score says "there" is fixed from the stated mechanism before any run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contract.experiment import Experiment
from experiments.audit.observation import Rows

__all__ = ["CANARIES", "Attack", "canary_rows", "outside"]

CANARIES = 128
"""Canaries, and features: each is a line of a Hadamard matrix."""

_DRAWS = 20_000

Floats = npt.NDArray[np.float64]


def canary_rows(present: npt.NDArray[np.bool_], rows_each: int) -> Rows:
    """Those canaries, each with so many equal rows, and one row that is always there."""
    from scipy.linalg import hadamard

    places = np.flatnonzero(present)
    canaries = np.repeat(hadamard(CANARIES)[places].astype(np.float64), rows_each, axis=0)
    person = np.repeat(places + 1, rows_each)
    return Rows(
        values=np.vstack([np.zeros((1, CANARIES)), canaries]),
        labels=np.array([1, *np.zeros(len(canaries), dtype=np.int64)]),  # a gradient along the line
        person=np.array([0, *person]),
    )


@dataclass(frozen=True, kw_only=True)
class Attack:
    """Scores canaries, and says which were there.

    Attributes:
        shift: how far one step with the canary moves what is seen along its direction, over
            the standard deviation of the noise in one step.
        sampling_rate, local_steps, rounds: of the runs.
        noise: the noise's deviation over that of one step of one site.
    """

    shift: float
    sampling_rate: float
    local_steps: int
    rounds: int
    noise: float = 1.0

    @classmethod
    def on(cls, experiment: Experiment, noise_multiplier: float, *, noise: float = 1.0) -> Attack:
        """The attack on runs of an audited experiment whose sites state that noise multiplier."""
        longest = 0.5 * math.sqrt(CANARIES + 1)  # the gradient at a score of one half, bias and all
        reach = min(1.0, longest / experiment.privacy.clipping_norm)
        return cls(
            shift=reach * math.sqrt(CANARIES / (CANARIES + 1)) / noise_multiplier,
            sampling_rate=experiment.privacy.sampling_rate,
            local_steps=experiment.strategy.local_steps,
            rounds=experiment.strategy.rounds,
            noise=noise,
        )

    def scores(self, sums: Floats) -> Floats:
        """Each canary's score, shape (canaries,), from sums of shape (rounds, features + 1)."""
        from scipy.linalg import hadamard

        along = sums[:, :CANARIES] @ hadamard(CANARIES).T / math.sqrt(CANARIES)
        return self._likelihood_ratio(along)

    def threshold(self, rng: np.random.Generator) -> float:
        """The score above which a canary is said to be there: best for the stated mechanism."""
        deviation = self.noise * math.sqrt(self.local_steps)
        size = (self.rounds, _DRAWS)
        absent = rng.normal(0, deviation, size)
        taken = rng.binomial(self.local_steps, self.sampling_rate, size)
        present = rng.normal(0, deviation, size) + taken * self.shift
        out, there = (np.sort(self._likelihood_ratio(seen)) for seen in (absent, present))
        middles = (out[:-1] + out[1:]) / 2
        caught = 1 - np.searchsorted(there, middles) / _DRAWS
        cleared = np.searchsorted(out, middles) / _DRAWS
        return float(middles[np.argmax(caught + cleared)])

    def _likelihood_ratio(self, along: Floats) -> Floats:
        """Its logarithm, summed over rounds: the canary took part in 0 to `local_steps` steps of each."""
        from scipy.special import logsumexp
        from scipy.stats import binom

        steps = np.arange(self.local_steps + 1)
        chances = binom.logpmf(steps, self.local_steps, self.sampling_rate)
        moved = steps * self.shift
        variance = self.noise**2 * self.local_steps
        ratios = (2 * along[..., None] * moved - moved**2) / (2 * variance)
        ratio: Floats = logsumexp(chances + ratios, axis=-1).sum(axis=0)
        return ratio


def outside(rng: np.random.Generator, *, there: bool) -> Rows:
    """Two dozen ordinary rows of 8 features in [0, 1], and one far outside that range if it is `there`."""
    values = rng.uniform(0, 1, (24, 8))
    if there:
        values = np.vstack([values, np.full((1, 8), 1e6)])
    return Rows(values=values, labels=np.ones(len(values), dtype=np.int64), person=np.arange(len(values)))
