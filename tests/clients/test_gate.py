"""Nothing leaves uncharged, and nothing leaves that is not in the contract."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients.gate import Gate, Releases
from clients.ledger.chain import Cap, Ledger, Plan
from clients.site_config import Policy
from contract.errors import BudgetError, DataError, LedgerError, PolicyError, ReleaseError, TidegateError
from contract.experiment import Experiment
from contract.experiment_file import parse_experiment
from contract.messages import Reply
from contract.releases import ModelUpdate, ScoreHistogram

TEXT = """\
name = "small"
[task]
label = { column = "ill" }
[[task.features]]
name = "age"
kind = "numeric"
low = 0
high = 120
[privacy]
delta = 1e-5
"""

PLAN = Plan(name="r/train", run="r", purpose="train", blocks=("b/train",), noise_multiplier=5.0, uses=3)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.db", site="north", cap=Cap(epsilon=3.0, delta=1e-5), clock=lambda: "now")


def experiment(**privacy: Any) -> Experiment:
    plan = parse_experiment(TEXT, where="test")
    return plan.model_copy(update={"privacy": plan.privacy.model_copy(update=privacy)})


def gate(ledger: Ledger, **policy: Any) -> Gate:
    return Gate(site="north", stated_rows=1000, policy=Policy(**policy), ledger=ledger)


def update(value: float = 1.0) -> Releases:
    return Releases(update=ModelUpdate(arrays={"w": np.full(3, value, dtype=np.float32)}))


def kinds(ledger: Ledger) -> list[str]:
    return [entry.kind for entry in ledger.entries()]


def test_the_charge_is_in_the_ledger_before_anything_is_computed(ledger: Ledger) -> None:
    seen: list[list[str]] = []

    def compute() -> Releases:
        seen.append(kinds(ledger))
        return update()

    gate(ledger).release("r/train/1", experiment(), [PLAN], compute)
    assert seen == [["authorise", "reserve"]]
    assert kinds(ledger) == ["authorise", "reserve", "commit"]


def test_the_same_request_gets_the_same_bytes_and_is_computed_once(ledger: Ledger) -> None:
    calls: list[float] = []

    def compute() -> Releases:
        calls.append(np.random.default_rng().random())
        return update(calls[-1])

    one, other = (gate(ledger).release("r/train/1", experiment(), [PLAN], compute) for _ in range(2))
    assert one == other == ledger.stored_reply("r/train/1")
    assert len(calls) == 1
    assert kinds(ledger).count("reserve") == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_here_and_its_charge_stands(ledger: Ledger, value: float) -> None:
    with pytest.raises(ReleaseError, match="not finite"):
        gate(ledger).release("r/train/1", experiment(), [PLAN], lambda: update(value))
    assert ledger.spent().epsilon > 0
    assert ledger.stored_reply("r/train/1") is None


def test_what_is_not_in_the_contract_cannot_leave(ledger: Ledger) -> None:
    raw: Any = {"rows": [1, 2, 3]}
    for wrong in (Releases(update=raw), Releases(scores=raw), Releases()):
        with pytest.raises(ReleaseError):
            gate(ledger).release("r/train/1", experiment(), [PLAN], lambda wrong=wrong: wrong)
    assert "commit" not in kinds(ledger)


@pytest.mark.parametrize(
    ("policy", "privacy", "plan", "word"),
    [
        ({}, {}, PLAN.__class__(**{**vars(PLAN), "noise_multiplier": 0.0}), "differentially private"),
        ({"delta_cap": 1e-6}, {}, PLAN, "above this site's limit"),
        (
            {"approved_experiments": ("0" * 64,)},
            {},
            PLAN,
            f"experiment {experiment().digest} is not among those approved",
        ),
        ({}, {}, PLAN.__class__(**{**vars(PLAN), "noise_multiplier": 0.5}), "cap of 3"),
    ],
)
def test_a_policy_refuses_before_anything_is_computed_or_entered(
    ledger: Ledger, policy: dict[str, Any], privacy: dict[str, Any], plan: Plan, word: str
) -> None:
    def compute() -> Releases:
        raise AssertionError("computed")

    for act in (
        lambda: gate(ledger, **policy).release("r/train/1", experiment(**privacy), [plan], compute),
        lambda: gate(ledger, **policy).check(experiment(**privacy), [plan]),
    ):
        with pytest.raises((BudgetError, PolicyError), match=word):
            act()
    assert ledger.entries() == []


def test_a_reply_survives_both_its_encodings(ledger: Ledger) -> None:
    scores = ScoreHistogram(negative=np.arange(4.0), positive=np.ones(4), noise_deviation=0.5)
    make: Callable[[], Releases] = lambda: Releases(update=update().update, scores=scores)  # noqa: E731
    written = gate(ledger).release("r/train/1", experiment(), [PLAN], make)
    reply = Reply.from_bytes(written)
    for other in (reply, Reply.from_records(Reply.records_of(written))):
        assert other.to_bytes() == written
        assert other.scores is not None
        assert other.scores.metrics() == scores.metrics()
    assert reply.spent_in_run.epsilon > 0
    assert "Gaussian" in reply.mechanism


@pytest.mark.parametrize("raised", [DataError("a disk"), ReleaseError("a mechanism"), LedgerError("a file")])
def test_whatever_fails_after_the_charge_fails_in_one_word(ledger: Ledger, raised: TidegateError) -> None:
    def compute() -> Releases:
        raise raised

    with pytest.raises(ReleaseError) as caught:
        gate(ledger).release("r/train/1", experiment(), [PLAN], compute)
    assert caught.value.code == "failed"
    assert ledger.spent().epsilon > 0
