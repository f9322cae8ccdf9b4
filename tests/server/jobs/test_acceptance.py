"""The gate's word on figures that can be computed by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from contract.experiment import Gate
from contract.messages import Reply
from contract.regression import ErrorSums, weighed
from contract.releases import LOG_LOSS_SPAN, ROWS_WEIGHT, Comparison, ScoreHistogram, Spent
from server.jobs.acceptance import judge

SPENT = Spent(epsilon=1.0, delta=1e-5, unit="record", method="RDP", block="all/holdout")


def reply(**releases: Any) -> Reply:
    return Reply(
        site="s", stated_rows=100, mechanism="", spent_in_run=SPENT, spent_in_total=SPENT, **releases
    )


def paired(gain: float, rows: float, noise: float = 0.0, squares: float = 0.0) -> Reply:
    found = Comparison(gain=gain, squares=squares, rows=rows, noise_deviation=noise)
    return reply(comparison=found)


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
        "accepted: Brier score better by 0.1000 ± 0.0000 a row over 2 sites (needed: more than 0 by 2 of "
        "these errors), and surely not worse by more than 0.03 at any site"
    )
    assert found.sites == {"north": "not worse", "south": "not worse"}


def test_a_gain_must_exceed_what_is_needed() -> None:
    replies = {"north": paired(5, 100)}
    assert judge(replies, Gate(min_improvement=0.049)).accepted
    refused = judge(replies, Gate(min_improvement=0.05))
    assert not refused.accepted
    assert refused.reason.startswith("not accepted: Brier score better by 0.0500")


@pytest.mark.parametrize(("squares", "accepted"), [(199.0, True), (201.0, False)])
def test_a_gain_must_exceed_two_standard_errors_of_its_rows(squares: float, accepted: bool) -> None:
    """0.1 a row over 400 rows, whose squares add up to 400: the error is √400 / 400 = 0.05."""
    replies = {"north": paired(20, 200, squares=squares), "south": paired(20, 200, squares=squares)}
    found = judge(replies, Gate(max_site_regression=10))
    assert found.error == pytest.approx(math.sqrt(2 * squares) / 400)
    assert found.accepted is accepted
    if not accepted:
        assert found.findable == pytest.approx(2.8416 * found.error)
        assert "what noise and few rows may explain (0.1424 is found in four of five)" in found.reason


@pytest.mark.parametrize(("noise", "accepted"), [(18.9, True), (19.1, False)])
def test_a_gain_must_exceed_two_standard_errors_of_the_noise(noise: float, accepted: bool) -> None:
    """0.1 a row over 400 rows; the error is of the noise in the gain, and of that in the number of rows."""
    replies = {name: paired(20, 200, noise / math.sqrt(2)) for name in ("north", "south")}
    found = judge(replies, Gate(max_site_regression=10))
    assert found.error == pytest.approx(noise / 400 * math.hypot(1, 0.1 / ROWS_WEIGHT))
    assert found.accepted is accepted


def test_squares_that_noise_or_a_liar_put_below_zero_make_no_other_error_less() -> None:
    alone = judge({"north": paired(20, 200, 1.0, squares=90)}, Gate())
    both = judge(
        {"north": paired(20, 200, 1.0, squares=90), "south": paired(20, 200, 1.0, squares=-80)}, Gate()
    )
    assert both.error * 400 > alone.error * 200


@pytest.mark.parametrize(
    ("noise", "loss", "verdict"),
    [(0.0, 4, "not worse"), (0.0, 6, "worse"), (0.1, 6, "worse"), (1.0, 6, "unknown"), (1.0, 4, "unknown")],
)
def test_a_site_blocks_where_it_is_worse_than_allowed_or_may_be(
    noise: float, loss: float, verdict: str
) -> None:
    """0.05 a row is allowed; noise of 1 over 100 rows hides whether 0.04 or 0.06 is more."""
    found = judge(
        {"north": paired(50, 100), "south": paired(-loss, 100, noise)}, Gate(max_site_regression=0.05)
    )
    assert found.sites == {"north": "not worse", "south": verdict}
    assert found.accepted is (verdict == "not worse")
    assert ("worse than 0.05 allows at south by 0.0600" in found.reason) is (verdict == "worse")
    assert ("is unknown at south (± 0.0" in found.reason) is (verdict == "unknown")
    assert "north" not in found.reason


def test_of_a_site_of_which_too_little_is_known_the_others_speak_where_they_agree() -> None:
    """At east 0 ± 0.06 is better, of which 0.05 worse is no more than a possibility."""
    east = {"east": paired(0, 100, squares=36)}
    agree = {name: paired(10, 200, squares=4) for name in ("north", "south", "west")}  # 0.05 ± 0.01
    found = judge({**agree, **east}, Gate(max_site_regression=0.05))
    assert found.sites == {**dict.fromkeys(agree, "not worse"), "east": "unknown"}
    assert found.accepted
    assert "is unknown at east (± 0.06) alone, surely not by what all say" in found.reason
    differ = {**agree, "north": paired(100, 200, squares=4)}  # 0.5: so at east anything may be
    found = judge({**differ, **east}, Gate(max_site_regression=0.05))
    assert (found.accepted, found.sites["east"]) == (False, "unknown")
    assert "whether it is worse than 0.05 allows is unknown at east (± 0.06)" in found.reason


def test_no_site_speaks_alone_for_another() -> None:
    """West says that it is much better there, and surely; nobody knows that it lies."""
    gate = Gate(max_site_regression=0.07)
    unknown = {"east": paired(0, 100, squares=36)}
    two = {name: paired(10, 200, squares=4) for name in ("north", "west")}
    assert judge({**unknown, **two}, gate).accepted
    found = judge({**unknown, "west": paired(40, 200)}, gate)
    assert not found.accepted
    assert "unknown at east (± 0.06)" in found.reason


@pytest.mark.parametrize("gain", [100.0, 199.9])
def test_a_site_that_lies_promotes_nothing_where_the_gate_says_that_none_may_alone(gain: float) -> None:
    """West says that each of its rows is better by as much as a row can be, and surely."""
    honest = {name: paired(0, 200, squares=4) for name in ("north", "south", "east")}
    lies = {"west": paired(gain, 200)}
    assert judge(
        {**honest, **lies}, Gate()
    ).accepted  # at no honest site's cost: 0 ± 0.01 is surely above -0.03
    found = judge({**honest, **lies}, Gate(one_site_may_promote=False))
    assert not found.accepted
    assert "but no site's word alone decides, and without west it is 0.0000 ± 0.0058 (" in found.reason
    hidden = {name: paired(0, 200, 100.0) for name in honest}
    assert not judge({**hidden, **lies}, Gate(one_site_may_promote=False, unknown_sites="allow")).accepted
    shared = {name: paired(10, 200, squares=4) for name in honest}
    assert judge({**shared, **lies}, Gate(one_site_may_promote=False)).accepted
    assert judge(lies, Gate(one_site_may_promote=False)).accepted  # nobody else was heard


def test_what_becomes_of_an_unknown_site_is_the_gates_to_say() -> None:
    replies = {
        "north": paired(100, 200, squares=4),
        "west": paired(10, 200),
        "east": paired(0, 100, squares=36),
    }
    assert not judge(replies, Gate(unknown_sites="pooled")).accepted
    assert not judge(replies, Gate(unknown_sites="refuse")).accepted
    allowed = judge(replies, Gate(unknown_sites="allow"))
    assert allowed.accepted
    assert "is unknown at east (± 0.06) alone, which the gate allows" in allowed.reason
    alone = {"north": paired(13, 100, squares=36)}
    assert judge(alone, Gate(max_site_regression=0.0)).accepted  # it is surely better
    assert not judge({"east": paired(4, 100, squares=36)}, Gate()).accepted  # nobody else speaks of it


def test_a_site_whose_rows_noise_hides_is_unknown_and_not_no_worse() -> None:
    agree = {name: paired(10, 200, squares=4) for name in ("north", "south", "west")}
    replies = {**agree, "east": paired(0, 3, 5.0)}
    found = judge(replies, Gate())
    assert found.sites["east"] == "unknown"
    assert "east (too noisy to tell) alone" in found.reason
    assert not judge(replies, Gate(unknown_sites="refuse")).accepted


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


@pytest.mark.parametrize(
    ("metric", "gain"), [("brier", 0.25), ("log_loss", 0.25 * LOG_LOSS_SPAN), ("auc", -0.1)]
)
def test_the_paired_difference_decides_for_the_losses_alone(metric: Any, gain: float) -> None:
    both = reply(
        scores=scores(0.7),
        challenger_scores=scores(0.6),
        comparison=Comparison(gain=50, squares=15, rows=200, noise_deviation=0),
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
    replies = {"large": histograms(0.6, 0.9, rows=5000), "small": histograms(0.8, 0.6, rows=500)}
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

    paired = Comparison(gain=gain, squares=0.0, rows=100, noise_deviation=0.0)
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
