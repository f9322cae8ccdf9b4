"""What runs without asking: every key that is given must hold."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from clients.policy import Allow, Policy
from contract.experiment_file import parse_experiment

EXPERIMENT = parse_experiment(
    """\
name = "small"
[task]
label = { column = "ill" }
[[task.features]]
name = "age"
kind = "numeric"
low = 0
high = 120
""",
    where="test",
)
SUNDAY_NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)


def unmet(at: datetime = SUNDAY_NOON, /, **keys: Any) -> str:
    return Allow(**keys).unmet(EXPERIMENT, code="c" * 64, epsilon=1.0, at=at)


@pytest.mark.parametrize(
    "keys",
    [
        {"experiments": (EXPERIMENT.digest,)},
        {"code": ("d" * 64, "c" * 64)},
        {"label": "ill", "features": ("weight", "age"), "epsilon": 1.0},
        {"weekdays": ("sun",), "hours": "12:00-12:01"},
        {"weekdays": ("mon",), "hours": "00:00-24:00", "zone": "Pacific/Kiritimati"},
    ],
)
def test_what_holds_is_allowed(keys: dict[str, Any]) -> None:
    assert unmet(**keys) == ""


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"experiments": ("0" * 64,)}, "not among those approved"),
        ({"code": ("d" * 64,)}, "installed code"),
        ({"label": "dead"}, "predicts 'ill'"),
        ({"label": "ill", "features": ("weight",)}, "uses 'age'"),
        ({"label": "ill", "epsilon": 0.999}, "one run costs"),
        ({"label": "ill", "weekdays": ("mon", "sat")}, "hour"),
        ({"hours": "12:01-11:59"}, "hour"),
        ({"hours": "06:00-12:00"}, "hour"),
    ],
)
def test_one_key_that_does_not_hold_is_enough(keys: dict[str, Any], why: str) -> None:
    assert why in unmet(**keys)


def test_what_is_not_private_is_above_every_epsilon() -> None:
    assert "one run costs ε = ∞" in Allow(epsilon=1e4).unmet(
        EXPERIMENT, code="", epsilon=float("inf"), at=SUNDAY_NOON
    )
    assert "one run costs" in Allow(epsilon=1e4).unmet(
        EXPERIMENT, code="", epsilon=float("nan"), at=SUNDAY_NOON
    )


def test_a_night_belongs_to_the_day_on_which_it_began() -> None:
    keys: dict[str, Any] = {"weekdays": ("sat",), "hours": "20:00-06:00"}
    assert unmet(datetime(2026, 11, 28, 20, tzinfo=UTC), **keys) == ""
    assert unmet(datetime(2026, 11, 29, 5, 59, tzinfo=UTC), **keys) == ""
    assert unmet(datetime(2026, 11, 29, 6, tzinfo=UTC), **keys)
    assert unmet(datetime(2026, 11, 29, 21, tzinfo=UTC), **keys)
    assert unmet(datetime(2026, 11, 28, 5, tzinfo=UTC), **keys)


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({}, "says nothing"),
        ({"zone": "UTC"}, "says nothing"),
        ({"experiments": ()}, "at least 1"),
        ({"hours": "8-18"}, "write it like"),
        ({"hours": "08:00-08:00"}, "write it like"),
        ({"hours": "08:00-24:30"}, "write it like"),
        ({"hours": "08:00-18:00", "zone": "Mars"}, "no time zone"),
        ({"hours": "08:00-18:00", "zone": "../../etc/passwd"}, "no time zone"),
        ({"weekdays": ("Sunday",)}, "mon"),
        ({"label": "ill", "rows": 3}, "rows"),
    ],
)
def test_a_rule_that_is_none_is_refused(keys: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Allow(**keys)


def test_the_old_list_is_a_rule_and_two_lists_are_refused() -> None:
    digests = ("a" * 64,)
    assert Policy(approved_experiments=digests).rule == Allow(experiments=digests)
    assert Policy().rule is None
    with pytest.raises(ValidationError, match=r"move the digests to allow\.experiments"):
        Policy(approved_experiments=digests, allow=Allow(label="ill"))
