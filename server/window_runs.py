"""What has become of a window's check: the run that makes it, and the words for how it stands.

A check that failed is made again. Under the name of the run that failed it is the same question: what a site
has answered already it answers from its ledger, byte for byte, and is not charged again. With another
experiment or another champion than before it is another question; it has a new name, and is charged.

Where a scientist has signed the schedule, the names are those of the mandate's tries, in their order: sites
that name scientists answer no others (`contract.standing`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from contract.experiment import Experiment, Strategy
from contract.mandate import Mandate
from contract.names import challenger_run, name_run
from server.state.records import ParticipationRecord, RunRecord
from server.state.storage import State

__all__ = ["Waiting", "WindowRuns", "outcome_words", "waited_for"]

_DONE = ("succeeded", "partial")
_LOOK = 0.5
_QUIET = {"connected": 2.0, "answered": 5.0}
"""Seconds that a site may keep a check waiting before it is said: to connect, and to answer."""


@dataclass(frozen=True, kw_only=True)
class WindowRuns:
    """The runs that check the windows of one experiment.

    Attributes:
        state: where they are written down.
        experiment: what is watched.
        mandate: what a scientist has signed for it; None for nothing.
    """

    state: State
    experiment: Experiment
    mandate: Mandate | None = None

    def trigger(self, window: str) -> str:
        """What started such a run: by this it is found again."""
        return f"schedule, window {window}"

    def last(self, window: str) -> RunRecord | None:
        """The run that checked the window, or else the last that was to; None before the first."""
        trigger = self.trigger(window)
        found = [
            run
            for run in self.state.runs(self.experiment.name)
            if run.job == "cycle" and run.trigger == trigger
        ]
        done = [run for run in found if run.status in _DONE]
        best = done or found
        return best[-1] if best else None

    def is_over(self, window: str) -> bool:
        """Whether nothing more is to be done: it was checked, or a later window has replaced the model.

        A verdict on a model that is in service no more asks for no challenger.
        """
        run = self.last(window)
        if run is None or run.status == "running":
            return False
        return run.status in _DONE or (self._is_judged(window) and self._is_replaced(run, window))

    def name(self, window: str) -> str:
        """Under which name the window is to be checked: the last run's, if it asks the same.

        Where no name that was signed is left, it is that too: under a new one sites would be charged anew.
        """
        run, signed = self.last(window), self._signed(window)
        asks_same = (
            run is not None
            and run.experiment_digest == self.experiment.digest
            and not self._is_replaced(run, window)
        )
        if run is not None and asks_same and (not signed or run.name in signed):
            return run.name
        left = next((name for name in signed if self.state.run(name) is None), "")
        if run is not None and asks_same and not left:
            return run.name
        return left or name_run(f"{self.experiment.name}-{window}")

    def is_signed(self, window: str, run: str) -> bool:
        """Whether the mandate covers a check of the window under that name."""
        return run in self._signed(window)

    def _signed(self, window: str) -> tuple[str, ...]:
        """The names under which the mandate lets the window be checked."""
        mandate = self.mandate
        if mandate is None or mandate.standing is None or mandate.experiment != self.experiment.digest:
            return ()
        return mandate.standing.runs(mandate.run, window) if mandate.standing.covers(window) else ()

    def _is_judged(self, window: str) -> bool:
        return any(verdict.window == window for verdict in self.state.verdicts(self.experiment.name))

    def _is_replaced(self, run: RunRecord, window: str) -> bool:
        """Whether another model than at the run's begin is in service, and not by this window's own word."""
        return any(
            decision.kind in ("promote", "rollback")
            and decision.time > run.started
            and decision.window != window
            for decision in self.state.decisions(self.experiment.name)
        )


def outcome_words(run: RunRecord) -> str:
    """What a finished check found and what was decided, in a line."""
    outcome = json.loads(run.result or "{}")
    where = ", ".join(outcome.get("sites_in_alarm", ())) or "all sites together"
    parts = [
        f"alarm at {where}" if outcome.get("alarm") else "quiet",
        f"decision: {outcome.get('decision', 'unknown')}",
    ]
    if outcome.get("reference"):
        parts.append(f"against {outcome['reference']}")
    if "challenger" in outcome:
        word = "promoted" if outcome["promoted"] else "refused"
        if outcome.get("proposed"):
            word = "proposed: a reviewer decides"
        parts.append(f"challenger version {outcome['challenger']} {word}")
    if run.error:
        parts.append(f"missing: {run.error}")
    return "; ".join(parts)


def waited_for(records: Sequence[ParticipationRecord], strategy: Strategy) -> tuple[str, tuple[str, ...]]:
    """Whom the exchange in progress waits for, and whether that is to be connected or to have answered.

    Args:
        records: how far each site came in each exchange of a run, in their order.
        strategy: says how many must take part.
    """
    here = [item for item in records if (item.kind, item.round) == (records[-1].kind, records[-1].round)]
    asked = [item for item in here if item.state != "enrolled"]
    if len(asked) < strategy.quorum:
        return "connected", tuple(sorted(item.site for item in here if item.state == "enrolled"))
    return "answered", tuple(
        sorted(item.site for item in asked if item.state == "connected" and not item.reason)
    )


@dataclass(kw_only=True)
class Waiting:
    """Says whom a run waits for, and how long it may, once it has waited some seconds.

    Attributes:
        state: where the run writes how far each site came.
        run: its name; that of the training that it may begin follows from it.
        strategy: says how long it waits, and for how many.
        say: is told a sentence; each once.
    """

    state: State
    run: str
    strategy: Strategy
    say: Callable[[str], None]
    _looked: float = 0.0
    _since: float = 0.0
    _waits: tuple[str, tuple[str, ...]] = ("", ())
    _said: set[str] = field(default_factory=set)

    def look(self) -> None:
        """See how it stands; called again and again while the run goes on."""
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return
        self._looked = now
        run = self.state.run(self.run)
        records = self.state.participation(challenger_run(self.run)) or self.state.participation(self.run)
        running = run is not None and run.status == "running"
        waits = waited_for(records, self.strategy) if running and records else ("", ())
        if waits != self._waits:
            self._waits, self._since = waits, now
        kind, sites = waits
        if not sites or now - self._since < _QUIET[kind]:
            return
        why = "no answer yet" if kind == "answered" else "not connected"
        longest = _time(self.strategy.round_timeout)
        sentence = f"waiting for {', '.join(sites)} ({why}), up to {longest}"
        if sentence not in self._said:
            self._said.add(sentence)
            self.say(sentence)


def _time(seconds: float) -> str:
    """A time as a person says it.

    >>> _time(45), _time(600)
    ('45 s', '10 min')
    """
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
