"""Private replies, comparisons and drift counts: what the plan asks for passes, and nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from clients.ledger.plans import evaluate_plan
from clients.mechanisms.noise import SystemNoise, noisy
from contract.errors import ReleaseError
from contract.experiment import Experiment, Privacy
from contract.messages import ARRAYS, REPLY, Instruction, Reply
from contract.releases import SCORE_BINS, Comparison, DriftSummary, FeatureCounts, ScoreHistogram, Spent
from monitoring.binning import feature_bins
from server.exchange.checks import check_comparison, check_drift, check_public, check_scores
from server.rounds import pooled
from server.state.participation import advice, kind_of, runs_of, told
from tests.server.federation import plan

SPENT = Spent(epsilon=1.0, delta=1e-5, unit="record", method="PLD", block="all/train")


def reply(**changed: Any) -> Reply:
    values: dict[str, Any] = {"site": "north", "stated_rows": 100, "mechanism": "none"}
    values |= {"spent_in_run": SPENT, "spent_in_total": SPENT, "request": "r/train/1"}
    return Reply(**{**values, **changed})


def private(**privacy: Any) -> Experiment:
    return plan(private=True).model_copy(update={"privacy": Privacy(**privacy)})


def deviation_at_a_site(experiment: Experiment, evaluations: int) -> float:
    instruction = Instruction(run="r", evaluations=evaluations)
    multiplier = evaluate_plan(experiment, instruction, "s").noise_multiplier
    return multiplier * experiment.privacy.rows_per_person


def histogram(deviation: float, rows: float = 5.0) -> ScoreHistogram:
    counts = [noisy(np.full(SCORE_BINS, rows), deviation, SystemNoise()) for _ in range(2)]
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
@pytest.mark.parametrize("evaluations", [1, 9])
def test_the_noise_of_an_honest_evaluation_is_what_the_server_expects(
    experiment: Experiment, evaluations: int
) -> None:
    deviation = deviation_at_a_site(experiment, evaluations)
    for _ in range(50):
        check_scores(reply(scores=histogram(deviation)), experiment, evaluations=evaluations)
    for factor in (0.0, 0.9, 1.1):
        wrong = replace(histogram(deviation), noise_deviation=factor * deviation)
        with pytest.raises(ReleaseError, match="scores refused: their noise has a deviation"):
            check_scores(reply(scores=wrong), experiment, evaluations=evaluations)


def test_scores_of_another_number_of_classes_are_refused() -> None:
    experiment = private()
    wrong = replace(histogram(deviation_at_a_site(experiment, 1)), binary=False)
    with pytest.raises(ReleaseError, match="another number of classes"):
        check_scores(reply(scores=wrong), experiment, evaluations=1)


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
}


@pytest.mark.parametrize("fault", PUBLIC)
def test_what_a_site_says_of_itself_is_checked(fault: str) -> None:
    sent = reply()
    check_public(sent, private(), request="r/train/1", stated={"north": 100, "south": 7})
    with pytest.raises(ReleaseError) as raised:
        check_public(PUBLIC[fault](sent), private(), request="r/train/1", stated={"north": 100})
    assert advice(raised.value.what)


def test_a_comparison_is_whole_and_of_the_agreed_noise() -> None:
    experiment = private()
    deviation = 2 * deviation_at_a_site(experiment, 1)
    whole = reply(
        scores=histogram(deviation),
        challenger_scores=histogram(deviation),
        comparison=Comparison(gain=3.0, rows=90.0, noise_deviation=deviation),
    )
    check_comparison(whole, experiment)
    for changed in (
        {"challenger_scores": None},
        {"challenger_scores": histogram(deviation / 2)},
        {"scores": replace(whole.scores, negative=np.ones(3), positive=np.ones(3))},  # type: ignore[type-var]
        {"comparison": Comparison(gain=math.nan, rows=90.0, noise_deviation=deviation)},
        {"comparison": Comparison(gain=1e6, rows=90.0, noise_deviation=deviation)},
        {"comparison": Comparison(gain=3.0, rows=90.0, noise_deviation=0.0)},
    ):
        with pytest.raises(ReleaseError, match="scores refused"):
            check_comparison(replace(whole, **changed), experiment)


def test_drift_counts_are_over_the_bins_of_the_task() -> None:
    experiment = private()
    cells = feature_bins(experiment.task, experiment.drift.bins)
    counts = tuple(
        FeatureCounts(
            feature=item.feature, reference=np.ones(len(item.cells)), current=np.ones(len(item.cells))
        )
        for item in cells
    )
    summary = DriftSummary(
        window="w2", reference_window="w1", features=counts, reference_deviation=1.0, current_deviation=1.0
    )
    check_drift(reply(drift=summary), experiment)
    endless = replace(counts[0], current=np.full(len(cells[0].cells), np.inf))
    for features in (counts[1:], counts[::-1], (replace(counts[0], current=np.ones(3)), *counts[1:]), ()):
        with pytest.raises(ReleaseError, match="other features or bins"):
            check_drift(reply(drift=replace(summary, features=features)), experiment)
    with pytest.raises(ReleaseError, match="not finite"):
        check_drift(reply(drift=replace(summary, features=(endless, *counts[1:]))), experiment)
    with pytest.raises(ReleaseError, match="noise"):
        check_drift(reply(drift=replace(summary, current_deviation=math.nan)), experiment)
    with pytest.raises(ReleaseError, match="no counts"):
        check_drift(reply(), experiment)


def test_words_for_a_person() -> None:
    assert kind_of("update refused: x: y") == "update refused"
    assert told({}) == ""
    assert told({"a": "no answer", "b": "no answer"}).startswith("a, b: see that its agent runs")
    assert advice("never heard of") == ""
    assert runs_of([]) == ""
    assert runs_of([4, 3, 7]) == "3–4, 7"


WHOLE = json.loads(
    str(
        reply(scores=histogram(deviation_at_a_site(private(), 1))).to_records().config_records[REPLY]["reply"]
    )
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=25) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=25,
)


@given(
    st.dictionaries(st.sampled_from([*WHOLE, "unknown"]), ANYTHING, max_size=3),
    st.dictionaries(st.sampled_from(list(WHOLE["scores"])), ANYTHING, max_size=2),
    st.dictionaries(st.sampled_from(list(WHOLE["spent_in_run"])), ANYTHING, max_size=2),
)
def test_whatever_a_site_says_it_passes_or_is_refused(
    top: dict[str, Any], scores: dict[str, Any], spent: dict[str, Any]
) -> None:
    values = {
        **WHOLE,
        "scores": WHOLE["scores"] | scores,
        "spent_in_run": WHOLE["spent_in_run"] | spent,
        **top,
    }
    records = RecordDict({REPLY: ConfigRecord({"reply": json.dumps(values), ARRAYS: b""})})
    experiment = private()
    try:
        found = Reply.from_records(records, most_bytes=0)
        check_public(found, experiment, request="r/train/1", stated={"north": 100})
        check_scores(found, experiment, evaluations=1)
    except ReleaseError as exc:
        refused = exc.what
    else:
        refused = ""
        assert found.scores is not None
        assert pooled({"a": found.scores, "b": found.scores}) is not None
    assert not refused or advice(refused)
