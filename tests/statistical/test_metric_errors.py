"""The standard errors of the figures of a noisy score histogram: neither too small nor too large."""

from __future__ import annotations

import numpy as np
import pytest

from contract.releases import Array, ScoreHistogram

BINS = 20
FIGURES = ("log_loss", "brier", "auc", "accuracy")
MIDDLE = (np.arange(BINS) + 0.5) / BINS
DRAWS = 3000


def population() -> Array:
    """Chance of each cell, negatives first: scores around .3, calibrated."""
    scores = np.exp(-(((MIDDLE - 0.3) / 0.22) ** 2) / 2)
    cells = np.concatenate([scores * (1 - MIDDLE), scores * MIDDLE])
    return np.asarray(cells / cells.sum())


def histogram(counts: Array, deviation: float, *, binary: bool = True) -> ScoreHistogram:
    negative, positive = counts[:BINS], counts[BINS:]
    return ScoreHistogram(negative=negative, positive=positive, noise_deviation=deviation, binary=binary)


def deviations(
    rows: int, deviation: float, *, stated: float | None = None, binary: bool = True
) -> dict[str, Array]:
    """(Figure - the population's) / its standard error, over simulated releases."""
    rng = np.random.default_rng([rows, round(deviation)])
    exact = histogram(population() * 1e9, 0.0, binary=binary).metrics()
    found: dict[str, list[float]] = {name: [] for name in FIGURES}
    for _ in range(DRAWS):
        counts = rng.multinomial(rows, population()) + rng.normal(0, deviation, 2 * BINS)
        metrics = histogram(counts, deviation if stated is None else stated, binary=binary).metrics()
        for name in FIGURES:
            found[name].append(
                (getattr(metrics, name) - getattr(exact, name)) / getattr(metrics.errors, name)
            )
    return {name: np.array(values) for name, values in found.items()}


def coverage(values: Array) -> tuple[float, float]:
    """Share within one standard error, and within 1.96."""
    return float(np.mean(np.abs(values) < 1)), float(np.mean(np.abs(values) < 1.96))


@pytest.mark.parametrize(
    ("rows", "deviation", "binary"),
    [(1000, 0.0, True), (1000, 5.0, True), (5000, 5.0, True), (5000, 30.0, True), (2000, 10.0, False)],
)
def test_error_bars_cover_as_often_as_they_say(rows: int, deviation: float, binary: bool) -> None:
    for name, values in deviations(rows, deviation, binary=binary).items():
        one, two = coverage(values)
        assert one == pytest.approx(0.683, abs=0.03), name  # 3.5 standard errors of 3,000 draws
        assert two == pytest.approx(0.950, abs=0.02), name


@pytest.mark.parametrize("factor", [2 / 3, 3 / 2])
def test_a_noise_that_is_stated_wrongly_would_be_noticed(factor: float) -> None:
    for name, values in deviations(5000, 30.0, stated=30.0 * factor).items():
        one, _ = coverage(values)
        assert abs(one - 0.683) > 0.06, name
