"""What a site alone is asked, and what its comparison says."""

from __future__ import annotations

from typing import Any

import pytest

from contract.experiment import Experiment, Strategy
from contract.figures import OF_CLASSES
from contract.recipe import asked_rows, recommended
from experiments.against_local import alone, compared_sites, worth
from tests.server.federation import plan

AUC = OF_CLASSES[2]


def ready(**strategy: Any) -> Experiment:
    found = recommended(plan(private=True, **strategy), [400, 900])
    assert found is not None
    return found


def test_a_site_alone_has_a_cohort_of_one_and_settings_for_its_rows() -> None:
    whole = ready()
    one = alone(whole, "North ward", 400)
    assert (one.strategy.sites, one.strategy.quorum) == (("North ward",), 1)
    assert one.privacy.epsilon == whole.privacy.epsilon
    assert "400 rows at 1 site" in one.strategy.reason
    assert one.name.startswith("fake-alone-north-ward-")
    robust = alone(ready(aggregation="median", quorum=3), "north", 400)
    assert robust.strategy.aggregation == "mean"


def test_its_name_is_that_of_experiment_windows_and_site() -> None:
    whole = ready()
    same = alone(whole, "north", 400).name
    assert alone(whole, "north", 400).name == same
    assert alone(whole, "south", 400).name != same
    assert alone(whole, "north", 400, ["w1"]).name != same
    assert alone(ready(quorum=1), "north", 400).name != same
    long = whole.model_copy(update={"name": "x" * 63})
    assert len(alone(long, "north", 400).name) == 63


def test_sites_of_an_experiment_are_named_once_and_make_up_the_quorum() -> None:
    for sites, quorum in ((("north", "north"), 1), (("north",), 2)):
        with pytest.raises(ValueError, match="name each once"):
            Strategy(sites=sites, quorum=quorum)
    some = plan(sites=("north", "west"))
    assert asked_rows(some, {"north": 10, "south": 20, "west": None}) == [10]
    assert plan().digest == plan(sites=()).digest != some.digest


def test_what_federation_is_worth_counts_no_noise() -> None:
    def figures(auc: float) -> dict[str, float]:
        return {"rows": 50.0, "auc": auc, "auc_error": 0.02}

    result = {
        "privacy": dict.fromkeys(("a", "b", "c", "d")),
        "metrics": {"sites": {"a": figures(0.8), "b": figures(0.7), "c": figures(0.6), "d": {"rows": 3.0}}},
    }
    runs = {
        site: (f"run-{site}", {"metrics": {"sites": {site: figures(auc)}}, "diagnosis": {"verdict": verdict}})
        for site, auc, verdict in (("a", 0.7, "converged"), ("b", 0.69, "steps-too-large"), ("c", 0.7, ""))
    }
    sites = compared_sites(result, runs, {"d": "it refused"})
    assert worth(sites, AUC) == (
        "AUC: together is better at 1, worse at 1, not told apart at 1 of 4 sites; not measurable at 1."
    )
    assert [one.was_spoilt for one in sites] == [False, True, False, False]
    assert sites[3].reason == "it refused"
