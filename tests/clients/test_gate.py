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
from contract.errors import BudgetError, ReleaseError
from contract.experiment import Experiment
from contract.experiment_file import parse_experiment
from contract.messages import Reply
from contract.norm_bound import update_bound
from contract.quantization import distance
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
    assert one.to_bytes() == other.to_bytes() == ledger.stored_reply("r/train/1")
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
        ({"delta_cap": 0.5}, {"delta": 1e-3}, PLAN, "1/1000"),
        ({"approved_experiments": ("0" * 64,)}, {}, PLAN, "not among those approved"),
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
        with pytest.raises(BudgetError, match=word):
            act()
    assert ledger.entries() == []


def test_a_reply_survives_both_its_encodings(ledger: Ledger) -> None:
    scores = ScoreHistogram(negative=np.arange(4.0), positive=np.ones(4), noise_deviation=0.5)
    make: Callable[[], Releases] = lambda: Releases(update=update().update, scores=scores)  # noqa: E731
    reply = gate(ledger).release("r/train/1", experiment(), [PLAN], make)
    for other in (Reply.from_bytes(reply.to_bytes()), Reply.from_records(reply.to_records())):
        assert other.to_bytes() == reply.to_bytes()
        assert other.scores is not None
        assert other.scores.metrics() == scores.metrics()
    assert reply.spent_in_run.epsilon > 0
    assert "Gaussian" in reply.mechanism


def test_a_large_update_is_quantized_before_it_is_checked_stored_and_sent(ledger: Ledger) -> None:
    start = {"layers.0.weight": np.ones((1, 300), np.float32), "layers.0.bias": np.ones(1, np.float32)}
    arrays = {name: value + np.float32(1e-3) for name, value in start.items()}
    releases = Releases(update=ModelUpdate(arrays=arrays), began_from=start)
    plan = experiment()
    eight = plan.model_copy(update={"strategy": plan.strategy.model_copy(update={"update_bits": 8})})
    sent = gate(ledger).release("r/8", eight, [PLAN], lambda: releases)
    again = gate(ledger).release("r/8", eight, [PLAN], lambda: pytest.fail("computed twice"))
    whole = gate(ledger).release("r/32", plan, [PLAN], lambda: releases)
    assert again.to_bytes() == sent.to_bytes()
    assert sent.update is not None
    assert whole.update is not None
    assert {str(value.dtype) for value in sent.update.arrays.values()} == {"int8"}
    assert {str(value.dtype) for value in whole.update.arrays.values()} == {"float32"}
    assert distance(sent.update, start) == pytest.approx(distance(whole.update, start), rel=1e-3)


def test_an_update_that_is_longer_than_clipped_gradients_make_it_stays_here(ledger: Ledger) -> None:
    """No more than four times the stated rows: a site that states far too few is told so by its own gate."""
    start = {"layers.0.weight": np.zeros((1, 2), np.float32), "layers.0.bias": np.zeros(1, np.float32)}
    bound = update_bound(experiment(), 1000, 3)
    for length, leaves in ((0.9, True), (1.1, False)):
        arrays = {**start, "layers.0.bias": np.full(1, length * bound, np.float32)}
        releases = Releases(update=ModelUpdate(arrays=arrays), began_from=start)
        if leaves:
            gate(ledger).release(f"r/{length}", experiment(), [PLAN], lambda given=releases: given)
        else:
            with pytest.raises(ReleaseError, match="stated_rows"):
                gate(ledger).release(f"r/{length}", experiment(), [PLAN], lambda given=releases: given)
