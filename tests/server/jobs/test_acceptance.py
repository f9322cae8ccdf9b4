"""The gate's word on figures that can be computed by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from contract.experiment import Gate
from contract.messages import Reply
from contract.regression import ErrorSums, weighed
from contract.releases import Comparison, ScoreHistogram, Spent
from server.jobs.acceptance import judge

SPENT = Spent(epsilon=1.0, delta=1e-5, unit="record", method="RDP", block="all/holdout")


def reply(**releases: Any) -> Reply:
    return Reply(
        site="s", stated_rows=100, mechanism="", spent_in_run=SPENT, spent_in_total=SPENT, **releases
    )


def paired(gain: float, rows: float, noise: float = 0.0) -> Reply:
    return reply(comparison=Comparison(gain=gain, rows=rows, noise_deviation=noise))


def scores(share: float, rows: int = 100, noise: float = 0.0) -> ScoreHistogram:
    """So many rows of each class, of which `share` are scored 0.05 from their label, the rest 0.95 from it.

    Accuracy and AUC are `share`, the Brier score 0.9025 - 0.9 share, and the log loss
    falls by log(19) times what the share grows by.
    """
    near, far = rows * share, rows * (1 - share)
    positive = np.zeros(10)
    positive[-1], positive[0] = near, far
    return ScoreHistogram(negative=positive[::-1].copy(), positive=positive, noise_deviation=noise)


def histograms(champion: float, challenger: float, **more: Any) -> Reply:
    return reply(scores=scores(champion, **more), challenger_scores=scores(challenger, **more))


def test_a_gain_at_every_site_is_accepted() -> None:
    found = judge({"north": paired(30, 100), "south": paired(10, 300)}, Gate())
    assert found.accepted
    assert found.gain == pytest.approx(40 / 400)
    assert found.error == 0
    assert found.reason == (
        "accepted: log loss better by 0.1000 ± 0.0000 a row over 2 sites (needed: 0), "
        "and no site is worse by more than 0.05"
    )
    assert found.overall_comparison == Comparison(gain=40, rows=400, noise_deviation=0)


def test_a_gain_must_exceed_what_is_needed() -> None:
    replies = {"north": paired(5, 100)}
    assert judge(replies, Gate(min_improvement=0.049)).accepted
    refused = judge(replies, Gate(min_improvement=0.05))
    assert not refused.accepted
    assert refused.reason.startswith("not accepted: log loss better by 0.0500")


@pytest.mark.parametrize(("noise", "accepted"), [(24.0, True), (25.0, False)])
def test_a_gain_must_exceed_1645_standard_errors_of_the_noise(noise: float, accepted: bool) -> None:
    """0.1 a row over 400 rows: 1.645 · 24/400 = 0.0987, and 1.645 · 25/400 = 0.1028."""
    at_a_site = noise / math.sqrt(2)
    replies = {"north": paired(20, 200, at_a_site), "south": paired(20, 200, at_a_site)}
    found = judge(replies, Gate(max_site_regression=10))
    assert found.error == pytest.approx(noise / 400)
    assert found.accepted is accepted


@pytest.mark.parametrize(
    ("noise", "loss", "accepted"), [(0.0, 5, True), (0.0, 6, False), (0.5, 6, False), (1.0, 6, True)]
)
def test_a_site_blocks_where_it_is_worse_than_allowed_beyond_its_noise(
    noise: float, loss: float, accepted: bool
) -> None:
    """0.06 a row worse, 0.05 allowed: 1.645 · 0.5/100 = 0.0082 does not explain it, twice that does."""
    found = judge({"north": paired(50, 100), "south": paired(-loss, 100, noise)}, Gate())
    assert found.accepted is accepted
    assert ("worse than 0.05 allows at south by 0.0600" in found.reason) is not accepted
    assert "north" not in found.reason


@pytest.mark.parametrize(
    ("metric", "gain"),
    [("auc", 0.1), ("accuracy", 0.1), ("brier", 0.09), ("log_loss", 0.1 * math.log(19))],
)
def test_every_metric_has_its_own_direction(metric: Any, gain: float) -> None:
    gate = Gate(metric=metric, max_site_regression=10)
    better, worse = judge({"north": histograms(0.6, 0.7)}, gate), judge({"north": histograms(0.7, 0.6)}, gate)
    assert better.gain == pytest.approx(gain)
    assert worse.gain == pytest.approx(-gain)
    assert (better.accepted, worse.accepted) == (True, False)
    assert better.by_site["north"][1].accuracy == pytest.approx(0.7)


@pytest.mark.parametrize(("metric", "gain"), [("brier", 0.25), ("log_loss", 0.25), ("auc", -0.1)])
def test_the_paired_difference_decides_for_the_losses_alone(metric: Any, gain: float) -> None:
    both = reply(
        scores=scores(0.7),
        challenger_scores=scores(0.6),
        comparison=Comparison(gain=50, rows=200, noise_deviation=0),
    )
    found = judge({"north": both}, Gate(metric=metric))
    assert found.gain == pytest.approx(gain)
    assert found.accepted is (gain > 0)


def test_metrics_are_of_the_pooled_rows_and_never_averaged() -> None:
    replies = {"large": histograms(0.6, 0.7, rows=300), "small": histograms(0.6, 0.6, rows=100)}
    found = judge(replies, Gate(metric="accuracy"))
    assert found.gain == pytest.approx(0.075)
    assert found.overall is not None
    assert [metrics.rows for metrics in found.overall] == pytest.approx([800, 800])


@pytest.mark.parametrize("metric", ["auc", "accuracy", "brier", "log_loss"])
def test_one_site_that_is_worse_blocks_in_every_metric(metric: Any) -> None:
    replies = {"large": histograms(0.6, 0.9, rows=1000), "small": histograms(0.7, 0.6)}
    assert judge(replies, Gate(metric=metric, max_site_regression=10)).accepted
    found = judge(replies, Gate(metric=metric))
    assert not found.accepted
    assert "allows at small by" in found.reason


@pytest.mark.parametrize(
    ("metric", "replies"),
    [
        ("log_loss", {}),
        ("auc", {}),
        ("log_loss", {"north": paired(50, 0.4)}),
        ("log_loss", {"north": paired(50, -3)}),
        ("auc", {"north": paired(50, 100)}),
        ("accuracy", {"north": histograms(0.1, 0.9, noise=50)}),
    ],
)
def test_what_is_not_a_number_is_never_accepted(metric: Any, replies: dict[str, Reply]) -> None:
    found = judge(replies, Gate(metric=metric))
    assert math.isnan(found.gain)
    assert not found.accepted
    assert found.reason.startswith("not accepted")


def numbers(champion: float, challenger: float, gain: float = 0.0) -> Reply:
    """A hundred rows with these errors, of a label from 0 to 20."""

    def sums(error: float) -> ErrorSums:
        added = weighed(np.full(100, error), np.linspace(-0.5, 0.5, 100)).sum(axis=0)
        return ErrorSums(sums=added, noise_deviation=0.0, span=20.0)

    paired = Comparison(gain=gain, rows=100, noise_deviation=0.0)
    return reply(scores=sums(champion), challenger_scores=sums(challenger), comparison=paired)


def test_the_error_of_a_number_is_judged_in_its_own_unit() -> None:
    replies = {"north": numbers(0.3, 0.2, gain=10.0), "south": numbers(0.3, 0.25, gain=5.0)}
    found = judge(replies, Gate(metric="mae", min_improvement=1.4))
    assert found.accepted
    assert found.gain == pytest.approx(1.5)  # .075 of the range
    assert found.reason.startswith("accepted: MAE better by 1.5000")
    assert not judge(replies, Gate(metric="mae", min_improvement=1.6)).accepted
    worse = judge({**replies, "west": numbers(0.2, 0.3, gain=-10.0)}, Gate(metric="mae"))
    assert "at west by 2.0000" in worse.reason


def test_rmse_is_compared_as_it_is() -> None:
    found = judge({"north": numbers(0.3, 0.2)}, Gate(metric="rmse"))
    assert found.gain == pytest.approx(2.0, abs=1e-3)
    assert found.accepted
