"""What the federation page shows, read from the state database and the SuperLink."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from contract.errors import ReleaseError
from contract.federation_api import Decision, Run, RunDetail, Site, has_ended
from contract.verdicts import POOLED, Verdict
from server.api.reading import Page, Reading
from server.schedule import waits_for
from server.state.enrolments import Enrolments
from server.state.records import Enrolment, Invitation, RunRecord, ScheduleRecord, WindowCheck
from server.state.schedules import Schedules

__all__ = [
    "Drift",
    "KeptSchedule",
    "Overview",
    "Spending",
    "Waiting",
    "diagnoses_of",
    "read_overview",
    "spending_of",
]

_SITES, _RUNS, _RUNNING, _QUEUED, _DECISIONS, _EXPERIMENTS, _RESULTS = 200, 20, 5, 20, 30, 10, 50
_WINDOWS = 16
"""Of a drift picture: the last ones."""


@dataclass(frozen=True, kw_only=True)
class Spending:
    """What a site's last reply to a run said that its ledger had counted so far.

    Attributes:
        epsilon: of the data block that has paid most; None where something was asked without privacy.
        delta: at which it holds.
        unit: `record` or `person`.
        run: whose result says so.
        at: when that ended: what was asked since is not in it.
    """

    epsilon: float | None
    delta: float
    unit: str
    run: str
    at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Who is not in yet: those who asked, and those who were invited and have not."""

    asked: Sequence[Enrolment]
    invited: Sequence[Invitation]


@dataclass(frozen=True, kw_only=True)
class KeptSchedule:
    """A schedule, its windows, and what it waits for, in a sentence."""

    schedule: ScheduleRecord
    checks: Sequence[WindowCheck]
    waits: str


@dataclass(frozen=True, kw_only=True)
class Drift:
    """The last windows of an experiment.

    Attributes:
        windows: with the verdict; a word about the check where there is no verdict.
        decisions: of the policy, by window.
        left_out: how many earlier windows there are.
    """

    experiment: str
    windows: Mapping[str, Verdict | str]
    decisions: Mapping[str, str]
    left_out: int

    @property
    def sites(self) -> list[str]:
        """Those in any verdict, and all together last."""
        found = {site.site for one in self.windows.values() if isinstance(one, Verdict) for site in one.sites}
        return [*sorted(found), POOLED]


@dataclass(frozen=True, kw_only=True)
class Overview:
    """All of it, at one moment."""

    at: datetime
    sites: Sequence[Site]
    waiting: Waiting
    spending: Mapping[str, Spending]
    running: Sequence[RunDetail]
    queued: Sequence[Run]
    runs: Sequence[Run]
    diagnoses: Mapping[str, str]
    drift: Sequence[Drift]
    schedules: Sequence[KeptSchedule]
    decisions: Sequence[Decision]


def read_overview(reading: Reading) -> Overview:
    """Read what the page shows: of long lists the newest part.

    Raises:
        StorageError: the database is away.
    """
    now = datetime.now(UTC)
    runs = reading.runs(Page(limit=_RUNS)).runs
    running = [record.name for record in reading.state.unfinished_runs()][::-1][:_RUNNING]
    details = [reading.run_detail(name) for name in running]
    results = reading.state.last_results(_RESULTS)
    places = list(reading.submissions.places(reading.federation))[:_QUEUED]
    queued = [reading.run(name) for name in places]
    kept = Schedules(reading.state.database)
    schedules = [
        KeptSchedule(
            schedule=one, checks=kept.checks(one.experiment), waits=waits_for(one, reading.state, now)
        )
        for one in kept.all()
    ]
    return Overview(
        at=now,
        sites=reading.sites(Page(limit=_SITES)).sites,
        waiting=_waiting(reading, now),
        spending=spending_of(results),
        running=[one for one in details if one is not None],
        queued=[one for one in queued if one is not None],
        runs=[one for one in runs if has_ended(one.status) or one.status == "starting"],
        diagnoses=diagnoses_of(results),
        drift=[_drift(name, reading, kept) for name in reading.state.judged()[-_EXPERIMENTS:]],
        schedules=schedules,
        decisions=reading.decisions(None, Page(limit=_DECISIONS)).decisions,
    )


def _waiting(reading: Reading, now: datetime) -> Waiting:
    enrolments = Enrolments(reading.state.database, reading.federation)
    return Waiting(
        asked=enrolments.all("requested"),
        invited=[one for one in enrolments.invitations() if one.used is None and one.expires > now],
    )


def spending_of(results: Sequence[RunRecord]) -> dict[str, Spending]:
    """By site, the newest word of it."""
    found: dict[str, Spending] = {}
    for record in results:
        with suppress(ValueError, KeyError, TypeError, AttributeError):  # of another version of the program
            for site, spent in _spent(json.loads(record.result or "{}")).items():
                value = spent["epsilon_in_total"]
                one = Spending(
                    epsilon=None if value is None else float(value),
                    delta=float(spent["delta"]),
                    unit=str(spent["unit"]),
                    run=record.name,
                    at=record.ended,
                )
                found.setdefault(site, one)
    return found


def diagnoses_of(results: Sequence[RunRecord]) -> dict[str, str]:
    """Whether each run's model learnt, in the first sentence of its diagnosis; of those that have one.

    And what share of the gradients was clipped in the last of the rounds that counted.
    """
    found = {}
    for record in results:
        with suppress(ValueError, KeyError, TypeError, IndexError):  # of another version of the program
            diagnosis = json.loads(record.result or "{}")["diagnosis"]
            counted = diagnosis.get("clipped") or {}
            clipped = [f"Gradients: {counted[max(counted, key=int)]['overall']['words']}."] if counted else []
            found[record.name] = " ".join([str(diagnosis["sentences"][0]), *clipped])
    return found


def _spent(result: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    if "privacy" in result:  # of a training, or of a drift check
        return dict(result["privacy"])
    if "epsilon" in result and "sites" in result:  # of a question about ranges
        shared = {"delta": result["delta"], "unit": result["unit"]}
        return {site: {**shared, **spent} for site, spent in result["sites"].items()}
    return {}


def _drift(experiment: str, reading: Reading, kept: Schedules) -> Drift:
    windows: dict[str, Verdict | str] = {}
    for record in reading.state.verdicts(experiment):
        try:
            windows[record.window] = Verdict.from_json(json.dumps(dict(record.verdict)))
        except ReleaseError:
            windows[record.window] = "not readable"
    for check in kept.checks(experiment):  # these come last, in the order of the calendar
        if check.window in windows or check.state != "waiting":
            windows[check.window] = windows.pop(check.window, check.state)
    shown = list(windows)[-_WINDOWS:]
    return Drift(
        experiment=experiment,
        windows={name: windows[name] for name in shown},
        decisions={
            one.window: f"{one.kind}: {one.reason}"
            for one in reading.state.decisions(experiment)
            if one.subject == "retraining"
        },
        left_out=len(windows) - len(shown),
    )
