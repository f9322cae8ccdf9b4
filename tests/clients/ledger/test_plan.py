"""A plan and a cap that are no mechanism and no limit are refused when they are made."""

from __future__ import annotations

import math
from typing import Any

import pytest

from clients.ledger.plan import Cap, Plan, require_name
from contract.errors import InputError

PLAN: dict[str, Any] = {
    "name": "r/train",
    "run": "r",
    "purpose": "train",
    "blocks": ("w1/train",),
    "noise_multiplier": 5.0,
    "uses": 3,
}


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("noise_multiplier", [math.nan, math.inf, -1.0, 1e-4, 1e10, "5", None, False, True]),
        ("sampling_rate", [math.nan, 0.0, -0.1, 1e-6, 1.5, "1", None, True]),
        ("uses", [0, -1, 1e-6, 1e-16, 1.0, 3.5, math.nan, math.inf, "3", None, True, 10**7]),
        ("steps", [0, 1e-6, 1.0, math.nan, True, 10**7]),
        ("runs", [0, 1e-6, 1.0, math.nan, True, 10**7]),
        ("blocks", [(), ["w1/train"], "w1/train", ("",), ("w1\0/train",), (1,), ("w1/train",) * 10_001]),
        ("name", ["", "a\nb", "a\x1b[2K", "a\ud800", " a", "a" * 501, 5, None, "a\u202eb", "a\xa0b"]),
        ("run", ["", "a\0"]),
        ("split", ["a\0", None, 5]),
        ("allowance", ["a\0", 5]),
        ("purpose", ["steal", "", None]),
        ("unit", ["family", "", None]),
    ],
)
def test_what_is_no_mechanism_is_no_plan(key: str, values: list[Any]) -> None:
    for value in values:
        if key == "split" and value is None:
            continue  # like an empty text: another split
        with pytest.raises(InputError):
            Plan(**{**PLAN, key: value})


def test_uses_steps_and_runs_have_a_bound_together() -> None:
    with pytest.raises(InputError, match="uses of a mechanism"):
        Plan(**{**PLAN, "uses": 10**4, "steps": 10**4, "runs": 100})
    assert Plan(**{**PLAN, "uses": 10**4, "steps": 10**3, "runs": 100}).events(2, "one")[0].count == 2000


def test_a_plan_is_one_however_its_numbers_are_written() -> None:
    whole, real = Plan(**{**PLAN, "noise_multiplier": 5}), Plan(**PLAN)
    assert whole == real
    assert whole.foreseen == real.foreseen
    assert not Plan(**{**PLAN, "noise_multiplier": 0}).private


NO_EPSILON = [(value, 1e-5) for value in (math.nan, math.inf, 0, -1, "8")]
NO_DELTA = [(8.0, value) for value in (0.0, 1.0, math.nan, None)]


@pytest.mark.parametrize(("epsilon", "delta"), NO_EPSILON + NO_DELTA)
def test_what_is_no_limit_is_no_cap(epsilon: Any, delta: Any) -> None:
    with pytest.raises(InputError):
        Cap(epsilon=epsilon, delta=delta)


def test_a_cap_holds_no_epsilon_that_is_not_a_number() -> None:
    cap = Cap(epsilon=8.0, delta=1e-5)
    assert cap.holds(8.0)
    assert cap.holds(0.0)
    assert not any(cap.holds(value) for value in (math.nan, math.inf, -math.inf, -1.0, 8.001))


def test_names_may_be_of_any_language() -> None:
    require_name("Münster 2026-W07 (Ost) – 東")
