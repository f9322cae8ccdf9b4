"""The share of clipped gradients in words: with its error, or why there is none; and what to change."""

from __future__ import annotations

import json
from typing import Any

import pytest

from contract.clipped import ClippedCounts
from contract.experiment import Experiment, Label
from server.exchange.pulls import Pulls
from server.jobs.clipped_share import RoundShares, clipped_words, shares_of
from server.jobs.diagnosis import diagnose
from server.state.records import RoundRecord
from tests.server.federation import plan


def counted(**strategy: Any) -> Experiment:
    return plan(private=True, **{"clipped_every": 9, **strategy})


def share(cut: float, kept: float, deviation: float = 10.0) -> ClippedCounts:
    return ClippedCounts(cut=cut, kept=kept, noise_deviation=deviation)


def words(*rounds: dict[str, ClippedCounts], experiment: Experiment | None = None) -> str:
    shares = [RoundShares(round=1 + 9 * place, sites=sites) for place, sites in enumerate(rounds)]
    return " ".join(clipped_words(experiment or counted(), shares))


def test_each_round_is_told_with_its_error_and_each_site_of_the_last() -> None:
    told = words(
        {"north": share(400, 100), "south": share(400, 100)},
        {"north": share(100, 400), "south": share(0, 500)},
    )
    assert "in round 1 80 % ± 1 % clipped; in round 10 10 % ± 1 % clipped." in told
    assert "By site, in round 10: north 20 % ± 2 % clipped; south 0 % ± 2 % clipped." in told
    assert "Nearly" not in told


def test_what_noise_hides_is_not_told_as_a_number() -> None:
    told = words({"north": share(20, 10), "south": share(5000, 5000)})
    assert "north not measurable, because noise hides how many rows there are; south 50.00 % ± 0.07 %" in told
    assert "nan" not in words({"north": share(-50, 10)})


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (share(-8, 508), "at most 2.5 % clipped"),
        (share(508, -8), "at least 97.5 % clipped"),
        (share(250, 250, 0.001), "50.000 % ± 0.000 % clipped"),
    ],
)
def test_a_share_that_noise_put_where_none_is_is_bounded(found: ClippedCounts, said: str) -> None:
    assert said in words({"north": found})


def test_advice_follows_from_what_is_sure() -> None:
    assert "Nearly all are cut" in words({"north": share(9900, 100)})
    assert "Nearly none are cut" in words({"north": share(100, 9900)})
    assert "Nearly" not in words({"north": share(95, 5, 15.0)})  # 95 % ± 14 %
    assert "Nearly" not in words({"north": share(9900, 100)}, {"north": share(5000, 5000)})


def test_a_number_that_the_recipe_trains_has_nearly_all_cut_by_design() -> None:
    experiment = counted(reason="Chosen by the recipe")
    label = Label(column="ill", kind="numeric", low=0.0, high=1.0)
    experiment = experiment.model_copy(update={"task": experiment.task.model_copy(update={"label": label})})
    assert "as the recipe means it" in words({"north": share(9900, 100)}, experiment=experiment)


def test_who_did_not_ask_is_told_nothing_and_without_privacy_nothing_is_clipped() -> None:
    assert clipped_words(plan(private=True), []) == []
    assert "clips nothing" in " ".join(clipped_words(plan(private=False, clipped_every=2), []))
    assert "because no site counted" in words()


def test_a_site_that_claims_every_row_is_half_of_the_pool_at_most() -> None:
    honest = {"north": share(100, 400), "south": share(100, 400)}
    pooled = RoundShares(round=1, sites={**honest, "liar": share(10**9, 0)}).overall
    assert 0.2 <= pooled.share <= 0.6 + 1e-9


def test_it_comes_from_the_record_into_the_diagnosis() -> None:
    record = RoundRecord(
        round=1,
        cohort=("north",),
        counted=("north",),
        failures={},
        metrics={"sites": {}, "overall": None, "clipped": {"north": vars(share(990, 10))}},
        seconds=1.0,
    )
    plain = RoundRecord(
        round=2, cohort=(), counted=(), failures={}, metrics={"sites": {}, "overall": None}, seconds=1.0
    )
    shares = shares_of([record, plain])
    found = diagnose(counted(), {}, Pulls(), None, shares)
    assert "99.0 % ± 1.0 % clipped" in " ".join(found.sentences)
    told = json.loads(json.dumps(found.as_dict(), allow_nan=False))["clipped"]["1"]
    assert told["sites"]["north"]["share"] == pytest.approx(0.99)
    assert told["overall"]["not_measurable"] is None
