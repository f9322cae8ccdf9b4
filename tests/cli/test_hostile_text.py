"""Names and values as somebody hostile writes them, in the ledger, the state and the registry: every command
that lists them shows them escaped and ends well, on an output of any encoding."""

from __future__ import annotations

import json
import logging
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clients.cli.ledger_plot import plot_ledger
from clients.ledger import replay
from clients.ledger.chain import Entry, Ledger, Plan
from clients.ledger.replay import Moment
from clients.mechanisms.report_files import ReportRecord, record
from clients.site import close_site, open_site
from contract.verdicts import FeatureVerdict, SiteVerdict, Verdict
from server.registry.registry import Registry
from server.settings import read_settings
from server.state.participation import SiteStatus, Step
from server.state.storage import open_state
from tests.commands import plain_environment
from tests.hostile import HOSTILE, require_harmless
from tests.server.federation import plan

Command = Callable[..., str]

STORED = HOSTILE.replace("\ud800", "")
"""What SQLite's text can hold."""
SEEN = r"[/x][bold red]:bomb:\x1b[2J\x1b]8;;http://127.0.0.1/\x07\r\n\x9b31m\x7f"
WIDE = 6000

SITE = """\
name = "north"
stated_rows = 50
[data]
kind = "csv"
path = "rows.csv"
[policy]
epsilon_cap = 4.0
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site whose ledger names everything as a hostile server would, whatever the ledger lets in today."""
    file = tmp_path / "north" / "site.toml"
    file.parent.mkdir()
    file.write_text(SITE)
    ledger = open_site(file).ledger
    ledger.authorise(
        Plan(
            name="run-1/train",
            run="run-1",
            purpose="train",
            blocks=("w1/train",),
            noise_multiplier=5.0,
            uses=1,
        )
    )
    ledger.reserve("run-1/train/1", "run-1/train")
    body = {"releases": ["update"], "experiment": "d" * 64, "private": True}
    ledger.commit("run-1/train/1", "run-1/train", b"reply", body)
    entries, totals = Ledger.entries, replay.block_totals

    def hostile_entries(self: Ledger) -> list[Entry]:
        return [
            replace(
                entry,
                plan=HOSTILE,
                request=HOSTILE,
                body={**entry.body, "releases": [HOSTILE], "blocks": [HOSTILE]},
            )
            for entry in entries(self)
        ]

    monkeypatch.setattr(Ledger, "entries", hostile_entries)
    monkeypatch.setattr(
        replay, "block_totals", lambda book: [replace(item, block=HOSTILE) for item in totals(book)]
    )
    return file


def test_what_a_site_shows(site: Path, tidegate: Command) -> None:
    commands: list[tuple[object, ...]] = [
        ("egress", site),
        ("ledger", site),
        ("ledger", site, "--entries"),
        ("status", site),
    ]
    for command in commands:
        for colour in (False, True):
            told = tidegate("site", *command, width=WIDE, colour=colour)
            assert SEEN in told, command
            assert "\x1b[2J" not in told
            if not colour:
                require_harmless(told)
    for command in commands[:3]:
        require_harmless(tidegate("site", *command, "--json"))


def test_a_picture_of_the_ledger_is_drawn(site: Path) -> None:
    pytest.importorskip("matplotlib")
    ledger = open_site(site).ledger
    total = replay.block_totals(ledger)[0]
    moments = [Moment(at="2026-11-24T00:00:00+00:00", totals=(total,))]
    assert total.block == HOSTILE
    picture = plot_ledger(moments, site=HOSTILE, cap=ledger.cap, kind="svg").decode()
    assert "\x1b" not in picture
    assert "<script" not in picture


def test_the_agents_state_is_read_from_its_own_lines(site: Path, tidegate: Command) -> None:
    log = site.parent / "tidegate" / "logs" / "agent.log"
    log.parent.mkdir(parents=True)
    log.write_text(
        "2026-11-24 10:00:00,000 INFO tidegate.agent: site 'north' is connected to h:1 as node 5\n"
        "2026-11-24 10:00:01,000 WARNING tidegate.agent: said INFO tidegate.agent: site 'north' has stopped\n"
        "|  INFO tidegate.agent: site 'north' has stopped\n"
    )
    assert "connected to h:1, by its log at 2026-11-24 10:00:00,000" in tidegate(
        "site", "status", site, width=WIDE
    )


def test_the_list_of_drift_reports(site: Path, tidegate: Command) -> None:
    folder = site.parent / "tidegate" / "reports"
    folder.mkdir(parents=True)
    report = ReportRecord(
        file="20261124T000000Z-00.html",
        made=HOSTILE,
        experiment=HOSTILE,
        run=HOSTILE,
        windows=(HOSTILE,),
        reference_windows=(HOSTILE,),
        drifted=(HOSTILE,),
    )
    record(folder, report)
    told = tidegate("site", "drift", site, width=WIDE)
    require_harmless(told)
    assert told.count(SEEN) == 4
    require_harmless(tidegate("site", "drift", site, "--json"))
    record(folder, replace(report, made="2026-11-24T10:00:00.123456+00:00"))
    assert "2026-11-24 10:00:00 " in tidegate("site", "drift", site, width=WIDE)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state of a server in which everything has a hostile name, as its file would hold it."""
    monkeypatch.setenv("TIDEGATE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TIDEGATE_STATE_URL", raising=False)
    monkeypatch.delenv("TIDEGATE_FEDERATION", raising=False)
    feature = FeatureVerdict(feature=HOSTILE, p_value=0.001, distance=0.5, drifted=True)
    drifted = SiteVerdict(site=HOSTILE, features=(feature,))
    verdict = Verdict(
        window="w1",
        reference_window=HOSTILE,
        false_alarm_rate=0.01,
        sites=(drifted,),
        pooled=drifted,
        reference=HOSTILE,
    )
    with open_state(read_settings().state_url) as state:
        state.start_run("fake-1", experiment=plan(rounds=5), job="train", trigger="test", code_hash="c0de")
        state.record_participation(
            Step(run="fake-1", kind="train", number=1),
            {"north": SiteStatus(state="answered", reason="no answer", node=1, stated_rows=9)},
        )
        state.record_site("north", node_id=1, stated_rows=9)
        state.save_verdict("fake", window="w1", verdict=vars_of(verdict), alarm=True)
        state.record_decision(
            "fake", window="w1", kind="wait", subject="retraining", by="policy", reason="because"
        )
        state.finish_run("fake-1", "failed", error="it is over")
    path = tmp_path / "home" / "state.db"
    with sqlite3.connect(path) as database:
        for (name,) in database.execute("select name from sqlite_master where type = 'trigger'").fetchall():
            database.execute(f"drop trigger {name}")
        for table, column in (
            ("runs", "name"),
            ("runs", "error"),
            ("participation", "run"),
            ("participation", "site"),
            ("participation", "reason"),
            ("sites", "name"),
            ("verdicts", "window"),
            ("decisions", "window"),
            ("decisions", "reason"),
        ):
            database.execute(f"update {table} set {column} = ?", (STORED,))  # noqa: S608
    database.close()
    return path


def vars_of(verdict: Verdict) -> dict[str, Any]:
    import json

    found: dict[str, Any] = json.loads(verdict.to_json())
    return found


def test_what_a_server_shows(server: Path, tidegate: Command) -> None:
    assert server.exists()
    for command in (
        ("server", "status"),
        ("server", "status", "--run", STORED),
        ("server", "status", "--watch"),
        ("server", "sites"),
        ("drift", "list", "fake"),
        ("drift", "show", "fake", STORED),
    ):
        for colour in (False, True):
            told = tidegate(*command, width=WIDE, colour=colour)
            assert SEEN in told, command
            assert "\x1b[2J" not in told
            if not colour:
                require_harmless(told)
    for command in (("server", "status"), ("server", "sites"), ("drift", "list", "fake")):
        require_harmless(tidegate(*command, "--json"))


def test_an_error_that_names_them(server: Path, tidegate: Command) -> None:
    told = tidegate("server", "status", "--run", HOSTILE, code=2, width=WIDE)
    require_harmless(told)
    assert told.count("\n") == 1
    assert server.exists()


def test_what_the_registry_shows(tmp_path: Path, tidegate: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, root = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "artifacts"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("TIDEGATE_ARTIFACT_ROOT", str(root))
    registry, experiment = Registry(uri, root), plan()
    run = registry.start_run(experiment, run_name="r")
    tags = {"tidegate.run": STORED, "tidegate.windows": json.dumps(["2026-01", STORED])}
    registry.register(
        "fake", run, {}, experiment=experiment, description=f"# {STORED}\n\n{STORED}", tags=tags
    )
    logging.getLogger("alembic").setLevel(logging.NOTSET)
    told = tidegate("models", "list", "fake", width=WIDE)
    require_harmless(told)
    assert told.count(SEEN) == 2
    assert "2026-01, " in told
    told = tidegate("models", "show", "fake", 1, width=WIDE)
    require_harmless(told)
    assert r"\x1b[2J" in told
    coloured = tidegate("models", "show", "fake", 1, width=WIDE, colour=True)
    assert "\x1b[2J" not in coloured
    assert "\x1b]8" not in coloured  # a link of the terminal's


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "cp1252"},
        {"LANG": "C", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
    ids=["ascii", "cp1252", "LANG=C"],
)
@pytest.mark.parametrize(
    "command",
    [
        ("site", "ledger", "north/site.toml"),
        ("site", "egress", "north/site.toml"),
        ("site", "status", "north/site.toml"),
        ("server", "status"),
        ("drift", "list", "fake"),
    ],
    ids=" ".join,
)
def test_an_output_that_is_not_utf_8(
    site: Path, server: Path, environment: dict[str, str], command: tuple[str, ...]
) -> None:
    close_site(site)
    assert server.exists()
    done = subprocess.run(
        [sys.executable, "-m", "experiments.cli.main", *command],
        cwd=site.parents[1],
        env={**plain_environment(), **environment, "TIDEGATE_HOME": str(server.parent), "COLUMNS": str(WIDE)},
        capture_output=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = done.stdout.decode("cp1252" if "cp1252" in environment.values() else "ascii")
    require_harmless(told)
    assert not done.stderr
    assert (SEEN in told) if command[0] != "site" else ("train" in told)
    assert ("?" in told) >= (command[:2] == ("site", "ledger"))  # for ε


@pytest.fixture(autouse=True)
def _closed(site: Path) -> Iterator[None]:
    yield
    close_site(site)
