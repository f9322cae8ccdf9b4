"""Verdicts over sites: each by itself and all together, in error and in drift."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from contract.errors import ReleaseError, RoundError
from contract.experiment import Drift
from contract.releases import DriftSummary, FeatureCounts
from contract.verdicts import POOLED, Verdict
from monitoring.verdict import form_verdict

DRIFT = Drift(false_alarm_rate=0.01)
CLEAN = np.array([0.4, 0.3, 0.2, 0.1])
MOVED = np.array([0.2, 0.2, 0.2, 0.4])


def summary(
    rng: np.random.Generator, *, rows: int = 1000, drifted: bool = False, window: str = "w3"
) -> DriftSummary:
    def counts(shape: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        return rng.multinomial(rows, shape) + rng.normal(0, 8, 4)

    features = tuple(
        FeatureCounts(
            feature=feature,
            reference=counts(CLEAN),
            current=counts(MOVED if drifted and feature == "disease" else CLEAN),
        )
        for feature in ("age", "disease", "visits")
    )
    return DriftSummary(
        window=window,
        reference_window="w0+w1",
        features=features,
        reference_deviation=8,
        current_deviation=8,
        can_train=True,
    )


def test_one_drifted_site_is_named_with_the_feature() -> None:
    rng = np.random.default_rng(1)
    verdict = form_verdict(
        {"north": summary(rng), "south": summary(rng, drifted=True), "west": summary(rng)},
        drift=DRIFT,
        rng=rng,
    )
    assert verdict.alarm
    assert verdict.sites_in_alarm == ("south",)
    assert [site.site for site in verdict.sites] == ["north", "south", "west"]
    south = verdict.sites[1]
    assert south.drifted == ("disease",)
    disease = south.features[1]
    assert disease.p_value == south.smallest_p_value < 0.001
    assert disease.distance == pytest.approx(0.3, abs=0.05)
    assert verdict.pooled.site == POOLED


def test_clean_sites_raise_no_more_alarms_than_promised() -> None:
    """40 windows of three sites and the pool: 160 checks at 1 % each."""
    rng = np.random.default_rng(2)
    alarms = 0
    for _ in range(40):
        verdict = form_verdict({site: summary(rng) for site in "abc"}, drift=DRIFT, rng=rng)
        alarms += len(verdict.sites_in_alarm) + verdict.pooled.alarm
    assert alarms <= stats.binom.ppf(0.999, 160, 0.01)


def test_one_site_alone_is_its_own_pool() -> None:
    rng = np.random.default_rng(3)
    verdict = form_verdict({"north": summary(rng)}, drift=DRIFT, rng=rng)
    assert verdict.pooled.features == verdict.sites[0].features


def test_a_verdict_survives_json() -> None:
    rng = np.random.default_rng(4)
    verdict = form_verdict({"north": summary(rng), "south": summary(rng, drifted=True)}, drift=DRIFT, rng=rng)
    assert Verdict.from_json(verdict.to_json()) == verdict


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"window": 1}'])
def test_what_is_not_a_verdict_is_refused(text: str) -> None:
    with pytest.raises(ReleaseError, match="cannot be read"):
        Verdict.from_json(text)


def test_no_answer_is_no_verdict() -> None:
    with pytest.raises(RoundError, match="no site answered"):
        form_verdict({}, drift=DRIFT, rng=np.random.default_rng(0))


def test_other_windows_or_bins_are_not_added_up() -> None:
    rng = np.random.default_rng(5)
    good = summary(rng)
    for bad in (summary(rng, window="w4"), replace(good, features=good.features[:2])):
        with pytest.raises(ReleaseError, match="site south"):
            form_verdict({"north": good, "south": bad}, drift=DRIFT, rng=rng)


def test_a_count_that_is_not_a_number_is_refused() -> None:
    rng = np.random.default_rng(6)
    good = summary(rng)
    broken = replace(good.features[0], current=np.array([1, 2, np.nan, 4]))
    with pytest.raises(ReleaseError, match="not a number"):
        form_verdict({"north": replace(good, features=(broken, *good.features[1:]))}, drift=DRIFT, rng=rng)


def loud(rows: float, noise: float = 0.0) -> DriftSummary:
    """So many rows in every cell of both windows: no drift, and all the weight of the world."""
    counts = np.full(4, rows)
    return DriftSummary(
        window="w3",
        reference_window="w0+w1",
        features=tuple(
            FeatureCounts(feature=feature, reference=counts, current=counts)
            for feature in ("age", "disease", "visits")
        ),
        reference_deviation=noise,
        current_deviation=noise,
        can_train=True,
    )


def test_a_site_of_many_rows_silences_the_pool_unless_its_weight_is_cut() -> None:
    rng = np.random.default_rng(7)
    sites = {site: summary(rng, drifted=True) for site in "abc"} | {"loud": loud(1e12, 8.0)}
    silent = form_verdict(sites, drift=DRIFT, rng=rng)
    cut = form_verdict(sites, drift=DRIFT, rng=rng, weights={"loud": 6000 / 8e12})
    assert not silent.pooled.alarm
    assert cut.pooled.alarm
    assert silent.sites_in_alarm == cut.sites_in_alarm == ("a", "b", "c")
    assert silent.alarm


def test_a_weight_takes_nothing_from_the_promise() -> None:
    """60 clean windows of three sites, one of which weighs a tenth: pooled checks at 1 %."""
    rng = np.random.default_rng(8)
    alarms = sum(
        form_verdict(
            {site: summary(rng, rows=500) for site in "abc"}, drift=DRIFT, rng=rng, weights={"a": 0.1}
        ).pooled.alarm
        for _ in range(60)
    )
    assert alarms <= stats.binom.ppf(0.999, 60, 0.01)


def test_more_rows_than_can_be_dealt_anew_are_drawn() -> None:
    """Counts without noise are dealt to the windows anew; numpy deals no billion."""
    rng = np.random.default_rng(9)
    assert not form_verdict({"a": loud(1e12)}, drift=DRIFT, rng=rng).alarm


@pytest.mark.parametrize(
    ("drifted", "rests_on"), [((), ""), (("a",), "a"), (("a", "b"), ""), (("a", "b", "c"), "")]
)
def test_an_alarm_says_whose_word_it_rests_on(drifted: tuple[str, ...], rests_on: str) -> None:
    rng = np.random.default_rng(10)
    verdict = form_verdict(
        {site: summary(rng, drifted=site in drifted) for site in "abc"}, drift=DRIFT, rng=rng
    )
    assert verdict.sites_in_alarm == drifted
    assert verdict.rests_on == rests_on
    assert Verdict.from_json(verdict.to_json()) == verdict


def test_what_the_others_show_together_rests_on_no_single_word() -> None:
    """A small shift everywhere, and one site with a large one."""
    rng = np.random.default_rng(13)

    def moved(share: float) -> DriftSummary:
        clean, other = summary(rng, rows=4000), np.array([0.3, 0.2, 0.2, 0.3])
        now = rng.multinomial(4000, (1 - share) * CLEAN + share * other) + rng.normal(0, 8, 4)
        return replace(clean, features=(replace(clean.features[0], current=now), *clean.features[1:]))

    sites = {f"s{number}": moved(0.03) for number in range(16)} | {"large": moved(0.9)}
    verdict = form_verdict(sites, drift=DRIFT, rng=rng)
    assert verdict.pooled.alarm
    assert verdict.sites_in_alarm == ("large",)
    assert verdict.rests_on == ""


def test_a_verdict_of_an_older_program_rests_on_nobody() -> None:
    rng = np.random.default_rng(12)
    kept = json.loads(form_verdict({"a": summary(rng)}, drift=DRIFT, rng=rng).to_json())
    del kept["rests_on"]
    assert Verdict.from_json(json.dumps(kept)).rests_on == ""
