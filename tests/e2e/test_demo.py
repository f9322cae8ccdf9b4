"""The demo tells the whole story, and leaves nothing behind. The last test here ends it."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from clients.site_config import read_site_config
from tests.connections import watched_environment
from tests.e2e.standing_demo import StandingDemo, stop

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800), pytest.mark.xdist_group("demo")]


def test_every_step_came_out(demo: StandingDemo) -> None:
    assert demo.result["ok"], [step for step in demo.result["steps"] if not step["ok"]]
    names = [step["name"] for step in demo.result["steps"]]
    assert "the first weeks stay quiet" in names
    assert "drift is seen at the first site" in names
    assert any(name.startswith("the challenger is") for name in names)


def test_two_versions_and_the_champion_is_the_one_that_was_decided_on(demo: StandingDemo) -> None:
    versions = json.loads(demo.tidegate("models", "list", "rand-health", "--json"))
    decisions = sqlite3.connect(demo.folder / "server" / "state.db").execute(
        "select subject from decisions where kind = 'promote' order by id"
    )
    champions = [item["version"] for item in versions if "champion" in item["aliases"]]
    numbers = [item["version"] for item in versions]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= 2  # where noise hides that a challenger is better, another is trained
    assert [f"version {champion}" for champion in champions] == [list(decisions)[-1][0]]


def test_each_ledger_verifies_and_says_what_was_charged(demo: StandingDemo) -> None:
    sites = sorted((demo.folder / "sites").iterdir())
    assert len(sites) == 4
    for site in sites:
        status = json.loads(demo.tidegate("site", "status", str(site / "site.toml"), "--json"))
        assert 0 < status["worst"]["spent"]["epsilon"] <= status["cap"]["epsilon"]
        entries = json.loads(demo.tidegate("site", "ledger", str(site / "site.toml"), "--entries", "--json"))
        purposes = {entry["body"]["purpose"] for entry in entries if entry["kind"] == "authorise"}
        assert purposes == {"train", "evaluate", "drift"}
        left = json.loads(demo.tidegate("site", "egress", str(site / "site.toml"), "--json"))
        assert all(item["private"] for item in left)


def test_full_drift_reports_stay_at_the_site_that_draws_them(demo: StandingDemo) -> None:
    configs = [read_site_config(folder / "site.toml") for folder in sorted((demo.folder / "sites").iterdir())]
    (drawing,) = (config for config in configs if config.storage.drift_reports)
    assert drawing.name == "free-care"  # where the coding changes first
    end = time.monotonic() + 600  # they are drawn when the processor is idle
    while not (reports := list(drawing.storage.reports.rglob("2*.html"))) and time.monotonic() < end:
        time.sleep(1)
    assert reports
    assert all(path.stat().st_mode & 0o077 == 0 for path in reports)
    elsewhere = [path for path in demo.folder.rglob("2*.html") if path.parent != reports[0].parent]
    elsewhere += [*(demo.folder / "server").rglob("*.html"), *(demo.folder / "mlruns").rglob("*.html")]
    assert elsewhere == []


def test_what_operator_and_reviewer_ask_for(demo: StandingDemo) -> None:
    assert "alarm" in demo.tidegate("drift", "list", "rand-health")
    assert "disea" in demo.tidegate("drift", "show", "rand-health", "2026-W17")
    assert "free-care" in demo.tidegate("server", "sites")
    assert len(json.loads(demo.tidegate("server", "status", "--json"))) == 10
    assert "Privacy by site" in demo.tidegate("models", "show", "rand-health", "2")
    assert (demo.folder / "story.png").read_bytes().startswith(b"\x89PNG")


def test_no_process_connected_beyond_this_machine(demo: StandingDemo, tmp_path: Path) -> None:
    assert not demo.connections.exists(), demo.connections.read_text()
    environment, log = watched_environment(tmp_path)
    attempt = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('192.0.2.1', 9))"
    subprocess.run([sys.executable, "-c", attempt], env=environment, check=False, capture_output=True)
    assert "192.0.2.1" in log.read_text()


def test_ctrl_c_ends_every_process(demo: StandingDemo) -> None:
    assert urllib.request.urlopen(demo.result["ui"], timeout=10).status == 200  # noqa: S310 - loopback
    assert stop(demo.process) == []
    assert demo.process.returncode == 130
