"""What is decided on the server's machine is written down, with the user who did it."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from server.state.enrolments import Enrolments
from server.state.storage import open_state
from tests.hostile import HOSTILE, require_harmless
from tests.runtimes.conftest import SMALL

Command = Callable[..., str]
USER = pwd.getpwuid(os.getuid()).pw_name


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("TIDEGATE_HOME", "TIDEGATE_STATE_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def acts(place: Path) -> list[str]:
    """Without their times."""
    lines = (place / ".tidegate" / "logs" / "acts.log").read_text().splitlines()
    return [line.partition(" UTC ")[2].removeprefix(f"{USER} ({os.getuid()}) ") for line in lines]


def test_each_act_is_a_line_with_who_did_it(place: Path, tidegate: Command) -> None:
    file = place / "small.toml"
    file.write_text(
        SMALL.format(kind="linear", strategy="fedavg", rounds=2, quorum=2, private="false", seed="")
    )
    tidegate("server", "init", "127.0.0.1")
    tidegate("server", "invite", "north")
    tidegate("server", "person", "add", "ada", "--role", "operator")
    tidegate("server", "person", "revoke", "ada")
    tidegate("schedule", "add", file, "--every", "week")
    for act in ("unsign", "pause", "resume", "remove"):
        tidegate("schedule", act, "small")
    verbs = [" ".join(line.split()[:2]) for line in acts(place)]
    assert verbs == [
        "makes the", "invites site", "lets 'ada'", "revokes the", "adds the", "unsigns the", "pauses the",
        "resumes the", "removes the",
    ]  # fmt: skip
    log = place / ".tidegate" / "logs" / "acts.log"
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert "as operator, without an end" in log.read_text()


def test_what_was_refused_is_no_act_and_no_name_forges_a_line(place: Path, tidegate: Command) -> None:
    tidegate("server", "init", "127.0.0.1")
    tidegate("server", "invite", "north")
    before = acts(place)
    tidegate("server", "person", "add", HOSTILE, "--role", "operator", code=2)
    tidegate("server", "refuse", "north", code=2)
    tidegate("schedule", "remove", "small", code=2)
    assert acts(place) == before
    tidegate("server", "person", "add", "ada' in as reviewer", "--role", "scientist")
    require_harmless((place / ".tidegate" / "logs" / "acts.log").read_text())


def test_an_act_that_cannot_be_written_down_is_said_and_stands(place: Path, tidegate: Command) -> None:
    tidegate("server", "init", "127.0.0.1")
    log = place / ".tidegate" / "logs" / "acts.log"
    log.unlink()
    log.mkdir()
    told = tidegate("server", "invite", "north")
    assert "done, but not written down" in told
    with open_state(f"sqlite:///{place}/.tidegate/state.db") as state:
        assert [one.name for one in Enrolments(state.database, "standing").invitations()] == ["north"]
