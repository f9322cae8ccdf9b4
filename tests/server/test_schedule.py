"""What becomes of a window that has closed: done, tried again later, not judged, or left to the server."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import server.schedule
from contract.errors import AddressError, InputError
from contract.experiment import Experiment
from contract.mandate import mandate_for, public_key_of, sign_mandate
from contract.standing import Standing
from server.line.flower import RunState
from server.schedule import WindowChecks, has_champion, run_schedules, signer_is_out, waits_for
from server.settings import ServerSettings
from server.state.owner import this_process
from server.state.people import People
from server.state.records import ScheduleRecord, WindowCheck
from server.state.schedules import Schedules
from server.state.storage import State
from tests.server.federation import plan

LONG = 300.0
QUIET = {"alarm": False, "sites_in_alarm": [], "decision": "none"}


class Server:
    """In the place of a SuperLink: it does what a test says with each job that it is given."""

    def __init__(self, state: State, *acts: Callable[[str], None]) -> None:
        self.state, self.acts, self.asked = state, list(acts), list[tuple[str, str]]()
        self.mandates: list[str] = []

    def submit(self, _: Path, config: Mapping[str, str]) -> int:
        self.asked.append((config["window"], config["run"]))
        self.mandates.append(config["mandate"])
        if self.state.run(config["run"]) is None:
            experiment = Experiment.model_validate_json(config["experiment"])
            self.state.start_run(
                config["run"], experiment=experiment, job="cycle", trigger=config["trigger"], code_hash="c0de"
            )
        else:
            self.state.resume_run(config["run"])
        self.state.take_over(config["run"])
        self.acts.pop(0)(config["run"])
        return len(self.asked)

    def wait(self, _: int, *, pause: float, watch: Callable[[], None]) -> RunState:
        watch()
        return RunState(status="finished", sub_status="completed", details="")

    def close(self) -> None:
        """Nothing is open."""

    def finds(self, **outcome: object) -> Callable[[str], None]:
        def act(run: str) -> None:
            self.state.link_run(run, result=json.dumps({**QUIET, **outcome}))
            self.state.finish_run(run, "succeeded")

        return act

    def fails(self, why: str) -> Callable[[str], None]:
        return lambda run: self.state.finish_run(run, "failed", error=why)


@pytest.fixture
def schedules(state: State) -> Schedules:
    return Schedules(state.database)


def checks_of(state: State, server: Server, **values: Any) -> tuple[WindowChecks, list[str]]:
    said: list[str] = []
    control: Any = lambda: server  # noqa: E731
    return WindowChecks(state=state, control=control, stop=threading.Event(), say=said.append, **values), said


def keep(schedules: Schedules, **values: Any) -> ScheduleRecord:
    paused = values.pop("paused", False)
    record = ScheduleRecord.of(plan(quorum=2), **{"every": "week", "first": "2026-W01", **values})
    record = replace(record, paused=paused)
    schedules.add(record)
    return record


def the_check(schedules: Schedules) -> WindowCheck:
    (check,) = schedules.checks("fake")
    return check


def put_into_service(state: State) -> None:
    state.record_decision("fake", window="", kind="promote", subject="version 1", by="p", reason="r")


def test_what_was_signed_goes_with_the_checks_that_it_covers(state: State, schedules: Schedules) -> None:
    weeks = Standing(every="week", first="2026-W01", last="2026-W01", tries=1, drift_epsilon=0.5)
    mandate = mandate_for(
        plan(quorum=2), run="fake-1", code="c" * 64, authority="a" * 64, scientist="ada",
        expires=datetime.now(UTC) + timedelta(days=1), covers=weeks,
    )  # fmt: skip
    signed = sign_mandate(mandate, Ed25519PrivateKey.generate())
    keep(schedules)
    schedules.sign("fake", signed)
    server = Server(state)
    server.acts = [server.finds(), server.finds()]
    checks, said = checks_of(state, server)
    schedules.enter("fake", [(week, datetime.now(UTC)) for week in ("2026-W01", "2026-W02")])
    assert [checks.check(plan(quorum=2)) is not None for _ in range(2)] == [True, True]
    assert server.asked[0] == ("2026-W01", "fake-1-2026-W01-1")
    assert server.mandates == [signed, ""]
    assert "fake, window 2026-W02: its mandate does not cover this check" in " ".join(said)


KEY = Ed25519PrivateKey.generate()


def signed_by(scientist: str, key: Ed25519PrivateKey = KEY) -> str:
    weeks = Standing(every="week", first="2026-W01", last="2026-W05", tries=1, drift_epsilon=0.5)
    mandate = mandate_for(
        plan(quorum=2), run="fake-1", code="c" * 64, authority="a" * 64, scientist=scientist,
        expires=datetime.now(UTC) + timedelta(days=1), covers=weeks,
    )  # fmt: skip
    return sign_mandate(mandate, key)


def test_a_schedule_stops_where_who_signed_it_was_revoked(
    tmp_path: Path, state: State, schedules: Schedules, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its windows are due; none is checked, nor asked for in the name of whom the operator revoked."""
    people, said, checked = People(state.database), list[str](), list[str]()
    people.add("ada", "scientist")
    (ada,) = people.all()
    people.keep_signing_key(ada, public_key_of(KEY))
    keep(schedules)
    schedules.sign("fake", signed_by("ada"))
    put_into_service(state)

    def check(self: WindowChecks, experiment: Experiment, window: str | None = None) -> None:
        checked.append(experiment.name)

    def look() -> None:
        settings = ServerSettings(
            home=tmp_path / "home",
            state_url=f"sqlite:///{tmp_path}/home/state.db",
            tracking_uri="",
            artifact_root=tmp_path,
        )
        run_schedules(settings, say=said.append, stop=threading.Event())

    def clock(look: Callable[[], list[str]], work: Callable[[str], None], **_: object) -> None:
        looks.append(look())
        work("fake")

    looks: list[list[str]] = []
    monkeypatch.setattr(WindowChecks, "check", check)
    monkeypatch.setattr(server.schedule, "run_clock", clock)
    record, now = schedules.get("fake"), datetime.now(UTC)
    look()
    assert (looks.pop(), checked.pop()) == (["fake"], "fake")
    assert "token" not in waits_for(record, state, now)
    people.revoke("ada")
    look()
    gone = "the token of 'ada', who signed 'fake', was revoked: have it signed anew"
    assert (looks, checked) == ([[]], [])
    assert sum(gone in words for words in said) == 1
    assert gone in waits_for(record, state, now)
    server_ = Server(state)
    server_.acts = [server_.fails("x")]
    monkeypatch.undo()
    checks, _ = checks_of(state, server_)
    schedules.enter("fake", [("2026-W01", now)])
    assert checks.check(plan(quorum=2)) is not None  # an operator asks: not in her name
    assert server_.mandates == [""]
    people.add("ada", "scientist")  # again, and she has not connected: whose key it is is not known
    assert "has not said again" in waits_for(record, state, now)
    (ada,) = people.all()
    people.keep_signing_key(ada, public_key_of(Ed25519PrivateKey.generate()))
    assert "has not said again" in waits_for(record, state, now)
    people.keep_signing_key(ada, public_key_of(KEY))
    assert signer_is_out(record, state) == ""


def test_what_somebody_asked_for_who_was_revoked_is_not_checked_for_them(
    state: State, schedules: Schedules
) -> None:
    keep(schedules)
    schedules.enter("fake", [("2026-W01", datetime.now(UTC))])
    other = plan(quorum=2).model_copy(update={"name": "other"})
    for experiment, window in ((plan(quorum=2), "2026-W01"), (plan(quorum=2), "2999-W01"), (other, "x")):
        schedules.ask(experiment, window, by="ada", now=datetime.now(UTC))
    schedules.ask(other, "y", by="olga", now=datetime.now(UTC))
    forgotten = {(one.experiment, one.window) for one in schedules.forget_asked_by("ada")}
    assert forgotten == {("fake", "2026-W01"), ("fake", "2999-W01"), ("other", "x")}
    assert [(one.window, one.asked_by) for one in schedules.checks("fake")] == [("2026-W01", "")]
    assert [(one.window, one.asked_by) for one in schedules.checks("other")] == [("y", "olga")]


def test_who_is_revoked_while_they_ask_or_before_it_is_forgotten_has_nothing_checked(
    state: State, schedules: Schedules
) -> None:
    """A request was let in by a token that was good; or `person revoke` was killed once it was not."""
    people, now = People(state.database), datetime.now(UTC)
    keep(schedules)
    people.add("ada", "scientist")
    schedules.ask(plan(quorum=2), "2026-W01", by="ada", now=now)
    people.revoke("ada")
    assert schedules.asked(now) == ()
    with pytest.raises(InputError, match="the token of 'ada', who asks, was revoked"):
        schedules.ask(plan(quorum=2), "2026-W02", by="ada", now=now)
    assert [one.window for one in schedules.checks("fake")] == ["2026-W01"]
    schedules.ask(plan(quorum=2), "2026-W01", by="olga", now=now)
    assert [one.asked_by for one in schedules.asked(now)] == ["olga"]


def test_a_window_is_checked_by_the_server_and_is_done(state: State, schedules: Schedules) -> None:
    server = Server(state)
    server.acts = [server.finds(alarm=True, sites_in_alarm=["north"], decision="watch")]
    checks, said = checks_of(state, server)
    schedules.enter("fake", [("2026-W01", datetime.now(UTC))])
    check = checks.check(plan(quorum=2))
    assert check is not None
    assert (check.state, check.detail, check.run) == (
        "done",
        "alarm at north; decision: watch",
        server.asked[0][1],
    )
    assert said == ["fake, window 2026-W01: done: alarm at north; decision: watch"]
    assert checks.check(plan(quorum=2)) is None


def test_a_failed_window_is_tried_again_under_its_name_later_each_time_and_then_not_judged(
    state: State, schedules: Schedules
) -> None:
    keep(schedules)
    server = Server(state)
    server.acts = [server.fails("south was away") for _ in range(3)]
    checks, _ = checks_of(state, server, retries=(timedelta(0), timedelta(0)))
    schedules.enter("fake", [("2026-W01", datetime.now(UTC))])
    for _ in range(2):
        assert checks.check(plan(quorum=2)) is not None
        assert the_check(schedules).state == "waiting"
        assert "tried again at" in the_check(schedules).detail
    assert checks.check(plan(quorum=2)) is not None
    assert the_check(schedules).state == "not judged"
    assert the_check(schedules).detail == "not judged, after 3 attempts: south was away."
    assert len(set(server.asked)) == 1
    assert checks.check(plan(quorum=2)) is None
    server.acts = [server.finds()]
    assert checks.check(plan(quorum=2), "2026-W01") is not None  # by hand
    assert the_check(schedules).state == "done"


def test_the_first_try_again_is_a_minute_later(state: State, schedules: Schedules) -> None:
    keep(schedules)
    server = Server(state)
    server.acts = [server.fails("south was away")]
    checks, _ = checks_of(state, server)
    schedules.enter("fake", [("2026-W01", datetime.now(UTC))])
    before = datetime.now(UTC)
    checks.check(plan(quorum=2))
    assert timedelta(seconds=60) <= the_check(schedules).due - before <= timedelta(seconds=60 + LONG)
    assert checks.check(plan(quorum=2)) is None


def test_who_asks_again_and_again_ends_nothing_that_the_schedule_waits_for(
    state: State, schedules: Schedules
) -> None:
    """South is away for an hour, and somebody asks for the window more often than it would be tried."""
    keep(schedules)
    server, now = Server(state), datetime.now(UTC)
    server.acts = [server.fails("south is away") for _ in range(8)] + [server.finds()]
    checks, _ = checks_of(state, server, retries=(timedelta(0), timedelta(0)))
    schedules.enter("fake", [("2026-W01", now)])
    for _ in range(8):
        schedules.ask(plan(quorum=2), "2026-W01", by="mallory", now=now)
        assert checks.check(plan(quorum=2), "2026-W01") is not None
        assert the_check(schedules).state == "waiting"
    assert checks.check(plan(quorum=2)) is not None  # the schedule's own
    assert the_check(schedules).state == "done"


def test_a_pause_ends_what_people_have_asked_for_too(state: State, schedules: Schedules) -> None:
    keep(schedules)
    put_into_service(state)
    now = datetime.now(UTC)
    for window in ("2026-W01", "2026-W02", "2999-W01"):
        schedules.ask(plan(quorum=2), window, by="mallory", now=now)
    schedules.pause("fake", paused=True)
    assert schedules.asked(now) == ()
    waits = [(check.window, check.state, check.asked_by) for check in schedules.checks("fake")]
    assert waits == [("2026-W01", "waiting", ""), ("2026-W02", "waiting", "")]
    schedules.ask(plan(quorum=2), "2026-W02", by="olga", now=now)  # the operator, who has paused it
    assert [one.window for one in schedules.asked(now)] == ["2026-W02"]
    schedules.pause("fake", paused=False)
    assert [one.asked_by for one in schedules.asked(now)] == ["olga"]


def test_a_server_that_is_away_is_a_failed_try_with_its_reason(state: State, schedules: Schedules) -> None:
    def away() -> Any:
        raise AddressError("no server was started from here", remedy="Start one")

    keep(schedules)
    checks = WindowChecks(state=state, control=away, stop=threading.Event(), say=print)
    schedules.enter("fake", [("2026-W01", datetime.now(UTC))])
    checks.check(plan(quorum=2))
    assert "no server was started from here. Start one." in the_check(schedules).detail


def test_told_to_stop_it_leaves_the_check_to_the_server_and_finds_it_again(
    state: State, schedules: Schedules
) -> None:
    server = Server(state)
    checks, said = checks_of(state, server)
    server.acts = [lambda _: checks.stop.set()]
    schedules.enter("fake", [("2026-W01", datetime.now(UTC))])
    checks.check(plan(quorum=2))
    run = server.asked[0][1]
    assert said == [f"fake, window 2026-W01: its check goes on at the server, as run {run}"]
    assert (the_check(schedules).state, the_check(schedules).attempts) == ("waiting", 0)
    later, _ = checks_of(state, server)
    ends = threading.Timer(0.5, lambda: server.finds()(run))
    ends.start()
    later.check(plan(quorum=2))
    assert (the_check(schedules).state, len(server.asked)) == ("done", 1)


def test_a_window_that_was_checked_before_there_were_schedules_is_not_checked_again(
    state: State, schedules: Schedules
) -> None:
    server = Server(state)
    state.start_run(
        "old", experiment=plan(quorum=2), job="cycle", trigger="schedule, window 2026-W01", code_hash="c0de"
    )
    server.finds()("old")
    checks, _ = checks_of(state, server)
    schedules.enter("fake", [("2026-W01", datetime.now(UTC))])
    checks.check(plan(quorum=2))
    assert (the_check(schedules).state, server.asked) == ("done", [])


def test_a_lease_that_was_lost_ends_the_attempt_without_a_word_in_the_state(
    state: State, schedules: Schedules, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.schedule, "_RENEWED_EVERY", 0.0)
    late = datetime.now(UTC) + timedelta(days=1)

    def takes_over(run: str) -> None:
        monkeypatch.setattr("server.state.schedules.is_dead", lambda owner: True)
        assert schedules.take("fake", owner="another", now=late, lease=timedelta(1)) is not None

    away = Server(state, takes_over)
    checks, said = checks_of(state, away)
    schedules.enter("fake", [("2026-W01", datetime.now(UTC))])
    checks.check(plan(quorum=2))
    assert said == [
        "fake, window 2026-W01: another scheduler has taken it over. See `tidegate schedule list`."
    ]
    assert (the_check(schedules).owner, the_check(schedules).state) == ("another", "checking")


def test_nothing_is_entered_before_there_is_a_model_to_watch(
    state: State, schedules: Schedules, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(schedules, pace=0.1)
    standing = Server(state)
    standing.acts = [standing.finds() for _ in range(1000)]
    monkeypatch.setattr(server.schedule, "running_control", lambda _: standing)
    monkeypatch.setattr(server.schedule, "_LOOK", 0.05)
    settings = ServerSettings(
        home=tmp_path / "home",
        state_url=f"sqlite:///{tmp_path}/home/state.db",
        tracking_uri="",
        artifact_root=tmp_path,
    )
    stop, said = threading.Event(), list[str]()

    def say(words: str) -> None:
        said.append(words)
        if len(said) >= 3:
            stop.set()

    thread = threading.Thread(target=lambda: run_schedules(settings, say=say, stop=stop))
    thread.start()
    try:
        assert not stop.wait(0.5)
        assert not has_champion("fake", state)
        assert schedules.checks("fake") == ()
        put_into_service(state)
        assert stop.wait(LONG)
    finally:
        stop.set()
        thread.join()
    assert [line.split(":")[0] for line in said[:3]] == [f"fake, window 2026-W0{n}" for n in (1, 2, 3)]


def test_a_paused_schedule_checks_nothing(
    state: State, schedules: Schedules, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(schedules, pace=0.1, paused=True)
    put_into_service(state)
    looks: list[list[str]] = []

    def clock(look: Callable[[], list[str]], work: object, **_: object) -> None:
        looks.append(look())
        schedules.pause("fake", paused=False)
        looks.append(look())

    monkeypatch.setattr(server.schedule, "run_clock", clock)
    monkeypatch.setattr(server.schedule, "open_state", lambda _: state)
    run_schedules(
        ServerSettings(home=Path(), state_url="", tracking_uri="", artifact_root=Path()),
        say=print,
        stop=threading.Event(),
    )
    assert looks == [[], ["fake"]]


@pytest.mark.parametrize("ends", ["pause", "remove"])
def test_a_pause_or_a_removal_holds_from_the_next_window_on(
    state: State, schedules: Schedules, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    """Many windows have closed; the operator says so while the first is checked."""
    keep(schedules)
    put_into_service(state)
    standing, stop, left = Server(state), threading.Event(), threading.Event()

    def first(run: str) -> None:
        standing.finds()(run)
        schedules.pause("fake", paused=True) if ends == "pause" else schedules.remove("fake")

    def clock(look: Callable[[], list[str]], work: Callable[[str], None], **_: object) -> None:
        (name,) = look()
        work(name)
        left.set()

    standing.acts = [first, *(standing.finds() for _ in range(1000))]
    monkeypatch.setattr(server.schedule, "running_control", lambda _: standing)
    monkeypatch.setattr(server.schedule, "run_clock", clock)
    settings = ServerSettings(
        home=tmp_path / "home",
        state_url=f"sqlite:///{tmp_path}/home/state.db",
        tracking_uri="",
        artifact_root=tmp_path,
    )
    run_schedules(settings, say=lambda _: None, stop=stop)
    assert left.is_set()
    assert [window for window, _ in standing.asked] == ["2026-W01"]
    states = [check.state for check in schedules.checks("fake")]
    assert states.count("done") == 1
    assert ("waiting" in states) == (ends == "pause")


def test_a_schedule_that_another_process_keeps_is_seen(
    state: State, schedules: Schedules, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, looks, stop, said = f"sqlite:///{tmp_path}/home/state.db", threading.Event(), threading.Event(), []
    put_into_service(state)
    standing = Server(state)
    standing.acts = [standing.finds() for _ in range(1000)]
    monkeypatch.setattr(server.schedule, "running_control", lambda _: standing)
    usual = Schedules.all

    def looked(self: Schedules) -> tuple[ScheduleRecord, ...]:
        looks.set()
        return usual(self)

    def say(words: str) -> None:
        said.append(words)
        stop.set()

    monkeypatch.setattr(Schedules, "all", looked)
    settings = ServerSettings(home=tmp_path, state_url=url, tracking_uri="", artifact_root=tmp_path)
    thread = threading.Thread(target=lambda: run_schedules(settings, say=say, stop=stop))
    thread.start()
    try:
        assert looks.wait(LONG)  # while there is none
        program = (
            "import sys; from server.state.schedules import Schedules; "
            "from server.state.storage import open_state; from tests.server.test_schedule import keep; "
            "keep(Schedules(open_state(sys.argv[1]).database), pace=0.1)"
        )
        subprocess.run([sys.executable, "-c", program, url], check=True, timeout=LONG)
        assert stop.wait(LONG)
    finally:
        stop.set()
        thread.join()
    assert said[0].startswith("fake, window 2026-W01: done")


def test_a_schedule_with_nothing_to_do_is_left_alone(state: State, schedules: Schedules) -> None:
    now = datetime.now(UTC)
    assert not schedules.has_due("fake", now)
    schedules.enter("fake", [("2026-W01", now), ("2026-W02", now + timedelta(hours=1))])
    assert schedules.has_due("fake", now)
    taken = schedules.take("fake", owner=this_process(), now=now, lease=timedelta(minutes=1))
    assert taken is not None
    assert not schedules.has_due("fake", now)  # another holds it
    assert schedules.has_due("fake", now + timedelta(minutes=2))  # its lease has ended
    assert schedules.settle(taken, "done", "")
    assert not schedules.has_due("fake", now)
    assert schedules.has_due("fake", now + timedelta(hours=1))
