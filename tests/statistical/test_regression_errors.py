"""The standard errors of the figures of noisy error sums: neither too small nor too large."""

from __future__ import annotations

import numpy as np
import pytest

from contract.regression import ErrorSums, weighed

DRAWS = 800
FIGURES = ("mae", "rmse", "r2")


def population(size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Errors and labels as shares: a skewed label, and errors that grow with it."""
    truth = np.clip(rng.gamma(2.0, 0.12, size), 0, 1)
    predicted = np.clip(0.12 + 0.5 * truth + rng.normal(0, 0.04 + 0.1 * truth, size), 0, 1)
    return np.abs(predicted - truth), truth - 0.5


def deviations(rows: int, deviation: float, stated: float) -> dict[str, np.ndarray]:
    """(Figure - the population's) / its standard error, over simulated releases."""
    rng = np.random.default_rng([rows, round(deviation)])
    everybody = weighed(*population(400_000, rng)).sum(axis=0)
    exact = ErrorSums(sums=everybody, noise_deviation=0.0, span=3.0).metrics()
    found: dict[str, list[float]] = {name: [] for name in FIGURES}
    for _ in range(DRAWS):
        sums = weighed(*population(rows, rng)).sum(axis=0)
        sums += rng.normal(0, deviation, sums.size)
        metrics = ErrorSums(sums=sums, noise_deviation=stated, span=3.0).metrics()
        for name in FIGURES:
            error = getattr(metrics.errors, name)
            found[name].append((getattr(metrics, name) - getattr(exact, name)) / error)
    return {name: np.array(values) for name, values in found.items()}


@pytest.mark.parametrize(("rows", "deviation"), [(800, 0.0), (2000, 3.0), (6000, 8.0)])
def test_error_bars_cover_as_often_as_they_say(rows: int, deviation: float) -> None:
    for name, values in deviations(rows, deviation, deviation).items():
        assert np.isnan(values).mean() < 0.01, name  # hidden by the noise
        assert 0.92 < np.nanstd(values) < 1.08, name
        assert np.mean(np.abs(values[~np.isnan(values)]) < 1.96) > 0.93, name


def test_error_bars_of_less_noise_than_there_is_are_found_out() -> None:
    found = deviations(6000, 8.0, 2.0)
    assert all(np.nanstd(values) > 1.5 for values in found.values())
