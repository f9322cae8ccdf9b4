"""The events of a run: what is sent once, what is sent again after a cut, and when a stream ends."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import server.api.app
import server.api.events
from contract.experiment import Experiment
from contract.federation_api import ParticipationEvent, Round, Run
from scientist.connection import Connection
from scientist.watching import Event, follow, read_events
from server.api.app import Api
from server.api.reading import Reading
from server.line.processes import free_port
from server.state.participation import SiteStatus, Step
from server.state.records import RoundRecord
from server.state.storage import State
from tests.server.api.conftest import Served, serving

SITES = ("north", "south")


def begin(served: Served, experiment: Experiment, run: str = "r1") -> None:
    served.state.start_run(run, experiment=experiment, job="train", trigger="t", code_hash="c")


def finish_round(served: Served, number: int, run: str = "r1") -> None:
    step = Step(run=run, kind="train", number=number)
    asked = {site: SiteStatus(state="connected", node=place) for place, site in enumerate(SITES)}
    served.state.record_participation(step, asked)
    metrics = {"sites": {}, "overall": {"log_loss": 0.5, "auc": float("nan")}}
    record = RoundRecord(round=number, cohort=SITES, counted=SITES, metrics=metrics, seconds=1.0)
    served.state.save_round(run, record, checkpoint=b"c")


def connection(served: Served, token: str) -> Connection:
    return Connection(served.url, token, served.files.authority.read_text())


def wait_for(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 300
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def numbers(events: list[Event]) -> list[int]:
    return [one.content.number for one in events if isinstance(one.content, Round)]


def test_a_stream_that_was_cut_goes_on_with_what_came_after(served: Served, experiment: Experiment) -> None:
    token = served.people.add("rita", "reviewer")
    begin(served, experiment)
    finish_round(served, 1)
    with connection(served, token) as asked:
        seen: list[Event] = []
        with asked.stream("/v1/runs/r1/events", after="") as lines:
            for event in read_events(lines):
                seen.append(event)
                if isinstance(event.content, ParticipationEvent):
                    break
        assert numbers(seen) == [1]
        finish_round(served, 2)
        finish_round(served, 3)
        served.state.finish_run("r1", "succeeded")
        with asked.stream("/v1/runs/r1/events", after=seen[-1].id) as lines:
            rest = list(read_events(lines))
        assert numbers(rest) == [2, 3]
        assert isinstance(rest[-1].content, Run)
        progress = [one.content for one in rest if isinstance(one.content, ParticipationEvent)]
        assert {site.number for one in progress for site in one.sites} == {2, 3}
        with asked.stream("/v1/runs/r1/events", after=rest[-1].id) as lines:
            again = list(read_events(lines))
        assert [type(one.content) for one in again] == [Run]  # whoever missed the end is told it


def test_what_was_told_is_not_read_again(
    served: Served, experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five times a second, for each of a person's streams: a long run would cost the server a processor."""
    read: dict[str, list[int]] = {"rounds": [], "participation": []}
    begin(served, experiment)
    for number in (1, 2, 3):
        finish_round(served, number)
    for name, seen in read.items():
        usual = getattr(State, name)

        def spied(*given: Any, usual: Any = usual, seen: list[int] = seen, **more: Any) -> Any:
            found = usual(*given, **more)
            seen.append(len(found))
            return found

        monkeypatch.setattr(State, name, spied)
    with (
        connection(served, served.people.add("rita", "reviewer")) as asked,
        asked.stream("/v1/runs/r1/events", after=f"3-{'9' * 18}") as lines,
    ):
        wait_for(lambda: len(read["rounds"]) > 2)
        served.state.finish_run("r1", "succeeded")
        assert isinstance(list(read_events(lines))[-1].content, Run)
    assert {count for counts in read.values() for count in counts} == {0}


def test_a_long_run_is_told_in_parts_and_whole(
    served: Served, experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 1,000 rounds over 20 sites each slow reader held seven megabytes; 64 readers may come at a time."""
    begin(served, experiment)
    for number in range(1, 12):
        finish_round(served, number)
    served.state.finish_run("r1", "succeeded")
    monkeypatch.setattr(server.api.events, "_ROUNDS", 2)
    monkeypatch.setattr(server.api.events, "_CHANGES", 3)
    parts = asyncio.run(all_of(stream_of(served)))
    assert max(part.count(b"event: round") for part in parts) == 2
    told = [
        json.loads(line.removeprefix("data: "))
        for part in parts
        for line in part.decode().splitlines()
        if line.startswith("data: ")
    ]
    assert [one["number"] for one in told if "number" in one] == list(range(1, 12))
    changes = [len(one["sites"]) for one in told if set(one) == {"sites"}]
    assert (max(changes), sum(changes)) == (4, 22)  # about three: those of one moment come together
    assert b"event: end" in parts[-1]
    assert sum(b"event: end" in part for part in parts) == 1


def stream_of(served: Served) -> server.api.events.Events:
    nothing: Any = None
    return server.api.events.Events(
        reading=Reading(state=served.state, registry=nothing, control=nothing, federation="standing"),
        run="r1",
        cursor=server.api.events.Cursor(),
        may_read=lambda: True,
        is_stopping=lambda: False,
    )


async def all_of(stream: server.api.events.Events) -> list[bytes]:
    return [part async for part in stream.stream()]


@pytest.mark.parametrize("after", ["x", "1-2-3", "-1-0", "9" * 40 + "-1", "1-1\u0661"])
def test_an_id_that_is_none_is_refused(served: Served, experiment: Experiment, after: str) -> None:
    begin(served, experiment)
    with served.client(served.people.add("ada", "scientist")) as ada:
        answer = ada.get("/v1/runs/r1/events", headers={"Last-Event-ID": after.encode()})  # type: ignore[dict-item]
        assert answer.status_code == 400


def test_a_follower_outlives_the_server(tmp_path: Path, experiment: Experiment) -> None:
    home, port = tmp_path / "home", free_port()
    seen: list[object] = []
    with serving(home, port) as served:
        token = served.people.add("ada", "scientist")
        begin(served, experiment)
        finish_round(served, 1)
        asked = connection(served, token)

        def work() -> None:
            for one in follow(asked, "r1", patience=600):
                seen.append(one)

        thread = threading.Thread(target=work)
        thread.start()
        wait_for(lambda: any(isinstance(one, Round) for one in seen))
    with serving(home, port) as served:
        finish_round(served, 2)
        served.state.finish_run("r1", "partial", error="north: no answer in round 2")
        thread.join(timeout=300)
        assert not thread.is_alive()
    assert [one.number for one in seen if isinstance(one, Round)] == [1, 2]
    assert isinstance(seen[-1], Run)
    assert (seen[-1].status, seen[-1].error) == ("partial", "north: no answer in round 2")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.api.events, "_HEARTBEAT", 0.1)
    monkeypatch.setattr(server.api.events, "_LOOK", 0.05)


@pytest.mark.usefixtures("quick")
def test_a_stream_ends_with_the_token_that_opened_it(served: Served, experiment: Experiment) -> None:
    token = served.people.add("ada", "scientist")
    begin(served, experiment)
    with connection(served, token) as asked, asked.stream("/v1/runs/r1/events", after="") as lines:
        assert next(lines).startswith(":")
        served.people.revoke("ada")
        served.people.add("ada", "scientist")  # another token of the same name is no leave to go on
        finish_round(served, 1)
        left = list(lines)
    assert left[-1] == ""


@pytest.mark.usefixtures("quick")
def test_a_run_that_is_never_quiet_is_no_leave_to_go_on(
    served: Served, experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = served.people.add("ada", "scientist")
    begin(served, experiment)
    monkeypatch.setattr(server.api.events.Events, "_look", lambda _: (b"data: {}\n\n", False, False))
    with connection(served, token) as asked, asked.stream("/v1/runs/r1/events", after="") as lines:
        assert next(lines).startswith(":")
        served.people.revoke("ada")
        end = time.monotonic() + 300
        for _ in lines:
            assert time.monotonic() < end, "the stream goes on 300 s after its token was revoked"


def test_streams_that_begin_at_the_same_time_are_counted_too() -> None:
    """Each was let through before the first was counted."""
    most = server.api.app._MOST_OF_A_PERSON
    open_ones = SimpleNamespace(streams=Counter({"ada": most}))

    class Stream:
        async def stream(self) -> AsyncIterator[bytes]:
            yield b"said"

    async def read(name: str) -> list[bytes]:
        api, stream = cast("Api", open_ones), cast("server.api.events.Events", Stream())
        return [part async for part in server.api.app._counted(stream, name, api)]

    assert asyncio.run(read("ada")) == []
    assert open_ones.streams == {"ada": most}
    assert asyncio.run(read("ben")) == [b"said"]


@pytest.mark.usefixtures("quick")
def test_streams_are_counted_for_each_person_and_given_back(served: Served, experiment: Experiment) -> None:
    ada, ben = served.people.add("ada", "scientist"), served.people.add("ben", "scientist")
    begin(served, experiment)
    with served.client(ada) as first, served.client(ben) as second:
        opened = [first.send(first.build_request("GET", "/v1/runs/r1/events"), stream=True) for _ in range(8)]
        assert {one.status_code for one in opened} == {200}
        reading = [one.iter_raw() for one in opened]  # one that nobody holds closes its connection
        assert all(next(one) for one in reading)
        assert first.get("/v1/runs/r1/events").status_code == 503
        other = second.send(second.build_request("GET", "/v1/runs/r1/events"), stream=True)
        assert other.status_code == 200
        for one in (*opened, other):
            one.close()
        end = time.monotonic() + 300
        code = 503
        while code == 503 and time.monotonic() < end:
            again = first.send(first.build_request("GET", "/v1/runs/r1/events"), stream=True)
            code = again.status_code
            again.close()
            time.sleep(0.1)
        assert code == 200


def test_a_name_cannot_begin_a_field_of_its_own(served: Served, experiment: Experiment) -> None:
    token = served.people.add("ada", "scientist")
    begin(served, experiment)
    reason = "refused\n\nevent: end\ndata: {}\r\rid: 9-9"
    step = Step(run="r1", kind="train", number=1)
    served.state.record_participation(step, {"north": SiteStatus(state="connected", reason=reason)})
    served.state.finish_run("r1", "failed", error=reason)
    with connection(served, token) as asked, asked.stream("/v1/runs/r1/events", after="") as lines:
        found = list(read_events(lines))
    assert [type(one.content) for one in found] == [ParticipationEvent, Run]
    assert found[1].content.error == reason  # type: ignore[attr-defined]
