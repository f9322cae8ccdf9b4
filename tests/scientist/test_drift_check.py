"""`tidegate drift check` by a profile: the words of the one here, for whom an operator lets ask."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import server.federation
import server.schedule
from contract.errors import InputError
from contract.federation_api import WindowCheck
from contract.mandate import mandate_for, public_key_of, sign_mandate
from contract.standing import Standing as Covered
from scientist.connected import connect
from scientist.watching import follow_check
from server.schedule import run_schedules
from server.state.owner import this_process
from server.state.records import ScheduleRecord
from server.state.schedules import MOST_ASKED, Schedules
from terminal.experiment_files import read_experiment
from tests.scientist.conftest import Standing
from tests.scientist.test_commands import plan_file
from tests.server.test_schedule import LONG, Server

Command = Callable[..., str]
WEEK = "2026-W05"
CHOSEN = "\n[strategy]\nrounds = 2\nlearning_rate = 0.1\n"
LAX = "[gate]\nmax_site_regression = 1000.0\n"


@pytest.fixture
def file(standing: Standing, tmp_path: Path) -> Path:
    """Of an experiment that has a model in service and a schedule that begins with `WEEK`."""
    file = plan_file(standing, tmp_path)
    file.write_text(f"{file.read_text()}{CHOSEN}")
    Schedules(standing.served.state.database).add(
        ScheduleRecord.of(read_experiment(file), every="week", first=WEEK)
    )
    standing.served.state.record_decision(
        "other", window="", kind="promote", subject="version 1", by="p", reason="r"
    )
    return file


@contextmanager
def scheduler(standing: Standing, superlink: Server) -> Iterator[None]:
    """`tidegate server up`'s work on the schedules, with that in the place of its SuperLink."""
    with standing.patch.context() as patch:
        patch.setattr(server.schedule, "running_control", lambda _: superlink)
        patch.setattr(server.schedule, "_LOOK", 0.05)
        stop = threading.Event()
        arguments = {"say": lambda _: None, "stop": stop}
        thread = threading.Thread(target=lambda: run_schedules(standing.served.settings, **arguments))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def rows(standing: Standing, experiment: str = "other") -> list[tuple[str, str]]:
    return [(one.window, one.state) for one in Schedules(standing.served.state.database).checks(experiment)]


def outcomes(superlink: Server) -> list[Callable[[str], None]]:
    """What comes of three checks: a word on the way and an alarm, a failure, and a quiet week."""
    return [
        superlink.finds(alarm=True, sites_in_alarm=["north"], decision="watch"),
        superlink.fails("south was away"),
        superlink.finds(),
    ]


def once_it_is_free(tidegate: Command, *arguments: object) -> str:
    """What the command prints, asked again as its error says while the schedule checks another window."""
    end = time.monotonic() + 120
    while True:
        try:
            return tidegate(*arguments)
        except AssertionError as error:
            if "another window of 'other' is being checked. Wait for it" not in str(error):
                raise
            assert time.monotonic() < end, "the schedule has checked its windows for two minutes"
        time.sleep(0.05)


def test_a_profile_says_what_the_server_s_folder_says(
    standing: Standing, tidegate: Command, file: Path
) -> None:
    """The same three checks, one time here and one time there: the same lines, the same ends."""
    Schedules(standing.served.state.database).remove("other")
    text = file.read_text()
    asked = [("X1", 0), ("X2", 1), ("X2", 0)]
    names = {"here": "here-x", "there": "there-x"}
    told: dict[str, list[str]] = {}
    for place, name in names.items():
        file.write_text(text.replace('name = "other"', f'name = "{name}"'))
        standing.served.state.record_decision(
            name, window="", kind="promote", subject="version 1", by="p", reason="r"
        )
        superlink = Server(standing.served.state)
        superlink.acts = [*outcomes(superlink), superlink.finds()]
        last = ("drift", "check", file, "X3", "--json")
        if place == "here":
            standing.here()
            standing.patch.setattr(server.federation, "running_control", lambda *_, here=superlink: here)
            working: AbstractContextManager[None] = nullcontext()
        else:
            standing.connect("olga", "operator")
            for variable in ("TIDEGATE_HOME", "MLFLOW_TRACKING_URI", "TIDEGATE_ARTIFACT_ROOT"):
                standing.patch.delenv(variable)
            working = scheduler(standing, superlink)
        with working:
            told[place] = [tidegate("drift", "check", file, window, code=code) for window, code in asked]
            told[place].append(tidegate(*last))
        told[place] = [
            text.replace(name, "NAME").replace(one, "RUN")
            for text in told[place]
            for one in [next((run for _, run in superlink.asked if run in text), "RUN")]
        ]
    assert told["there"][:3] == told["here"][:3]
    for text, words in zip(
        told["here"],
        ("done: alarm at north", "error: window 'X2': not judged, after 1 attempt", "tried again", "quiet"),
        strict=True,
    ):
        assert words in text
    read = [json.loads(text[text.index("{") :]) for text in (told["here"][3], told["there"][3])]
    for one in read:
        one.pop("due")
        one.pop("run")
    assert read[0] == read[1]


def test_a_scientist_has_a_closed_window_of_a_kept_schedule_checked_with_what_was_signed(
    standing: Standing, tidegate: Command, file: Path
) -> None:
    experiment = read_experiment(file)
    weeks = Covered(
        every="week", first=WEEK, last="2026-W09", tries=1, drift_epsilon=experiment.drift.epsilon
    )
    mandate = mandate_for(
        experiment, run="other-1", code="c" * 64, authority="a" * 64, scientist="ada",
        expires=datetime.now(UTC) + timedelta(days=1), covers=weeks,
    )  # fmt: skip
    key = Ed25519PrivateKey.generate()
    signed = sign_mandate(mandate, key)
    kept = Schedules(standing.served.state.database)
    kept.sign("other", signed)
    superlink = Server(standing.served.state)
    superlink.acts = [superlink.finds() for _ in range(1000)]
    standing.connect("ada", "scientist")
    (ada,) = (person for person in standing.served.people.all() if person.name == "ada")
    standing.served.people.keep_signing_key(ada, public_key_of(key))
    with scheduler(standing, superlink):
        told = once_it_is_free(tidegate, "drift", "check", file, WEEK)
    assert f"other, window {WEEK}: done: quiet; decision: none" in told
    assert ((WEEK, f"other-1-{WEEK}-1"), signed) in list(
        zip(superlink.asked, superlink.mandates, strict=True)
    )
    assert "ada asks for a check of other" in standing.served.log


def test_what_may_change_the_model_is_no_scientist_s_to_choose(
    standing: Standing, tidegate: Command, file: Path, tmp_path: Path
) -> None:
    """A plan that accepts any challenger, a window that has not closed, one that is no window, a pause."""
    kept, state = Schedules(standing.served.state.database), standing.served.state
    lax = tmp_path / "lax.toml"
    lax.write_text(f"{file.read_text()}{LAX}")
    none = plan_file(standing, tmp_path, name="none")
    none.write_text(f"{none.read_text()}{CHOSEN}")
    free = plan_file(standing, tmp_path, name="free")
    free.write_text(f"{free.read_text()}{CHOSEN}")
    state.record_decision("free", window="", kind="promote", subject="version 1", by="p", reason="r")
    standing.connect("ada", "scientist")
    for plan, window, words in (
        (lax, WEEK, "the schedule of 'other' has another plan"),
        (free, WEEK, "'free' has no schedule"),
        (none, WEEK, "has no champion to watch"),
        (file, "2999-W01", "no window of the schedule of 'other' that has closed"),
        (file, "2026-W04", "no window of the schedule of 'other' that has closed"),
        (file, "w1", "no window of the schedule of 'other' that has closed"),
        (file, "../w1", "WINDOW"),
    ):
        told = tidegate("drift", "check", plan, window, code=2)
        assert (words in told, told.count("\n")) == (True, 1), told
    kept.pause("other", paused=True)
    assert "is paused" in tidegate("drift", "check", file, WEEK, code=2)
    standing.connect("rita", "reviewer")
    assert "a reviewer may not do this" in tidegate("drift", "check", file, WEEK, code=2)
    assert [rows(standing, name) for name in ("other", "free", "none")] == [[], [], []]


def test_what_an_operator_has_asked_for_is_no_scientist_s_to_have(
    standing: Standing, tidegate: Command, file: Path, tmp_path: Path
) -> None:
    """Neither a window that has not closed because it waits already, nor their own plan in its place."""
    kept, experiment, now = (
        Schedules(standing.served.state.database),
        read_experiment(file),
        datetime.now(UTC),
    )
    lax = tmp_path / "lax.toml"
    lax.write_text(f"{file.read_text()}{LAX}")
    kept.ask(experiment, "2999-W01", by="olga", now=now)
    kept.ask(read_experiment(lax), WEEK, by="olga", now=now)
    standing.connect("ada", "scientist")
    told = tidegate("drift", "check", file, "2999-W01", code=2)
    assert "no window of the schedule of 'other' that has closed" in told
    assert "olga has asked for it with another plan" in tidegate("drift", "check", file, WEEK, code=2)
    assert {(one.window, one.asked_by) for one in kept.asked(now)} == {("2999-W01", "olga"), (WEEK, "olga")}


def test_what_is_asked_is_bounded_and_waits_for_the_one_before(standing: Standing, file: Path) -> None:
    kept, experiment, now = (
        Schedules(standing.served.state.database),
        read_experiment(file),
        datetime.now(UTC),
    )
    token = standing.served.people.add("olga", "operator")
    body = {"experiment": experiment.model_dump_json()}
    with standing.served.client(token) as olga:

        def ask(asked: object, **more: Any) -> httpx.Response:
            return olga.post("/v1/drift-checks", json={**body, "window": asked, **more})

        assert [ask(f"w{number}").status_code for number in range(MOST_ASKED)] == [202] * MOST_ASKED
        full = ask("one-more")
        assert (full.status_code, "that you asked for wait already" in full.json()["what"]) == (400, True)
        assert len(rows(standing)) == MOST_ASKED
        taken = kept.take("other", owner=this_process(), now=now, lease=timedelta(hours=1), window="w3")
        assert taken is not None
        busy = ask("w4")
        assert (busy.status_code, "another window of 'other' is being checked" in busy.json()["what"]) == (
            400,
            True,
        )
        follows = ask("w3")
        assert (follows.status_code, follows.json()["state"]) == (202, "checking")
        for wrong in ({"window": "a b"}, {"experiment": "{}"}, {"more": 1}, {"window": 7}):
            assert ask("w5", **wrong).status_code == 400, wrong
        (found,) = olga.get("/v1/schedules/other/windows", params={"window": "w3"}).json()["checks"]
        assert found["window"] == "w3"


def test_what_was_asked_is_checked_after_a_restart_and_its_asker_sees_it(
    standing: Standing, file: Path
) -> None:
    """Without a schedule, and the server is stopped in the middle: it goes on, and says so once."""
    kept, experiment = Schedules(standing.served.state.database), read_experiment(file)
    kept.remove("other")
    standing.connect("olga", "operator")
    asked = kept.ask(experiment, "X1", by="olga", now=datetime.now(UTC))
    superlink, begun, said = Server(standing.served.state), threading.Event(), list[str]()
    superlink.acts = [lambda _: begun.set()]
    ended: list[WindowCheck] = []

    def follow() -> None:
        with connect() as connection:
            check = WindowCheck.model_validate(asked, from_attributes=True)
            ended.extend(follow_check(connection, check, say=said.append))

    thread = threading.Thread(target=follow)
    thread.start()
    with scheduler(standing, superlink):
        assert begun.wait(LONG)
    assert rows(standing) == [("X1", "waiting")]
    assert [one.asked_by for one in kept.asked(datetime.now(UTC))] == ["olga"]
    (_, run) = superlink.asked[0]
    superlink.finds()(run)
    with scheduler(standing, superlink):
        thread.join(LONG)
    assert (ended[-1].state, ended[-1].detail) == ("done", "quiet; decision: none")
    assert kept.asked(datetime.now(UTC)) == ()
    assert len(superlink.asked) == 1


def test_a_schedule_that_is_removed_ends_the_wait(standing: Standing, file: Path) -> None:
    kept, experiment = Schedules(standing.served.state.database), read_experiment(file)
    standing.connect("olga", "operator")
    check = WindowCheck.model_validate(
        kept.ask(experiment, WEEK, by="olga", now=datetime.now(UTC)), from_attributes=True
    )
    kept.remove("other")
    with connect() as connection, pytest.raises(InputError, match="knows no check of it any more"):
        list(follow_check(connection, check, say=print, pause=lambda _: None))
