"""A run whose sites ask their administrators: who is approved late joins, who is revoked leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from clients.site import close_site, open_site
from contract.errors import RoundError
from contract.experiment import Experiment
from experiments.federated_run import Request, run_experiment
from server.exchange import asking
from server.settings import ServerSettings
from server.state.participation import WAITING
from tests.commands import tidegate
from tests.failure.conftest import plan, train
from tests.failure.federation import HurtFederation

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("kills")]

MakeSites = Callable[[str], list[Path]]
MakeSettings = Callable[[str], ServerSettings]


def asks(site: Path) -> None:
    site.write_text(f'{site.read_text()}approval = "ask"\n')


def decide(site: Path, *words: str) -> None:
    for line in (("requests", str(site)), (words[0], str(site), *words[1:])):
        done = tidegate(site.parent, "site", *line)
        assert done.returncode == 0, done.stderr


def charges(site: Path) -> int:
    return sum(entry.kind == "reserve" for entry in open_site(site).ledger.entries())


def request(experiment: Experiment, sites: list[Path], settings: ServerSettings) -> Request:
    return Request(experiment=experiment, run="run-1", sites=sites, settings=settings)


def test_a_run_waits_for_the_one_approval_that_its_quorum_lacks(
    sites: MakeSites, settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_FIRST_PAUSE", 0.05)
    experiment, rows, here = plan(rounds=3, quorum=3, private=True), sites("waiting"), settings("home")
    asks(rows[1])
    notes: list[str] = []

    def progress(done: int, note: str) -> None:
        notes.append(note)
        if len(notes) == 1:
            decide(rows[1], "approve", experiment.digest)

    result = run_experiment(replace(request(experiment, rows, here), progress=progress))
    assert result["status"] == "succeeded"
    assert result["rounds_counted"] == {"north": 3, "south": 3, "west": 3}
    assert notes[0] == "(waiting for approval at south)"
    assert [charges(site) for site in rows] == [charges(rows[0])] * 3


def test_a_wait_that_ends_leaves_a_run_that_can_be_resumed(
    sites: MakeSites, settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEGATE_APPROVAL_SECONDS", "0")
    experiment, rows, here = plan(rounds=2, quorum=3, private=True), sites("resumed"), settings("home")
    asks(rows[2])
    with pytest.raises(RoundError, match=r"west \(waiting for approval\)"):
        run_experiment(request(experiment, rows, here))
    before = charges(rows[0])
    decide(rows[2], "approve", experiment.digest)
    assert run_experiment(request(experiment, rows, here))["status"] == "succeeded"
    assert charges(rows[0]) - before < charges(rows[2])  # the first round was paid before


@pytest.mark.long
def test_a_standing_run_goes_on_without_a_site_takes_it_in_and_loses_it_again(
    sites: MakeSites, settings: MakeSettings, tmp_path: Path
) -> None:
    """Real processes: the agent is asked each round, the administrator decides with commands meanwhile.

    In one process `test_a_run_waits_for_the_one_approval_that_its_quorum_lacks` shows how a site is taken in,
    and tests/clients/test_consent.py that what was revoked is refused.
    """
    experiment = plan(rounds=2000, quorum=2, private=True)
    rows, here = sites("standing"), settings("standing-home")
    late = rows[1]
    asks(late)
    federation = HurtFederation(here, rows, tmp_path / "logs")

    def counted() -> int:
        return sum("south" in item.counted for item in federation.rounds("run-1"))

    try:
        federation.start()
        federation.submit(train("run-1", experiment))
        federation.wait_for_round("run-1", 2)
        assert counted() == 0
        assert {item.failures.get("south") for item in federation.rounds("run-1")} == {WAITING}
        decide(late, "approve", experiment.digest)
        federation.wait(lambda: counted() >= 2, "round with south", pause=0.2)
        decide(late, "revoke", experiment.digest)
        last = federation.rounds("run-1")[-1].round
        federation.wait_for_round("run-1", last + 3)
        assert federation.rounds("run-1")[-1].failures["south"] == "policy"
        assert federation.status("run-1") == "running"
        federation.stop_run()
    finally:
        federation.close()
    ledger = open_site(late).ledger
    assert ledger.verify()
    revoked = max(entry.sequence for entry in ledger.entries() if entry.kind == "revoke")
    after = [entry.kind for entry in ledger.entries() if entry.sequence > revoked]
    assert {"reserve", "authorise"}.isdisjoint(after)
    assert "refuse" in after
    reserved = [entry for entry in ledger.entries() if entry.kind == "reserve"]
    assert reserved
    assert all(entry.body.get("approval") for entry in reserved)
    close_site(late)
