"""`tidegate site cost`: what is said to fit is authorised, and what is said to be left is all there is."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clients import site as sites
from clients.ledger.chain import Cap, Ledger, Plan
from clients.ledger.cost import block_costs, room_for
from clients.ledger.plans import drift_plan, evaluate_plan, reference_plan, train_plan
from clients.site import Site, open_site
from contract.epsilon import epsilon_words
from contract.errors import BudgetError
from contract.experiment_file import parse_experiment
from server.rounds import Training
from tests.cards import card_for

EXPERIMENT = """\
name = "small"
[task]
time = "window"
label = { column = "ill" }
[[task.features]]
name = "age"
kind = "numeric"
low = 0
high = 120
[strategy]
rounds = 4
learning_rate = 1.0
evaluate_every = 2
[privacy]
epsilon = 2.0
evaluation_epsilon = 1.0
delta = 1e-5
"""
CARD = card_for(parse_experiment(EXPERIMENT, where="small"), holdout="side")
SITE = f"""\
name = "north"
stated_rows = 50
[data]
kind = "csv"
path = "rows.csv"
{CARD}
[policy]
epsilon_cap = 4.0
delta_cap = 1e-4
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(sites, "_open", {})
    (tmp_path / "site.toml").write_text(SITE)
    (tmp_path / "small.toml").write_text(EXPERIMENT)
    yield tmp_path
    for known in sites._open.values():
        known.ledger.close()


Cost = Callable[..., str]


@pytest.fixture
def cost(place: Path, tidegate: Cost) -> Cost:
    """`tidegate site cost` of the place's experiment."""
    return functools.partial(tidegate, "site", "cost", place / "site.toml", place / "small.toml")


def change(place: Path, old: str, new: str) -> None:
    text = (place / "small.toml").read_text()
    assert old in text
    (place / "small.toml").write_text(text.replace(old, new))


def plans(site: Site, place: Path, run: str, *windows: str) -> list[Plan]:
    experiment = parse_experiment((place / "small.toml").read_text(), where="small")
    instruction = Training(run=run, experiment=experiment, windows=windows).instruction(1, evaluate=True)
    split = site.split
    return [train_plan(experiment, instruction, split), evaluate_plan(experiment, instruction, split)]


def spend(place: Path, run: str, *windows: str) -> None:
    """A whole run of the experiment, or as much as the cap allows."""
    site = open_site(place / "site.toml")
    for plan in plans(site, place, run, *windows):
        site.ledger.authorise(plan)
        for number in range(plan.uses):
            site.ledger.reserve(f"{plan.name}/{number}", plan.name)


def told(cost: Cost, *arguments: object, refused: bool = False) -> dict[str, Any]:
    code = 1 if refused else 0
    value: dict[str, Any] = json.loads(cost(*arguments, "--json", code=code))
    assert value["accepted"] == (code == 0)
    return value


def test_what_it_says_is_what_a_run_then_promises(cost: Cost, place: Path) -> None:
    spend(place, "run-1", "w1")
    before = told(cost, "--window", "w1", "--window", "w2")
    ledger = open_site(place / "site.toml").ledger
    entered = ledger.entries()
    assert [block["block"] for block in before["blocks"]] == [
        f"{window}/{side}" for window in ("w1", "w2") for side in ("holdout", "train")
    ]
    assert before["fits"] is True
    assert before["would_fit"] == {}
    assert [block["now"] == 0 for block in before["blocks"]] == [False, False, True, True]
    spend(place, "run-2", "w1", "w2")
    promised = ledger.spent_by_block(promised=True)
    for block in before["blocks"]:
        assert block["then"] == pytest.approx(promised[block["block"]].epsilon)
    assert ledger.entries()[: len(entered)] == entered


def test_a_card_without_lasting_sides_pays_on_both_and_says_so(cost: Cost, place: Path) -> None:
    apart = {block["block"]: block["then"] for block in told(cost)["blocks"]}
    assert "charged to both" not in cost()
    said = (place / "site.toml").read_text()
    column = 'holdout = { column = "side" }'
    assert column in said
    (place / "site.toml").write_text(said.replace(column, "holdout = { share = 0.3 }"))
    value = told(cost)
    assert value["lasting_sides"] is False
    both = {block["block"]: block["then"] for block in value["blocks"]}
    assert both["all/train"] == both["all/holdout"] > max(apart.values())
    assert "charged to both" in " ".join(cost().split())
    (place / "site.toml").write_text(said.replace(column, 'holdout = { record = "visit" }'))
    assert {block["block"]: block["then"] for block in told(cost)["blocks"]} == apart


def test_nothing_is_entered(cost: Cost, place: Path) -> None:
    cost()
    assert open_site(place / "site.toml").ledger.entries() == []


def test_a_run_on_all_rows_counts_on_every_window(cost: Cost, place: Path) -> None:
    spend(place, "run-1", "w1")
    found = {block["block"]: block for block in told(cost)["blocks"]}
    assert found.keys() == {"all/train", "all/holdout", "w1/train", "w1/holdout"}
    assert found["w1/train"]["then"] > found["all/train"]["then"] > 0
    assert found["all/train"]["now"] == 0


def test_open_plans_of_other_runs_end_with_what_they_used(cost: Cost, place: Path) -> None:
    site = open_site(place / "site.toml")
    site.ledger.authorise(plans(site, place, "run-1", "w1")[0])  # and never used
    (train,) = [block for block in told(cost, "--window", "w1")["blocks"] if block["block"] == "w1/train"]
    alone = told(cost, "--window", "w2")["blocks"][1]
    assert train["now"] > 0
    assert train["then"] == pytest.approx(alone["then"])


def test_what_does_not_fit_is_told_with_the_most_that_would(cost: Cost, place: Path) -> None:
    spend(place, "run-1", "w1")
    change(place, "epsilon = 2.0", "epsilon = 5.0")
    change(place, "evaluation_epsilon = 1.0", "evaluation_epsilon = 6.0")
    refused = told(cost, "--window", "w1", refused=True)
    assert refused["fits"] is False
    assert [block["fits"] for block in refused["blocks"]] == [False, False]
    site = open_site(place / "site.toml")
    with pytest.raises(BudgetError):
        site.ledger.check(plans(site, place, "run-2", "w1")[0])
    words = cost("--window", "w1", code=1)
    assert "REFUSES" in words
    last = "REFUSED: a run would be refused, for the cap would be passed on w1/holdout, w1/train."
    assert words.splitlines()[-1] == last
    for key, stated in (("privacy.epsilon", "5.0"), ("privacy.evaluation_epsilon", "6.0")):
        most = refused["would_fit"][key]["epsilon"]
        at_most = f"ask for at most {most:g}, the cap" if most == 4.0 else f"at most {most:g} fits"
        assert f"{key} = {float(stated):g} is too much; {at_most}" in words
        change(
            place, f"{key.removeprefix('privacy.')} = {stated}", f"{key.removeprefix('privacy.')} = {most}"
        )
    assert told(cost, "--window", "w1")["fits"] is True
    spend(place, "run-2", "w1")
    assert open_site(place / "site.toml").ledger.spent().epsilon == pytest.approx(4.0, rel=3e-3)


def test_nothing_is_left(cost: Cost, place: Path) -> None:
    change(place, "delta = 1e-5", "delta = 1e-4")  # the cap's
    change(place, "epsilon = 2.0", f"epsilon = {told_most(cost, place)}")
    spend(place, "run-1", "w1")
    change(place, "rounds = 4", "rounds = 400")
    words = cost("--window", "w1", code=1)
    assert "privacy.epsilon" in words
    most = told(cost, "--window", "w1", refused=True)["would_fit"]["privacy.epsilon"]
    assert most["epsilon"] < 0.3


def told_most(cost: Cost, place: Path) -> float:
    """The ε that takes all of the cap."""
    text = (place / "small.toml").read_text()
    change(place, "epsilon = 2.0", "epsilon = 50.0")
    most: float = told(cost, "--window", "w1", refused=True)["would_fit"]["privacy.epsilon"]["epsilon"]
    (place / "small.toml").write_text(text)
    return most


@pytest.mark.parametrize("sampling", [{}, {"sampling_rate": 0.1, "steps": 10}], ids=["every row", "sampled"])
def test_the_room_is_all_of_it_and_no_more(tmp_path: Path, sampling: dict[str, Any]) -> None:
    ledger = Ledger(tmp_path / "ledger.db", site="north", cap=Cap(epsilon=3.0, delta=1e-5), clock=lambda: "")
    earlier = Plan(name="a", run="a", purpose="drift", blocks=("w/train",), noise_multiplier=4.0, uses=1)
    ledger.authorise(earlier)
    ledger.reserve("a/1", "a")
    plan = Plan(
        name="b", run="b", purpose="train", blocks=("w/train",), noise_multiplier=0.6, uses=3, **sampling
    )
    assert not block_costs(ledger, [plan])[0].fits
    room = room_for(ledger, plan, delta=1e-5)
    ledger.check(replace(plan, noise_multiplier=room.noise_multiplier))
    with pytest.raises(BudgetError):
        ledger.check(replace(plan, noise_multiplier=0.995 * room.noise_multiplier))
    assert 0 < room.epsilon < 3.0
    ledger.close()


def test_no_room_is_said_so(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db", site="north", cap=Cap(epsilon=3.0, delta=1e-5), clock=lambda: "")
    faint = Plan(name="a", run="a", purpose="drift", blocks=("w/train",), noise_multiplier=1.53, uses=1)
    ledger.authorise(faint)
    ledger.reserve("a/1", "a")
    ledger.close()
    lower = Ledger(tmp_path / "ledger.db", site="north", cap=Cap(epsilon=2.0, delta=1e-5), clock=lambda: "")
    plan = Plan(name="b", run="b", purpose="train", blocks=("w/train",), noise_multiplier=9.0, uses=1)
    assert room_for(lower, plan, delta=1e-5).epsilon == 0
    lower.close()


def test_what_the_policy_would_refuse_is_said_beside_the_cost(
    tidegate: Callable[..., str], cost: Cost, place: Path
) -> None:
    site = place / "site.toml"
    site.write_text(f'{SITE}approved_experiments = ["{"0" * 64}"]\n')
    found = told(cost, refused=True)
    assert "not among those approved" in found["policy"]
    assert "REFUSED: a run would be refused, for the policy" in cost(code=1).splitlines()[-1]
    site.write_text(f'{SITE}approved_experiments = ["{found["digest"]}"]\n')
    assert told(cost)["policy"] == ""
    assert "1 approved experiment\n" in re.sub(" +\n", "\n", tidegate("site", "status", site))
    assert cost().splitlines()[-1] == "A run would be accepted: the cap and the policy allow it."
    change(place, "[privacy]", "[privacy]\nprivate = false")
    found = told(cost, refused=True)
    assert "differentially private runs only" in found["policy"]
    assert found["fits"] is True  # no cap speaks of it, the policy does
    assert [block["then"] for block in found["blocks"]] == [None, None]
    assert "NOT PRIVATE" in cost(code=1)


def test_what_is_left_to_the_recipe_has_no_digest_yet_and_the_same_cost(cost: Cost, place: Path) -> None:
    stated = told(cost)
    change(place, "learning_rate = 1.0\n", "")
    found = told(cost)
    assert (found["digest"], len(stated["digest"])) == (None, 64)
    assert found["blocks"] == stated["blocks"]
    assert "digest of the run's plan: not known yet" in " ".join(cost().split())


def test_nobody_is_told_to_ask_for_more_than_the_cap(cost: Cost, place: Path) -> None:
    """At the experiment's smaller δ the ε of what fits is above the cap, which is stated at a larger δ."""
    change(place, "evaluation_epsilon = 1.0", "evaluation_epsilon = 0.1")
    change(place, "epsilon = 2.0", "epsilon = 50.0")
    most = told(cost, "--window", "w1", refused=True)["would_fit"]["privacy.epsilon"]["epsilon"]
    assert most == 4.0
    assert "privacy.epsilon = 50 is too much; ask for at most 4, the cap (noise" in cost(
        "--window", "w1", code=1
    )
    change(place, "epsilon = 50.0", f"epsilon = {most}")
    assert told(cost, "--window", "w1")["fits"] is True


def test_approval_covers_drift_checks_and_comparisons_and_that_is_said(cost: Cost, place: Path) -> None:
    later = {(item["what"], item["block"].partition("/")[2]): item for item in told(cost)["also_covers"]}
    kinds = ("the reference of drift checks, once", "a drift check")
    assert sorted(later) == sorted(
        [(kind, side) for kind in kinds for side in ("holdout", "train")]
        + [("a comparison of champion and challenger", "holdout")]
    )
    spend(place, "run-1")
    site = open_site(place / "site.toml")
    experiment = parse_experiment((place / "small.toml").read_text(), where="small")
    instruction = Training(run="run-1", experiment=experiment, windows=()).instruction(1, evaluate=False)
    charged = [
        reference_plan(experiment, (), site.split),
        drift_plan(experiment, instruction, site.split),
    ]
    for kind, plan in zip(kinds, charged, strict=True):
        before = site.ledger.spent_by_block()
        site.ledger.authorise(plan)
        site.ledger.reserve(plan.name, plan.name)
        after = site.ledger.spent_by_block()
        for side in ("holdout", "train"):
            item = later[kind, side]
            assert item["before"] == pytest.approx(before[f"all/{side}"].epsilon)
            assert item["then"] == pytest.approx(after[f"all/{side}"].epsilon)
    words = cost()
    assert "Approval covers these too" in words
    assert "The experiment states its ε at δ = 1e-5, this page at the cap's δ = 1e-4" in words


def test_the_reference_of_each_season_is_said_and_what_is_said_is_charged(cost: Cost, place: Path) -> None:
    """Two seasons have a reference each, and a window of a third is compared with both."""
    change(place, "[strategy]", '[drift]\nreference = "same-season"\n[strategy]')
    label = cost("--window", "2026-01", code=2)
    assert "no calendar. Seasons need calendar windows" in label
    card = (place / "site.toml").read_text()
    dated = '{ column = "window", kind = "date", every = "month" }'
    (place / "site.toml").write_text(card.replace('{ column = "window" }', dated))
    asked = ("--window", "2026-01", "--window", "2026-02")
    what = "each reference of drift checks, once"
    later = {item["what"]: item for item in told(cost, *asked)["also_covers"] if "train" in item["block"]}
    spend(place, "run-1", "2026-01", "2026-02")
    site = open_site(place / "site.toml")
    experiment = parse_experiment((place / "small.toml").read_text(), where="small")
    for windows in (("2026-01",), ("2026-02",), ("2026-01", "2026-02")):
        plan = reference_plan(experiment, windows, site.split)
        site.ledger.authorise(plan)
        site.ledger.reserve(plan.name, plan.name)
    spent = site.ledger.spent_by_block()
    assert later[what]["then"] == pytest.approx(spent[later[what]["block"]].epsilon)
    assert spent["2026-01/train"].epsilon == spent["2026-02/train"].epsilon


def test_a_check_of_a_later_window_pays_from_that_window(cost: Cost, place: Path) -> None:
    later = {(item["what"], item["block"]): item for item in told(cost, "--window", "w1")["also_covers"]}
    item = later["a drift check", "(a later window)/train"]
    assert item["before"] == 0 < item["then"] < 1
    assert later["the reference of drift checks, once", "w1/train"]["before"] > 1


def test_the_refusal_says_the_same_figure(cost: Cost, place: Path) -> None:
    change(place, "epsilon = 2.0", "epsilon = 9.0")
    (train,) = (
        block
        for block in told(cost, "--window", "w1", refused=True)["blocks"]
        if block["block"] == "w1/train"
    )
    assert f" {epsilon_words(train['then'])} " in cost("--window", "w1", code=1)
    site = open_site(place / "site.toml")
    with pytest.raises(BudgetError, match=f"to ε = {epsilon_words(train['then'])}, above"):
        site.ledger.check(plans(site, place, "run-2", "w1")[0])


def test_the_unit_can_be_the_person(cost: Cost, place: Path) -> None:
    change(place, "[task]", '[task]\nperson = "patient"')
    change(place, "[privacy]", '[privacy]\nunit = "person"\nrows_per_person = 3')
    experiment = parse_experiment((place / "small.toml").read_text(), where="small")
    (place / "site.toml").write_text(SITE.replace(CARD, card_for(experiment)))
    assert [block["block"] for block in told(cost, "--window", "w1")["blocks"]] == [
        "all/holdout",
        "all/train",
    ]


def test_a_file_without_ranges_has_no_cost_yet(cost: Cost, place: Path) -> None:
    change(place, "low = 0\nhigh = 120\n", "")
    assert "tidegate ranges" in cost(code=2)
