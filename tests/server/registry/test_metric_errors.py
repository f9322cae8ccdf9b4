"""Error bars of a score histogram's figures, against figures worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from contract.releases import Array, MetricErrors, Metrics, ScoreHistogram
from server.jobs.memory import metric_names

BINS = 20
FIGURES = ("log_loss", "brier", "auc", "accuracy")
MIDDLE = (np.arange(BINS) + 0.5) / BINS


def population() -> Array:
    """Share of each cell, negatives first."""
    cells = np.concatenate([1 - MIDDLE, MIDDLE])
    return np.asarray(cells / cells.sum())


def histogram(counts: Array, deviation: float) -> ScoreHistogram:
    return ScoreHistogram(negative=counts[:BINS], positive=counts[BINS:], noise_deviation=deviation)


def test_errors_of_a_histogram_by_hand() -> None:
    """Accuracy is a share p of n rows: its variance p (1 - p) / n. Noise adds σ² Σ (right - p)² / n²."""
    counts = np.zeros(2 * BINS)
    counts[[0, BINS - 1, BINS, 2 * BINS - 1]] = 30, 20, 10, 40
    plain, noisy = (histogram(counts, deviation).metrics() for deviation in (0.0, 2.0))
    assert plain.errors is not None
    assert noisy.errors is not None
    assert plain.errors.accuracy == pytest.approx(math.sqrt(0.7 * 0.3 / 100))
    cells = 20 * (0.3**2 + 0.7**2)
    assert noisy.errors.accuracy == pytest.approx(math.sqrt((0.7 * 0.3 * 100 + 4 * cells) / 100**2))
    # DeLong by hand: of positives 40 of 50 lie above 30 of 50 negatives; ties count half.
    below, above = np.array([0.3, 0.8]), np.array([0.9, 0.4])
    auc = 0.2 * below[0] + 0.8 * below[1]
    assert plain.auc == pytest.approx(auc)
    variance = (0.2 * (below[0] - auc) ** 2 + 0.8 * (below[1] - auc) ** 2) / 50
    variance += (0.6 * (above[0] - auc) ** 2 + 0.4 * (above[1] - auc) ** 2) / 50
    assert plain.errors.auc == pytest.approx(math.sqrt(variance))


def test_what_came_true_of_each_bin_and_its_error_by_hand() -> None:
    """30 of 40 in the first bin: p (1 - p) / n, and noise adds σ² (p² + (1 - p)²) / n²; others are hidden."""
    counts = np.zeros(2 * BINS)
    counts[[0, BINS, 2 * BINS - 1]] = 10, 30, 3
    exact, last = histogram(counts, 0.0).calibration()
    assert (exact.predicted, exact.share, exact.rows) == (pytest.approx(MIDDLE[0]), 0.75, 40)
    assert exact.error == pytest.approx(math.sqrt(0.75 * 0.25 / 40))
    assert (last.share, last.error) == (1.0, 0.0)
    (noisy,) = histogram(counts, 2.0).calibration()
    assert noisy.error == pytest.approx(math.sqrt(0.75 * 0.25 * 40 + 4 * (0.75**2 + 0.25**2)) / 40)
    assert histogram(np.zeros(2 * BINS), 2.0).calibration() == ()


def test_the_share_that_came_true_is_not_biased_and_its_error_holds() -> None:
    rng, truth = np.random.default_rng(3), 0.3
    off = []
    for _ in range(3000):
        positive = rng.binomial(200, truth)
        counts = np.zeros(2 * BINS)
        counts[[4, BINS + 4]] = np.array([200 - positive, positive]) + rng.normal(0, 8, 2)
        (found,) = histogram(counts, 8.0).calibration()
        off.append((found.share - truth) / found.error)
    assert abs(np.mean(off)) < 0.1
    assert np.std(off) == pytest.approx(1, abs=0.08)


def test_errors_shrink_with_the_root_of_the_rows() -> None:
    small, large = (histogram(population() * rows, 0.0).metrics().errors for rows in (1000, 4000))
    assert small is not None
    assert large is not None
    for name in FIGURES:
        assert getattr(small, name) == pytest.approx(2 * getattr(large, name))


def test_what_says_nothing_has_no_error_bars() -> None:
    metrics = histogram(population() * 100, 50.0).metrics()
    assert metrics.errors is not None
    assert all(math.isnan(getattr(metrics.errors, name)) for name in FIGURES)
    assert set(metrics.as_dict()) == {"rows"}
    no_positives = np.concatenate([np.full(BINS, 50.0), np.zeros(BINS)])
    one_class = histogram(no_positives, 0.0).metrics()
    assert one_class.errors is not None
    assert math.isnan(one_class.errors.auc)
    assert one_class.errors.brier > 0


def test_errors_go_by_the_name_of_their_figure() -> None:
    metrics = histogram(population() * 1000, 1.0).metrics()
    names = {"rows", *FIGURES, *(f"{name}_error" for name in FIGURES)}
    assert set(metrics.as_dict()) == names
    assert set(replace(metrics, errors=None).as_dict()) == {"rows", *FIGURES}
    named = Metrics(
        log_loss=1, brier=2, auc=3, accuracy=4, rows=5,
        errors=MetricErrors(log_loss=6, brier=7, auc=8, accuracy=9),
    ).as_dict()  # fmt: skip
    assert [named[f"{name}_error"] for name in FIGURES] == [6, 7, 8, 9]


def test_negative_counts_do_not_take_away_the_part_of_the_noise() -> None:
    counts = np.zeros(2 * BINS)
    counts[[BINS, BINS + 10]] = -60, 400
    loss = np.concatenate([MIDDLE**2, (1 - MIDDLE) ** 2])
    derivative = (loss - counts @ loss / 340) / 340
    assert counts @ derivative**2 < 0
    errors = histogram(counts, 15.0).metrics().errors
    assert errors is not None
    assert errors.brier == pytest.approx(15 * np.linalg.norm(derivative))


def test_mlflow_gets_an_error_with_each_figure() -> None:
    metrics = histogram(population() * 1000, 1.0).metrics()
    named = metric_names({"north": metrics}, metrics, {"north": 0.5})
    assert metrics.errors is not None
    assert named["site/north/auc_error"] == named["overall/auc_error"] == metrics.errors.auc
    assert len(named) == 2 * (1 + 2 * len(FIGURES)) + 1
