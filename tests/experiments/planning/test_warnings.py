"""What a plan warns of is what a run would be refused for, or what its noise would hide."""

from __future__ import annotations

import numpy as np
import pytest

from contract.card import Card
from contract.experiment import Experiment
from contract.releases import SCORE_BINS, ScoreHistogram
from experiments.planning.sites import PlannedSite
from experiments.planning.warnings import doubts, evaluation_noise, hidden_auc, hidden_share, refusals

FEATURES = [{"name": "age", "kind": "numeric", "low": 0, "high": 120}]


def experiment(*, label: dict[str, object] | None = None, quorum: int = 2, **privacy: object) -> Experiment:
    task = {"label": {"column": "ill", **(label or {})}, "features": FEATURES}
    stated = {"epsilon": 3.0, "evaluation_epsilon": 4.0, **privacy}
    return Experiment.model_validate(
        {
            "name": "small",
            "task": task,
            "strategy": {"quorum": quorum, "learning_rate": 1.0, "evaluate_every": 20},
            "privacy": stated,
        }
    )


def sites(*rows: int, classes: tuple[str, ...] = ("0", "1")) -> list[PlannedSite]:
    columns = [*FEATURES, {"name": "ill", "kind": "categorical", "categories": classes}]
    card = Card.model_validate({"columns": columns})
    return [PlannedSite(name=f"site-{number}", stated_rows=one, card=card) for number, one in enumerate(rows)]


def test_nothing_is_said_of_a_run_that_can_succeed() -> None:
    assert doubts(experiment(), sites(900, 700, 400)) == ()
    assert refusals(experiment(), sites(900, 700, 400)) == ()


def test_a_site_holds_out_the_share_of_its_card_beside_the_rows_that_it_states() -> None:
    assert [one.held_out_rows for one in sites(700, 70)] == [300, 30]
    card = Card.model_validate({"columns": FEATURES, "holdout": {"share": 0.5}})
    assert PlannedSite(name="north", stated_rows=400, card=card).held_out_rows == 400
    assert PlannedSite(name="north", stated_rows=700).held_out_rows == 300


def test_sites_that_have_stated_nothing_yet_count_for_the_quorum() -> None:
    assert refusals(experiment(quorum=3), sites(900, 700), admitted=3) == ()


def test_what_is_refused_is_said_before() -> None:
    (few,) = refusals(experiment(quorum=4), sites(900, 700))
    assert few == "No round could end: 2 sites are there, and strategy.quorum is 4."
    told = refusals(experiment(label={"column": "sick"}), sites(900, 700))
    assert len(told) == 2
    assert "site-1 would refuse the run: the card offers no categorical column 'sick'" in told[1]


def test_a_label_of_one_class_is_told() -> None:
    assert "has one category" in refusals(experiment(), sites(900, 900, classes=("0",)))[0]
    first, _ = refusals(experiment(), sites(900, 900, classes=("0", "unknown")))
    assert first == (
        "Site site-0 would refuse the run: of task.label.classes the card has '0' alone, so there is nothing "
        "to predict: it has 0, unknown."
    )
    assert refusals(experiment(), sites(900, 900, classes=("0", "1", "unknown"))) == ()


@pytest.mark.parametrize(
    ("offered", "keys", "constant"),
    [
        (("a",), {}, True),
        (("a", "z"), {}, True),  # a row with z is left out
        (("a", "z"), {"other": "b"}, False),
        (("a",), {"missing": "b"}, False),
        (("a", "b"), {}, False),
    ],
)
def test_a_feature_that_is_the_same_in_every_row_is_told(
    offered: tuple[str, ...], keys: dict[str, str], constant: bool
) -> None:
    ward = {"name": "ward", "kind": "categorical", "categories": ["a", "b"], **keys}
    plan = experiment()
    task = type(plan.task).model_validate({"label": {"column": "ill"}, "features": [*FEATURES, ward]})
    ill = {"name": "ill", "kind": "categorical", "categories": ("0", "1")}
    card = Card.model_validate(
        {"columns": [*FEATURES, {"name": "ward", "kind": "categorical", "categories": offered}, ill]}
    )
    there = [PlannedSite(name=name, stated_rows=900, card=card) for name in ("north", "south")]
    told = doubts(plan.model_copy(update={"task": task}), there)
    words = "Feature 'ward' tells nothing: by the cards of all sites it is 'a' in every row. Leave it out."
    assert told == ((words,) if constant else ())
    assert doubts(plan.model_copy(update={"task": task}), [*there, *sites_without_cards()]) == ()


def sites_without_cards() -> list[PlannedSite]:
    return [PlannedSite(name="west", stated_rows=900)]


def test_too_small_an_epsilon_is_told_with_what_would_do() -> None:
    (told,) = doubts(experiment(epsilon=0.1), sites(90, 70, 40))
    assert "would learn little: at privacy.epsilon = 0.1" in told
    enough = float(told.rpartition("privacy.epsilon = ")[2].rstrip("."))
    assert 0.1 < enough < 2
    assert doubts(experiment(epsilon=enough), sites(90, 70, 40)) == ()


def test_more_sites_of_as_many_rows_hide_more() -> None:
    whole, parts = hidden_share(experiment(), sites(1600)), hidden_share(experiment(), sites(*[100] * 16))
    assert parts == pytest.approx(4 * whole)


@pytest.mark.parametrize("rows", [(300, 200), (60, 60)])
def test_figures_that_could_not_be_told_are_those_that_the_release_hides(rows: tuple[int, ...]) -> None:
    plan = experiment(label={"positive_share": 0.5}, evaluation_epsilon=1.0)
    there = sites(*rows)
    told = [one for one in doubts(plan, there) if "could be told" in one] + hidden_auc(plan, there)
    count = sum(site.held_out_rows for site in there)
    release = ScoreHistogram(
        negative=np.full(SCORE_BINS, count / 2 / SCORE_BINS),
        positive=np.full(SCORE_BINS, count / 2 / SCORE_BINS),
        noise_deviation=evaluation_noise(plan) * np.sqrt(len(rows)),
    )
    hidden = not np.isfinite(release.metrics().auc)
    assert hidden == bool(told)


def test_a_rare_class_needs_more_rows() -> None:
    there = sites(900, 700, 400)
    assert doubts(experiment(label={"positive_share": 0.5}), there) == ()
    rare = experiment(label={"positive_share": 0.01})
    assert doubts(rare, there) == ()  # the model may well learn
    (told,) = hidden_auc(rare, there)
    assert told.startswith("AUC could not be told: at privacy.evaluation_epsilon = 4 ")


def test_a_delta_that_gives_a_row_away_is_told() -> None:
    (told,) = doubts(experiment(delta=1e-2, epsilon=30.0), sites(900, 700))
    assert "not below one in 900" in told


def test_without_privacy_nothing_is_hidden() -> None:
    assert evaluation_noise(experiment(private=False)) == 0
    assert doubts(experiment(private=False), sites(9, 9)) == ()
    assert hidden_auc(experiment(private=False), sites(9, 9)) == []
