"""What a scientist is told while a run goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel

import scientist.watching
from contract.federation_api import Participation, ParticipationEvent, Run, RunDetail
from scientist.cli.runs import watch_run

RUN = Run(
    name="visits-1",
    experiment="visits",
    job="train",
    owner="ada",
    status="succeeded",
    place=0,
    since=datetime(2026, 1, 1, tzinfo=UTC),
    ended=None,
    rounds=0,
    of=2,
    model_version=None,
    error="",
)


class Server:
    """In the place of a connection: the run is always this one."""

    def get(self, _: str, __: type[BaseModel]) -> RunDetail:
        return RunDetail(run=RUN, trigger="", windows=(), rounds=(), participation=(), result=None)


def progress(**reasons: str) -> ParticipationEvent:
    """Of each site, by name: why it came no further."""
    sites = tuple(
        Participation(
            kind="train",
            number=1,
            site=site,
            state="connected",
            reason=reason,
            what_to_do="",
            since=RUN.since,
        )
        for site, reason in reasons.items()
    )
    return ParticipationEvent(sites=sites)


def told(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *events: BaseModel,
    json: bool = False,
) -> str:
    def follow(*_: object, **__: object) -> Iterator[BaseModel]:
        yield from events

    monkeypatch.setattr(scientist.watching, "follow", follow)
    server: Any = Server()
    watch_run(server, "visits-1", json=json)
    return capsys.readouterr().out


def test_it_is_said_once_at_which_sites_a_run_waits_for_approval(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waits = "waiting for approval"
    said = told(
        monkeypatch,
        capsys,
        progress(north=waits, south="", west="no answer"),
        progress(north=""),
        progress(north=waits, south=waits),
    )
    assert [line for line in said.splitlines() if waits in line] == [
        "waiting for approval at north",
        "waiting for approval at south",
    ]


def test_a_program_is_told_at_the_end_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = told(monkeypatch, capsys, progress(north="waiting for approval"), json=True)
    assert said.startswith("{")
    assert "waiting" not in said


@pytest.mark.parametrize("json", [False, True])
def test_a_line_that_is_cut_is_said_to_a_person(
    json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def follow(*_: object, cut: Callable[[], None]) -> Iterator[BaseModel]:
        cut()
        yield progress(north="")

    monkeypatch.setattr(scientist.watching, "follow", follow)
    server: Any = Server()
    watch_run(server, "visits-1", json=json)
    said = capsys.readouterr()
    assert said.err == ("" if json else "the line to the server is cut; trying again\n")
    assert "cut" not in said.out
