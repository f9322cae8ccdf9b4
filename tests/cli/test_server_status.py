"""`tidegate server status`: who came how far, live too, and what an operator can do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clients.keys import make_node_key
from contract.errors import InputError
from server.federation import admit, dismiss
from server.settings import read_settings
from server.state.participation import SiteStatus, Step
from server.state.records import RoundRecord
from server.state.storage import State, open_state
from tests.server.federation import plan

Command = Callable[..., str]

NOT_THERE = "Name a file or folder that can be there"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[State]:
    """Of a server with a finished run, and one that waits for a site in its third round."""
    monkeypatch.setenv("TIDEGATE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TIDEGATE_STATE_URL", raising=False)
    monkeypatch.delenv("TIDEGATE_FEDERATION", raising=False)
    with open_state(read_settings().state_url) as opened:
        for run in ("fake-1", "fake-2"):
            opened.start_run(run, experiment=plan(rounds=5), job="train", trigger="test", code_hash="c0de")
            for number in (1, 2):
                step = Step(run=run, kind="train", number=number)
                trained = SiteStatus(state="trained", node=1, stated_rows=90)
                opened.record_participation(step, {"north": trained, "south": trained})
                record = RoundRecord(round=number, cohort=("north", "south"), counted=("north", "south"))
                opened.save_round(run, record, checkpoint=b"")
        opened.finish_run("fake-1", "failed", error="round 3 of run 'fake-1' needs 2 sites [and] got 1")
        wait(opened, 3, SiteStatus(state="connected", node=2))
        yield opened


def wait(state: State, number: int, south: SiteStatus) -> None:
    sites = {
        "north": SiteStatus(state="trained", node=1, stated_rows=90),
        "south": south,
        "west": SiteStatus(state="enrolled", reason="not connected"),
        "east": SiteStatus(state="trained", reason="update refused: its norm is 812", node=4),
    }
    state.record_participation(Step(run="fake-2", kind="train", number=number), sites)


def rows(told: str) -> list[list[str]]:
    """The cells of every row of every table."""
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in told.splitlines() if "│" in line]


def test_a_run_in_progress_is_shown_in_the_round_where_it_stands(state: State, tidegate: Command) -> None:
    told = rows(tidegate("server", "status"))
    assert told[0][:4] == ["fake-1", "train", "failed", "2 of 5"]
    assert told[0][5] == "round 3 of run 'fake-1' needs 2 sites [and] got 1"
    assert told[1][:4] == ["fake-2", "train", "running", "2 of 5"]
    assert sorted(row[:4] for row in told[2:]) == [
        ["3", "east", "trained", "update refused: its norm is 812"],
        ["3", "north", "trained", ""],
        ["3", "south", "connected", ""],
        ["3", "west", "enrolled", "not connected"],
    ]


def test_it_says_what_to_do_about_each_reason(state: State, tidegate: Command) -> None:
    told = tidegate("server", "status")
    assert "not connected: start its agent with `tidegate site up`" in told
    assert "update refused: have its administrator look at the site's log" in told


def test_one_run_is_shown_with_all_its_rounds(state: State, tidegate: Command) -> None:
    told = rows(tidegate("server", "status", "--run", "fake-2"))
    assert [row[0] for row in told] == ["fake-2", "1", "1", "2", "2", "3", "3", "3", "3"]
    assert [row[1:3] for row in told[1:3]] == [["north", "counted"], ["south", "counted"]]


def test_a_run_that_is_not_there_is_said_with_those_that_are(state: State, tidegate: Command) -> None:
    told = tidegate("server", "status", "--run", "fake-3", code=2)
    assert "there is no run 'fake-3'" in told
    assert "fake-1, fake-2" in told


def test_for_programs_it_is_one_list(state: State, tidegate: Command) -> None:
    first, second = json.loads(tidegate("server", "status", "--json"))
    assert (first["name"], first["rounds"], first["of"], first["sites"]) == ("fake-1", 2, 5, [])
    found = {site["site"]: site for site in second["sites"]}
    assert found["west"]["state"] == "enrolled"
    assert found["west"]["what_to_do"].startswith("start its agent")
    assert found["north"]["stated_rows"] == 90


def test_it_follows_a_run_until_it_has_ended(
    state: State, tidegate: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What happens does so between two looks."""
    happens = [
        lambda: None,
        lambda: wait(state, 3, SiteStatus(state="connected", reason="no answer", node=2)),
        lambda: None,
        lambda: state.finish_run("fake-2", "failed", error="it is over"),
    ]
    monkeypatch.setattr("server.cli.run_status.time.sleep", lambda _: happens.pop(0)())
    told = tidegate("server", "status", "--watch")
    assert not happens
    assert told.index("no answer") < told.index("it is over")
    assert told.count("sites of run fake-2") == 3  # of five looks, those in which something was new


def test_nothing_to_follow_ends_at_once(state: State, tidegate: Command) -> None:
    assert "fake-1" in tidegate("server", "status", "--watch", "--run", "fake-1")


class Control:
    """Stands for the SuperLink."""

    def register(self, public_key: Path, name: str, *, again: bool) -> int:
        """Admits every key."""
        del public_key, name, again
        return 2**63 + 5

    def unregister(self, node_id: int) -> None:
        """Knows one node."""
        assert node_id == 2**63 + 5


def test_admitted_sites_are_listed_before_they_answer(
    state: State, tidegate: Command, tmp_path: Path
) -> None:
    _, key = make_node_key(tmp_path)
    control: object = Control()
    assert admit("west", key, control, read_settings()) == 2**63 + 5  # type: ignore[arg-type]
    told = {row[0]: row for row in rows(tidegate("server", "sites"))}
    assert told["west"][1:3] == ["?", "–"]
    assert told["west"][3] != "–"
    assert told["north"][1:4] == ["?", "90", "–"]
    assert "No server runs here now" in tidegate("server", "sites")
    found = {site["name"]: site["admitted"] for site in json.loads(tidegate("server", "sites", "--json"))}
    assert found == {"north": False, "south": False, "west": True}
    assert {site["connected"] for site in json.loads(tidegate("server", "sites", "--json"))} == {None}
    (site,) = state.admitted_sites("standing")
    assert (site.node_id, len(site.key)) == (2**63 + 5, 64)
    dismiss("west", control, read_settings())  # type: ignore[arg-type]
    assert state.admitted_sites("standing") == ()
    with pytest.raises(InputError, match="no site 'west' is admitted"):
        dismiss("west", control, read_settings())  # type: ignore[arg-type]


def test_a_key_is_admitted_to_the_federation_that_runs_here(state: State, tmp_path: Path) -> None:
    _, key = make_node_key(tmp_path)
    control: object = Control()
    settings = read_settings()
    (settings.home / "superlink.federation").write_text("standing-ab12")
    admit("west", key, control, settings)  # type: ignore[arg-type]
    assert [site.name for site in state.admitted_sites("standing-ab12")] == ["west"]
    assert state.admitted_sites("standing") == ()


def test_a_home_that_cannot_be_made_is_named(
    tidegate: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TIDEGATE_HOME", str(tmp_path / "file" / "home"))
    told = tidegate("server", "up", "--port", "0", "--ui-port", "0", code=2)
    assert told == f"error: {tmp_path / 'file' / 'home'}: Not a directory. {NOT_THERE}.\n"


def test_an_operator_says_which_rows_a_site_must_state(
    state: State, tidegate: Command, tmp_path: Path
) -> None:
    _, key = make_node_key(tmp_path)
    control: object = Control()
    admit("west", key, control, read_settings(), stated_rows=70)  # type: ignore[arg-type]

    def stated() -> int | None:
        (site,) = state.admitted_sites("standing")
        return site.stated_rows

    assert {row[0]: row[2] for row in rows(tidegate("server", "sites"))}["west"] == "70"
    state.remember_anchor("west", 9, "a" * 64, federation="standing")
    assert "held to 90 rows from now on" in tidegate("server", "readmit", "west", "--rows", "90")
    assert stated() == 90
    state.remember_anchor("west", 2, "b" * 64, federation="standing")  # an older ledger is its right now
    assert "held to what its next answer states" in tidegate("server", "readmit", "west")
    assert stated() is None
    assert "no site 'east' is admitted" in tidegate("server", "readmit", "east", code=2)
    tidegate("server", "readmit", "west", "--rows", "0", code=2)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("server", "status"), "there is no server here"),
        (("server", "sites"), "there is no server here"),
        (("sites", "list"), "connect: tidegate connect URL"),
        (("drift", "list", "rand-health"), "there is no server here"),
        (("drift", "show", "rand-health", "w1"), "there is no server here"),
        (("models", "list", "rand-health"), "there are no models here"),
        (("models", "show", "rand-health", "1"), "there are no models here"),
        (("models", "ui"), "there are no models here"),
    ],
)
def test_outside_the_operators_folder_nothing_is_shown_and_nothing_made(
    tidegate: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    words: str,
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    for name in ("TIDEGATE_HOME", "TIDEGATE_STATE_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    told = tidegate(*command, code=2)
    assert words in told
    assert str(elsewhere) in told
    assert not list(elsewhere.iterdir())


def test_a_server_without_runs_says_so(
    tidegate: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEGATE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TIDEGATE_STATE_URL", raising=False)
    with open_state(read_settings().state_url):
        pass
    assert "No run yet" in tidegate("server", "status")
    assert "No site was admitted yet" in tidegate("server", "sites")
    assert "No window of 'rand-health' was checked" in tidegate("drift", "list", "rand-health")
    assert json.loads(tidegate("server", "status", "--json")) == []
