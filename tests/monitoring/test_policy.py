"""The retraining rule on histories of one letter a window: A for alarm, . for none, - for unchecked."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.experiment import Retraining
from monitoring.policy import Decision, WindowOutcome, decide

RULE = Retraining(persistence=2, of=3, cooldown=2, windows=3)
BUDGET = {"north": True, "south": True, "west": True}


def history(letters: str) -> list[WindowOutcome]:
    return [
        WindowOutcome(window=f"w{index}", index=index, alarm=letter == "A")
        for index, letter in enumerate(letters)
        if letter != "-"
    ]


def decided(
    letters: str,
    *,
    rule: Retraining = RULE,
    last_retraining: int | None = None,
    budget: dict[str, bool] | None = None,
) -> Decision:
    return decide(
        history(letters),
        retraining=rule,
        budget=BUDGET if budget is None else budget,
        quorum=2,
        last_retraining=last_retraining,
    )


@pytest.mark.parametrize(
    ("letters", "action"),
    [
        ("", "none"),
        ("...", "none"),
        ("A", "watch"),
        ("..A", "watch"),
        ("AA", "retrain"),
        ("A.A", "retrain"),
        ("A..A", "watch"),
        ("A--A", "watch"),
        ("AA...", "none"),
    ],
)
def test_alarms_must_persist(letters: str, action: str) -> None:
    assert decided(letters).action == action


@pytest.mark.parametrize(
    ("letters", "windows"),
    [
        ("...AA", ("w3", "w4")),
        ("..A.A", ("w2", "w3", "w4")),
        ("AAAAA", ("w2", "w3", "w4")),
        ("A...AA", ("w4", "w5")),
        ("..A-A", ("w2", "w4")),
    ],
)
def test_training_starts_with_the_first_alarm_of_the_streak(letters: str, windows: tuple[str, ...]) -> None:
    assert decided(letters).windows == windows


def test_a_streak_reaches_back_over_gaps_that_fit_the_span() -> None:
    rule = Retraining(persistence=2, of=3, cooldown=0, windows=9)
    assert decided("..A.A.AA", rule=rule).windows == ("w2", "w3", "w4", "w5", "w6", "w7")


@pytest.mark.parametrize(
    ("letters", "action"),
    [("..AA", "watch"), ("..AAA", "retrain"), ("..A.A", "retrain"), ("..A", "watch")],
)
def test_alarms_up_to_the_last_retraining_do_not_count_and_then_it_cools_down(
    letters: str, action: str
) -> None:
    assert decided(letters, last_retraining=1).action == action
    assert decided(letters[:2].replace(".", "A") + letters[2:], last_retraining=1).action == action


def test_without_a_cooldown_only_persistence_counts() -> None:
    rule = Retraining(persistence=1, of=1, cooldown=0, windows=1)
    assert decided("AA", rule=rule, last_retraining=0).action == "retrain"


def test_retraining_that_is_switched_off_only_watches() -> None:
    decision = decided("AA", rule=Retraining(enabled=False))
    assert (decision.action, decision.windows) == ("watch", ())
    assert "switched off" in decision.reason


def test_too_few_sites_with_budget_left_block_it() -> None:
    decision = decided("AA", budget={"north": True, "south": False, "west": False})
    assert (decision.action, decision.windows, decision.sites) == ("blocked", (), ())
    assert decision.reason == (
        "Alarm in 2 of the 2 windows checked (w0, w1); at least 2 needed; never retrained before; "
        "budget left at 1 of 3 sites (spent at south, west), at least 2 needed."
    )
    assert decided("AA", budget={}).action == "blocked"


def test_a_quorum_with_budget_left_goes_on_without_the_others() -> None:
    decision = decided("AA", budget={"north": True, "south": False, "west": True})
    assert (decision.action, decision.sites) == ("retrain", ("north", "west"))
    assert "spent at south" in decision.reason


@pytest.mark.parametrize(
    ("letters", "last_retraining", "reason"),
    [
        (".", None, "No alarm in the one window checked."),
        ("..", None, "No alarm in the 2 windows checked."),
        ("...", None, "No alarm in the last 3 windows."),
        (".A", None, "Alarm in 1 of the 2 windows checked (w1); at least 2 needed."),
        ("..A", None, "Alarm in 1 of the last 3 windows (w2); at least 2 needed."),
        (
            "...AA",
            0,
            "Alarm in 2 of the last 3 windows (w3, w4); at least 2 needed; last retraining 4 windows ago; "
            "budget left at all sites.",
        ),
        (
            "..AA",
            1,
            "Alarm in 2 of the 2 windows checked (w2, w3); at least 2 needed; "
            "last retraining 2 windows ago, within the cooldown of 2.",
        ),
    ],
)
def test_the_reason_is_a_sentence(letters: str, last_retraining: int | None, reason: str) -> None:
    assert decided(letters, last_retraining=last_retraining).reason == reason


@settings(deadline=None)
@given(
    letters=st.text("A.-", max_size=12),
    last=st.none() | st.integers(0, 8),
    persistence=st.integers(1, 4),
    more=st.integers(0, 3),
    cooldown=st.integers(0, 4),
    windows=st.integers(1, 6),
)
def test_a_retraining_always_keeps_every_part_of_the_rule(
    letters: str, last: int | None, persistence: int, more: int, cooldown: int, windows: int
) -> None:
    rule = Retraining(persistence=persistence, of=persistence + more, cooldown=cooldown, windows=windows)
    outcomes = history(letters)
    decision = decided(letters, rule=rule, last_retraining=last)
    if decision.action != "retrain":
        assert decision.windows == ()
        return
    after = [outcome for outcome in outcomes if last is None or outcome.index > last]
    now = outcomes[-1].index
    assert sum(o.alarm for o in after if o.index > now - rule.of) >= persistence
    assert last is None or now - last > cooldown
    trained = [o for o in outcomes if o.window in decision.windows]
    assert 1 <= len(trained) <= windows
    assert all(o.index > now - windows for o in trained)
    assert decide(outcomes[::-1], retraining=rule, budget=BUDGET, quorum=2, last_retraining=last) == decision
