"""How often a model that learnt nothing is said to have learnt, and whether words fit their figures."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from contract.figures import Estimate
from contract.releases import SCORE_BINS, ScoreHistogram
from server.exchange.pulls import Pulls
from server.jobs.diagnosis import Diagnosis, diagnose
from server.jobs.diagnosis_words import because_words, headline, loss_words
from server.jobs.evidence import Evidence, evidence_of
from server.jobs.verdicts import GOOD, has_learnt, verdict_of
from tests.server.jobs.test_diagnosis import SITES, STILL, histogram, made, steps


def scored(
    rng: np.random.Generator,
    *,
    rows: int,
    noise: float,
    spread: float = 0.7,
    positive: float = 0.2,
    apart: float = 0.0,
) -> ScoreHistogram:
    """Counts of rows whose score is so far apart by outcome, with noise."""
    outcome = rng.random(rows) < positive
    odds = math.log(positive / (1 - positive)) + spread * rng.normal(size=rows) + apart * outcome
    cell = np.minimum((SCORE_BINS / (1 + np.exp(-odds))).astype(int), SCORE_BINS - 1)
    negative, positives = (np.bincount(cell[outcome == side], minlength=SCORE_BINS) for side in (False, True))
    return ScoreHistogram(
        negative=negative + rng.normal(0, noise, SCORE_BINS),
        positive=positives + rng.normal(0, noise, SCORE_BINS),
        noise_deviation=noise,
    )


RUNS = 1000
SETTINGS = [
    pytest.param({"rows": rows, "noise": noise, "positive": positive}, id=f"{rows}-{noise}-{positive}")
    for rows, noise in ((250, 4.0), (600, 6.9), (600, 1.0), (3000, 6.9))
    for positive in (0.2, 0.5)
]
"""The second is that of the demo's challenger: four sites, an evaluation ε of 2."""


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_model_that_learnt_nothing_is_said_to_have_learnt_once_in_twenty_runs(
    setting: dict[str, float],
) -> None:
    experiment, rng = made(), np.random.default_rng(1)
    found = [
        has_learnt(evidence_of(experiment, {"a": scored(rng, **setting)}, Pulls()))  # type: ignore[arg-type]
        for _ in range(RUNS)
    ]
    # a rate of 5 % passes this by chance once in a thousand settings
    assert sum(found) <= 0.05 * RUNS + 3.1 * math.sqrt(0.05 * 0.95 * RUNS)


@pytest.mark.parametrize("setting", SETTINGS[2:])
def test_no_liar_makes_it_more(setting: dict[str, float]) -> None:
    """One of four sites says that all its rows are right; the others' model tells nothing."""
    experiment, rng = made(), np.random.default_rng(2)
    rows = int(setting["rows"]) // 3
    shares = {**setting, "rows": rows, "noise": setting["noise"] / 2}
    pulls = steps(experiment, dict.fromkeys((*SITES, "site-3"), STILL))
    runs = RUNS // 4
    good = 0
    for _ in range(runs):
        scores = {site: scored(rng, **shares) for site in SITES}  # type: ignore[arg-type]
        lying = {**scores, "site-3": histogram(better=0.499, rows=4 * rows)}
        found = diagnose(experiment, lying, pulls, None)
        good += "The model learnt" in found.sentences[0]
    assert good <= 0.05 * runs + 3.1 * math.sqrt(0.05 * 0.95 * runs)


def test_a_liar_makes_no_success_of_a_run_of_few_rounds_either() -> None:
    short = made()
    short = short.model_copy(update={"strategy": short.strategy.model_copy(update={"rounds": 2})})
    cautious = np.zeros(SCORE_BINS)
    cautious[9:11] = 500  # scores of nearly a half, the same for both outcomes
    nothing = ScoreHistogram(negative=cautious, positive=cautious, noise_deviation=0.0)
    scores = {**dict.fromkeys(SITES, nothing), "site-3": histogram(better=0.49)}
    found = diagnose(short, scores, Pulls(), None)
    assert found.verdict == "unconfirmed"
    assert "without site-3 the others do not show it" in found.sentences[0]


def test_what_every_site_shows_stands() -> None:
    experiment = made()
    pulls = steps(experiment, dict.fromkeys(SITES, STILL))
    found = diagnose(experiment, dict.fromkeys(SITES, histogram(better=0.1)), pulls, None)
    assert found.verdict in GOOD
    assert re.search(r"AUC 0\.60\d* ± 0\.0\d+ is \d+\.\d standard errors above chance", found.sentences[0])


def evidence(
    *, auc: float | None, auc_error: float = 0.08, skill: float = -0.03, error: float = 0.08
) -> Evidence:
    return Evidence(
        loss=Estimate(value=0.5, error=error),
        skill=Estimate(value=skill, error=error),
        auc=None if auc is None else Estimate(value=auc, error=auc_error),
        early=None,
        late=None,
        more=None,
        reach=None,
        unmeasured={},
    )


@pytest.mark.parametrize(
    ("found", "verdict", "words"),
    [
        (evidence(auc=0.657, auc_error=0.082), "not-shown", "AUC 0.657 ± 0.082 is 1.9 standard errors above"),
        (evidence(auc=0.6595, auc_error=0.08), "not-shown", "is 1.9 standard errors above"),
        (evidence(auc=0.43), "not-shown", "AUC 0.430 ± 0.080 is no higher than chance (0.5), but its error"),
        (evidence(auc=0.51, auc_error=0.01), "little-learnt", "AUC 0.510 ± 0.010 is surely below 0.55"),
        (evidence(auc=0.4, auc_error=0.02), "little-learnt", "the wrong way round"),
        (evidence(auc=None), "not-shown", "is no higher than none (0), but its error leaves room"),
        (evidence(auc=0.7, skill=-0.3), "worse-than-constant", "so it ranks rows"),
        (evidence(auc=0.4, skill=-0.3), "worse-than-constant", ""),
    ],
)
def test_the_words_are_those_of_the_figures(found: Evidence, verdict: str, words: str) -> None:
    assert verdict_of(found) == verdict
    said = because_words(verdict_of(found), found)
    assert words in said
    if not words:
        assert said == ""
    if verdict == "not-shown":
        assert "NOTHING" not in headline("not-shown", found)


def test_of_two_figures_that_differ_it_is_said_which_shows_what() -> None:
    """The passport once said that a model learnt, and "not told from" a constant, in one breath."""
    found = evidence(auc=0.613, auc_error=0.024, skill=0.010, error=0.017)
    assert has_learnt(found)
    said = loss_words(made(), None, found)
    assert "0.010 ± 0.017 better than always saying the share of positives: the error hides which" in said


def test_pulls_of_unknown_noise_are_held_against_the_spread_and_it_is_said() -> None:
    experiment = made()
    strategy = experiment.strategy.model_copy(update={"local_steps": 2})
    unknown = experiment.model_copy(update={"strategy": strategy})
    found = diagnose(
        unknown,
        dict.fromkeys(SITES, histogram(better=0.3)),
        steps(unknown, dict.fromkeys(SITES, STILL), noise=0),
        None,
    )
    assert "noise" not in pulled(found)


def pulled(found: Diagnosis) -> str:
    """What the first sentences say of the data's pull."""
    return found.sentences[0].split("above chance (0.5). ")[1].split("help: ")[-1]


@pytest.mark.parametrize("auc", [0.3, 0.49, 0.5, 0.501, 0.6, 0.9])
@pytest.mark.parametrize("error", [0.001, 0.02, 0.2])
def test_it_says_that_a_model_learnt_only_beside_a_figure_that_does(auc: float, error: float) -> None:
    found = evidence(auc=auc, auc_error=error, skill=0.0)
    verdict = verdict_of(found)
    learnt = headline(verdict, found).startswith("The model learnt")
    assert learnt == (auc - 2 * error > 0.5)
    if verdict == "little-learnt":
        assert auc + 2 * error < 0.55
