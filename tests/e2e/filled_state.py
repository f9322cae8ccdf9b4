"""A state database as a made-up federation of hospitals would leave it today, after seven weeks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from unittest.mock import patch

from contract.experiment import Experiment
from contract.names import name_run
from contract.verdicts import POOLED, FeatureVerdict, SiteVerdict, Verdict
from server.schedule import RETRIES
from server.state.enrolments import Enrolments
from server.state.participation import SiteStatus, Step
from server.state.records import Enrolment, RoundRecord, ScheduleRecord
from server.state.schedules import Schedules
from server.state.storage import State
from server.state.submissions import Submissions
from tests.server.federation import plan

__all__ = ["NOW", "SITES", "WINDOWS", "Connected", "fill", "finish_round"]

NOW = datetime.now(UTC)
_MONDAY = (NOW - timedelta(days=3 + (NOW - timedelta(days=3)).weekday())).replace(hour=0, minute=0)
"""Before it, all weeks have closed and their lag of two days is over."""
WINDOWS = [f"{_MONDAY - timedelta(weeks=back):%G-W%V}" for back in range(6, 0, -1)]
SITES = {"north-hospital": 12_400, "south-hospital": 9_850, "east-clinic": 4_120, "west-clinic": 3_300}
_EAST = 3
"""The node that is not connected."""
ROUNDS = 10


class Connected:
    """A client of a SuperLink that all sites but one are connected to."""

    def connected(self) -> frozenset[int]:
        return frozenset(range(1, len(SITES) + 1)) - {_EAST}

    def close(self) -> None:
        """Nothing."""


class _Clock:
    """The time that the state database is told; it goes on with each question."""

    def __init__(self, at: datetime) -> None:
        self.at = at

    def __call__(self) -> datetime:
        self.at += timedelta(seconds=2)
        return self.at


def finish_round(state: State, run: str, number: int, sites: Sequence[str] = tuple(SITES)) -> None:
    """As the server writes it."""
    asked = {
        site: SiteStatus(state="trained", node=list(SITES).index(site) + 1, stated_rows=SITES[site])
        for site in sites
    }
    missing = {
        site: SiteStatus(state="enrolled", reason="not connected") for site in SITES if site not in sites
    }
    state.record_participation(Step(run=run, kind="train", number=number), asked | missing)
    metrics = {"overall": {"log_loss": 0.62 - 0.012 * number, "auc": 0.71 + 0.008 * number}}
    record = RoundRecord(
        round=number,
        cohort=tuple(sites),
        counted=tuple(sites),
        failures=dict.fromkeys(missing, "not connected"),
        metrics=metrics,
        seconds=6.4 + number % 3,
    )
    state.save_round(run, record, checkpoint=b"c")


def fill(state: State, federation: str) -> str:
    """Fill it; give the name of the run that goes on."""
    clock = _Clock(NOW - timedelta(days=48))
    with patch("server.state.storage._now", clock):
        experiment = plan(features=3, private=True, rounds=ROUNDS).model_copy(update={"name": "heart-risk"})
        for node, (name, rows) in enumerate(SITES.items(), start=1):
            state.admit_site(name, federation=federation, node_id=node, key=f"{node}" * 64, stated_rows=rows)
        _train(state, experiment, clock, version=1, spent=1.42, trigger="ada")
        state.record_decision(
            "heart-risk", window="", kind="promote", subject="version 1", by="policy",
            reason="the model has no version in service yet",
        )  # fmt: skip
        _watch(state, experiment, clock)
        _not_in_yet(state, federation)
        queue = Submissions(state.database)
        clock.at = NOW - timedelta(minutes=1)
        going = queue.add(
            experiment, person="ada", federation=federation, windows=(WINDOWS[-1],),
            run=name_run(experiment.name, at=clock.at),
        )  # fmt: skip
        queue.take(federation, at_once=1)
        for person in ("ben", "eva"):
            queue.add(
                experiment, person=person, federation=federation, run=name_run(experiment.name, at=clock.at)
            )
        state.start_run(going.run, experiment=experiment, job="train", trigger="ada", code_hash="c")
        finish_round(state, going.run, 1, [site for site in SITES if site != "east-clinic"])
    return going.run


def _train(
    state: State, experiment: Experiment, clock: _Clock, *, version: int, spent: float, trigger: str
) -> None:
    run = name_run(experiment.name, at=clock.at)
    state.start_run(run, experiment=experiment, job="train", trigger=trigger, code_hash="c")
    for number in range(1, ROUNDS + 1):
        finish_round(state, run, number)
    privacy = {
        site: {"epsilon_in_total": spent + 0.03 * place, "delta": 1e-5, "unit": "record"}
        for place, site in enumerate(SITES)
    }
    state.link_run(run, model_version=version, result=json.dumps({"windows": [], "privacy": privacy}))
    state.finish_run(run, "succeeded")


def _watch(state: State, experiment: Experiment, clock: _Clock) -> None:
    """Six weeks: quiet, one site alone, one check that failed, then all sites and a new version."""
    kept = Schedules(state.database)
    kept.add(ScheduleRecord.of(experiment, every="week", first=WINDOWS[0], lag=2))
    drifted_in: dict[str, tuple[str, ...]] = {
        WINDOWS[2]: ("south-hospital",),
        WINDOWS[5]: ("north-hospital", "south-hospital", POOLED),
    }
    for week, window in enumerate(WINDOWS):
        drifted = drifted_in.get(window, ())
        clock.at = _MONDAY - timedelta(weeks=5 - week) + timedelta(days=2, hours=2)
        kept.enter("heart-risk", [(window, clock.at)])
        check = kept.take("heart-risk", owner="host", now=clock.at, lease=timedelta(minutes=1))
        assert check is not None
        if window == WINDOWS[3]:
            for wait in RETRIES:
                kept.settle(
                    check, "waiting", "too few sites answered: 1, and 3 are needed", due=clock.at + wait
                )
                clock.at += wait
                check = kept.take("heart-risk", owner="host", now=clock.at, lease=timedelta(minutes=1))
                assert check is not None
            kept.settle(check, "not judged", "too few sites answered: 1, and 3 are needed")
            continue
        _judge(state, window, drifted, away="east-clinic" if window == WINDOWS[4] else "")
        kept.settle(check, "done", "alarm" if drifted else "quiet")
        kind, why = ("none", "no alarm")
        if drifted:
            kind, why = ("watch", "an alarm of one site alone")
        if POOLED in drifted:
            kind, why = (
                "retrain",
                "two sites and all together in alarm, and every site can pay for a training",
            )
        state.record_decision(
            "heart-risk", window=window, kind=kind, subject="retraining", by="policy", reason=why  # type: ignore[arg-type]
        )  # fmt: skip
    _train(state, experiment, clock, version=2, spent=2.18, trigger=f"drift in window {WINDOWS[5]}")
    for number, (kind, by, why) in enumerate(
        (
            ("propose", "policy", "accepted: Brier score better by 0.0312 ± 0.0091 a row over 4 sites"),
            ("approve", "rita", "better at three of four sites, worse at none"),
            ("promote", "review", "approved by rita"),
        )
    ):
        state.record_decision(
            "heart-risk", window="" if number else WINDOWS[5], kind=kind, subject="version 2",  # type: ignore[arg-type]
            by=by, reason=why,
        )  # fmt: skip
    due = _MONDAY + timedelta(days=9)
    kept.enter("heart-risk", [(f"{_MONDAY:%G-W%V}", due)])


def _judge(state: State, window: str, drifted: Sequence[str], *, away: str) -> None:
    verdict = Verdict(
        window=window,
        reference_window="training",
        false_alarm_rate=0.01,
        sites=tuple(_site(site, site in drifted) for site in sorted(SITES) if site != away),
        pooled=_site(POOLED, POOLED in drifted),
        rests_on=drifted[0] if len(drifted) == 1 else "",
    )
    state.save_verdict(
        "heart-risk", window=window, verdict=json.loads(verdict.to_json()), alarm=verdict.alarm
    )


def _site(site: str, alarm: bool) -> SiteVerdict:
    return SiteVerdict(
        site=site,
        features=(
            FeatureVerdict(feature="age", p_value=0.4, distance=0.02, drifted=False),
            FeatureVerdict(feature="pressure", p_value=0.0004 if alarm else 0.3, distance=0.1, drifted=alarm),
        ),
    )


def _not_in_yet(state: State, federation: str) -> None:
    enrolments = Enrolments(state.database, federation)
    for name in ("island-hospital", "lake-clinic"):
        enrolments.invite(name, secret=f"secret of {name}", now=NOW, expires=NOW + timedelta(days=36_500))
    asked = Enrolment(
        federation=federation,
        name="island-hospital",
        fingerprint="SHA256:q0mXc3nGm9Yk0u6m0b6Hn8Yt3l2r5w9z1Fh7sVdKpQe",
        public_key="ssh-ed25519 AAAA",
        signing_request="request",
        card=None,
        stated_rows=2_750,
        asked=NOW - timedelta(hours=3),
    )
    assert enrolments.join(asked, secret="secret of island-hospital", now=NOW) is not None
