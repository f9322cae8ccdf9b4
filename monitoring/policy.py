"""When drift leads to a challenger: a pure function of what the windows showed.

In this order:

1. **Persistence.** `persistence` of the last `of` windows raised an alarm. Only
   windows after the last retraining count, for those before it were compared
   with a reference that retraining has replaced. A window that was not checked
   is one without an alarm.
2. **Enabled.** The experiment allows retraining.
3. **Cooldown.** More than `cooldown` windows lie between the last retraining and now.
4. **Budget.** At least a quorum of sites can pay for one more run. A site that
   is not known to can not.

**What it is trained on.** Drift is a change of regime: rows from before it teach
the old one. So the challenger is trained on the windows from the first alarm of
the current streak on, and on the last `windows` of these at most. Two alarms
are of one streak when they fit into one span of `of` windows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from contract.experiment import Retraining

__all__ = ["Action", "Decision", "WindowOutcome", "decide"]

Action = Literal["none", "watch", "retrain", "blocked"]


@dataclass(frozen=True, kw_only=True)
class WindowOutcome:
    """What the drift check of one window showed.

    Attributes:
        window: its name.
        index: its place in time, counted in windows.
        alarm: whether any site, or all together, showed drift.
        sites: those that showed it by themselves.
    """

    window: str
    index: int
    alarm: bool
    sites: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to do after a window, and why.

    Attributes:
        action: `none` (no alarm), `watch` (alarms, but not yet or not allowed to
            retrain), `retrain`, or `blocked` (should retrain, but the budget is spent).
        reason: one sentence for a reviewer.
        windows: those to train on; empty unless `retrain`.
        sites: those that can pay for the run; empty unless `retrain`.
    """

    action: Action
    reason: str
    windows: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()


def decide(
    history: Sequence[WindowOutcome],
    *,
    retraining: Retraining,
    budget: Mapping[str, bool],
    quorum: int,
    last_retraining: int | None = None,
) -> Decision:
    """Decide after the last window of the history.

    Args:
        history: outcomes of the windows checked so far, in any order.
        retraining: the experiment's rule.
        budget: for each site, whether it can pay for one more run.
        quorum: fewest sites that a run needs.
        last_retraining: index of the window after which was last retrained; None if never.

    >>> history = [WindowOutcome(window=f"w{i}", index=i, alarm=i >= 5) for i in range(7)]
    >>> decision = decide(history, retraining=Retraining(), budget={"a": True, "b": True}, quorum=2)
    >>> decision.action, decision.windows
    ('retrain', ('w5', 'w6'))
    """
    seen = _since(history, last_retraining)
    if not seen:
        return Decision(action="none", reason="No window was checked yet since the last training.")
    recent = [outcome for outcome in seen if outcome.index > seen[-1].index - retraining.of]
    alarms = [outcome.window for outcome in recent if outcome.alarm]
    evidence = _evidence(alarms, len(recent), retraining)
    if len(alarms) < retraining.persistence:
        return Decision(action="watch" if alarms else "none", reason=f"{evidence}.")
    if not retraining.enabled:
        return Decision(action="watch", reason=f"{evidence}; retraining is switched off in the experiment.")
    age = None if last_retraining is None else seen[-1].index - last_retraining
    evidence = f"{evidence}; {_pause(age, retraining.cooldown)}"
    if age is not None and age <= retraining.cooldown:
        return Decision(action="watch", reason=f"{evidence}.")
    return _within_budget(evidence, _streak(seen, retraining), budget, quorum)


def _since(history: Sequence[WindowOutcome], last_retraining: int | None) -> list[WindowOutcome]:
    ordered = sorted(history, key=lambda outcome: outcome.index)
    return [outcome for outcome in ordered if last_retraining is None or outcome.index > last_retraining]


def _streak(seen: Sequence[WindowOutcome], retraining: Retraining) -> tuple[str, ...]:
    """The windows to train on: since the first alarm of the streak, the last `windows` at most."""
    alarms = [outcome.index for outcome in seen if outcome.alarm]
    start = alarms[-1]
    for index in reversed(alarms):
        if start - index >= retraining.of:
            break
        start = index
    newest = seen[-1].index - retraining.windows
    return tuple(outcome.window for outcome in seen if outcome.index >= start and outcome.index > newest)


def _within_budget(
    evidence: str, windows: tuple[str, ...], budget: Mapping[str, bool], quorum: int
) -> Decision:
    able = tuple(sorted(site for site, can_pay in budget.items() if can_pay))
    spent = sorted(set(budget) - set(able))
    if len(able) < quorum:
        return Decision(
            action="blocked",
            reason=f"{evidence}; budget left at {len(able)} of {len(budget)} sites"
            f"{_named(spent, 'spent at')}, at least {quorum} needed.",
        )
    left = "budget left at all sites" if not spent else f"budget left at {len(able)} of {len(budget)} sites"
    return Decision(
        action="retrain",
        reason=f"{evidence}; {left}{_named(spent, 'spent at')}.",
        windows=windows,
        sites=able,
    )


def _evidence(alarms: Sequence[str], checked: int, retraining: Retraining) -> str:
    """What was seen: of the windows that were checked, where those are fewer than the rule looks at."""
    span = "the last window" if retraining.of == 1 else f"the last {retraining.of} windows"
    if checked < retraining.of:
        span = "the one window checked" if checked == 1 else f"the {checked} windows checked"
    if not alarms:
        return f"No alarm in {span}"
    return f"Alarm in {len(alarms)} of {span}{_named(alarms)}; at least {retraining.persistence} needed"


def _named(names: Sequence[str], before: str = "") -> str:
    return f" ({before} {', '.join(names)})".replace("( ", "(") if names else ""


def _pause(age: int | None, cooldown: int) -> str:
    if age is None:
        return "never retrained before"
    ago = f"last retraining {age} window{'' if age == 1 else 's'} ago"
    return f"{ago}, within the cooldown of {cooldown}" if age <= cooldown else ago
