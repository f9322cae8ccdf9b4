import math
import struct
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from contract.releases import CalibrationBin, MetricErrors, Metrics
from server.registry.plots import (
    Marker,
    WeekFigures,
    calibration,
    learning_curve,
    privacy_spent,
    site_metrics,
    story,
)
from tests.hostile import HOSTILE

METRICS = Metrics(log_loss=0.5, brier=0.2, auc=math.nan, accuracy=0.8, rows=10)
ERRORS = MetricErrors(log_loss=0.1, brier=0.05, auc=math.nan, accuracy=0.1)
SPENT = {"a": (1.0, 2.0), "b": (math.inf, math.inf)}
HIDDEN = [(1, 0.7, 0.1), (2, math.nan, math.nan)]
MARKERS = [Marker(week=2, name="x")]
BINS_OF_SCORES = [CalibrationBin(predicted=0.15, share=0.13, error=0.01, rows=80)]
WEEKS = [WeekFigures(week=week, log_loss=0.5, brier=0.15, auc=0.66) for week in range(1, 5)]


def _size(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", png[16:24])
    return width, height


@pytest.mark.parametrize(
    ("draw", "size"),
    [
        (lambda: learning_curve({"a": HIDDEN, "all sites": []}, title="t"), (960, 540)),
        (lambda: learning_curve({}, title="nothing yet"), (960, 540)),
        (lambda: site_metrics({"a": METRICS, "b": METRICS}, title="t"), (1320, 324)),
        (lambda: privacy_spent(SPENT, title="t", delta=1e-5, caps={"a": 3}), (960, 348)),
        (lambda: privacy_spent({"a": (0.5, 0.5)}, title="t", delta=1e-5), (960, 288)),
        (lambda: calibration(BINS_OF_SCORES, title="t", binary=True), (660, 600)),
        (lambda: calibration((), title="nothing measurable", binary=False), (660, 600)),
        (lambda: story({"frozen": WEEKS, "champion": WEEKS}, title="t", markers=MARKERS), (1080, 1080)),
    ],
)  # fmt: skip
def test_a_plot_is_a_png_of_its_size(draw: Callable[[], bytes], size: tuple[int, int]) -> None:
    assert _size(draw()) == size


def test_another_figure_gives_another_picture() -> None:
    first = learning_curve({"a": [(1, 0.7, 0.0), (2, 0.6, 0.0)]}, title="t")
    assert first == learning_curve({"a": [(1, 0.7, 0.0), (2, 0.6, 0.0)]}, title="t")
    assert first != learning_curve({"a": [(1, 0.7, 0.0), (2, 0.5, 0.0)]}, title="t")


def test_error_bars_are_drawn() -> None:
    exact = learning_curve({"a": [(0, 0.7, 0.0), (2, 0.6, 0.0)]}, title="t")
    assert learning_curve({"a": [(0, 0.7, 0.0), (2, 0.6, 0.05)]}, title="t") != exact
    bare = site_metrics({"a": METRICS}, title="t")
    assert site_metrics({"a": replace(METRICS, errors=ERRORS)}, title="t") != bare


def test_a_curve_of_which_nothing_is_measurable_says_so() -> None:
    hidden = learning_curve({"all sites": [(0, math.nan, math.nan)]}, title="t")
    assert hidden == learning_curve({}, title="t")
    assert hidden != learning_curve({"all sites": [(0, 0.5, 0.0)]}, title="t")


def test_pyplot_is_not_used() -> None:
    story({"frozen": WEEKS}, title="t")
    assert "matplotlib.pyplot" not in sys.modules


@pytest.mark.parametrize("name", [HOSTILE, r"$\frac{$", "$", r"\$x$", "w" * 5000])
def test_a_name_is_no_formula_and_breaks_no_plot(name: str) -> None:
    markers = [Marker(week=2, name=name)]
    for picture in (
        learning_curve({name: [(1, 0.7, 0.0), (2, 0.6, 0.0)]}, title=name),
        site_metrics({name: METRICS}, title=name),
        privacy_spent({name: (0.5, 0.5)}, title=name, delta=1e-5),
        story({name: WEEKS}, title=name, markers=markers),
    ):
        _size(picture)
