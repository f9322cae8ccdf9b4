"""Tests of whether two windows come from one distribution, which keep their promise under noise.

The counts that leave a site carry Gaussian noise of a known deviation. A test
whose null distribution leaves that noise out gives false alarms in 40 % of clean
checks at a promised 1 %. Here the noise is part of the null.

**Statistic.** In a site with reference counts r (total n) and current counts c
(total m), the excess of cell j in the current window over what both windows
together lead to expect is

    d_j = c_j - share (r_j + c_j),   share = m / (n + m).

The excesses of the sites are added, and so are their variances

    v_j = n m / (n + m) p_j + ((1 - share)^2 s_c^2 + share^2 s_r^2) (1 - 2 p_j + k p_j^2),

with p the pooled proportions of the k cells, and s_r, s_c the deviations of the
noise; the last factor is there because n and m are sums of noisy counts too.
The statistic is the sum of d_j^2 / v_j. For one site without noise it is Pearson's
(1900) two-sample chi-square; for several sites it follows Cochran (1954) and
Mantel and Haenszel (1959): counts are added over shared bins, each site is
compared with itself, and a site that sends more rows this week than last is no
drift. With noise it is of the kind of Gaboardi et al. (2016).

**Null distribution**, by simulation, so that it holds for small counts and empty
cells, where chi-square tables do not. Without noise, rows are dealt to the
windows anew with all totals kept: an exact permutation test. With noise, counts
are drawn from the pooled proportions (noisy counts projected on the simplex),
noise is added and everything is estimated again. Simulation stops early where
nothing is to be seen (Besag and Clifford, 1991).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from contract.releases import Array

__all__ = [
    "DRAWS",
    "Stratum",
    "draws_for",
    "holm",
    "holm_adjusted",
    "homogeneity",
    "noisy_homogeneity",
    "total_variation",
]

DRAWS = 20_000
"""Simulated statistics at most; the smallest p-value is 1 / (DRAWS + 1)."""

_BATCHES = (250, 1_000)
"""Size of the first batch of simulated statistics, which ends most clean checks, and of the others."""

_MOST_DEALT = 1e9
"""Rows that numpy deals to the windows anew. Of more, the totals' own variation is nothing."""

_ENOUGH = 100
"""Simulated statistics above the observed one after which the p-value is known to 10 %."""


@dataclass(frozen=True, kw_only=True)
class Stratum:
    """The counts of one feature at one site, over the same k cells in two windows.

    Attributes:
        reference, current: counts, shape (k,); noisy ones may be negative.
        reference_deviation, current_deviation: standard deviation of the
            Gaussian noise in each count; 0 if none.
        weight: for how much a row counts where strata are added up. Set without a look at the
            counts, it takes nothing from the test's promise: the null is weighted alike.
    """

    reference: Array
    current: Array
    reference_deviation: float = 0.0
    current_deviation: float = 0.0
    weight: float = 1.0

    @property
    def noisy(self) -> bool:
        """Whether any of the counts carries noise."""
        return self.reference_deviation > 0 or self.current_deviation > 0


def noisy_homogeneity(
    reference: Array,
    current: Array,
    *,
    reference_deviation: float,
    current_deviation: float,
    rng: np.random.Generator,
    draws: int = DRAWS,
) -> float:
    """P-value of "both windows of this site have one distribution".

    Args:
        reference, current: counts over the same cells, shape (k,).
        reference_deviation, current_deviation: of the noise in each count.
        rng: for the simulated null distribution; it makes no release private.
        draws: simulated statistics at most.

    The same counts are strong evidence if they are exact, and none if they are noisy:

    >>> before, after = np.array([50.0, 30.0, 20.0]), np.array([30.0, 30.0, 40.0])
    >>> for deviation in (0.0, 20.0):
    ...     p_value = noisy_homogeneity(
    ...         before,
    ...         after,
    ...         reference_deviation=deviation,
    ...         current_deviation=deviation,
    ...         rng=np.random.default_rng(1),
    ...     )
    ...     print(p_value < 0.01)
    True
    False
    """
    stratum = Stratum(
        reference=reference,
        current=current,
        reference_deviation=reference_deviation,
        current_deviation=current_deviation,
    )
    return homogeneity((stratum,), rng=rng, draws=draws)


def homogeneity(strata: Sequence[Stratum], *, rng: np.random.Generator, draws: int = DRAWS) -> float:
    """P-value of "at no site do the windows differ", from the counts of all sites added up."""
    statistic = float(_statistic([(s, s.reference[None], s.current[None]) for s in strata])[0])
    if statistic <= 0:
        return 1.0
    nulls = [_null(stratum) for stratum in strata]

    def exceeds(size: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        simulated = _statistic([(s, *draw(rng, size)) for s, draw in zip(strata, nulls, strict=True)])
        return simulated >= statistic * (1 - 1e-9)

    return _sequential_p_value(exceeds, draws)


def total_variation(strata: Sequence[Stratum]) -> float:
    """How far apart the windows are, in [0, 1]: the share of rows that changed cell.

    The total variation distance between the windows' distributions, averaged
    over sites by their rows. What sampling and noise alone would give under
    no drift is taken off in quadrature, so that it is near 0 on clean data.
    """
    parts = [_excess(s, s.reference[None], s.current[None]) for s in strata]
    weight = sum(float(part.weight[0]) for part in parts)
    if weight <= 0:
        return 0.0
    observed = float(np.abs(sum(part.excess for part in parts)).sum()) / weight / 2
    deviation = np.sqrt(sum(part.variance for part in parts))
    chance = float(deviation.sum()) * math.sqrt(2 / math.pi) / weight / 2
    return float(np.clip(math.sqrt(max(observed**2 - chance**2, 0.0)), 0.0, 1.0))


def holm(p_values: Mapping[str, float], level: float) -> frozenset[str]:
    """Features whose drift is shown, with at most `level` chance of any false one (Holm, 1979).

    >>> sorted(holm({"age": 0.012, "visits": 0.03, "disease": 0.001}, level=0.05))
    ['age', 'disease', 'visits']
    >>> sorted(holm({"age": 0.03, "visits": 0.03, "disease": 0.001}, level=0.05))
    ['disease']
    """
    return frozenset(name for name, p_value in holm_adjusted(p_values).items() if p_value <= level)


def holm_adjusted(p_values: Mapping[str, float]) -> dict[str, float]:
    """P-values that may each be held against the level for all of them together (Holm, 1979).

    The smallest of m is multiplied by m, the next by m - 1, and so on; none is
    below the one before it.
    """
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda item: p_values[item])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def draws_for(level: float, tests: int) -> int:
    """Draws that let a p-value fall four times below Holm's first bound, level / tests."""
    return max(DRAWS, math.ceil(4 * tests / level))


@dataclass(frozen=True, kw_only=True)
class _Excess:
    """Of B simulated (or one observed) pairs of windows: (B, k), (B, k) and (B,)."""

    excess: Array
    variance: Array
    weight: Array


def _excess(stratum: Stratum, reference: Array, current: Array) -> _Excess:
    n = np.maximum(reference.sum(axis=-1, keepdims=True), 0.0)
    m = np.maximum(current.sum(axis=-1, keepdims=True), 0.0)
    rows = np.maximum(n + m, 1.0)
    share = m / rows
    pooled = reference + current
    weight = n * m / rows
    p = (_on_simplex(pooled) if stratum.noisy else pooled) / rows
    noise = ((1 - share) * stratum.current_deviation) ** 2 + (share * stratum.reference_deviation) ** 2
    of_totals = 1 - 2 * p + p.shape[-1] * p**2
    return _Excess(
        excess=stratum.weight * (current - share * pooled),
        variance=stratum.weight**2 * (weight * p + noise * of_totals),
        weight=stratum.weight * weight[..., 0],
    )


def _statistic(strata: Sequence[tuple[Stratum, Array, Array]]) -> Array:
    """The statistic of each of B pairs of windows, shape (B,)."""
    parts = [_excess(*stratum) for stratum in strata]
    excess = np.sum([part.excess for part in parts], axis=0)
    variance = np.sum([part.variance for part in parts], axis=0)
    terms = np.divide(excess**2, variance, out=np.zeros_like(excess), where=variance > 0)
    return np.asarray(terms.sum(axis=-1), dtype=np.float64)


Null = Callable[[np.random.Generator, int], tuple[Array, Array]]
"""Draws B pairs of windows without drift, shapes (B, k)."""


def _null(stratum: Stratum) -> Null:
    many = float(stratum.reference.sum() + stratum.current.sum()) >= _MOST_DEALT
    return _redrawn(stratum) if stratum.noisy or many else _dealt_anew(stratum)


def _dealt_anew(stratum: Stratum) -> Null:
    pooled = np.rint(stratum.reference + stratum.current).astype(np.int64)
    current_rows = int(np.rint(stratum.current).sum())

    def draw(rng: np.random.Generator, size: int) -> tuple[Array, Array]:
        current = rng.multivariate_hypergeometric(pooled, current_rows, size=size, method="marginals")
        return (pooled - current).astype(np.float64), current.astype(np.float64)

    return draw


def _redrawn(stratum: Stratum) -> Null:
    cells = len(stratum.reference)
    pooled = _on_simplex(stratum.reference + stratum.current)
    proportions = pooled / pooled.sum() if pooled.sum() > 0 else np.full(cells, 1 / cells)

    def window(rng: np.random.Generator, size: int, counts: Array, deviation: float) -> Array:
        rows = max(round(float(counts.sum())), 0)
        return rng.multinomial(rows, proportions, size=size) + rng.normal(0.0, deviation, (size, cells))

    def draw(rng: np.random.Generator, size: int) -> tuple[Array, Array]:
        return (
            window(rng, size, stratum.reference, stratum.reference_deviation),
            window(rng, size, stratum.current, stratum.current_deviation),
        )

    return draw


def _on_simplex(counts: Array) -> Array:
    """The nearest counts, (..., k), that are not negative and have the same total (Duchi et al., 2008)."""
    total = np.maximum(counts.sum(axis=-1, keepdims=True), 0.0)
    descending = -np.sort(-counts, axis=-1)
    surplus = np.cumsum(descending, axis=-1) - total
    rank = np.arange(1, counts.shape[-1] + 1)
    kept = np.maximum((descending * rank > surplus).sum(axis=-1, keepdims=True), 1)
    excess: Array = np.take_along_axis(surplus, kept - 1, axis=-1) / kept
    return np.maximum(counts - excess, 0.0)


def _sequential_p_value(
    exceeds: Callable[[int], np.ndarray[tuple[int], np.dtype[np.bool_]]], draws: int
) -> float:
    """P-value from simulated exceedances, stopped at the `_ENOUGH`th (Besag and Clifford, 1991)."""
    seen = hits = 0
    while seen < draws:
        running = hits + np.cumsum(exceeds(min(_BATCHES[seen > 0], draws - seen)))
        if running[-1] >= _ENOUGH:
            return float(_ENOUGH / (seen + 1 + int(np.argmax(running >= _ENOUGH))))
        seen, hits = seen + len(running), int(running[-1])
    return (hits + 1) / (draws + 1)
