"""What blocks have spent follows from the entries alone; what a server steers into gains it nothing."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from clients.ledger.accounting import FILTER_RENYI, Event, compose
from clients.ledger.chain import Ledger
from clients.ledger.plan import Cap, Plan
from clients.ledger.replay import block_totals, totals_of
from contract.errors import BudgetError, LedgerError

CAP = Cap(epsilon=3.0, delta=1e-5)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.db", site="north", cap=CAP, clock=lambda: "now")


def plan(name: str = "run-1/train", **values: Any) -> Plan:
    settings: dict[str, Any] = {"blocks": ("w1/train",), "noise_multiplier": 5.0, "uses": 2, **values}
    return Plan(name=name, run=name.partition("/")[0], purpose="train", **settings)


def use(ledger: Ledger, charged: Plan) -> None:
    ledger.authorise(charged)
    ledger.reserve(f"{charged.name}/1", charged.name)


def test_the_first_use_asks_the_cap_again(tmp_path: Path, ledger: Ledger) -> None:
    """Whatever was admitted when the plan was entered: here a cap that was lowered since."""
    ledger.authorise(plan())
    lowered = Ledger(ledger.path, site="north", cap=Cap(epsilon=0.1, delta=1e-5), clock=lambda: "now")
    with pytest.raises(BudgetError, match="above the site's cap"):
        lowered.reserve("run-1/train/1", "run-1/train")
    assert lowered.spent().epsilon == 0


def test_a_use_of_nothing_or_of_an_unknown_plan_is_refused(ledger: Ledger) -> None:
    for plans in ((), ("run-9/train",)):
        with pytest.raises(LedgerError, match="never entered"):
            ledger.reserve("run-1/train/1", *plans)
    assert ledger.entries() == []


def test_one_plan_named_twice_is_two_uses(ledger: Ledger) -> None:
    ledger.authorise(plan(noise_multiplier=2.2, uses=1))
    ledger.reserve("a", "run-1/train")
    with pytest.raises(BudgetError):
        ledger.reserve("b", "run-1/train", "run-1/train")


def test_a_closed_plan_is_counted_as_it_will_be_once_it_ran(ledger: Ledger) -> None:
    """Another sampled training is in force when this one has its first use: it was not foreseen."""
    one, other = (
        plan(f"{run}/train", sampling_rate=0.1, noise_multiplier=2.0, uses=10, allowance=run)
        for run in ("run-1", "run-2")
    )
    ledger.authorise(one)
    ledger.authorise(other)
    ledger.reserve("run-1/train/1", "run-1/train")
    assert ledger.spent(promised=True).method == FILTER_RENYI
    refused = False
    for number in range(300):
        try:
            ledger.reserve(f"more/{number}", "run-1/train")
        except BudgetError:
            refused = True
            break
        assert ledger.spent(promised=True).epsilon <= CAP.epsilon * (1 + 1e-9)
    assert refused


def test_the_cap_is_guaranteed_and_the_sum_is_what_was_counted(ledger: Ledger) -> None:
    use(ledger, plan())
    spent = ledger.spent()
    assert (spent.guaranteed, spent.guaranteed_delta) == (3.0, 1e-5)
    assert 0 < spent.epsilon < spent.guaranteed
    use(ledger, plan("run-2/train", noise_multiplier=0.0))
    assert ledger.spent().guaranteed == math.inf
    assert ledger.spent(run="run-1").guaranteed == 3.0


def test_a_cap_that_was_lowered_guarantees_nothing_of_what_was_spent_under_the_larger(ledger: Ledger) -> None:
    use(ledger, plan(noise_multiplier=2.2, uses=1))
    use(ledger, plan("run-2/train", noise_multiplier=6.0, blocks=("w2/train",)))
    lower = Ledger(ledger.path, site="north", cap=Cap(epsilon=1.0, delta=1e-5), clock=lambda: "now")
    first, second = block_totals(lower)
    assert first.private
    assert first.spent.epsilon > 1.0
    assert first.spent.guaranteed == math.inf
    assert first.as_dict()["guaranteed"] is None
    assert second.as_dict()["guaranteed"] == 1.0
    finer = lower.spent_by_block(delta=1e-12)["w2/train"]
    assert finer.epsilon > 1.0 == finer.guaranteed  # within the cap at the cap's own δ


@pytest.mark.parametrize(
    ("earlier", "asked", "advice"),
    [
        ({"blocks": ("w1/train",)}, {"blocks": ("w1/train",)}, "Train on a newer window"),
        (
            {"blocks": ("all/train",)},
            {"blocks": ("w1/train",)},
            "what ran on all rows counts on every window",
        ),
        (
            {"blocks": ("all/train",), "unit": "person"},
            {"blocks": ("all/train",), "unit": "person"},
            "a person's rows in all windows are one data block",
        ),
        (None, {"blocks": ("all/train",), "noise_multiplier": 0.1}, "^((?!newer).)*$"),
    ],
)
def test_a_refusal_says_what_helps(
    ledger: Ledger, earlier: dict[str, Any] | None, asked: dict[str, Any], advice: str
) -> None:
    if earlier is not None:
        use(ledger, plan(noise_multiplier=1.4, uses=1, **earlier))
    with pytest.raises(BudgetError) as refused:
        ledger.check(plan("run-2/train", **{"noise_multiplier": 1.4, "uses": 1, **asked}))
    assert re.search(advice, refused.value.remedy)
    assert "ower the experiment's epsilon" in refused.value.remedy


def test_counted_and_held_against_the_cap_is_one_figure(ledger: Ledger) -> None:
    use(ledger, plan(uses=1))
    exact, _ = compose([Event(noise_multiplier=5.0)], 1e-5)
    assert ledger.spent().epsilon == ledger.would_spend([plan(uses=1)])["w1/train"].epsilon == exact


# -- persons ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["person", "record"])
def test_a_statement_for_persons_ends_where_records_of_one_window_were_looked_at(
    ledger: Ledger, first: str
) -> None:
    person = plan("run-1/train", blocks=("all/train",), unit="person", noise_multiplier=10.0)
    record = plan("run-2/train", blocks=("w1/train",), noise_multiplier=10.0)
    plans = [person, record] if first == "person" else [record, person]
    use(ledger, plans[0])
    use(ledger, plans[1])
    assert {block: spent.unit for block, spent in ledger.spent_by_block().items()} == {
        "all/train": "record",
        "w1/train": "record",
    }
    assert ledger.spent(run="run-1").unit == "person"


def test_the_other_side_is_of_other_persons(ledger: Ledger) -> None:
    use(ledger, plan("run-1/train", blocks=("all/train",), unit="person", noise_multiplier=10.0))
    use(ledger, plan("run-2/train", blocks=("w1/holdout",), noise_multiplier=10.0))
    assert ledger.spent_by_block()["all/train"].unit == "person"


# -- as a third party counts -------------------------------------------------------------------------


def test_a_plan_that_is_made_cheaper_in_a_second_entry_is_refused(ledger: Ledger) -> None:
    use(ledger, plan())
    entries = ledger.entries()
    cheaper = {**vars(entries[0]), "sequence": 3, "body": {**entries[0].body, "noise_multiplier": 500.0}}
    with pytest.raises(LedgerError, match="other parameters"):
        totals_of([*entries, type(entries[0])(**cheaper)], cap=CAP)


@pytest.mark.parametrize(("key", "value"), [("uses", 1e-6), ("noise_multiplier", 1e12), ("steps", True)])
def test_an_entry_of_a_plan_that_is_none_is_refused(ledger: Ledger, key: str, value: Any) -> None:
    ledger.authorise(plan())
    entry = ledger.entries()[0]
    body = {**entry.body, key: value}
    with pytest.raises(LedgerError, match="not such as a ledger writes"):
        totals_of([type(entry)(**{**vars(entry), "body": body})], cap=CAP)
