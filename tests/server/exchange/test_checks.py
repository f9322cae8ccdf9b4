"""Private replies, comparisons and drift counts: what the plan asks for passes, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from clients.ledger.plan import Split
from clients.ledger.plans import compare_plan, drift_plan, evaluate_plan, ranges_plan
from clients.mechanisms.drift import drift_deviation as deviation_of_drift
from clients.mechanisms.noise import NoNoise, NormalSource, SystemNoise, noisy
from clients.mechanisms.ranges import ranges_deviation as deviation_of_ranges
from contract.errors import ReleaseError
from contract.experiment import Drift, Experiment, Label, Privacy
from contract.messages import Instruction, Reply
from contract.range_grid import CELLS
from contract.regression import ErrorSums, weighed
from contract.releases import (
    COMPARISON_SENSITIVITY,
    SCORE_BINS,
    SCORES_WEIGHT,
    Comparison,
    DriftSummary,
    FeatureCounts,
    RangeCounts,
    RangeSummary,
    ScoreHistogram,
    Spent,
)
from monitoring.binning import feature_bins
from server.exchange.checks import (
    check_comparison,
    check_drift,
    check_public,
    check_ranges,
    check_scores,
)
from server.state.participation import advice, kind_of, runs_of, told
from tests.server.federation import plan

SPLIT = Split(name="s", lasting=True)
SPENT = Spent(epsilon=1.0, delta=1e-5, unit="record", method="PLD", block="all/train")


def reply(**changed: Any) -> Reply:
    values: dict[str, Any] = {"site": "north", "stated_rows": 100, "mechanism": "none"}
    values |= {"spent_in_run": SPENT, "spent_in_total": SPENT, "request": "r/train/1"}
    return Reply(**{**values, **changed})


def private(**privacy: Any) -> Experiment:
    return plan(private=True).model_copy(update={"privacy": Privacy(**privacy)})


def deviation_at_a_site(experiment: Experiment) -> float:
    multiplier = evaluate_plan(experiment, Instruction(run="r"), SPLIT).noise_multiplier
    return multiplier * experiment.privacy.rows_per_person


def histogram(deviation: float, rows: float = 5.0) -> ScoreHistogram:
    source = SystemNoise() if deviation else NoNoise()
    counts = [noisy(np.full(SCORE_BINS, rows), deviation, source) for _ in range(2)]
    return ScoreHistogram(negative=counts[0], positive=counts[1], noise_deviation=deviation)


@pytest.mark.parametrize(
    "experiment",
    [
        private(),
        private(evaluation_epsilon=0.1),
        private(evaluation_epsilon=20.0, delta=1e-8),
        private(unit="person", rows_per_person=7),
    ],
    ids=["plain", "much noise", "little noise", "persons"],
)
@pytest.mark.parametrize("rounds", [1, 9])
def test_the_noise_of_an_honest_evaluation_is_what_the_server_expects(
    experiment: Experiment, rounds: int
) -> None:
    strategy = experiment.strategy.model_copy(update={"rounds": rounds, "evaluate_every": 1})
    experiment = experiment.model_copy(update={"strategy": strategy})
    deviation = deviation_at_a_site(experiment)
    for _ in range(50):
        check_scores(reply(scores=histogram(deviation)), experiment)
    for factor in (0.0, 0.9, 1.1):
        wrong = replace(histogram(deviation), noise_deviation=factor * deviation)
        with pytest.raises(ReleaseError, match="scores refused: their noise has a deviation"):
            check_scores(reply(scores=wrong), experiment)


def test_scores_of_another_number_of_classes_are_refused() -> None:
    experiment = private()
    wrong = replace(histogram(deviation_at_a_site(experiment)), binary=False)
    with pytest.raises(ReleaseError, match="another number of classes"):
        check_scores(reply(scores=wrong), experiment)


PUBLIC: dict[str, Callable[[Reply], Reply]] = {
    "a reply to something else": lambda sent: replace(sent, request="r/train/2"),
    "no noise": lambda sent: replace(sent, private=False),
    "an ε that is no number": lambda sent: replace(sent, spent_in_run=replace(SPENT, epsilon=math.nan)),
    "an ε below zero": lambda sent: replace(sent, spent_in_total=replace(SPENT, epsilon=-1.0)),
    "a δ of one": lambda sent: replace(sent, spent_in_run=replace(SPENT, delta=1.0)),
    "a method without end": lambda sent: replace(sent, spent_in_run=replace(SPENT, method="x" * 10**5)),
    "a name with markup": lambda sent: replace(sent, site="<b>north</b>"),
    "a name without end": lambda sent: replace(sent, site="n" * 101),
    "a name of two lines": lambda sent: replace(sent, site="north\nsouth"),
    "other rows than before": lambda sent: replace(sent, stated_rows=101),
    "an ε beyond the plan": lambda sent: replace(sent, spent_in_run=replace(SPENT, epsilon=100.0)),
    "an ε without end in a private run": lambda sent: replace(
        sent, spent_in_run=replace(SPENT, epsilon=math.inf)
    ),
    "an ε in total that nobody spends": lambda sent: replace(
        sent, spent_in_total=replace(SPENT, epsilon=1e300)
    ),
    "a δ beyond the plan": lambda sent: replace(sent, spent_in_total=replace(SPENT, delta=1.1e-5)),
    "a δ that is no number": lambda sent: replace(sent, spent_in_run=replace(SPENT, delta=math.nan)),
    "a method that steers a terminal": lambda sent: replace(
        sent, spent_in_total=replace(SPENT, method="\x1b[2J")
    ),
    "a block of two lines": lambda sent: replace(sent, spent_in_run=replace(SPENT, block="a\nb")),
    "the pool's name": lambda sent: replace(sent, site="all sites"),
    "what was not asked for": lambda sent: replace(
        sent, comparison=Comparison(gain=0.0, squares=0.0, rows=1.0, noise_deviation=0.0)
    ),
}


@pytest.mark.parametrize("fault", PUBLIC)
def test_what_a_site_says_of_itself_is_checked(fault: str) -> None:
    sent = reply()
    check_public(sent, private(), asked={"scores"}, request="r/train/1", stated={"north": 100, "south": 7})
    with pytest.raises(ReleaseError) as raised:
        check_public(
            PUBLIC[fault](sent), private(), asked={"scores"}, request="r/train/1", stated={"north": 100}
        )
    assert advice(raised.value.what)


def test_a_comparison_is_whole_and_of_the_agreed_noise() -> None:
    experiment = private()
    multiplier = compare_plan(experiment, Instruction(run="r"), SPLIT).noise_multiplier
    deviation = COMPARISON_SENSITIVITY * multiplier * experiment.privacy.rows_per_person
    of_scores = deviation / SCORES_WEIGHT
    paired = Comparison(gain=3.0, squares=9.0, rows=90.0, noise_deviation=deviation)
    whole = reply(
        scores=histogram(of_scores),
        challenger_scores=histogram(of_scores),
        comparison=paired,
    )
    check_comparison(whole, experiment)
    for changed in (
        {"challenger_scores": None},
        {"challenger_scores": histogram(of_scores / 2)},
        {"scores": replace(whole.scores, negative=np.ones(3), positive=np.ones(3))},  # type: ignore[type-var]
        {"comparison": replace(paired, gain=math.nan)},
        {"comparison": replace(paired, gain=1e6)},
        {"comparison": replace(paired, noise_deviation=0.0)},
        {"comparison": replace(paired, squares=math.nan)},
        {"comparison": replace(paired, squares=1e6)},  # which would hide every difference
        {"comparison": replace(paired, squares=-60 * deviation)},  # and would make luck a difference
    ):
        with pytest.raises(ReleaseError, match="scores refused"):
            check_comparison(replace(whole, **changed), experiment)

    lost = replace(whole, comparison=replace(paired, gain=-3.0, rows=0.0))
    check_comparison(lost, experiment)
    far = 400 + 60 * deviation  # a gain of many rows, by none
    lost = replace(whole, comparison=replace(paired, gain=far, rows=0.0))
    with pytest.raises(ReleaseError, match="more than 1 a row"):
        check_comparison(lost, experiment)


NOISES = {
    "plain": private(),
    "much noise": private().model_copy(update={"drift": Drift(epsilon=0.05)}),
    "persons": private(unit="person", rows_per_person=7),
    "none": plan(),
}


def noise_of(experiment: Experiment) -> NormalSource:
    return SystemNoise() if experiment.privacy.private else NoNoise()


def drift_summary(experiment: Experiment, rows: int = 90) -> DriftSummary:
    """As an honest site makes it, of so many rows in each window."""
    multiplier = drift_plan(experiment, Instruction(run="r", windows=("w2",)), SPLIT).noise_multiplier
    deviation, noise = deviation_of_drift(experiment, multiplier), noise_of(experiment)

    def counts(cells: int) -> np.ndarray[Any, Any]:
        dealt = np.bincount(np.random.default_rng().integers(0, cells, rows), minlength=cells)
        return noisy(dealt.astype(float), deviation, noise)

    return DriftSummary(
        window="w2",
        reference_window="w0+w1",
        features=tuple(
            FeatureCounts(
                feature=item.feature, reference=counts(len(item.cells)), current=counts(len(item.cells))
            )
            for item in feature_bins(experiment.task, experiment.drift.bins)
        ),
        reference_deviation=deviation,
        current_deviation=deviation,
        can_train=True,
    )


def checked_drift(summary: DriftSummary | None, experiment: Experiment) -> None:
    check_drift(reply(drift=summary), experiment, window="w2", reference_window="w0+w1")


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("rows", [0, 90, 400])
def test_an_honest_drift_check_passes_whatever_its_windows_hold(noise: str, rows: int) -> None:
    """Four times the stated rows at most, and none at all."""
    for _ in range(20):
        checked_drift(drift_summary(NOISES[noise], rows), NOISES[noise])


@pytest.mark.parametrize("noise", NOISES)
def test_a_drift_check_is_of_what_was_asked_and_of_rows_that_can_be(noise: str) -> None:
    experiment = NOISES[noise]
    good = drift_summary(experiment)
    first, *others = good.features
    most = 400 + 9 * good.current_deviation * math.sqrt(len(first.current))
    fault: dict[str, list[DriftSummary]] = {
        "other features or bins": [
            replace(good, features=features)
            for features in (
                (),
                tuple(others),
                (*others, first),
                (replace(first, current=np.ones(3)), *others),
            )
        ],
        "was asked for": [replace(good, window="w3"), replace(good, reference_window="w1")],
        "noise has a deviation": [
            replace(good, current_deviation=value)
            for value in (math.nan, math.inf, -1.0, 1.1 * good.current_deviation + 1)
        ],
        "not finite": [replace(good, features=(replace(first, current=first.current * math.nan), *others))],
        "between 0 and": [replace(good, features=(replace(first, current=first.current + 1e6), *others))],
        "counts are of": [
            replace(
                good,
                features=(replace(first, reference=np.full(len(first.current), np.ceil(most / 8))), *others),
            )
        ],
    }
    for words, summaries in fault.items():
        for summary in summaries:
            with pytest.raises(ReleaseError, match=words):
                checked_drift(summary, experiment)
    with pytest.raises(ReleaseError, match="no counts"):
        checked_drift(None, experiment)


def test_counts_without_noise_are_whole() -> None:
    good = drift_summary(plan())
    first, *others = good.features
    part = replace(first, current=first.current + 0.5)
    with pytest.raises(ReleaseError, match="not whole"):
        checked_drift(replace(good, features=(part, *others)), plan())


@pytest.mark.parametrize("noise", NOISES)
def test_an_honest_answer_for_ranges_passes_and_no_other(noise: str) -> None:
    experiment = NOISES[noise]
    asked = Instruction(run="r", features=("x0", "x2"), epsilon=0.7)
    multiplier = ranges_plan(experiment, asked, SPLIT).noise_multiplier
    deviation = deviation_of_ranges(experiment, 2, multiplier)

    def answer(rows: float, stated: float = deviation) -> Reply:
        counts = np.zeros(CELLS)
        counts[200] = rows
        made = tuple(
            RangeCounts(feature=name, counts=noisy(counts, deviation, noise_of(experiment)))
            for name in asked.features
        )
        return reply(ranges=RangeSummary(features=made, noise_deviation=stated))

    def check(sent: Reply, *features: str) -> None:
        check_ranges(sent, experiment, features=features or asked.features, epsilon=0.7)

    for rows in (0, 100, 400):
        check(answer(rows))
    for stated in (math.nan, math.inf, 1.01 * deviation + 0.1):
        with pytest.raises(ReleaseError, match="noise has a deviation"):
            check(answer(100, stated))
    with pytest.raises(ReleaseError, match="between 0 and"):
        check(answer(401 + 20 * deviation))
    for features in (("x0",), ("x0", "x1"), ("x0", "x0")):
        with pytest.raises(ReleaseError, match="do not count the features"):
            check(answer(100), *features)


def test_words_for_a_person() -> None:
    assert kind_of("update refused: x: y") == "update refused"
    assert told({}) == ""
    assert told({"a": "no answer", "b": "no answer"}).startswith("a, b: see that its agent runs")
    assert advice("never heard of") == ""
    assert runs_of([]) == ""
    assert runs_of([4, 3, 7]) == "3–4, 7"


def of_a_number(**label: Any) -> Experiment:
    made = private()
    numeric = Label(**{"column": "days", "kind": "numeric", "low": 0, "high": 20, **label})
    return made.model_copy(update={"task": made.task.model_copy(update={"label": numeric})})


def error_sums(deviation: float, rows: int = 100, **changed: Any) -> ErrorSums:
    errors, labels = np.full(rows, 0.2), np.linspace(-0.5, 0.5, rows)
    sums = noisy(weighed(errors, labels).sum(axis=0), deviation, SystemNoise())
    return ErrorSums(**{"sums": sums, "noise_deviation": deviation, "span": 20.0, **changed})


def test_the_sums_of_an_honest_site_pass() -> None:
    experiment = of_a_number()
    deviation = deviation_at_a_site(experiment)
    for _ in range(50):
        check_scores(reply(scores=error_sums(deviation)), experiment)
    deviation = deviation_at_a_comparison(experiment)
    sent = reply(
        scores=error_sums(deviation / SCORES_WEIGHT),
        challenger_scores=error_sums(deviation / SCORES_WEIGHT),
        comparison=Comparison(gain=3.0, squares=9.0, rows=100.0, noise_deviation=deviation),
    )
    check_comparison(sent, experiment)


def deviation_at_a_comparison(experiment: Experiment) -> float:
    return COMPARISON_SENSITIVITY * compare_plan(experiment, Instruction(run="r"), SPLIT).noise_multiplier


WRONG_SUMS: dict[str, Callable[[ErrorSums], ScoreHistogram | ErrorSums]] = {
    "a histogram": lambda sent: histogram(sent.noise_deviation),
    "another range": lambda sent: replace(sent, span=21.0),
    "less noise": lambda sent: replace(sent, noise_deviation=sent.noise_deviation / 2),
    "not a number": lambda sent: replace(sent, sums=np.full_like(sent.sums, math.nan)),
    "no rows at all": lambda sent: replace(sent, sums=-1e6 * np.ones_like(sent.sums)),
    "rows without end": lambda sent: replace(sent, sums=1e9 * np.ones_like(sent.sums)),
}


@pytest.mark.parametrize("name", WRONG_SUMS)
def test_sums_that_no_rows_make_are_refused(name: str) -> None:
    experiment = of_a_number()
    wrong = WRONG_SUMS[name](error_sums(deviation_at_a_site(experiment)))
    with pytest.raises(ReleaseError, match="scores refused"):
        check_scores(reply(scores=wrong), experiment)


def test_sums_for_a_label_of_classes_are_refused() -> None:
    experiment = private()
    with pytest.raises(ReleaseError, match="the task's label has classes"):
        check_scores(reply(scores=error_sums(deviation_at_a_site(experiment))), experiment)


def test_sums_come_back_from_a_message_as_they_were() -> None:
    sent = reply(scores=error_sums(3.0))
    (found,) = [Reply.from_bytes(sent.to_bytes()).scores]
    assert isinstance(found, ErrorSums)
    assert found.sums.tolist() == sent.scores.sums.tolist()  # type: ignore[union-attr]
    short = sent.to_bytes().replace(b'"span"', b'"spam"')
    with pytest.raises(ReleaseError, match="does not understand"):
        Reply.from_bytes(short)
