"""State in SQLite or in PostgreSQL: the same commands, the same outcomes; and a backup brings it back.

The database's password is seen nowhere.
"""

from __future__ import annotations

import itertools
import json
import os
import shlex
import shutil
import sqlite3
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa

from clients.keys import make_node_key
from contract.errors import InputError
from contract.experiment_file import parse_experiment
from server.jobs.job import Job
from server.settings import ServerSettings, read_settings
from server.state.storage import open_state
from tests.commands import plain_environment
from tests.failure.conftest import lay_out
from tests.failure.federation import HurtFederation
from tests.failure.line import Line
from tests.failure.test_schedule import TEXT
from tests.forked import run_forked
from tests.mlflow_database import lay_mlflow_database
from tests.postgres import ROLE_WITH_PASSWORD, postgres

__all__ = ["postgres"]

pytestmark = [pytest.mark.e2e]

REVIEWED = f'{TEXT}\n[retraining]\napproval = "reviewer"\n'

PASSWORD = "s3cret-of-the-state"  # noqa: S105 - of a role that the test makes


@dataclass
class Server:
    """An operator's folder, and where its state lies."""

    place: Path
    state_url: str | None
    said: list[str] = field(default_factory=list)

    @property
    def settings(self) -> ServerSettings:
        environment = {
            "TIDEGATE_HOME": str(self.place / ".tidegate"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.place}/mlruns/mlflow.db",
            "TIDEGATE_ARTIFACT_ROOT": str(self.place / "mlruns" / "artifacts"),
        }
        return read_settings(environment | ({"TIDEGATE_STATE_URL": self.state_url} if self.state_url else {}))

    def tidegate(self, *arguments: str, code: int = 0) -> str:
        """Run a command in the folder, as the operator does; give what it printed."""
        extra = {"TIDEGATE_STATE_URL": self.state_url} if self.state_url else {}
        environment = {**plain_environment(), "OMP_NUM_THREADS": "1", **extra}
        done = run_forked(self.place, arguments, environment)
        self.said.append(done.stdout + done.stderr)
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        return done.stdout

    def told(self, *arguments: str) -> Any:
        return json.loads(self.tidegate(*arguments, "--json"))


def role_url(address: str, database: str) -> str:
    """Of a new database whose owner is asked for a password."""
    engine = sa.create_engine(
        address.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        known = connection.execute(
            sa.text("SELECT 1 FROM pg_roles WHERE rolname = :name"), {"name": ROLE_WITH_PASSWORD}
        ).scalar()
        if not known:
            connection.execute(sa.text(f"CREATE ROLE {ROLE_WITH_PASSWORD} LOGIN PASSWORD '{PASSWORD}'"))
        connection.execute(sa.text(f"CREATE DATABASE {database} OWNER {ROLE_WITH_PASSWORD}"))
    engine.dispose()
    host = address.partition("@")[2].partition("/")[0]
    return f"postgresql+psycopg2://{ROLE_WITH_PASSWORD}:{PASSWORD}@{host}/{database}"


@contextmanager
def process_lists_watched() -> Iterator[None]:
    """Fail if any process of this machine names the password while the block runs.

    Ten times a second those that are new, for they may still become another program; every two seconds all.
    """
    seen: set[str] = set()
    looked: Counter[psutil.Process] = Counter()
    done = threading.Event()

    def look() -> None:
        for number in itertools.count():
            for process in psutil.process_iter():
                looked[process] += 1
                if looked[process] > 5 and number % 20:
                    continue
                with suppress(psutil.Error):
                    words = " ".join(process.cmdline())
                    if PASSWORD in words:
                        seen.add(words)
            if done.wait(0.1):
                return

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    assert seen == set()


@pytest.mark.long
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_the_whole_story_is_the_same_and_a_backup_brings_it_back(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """With a federation's processes.

    Without: tests/server/state/test_storage_postgres.py (PostgreSQL, and errors that show no password),
    test_backup.py beside it (what a backup holds, and that its copy is an operator's folder), and
    tests/server/api/test_mlflow.py (no process list that names the database).
    """
    address = request.getfixturevalue("postgres") if kind == "postgresql" else ""
    server = Server(tmp_path / "operator", role_url(address, "lasting") if address else None)
    lay_mlflow_database(server.place / "mlruns" / "mlflow.db")
    (server.place / "small.toml").write_text(REVIEWED)
    sites = sites_in(tmp_path / "sites")
    hurt = HurtFederation(server.settings, sites, tmp_path / "logs")
    with process_lists_watched():
        try:
            hurt.start()
            require_the_story(server, hurt)
            saved = back_up(server)
        finally:
            hurt.close()
        again = restored(server, saved, address)
        second = HurtFederation(again.settings, sites, tmp_path / "logs-again")
        try:
            require_it_goes_on(again, second)
        finally:
            second.close()
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in written if PASSWORD.encode() in path.read_bytes()] == []
    assert [words for words in (*server.said, *again.said) if PASSWORD in words or "Traceback" in words] == []


def sites_in(folder: Path) -> list[Path]:
    """Two sites with rows of two windows."""
    places = lay_out(folder)[:2]
    for path in places:
        rows = path.with_name("rows.csv")
        w1 = rows.read_text().splitlines()
        rows.write_text("\n".join([*w1, *(line.replace(",w1,", ",w2,") for line in w1[1:])]) + "\n")
        path.write_text(f"{path.read_text()}[storage]\ndrift_reports = false\n")
    return places


def require_the_story(server: Server, hurt: HurtFederation) -> None:
    """Train, watch, check, look: the outcomes, whatever the database."""
    experiment = parse_experiment(REVIEWED, where="small")
    job = Job(kind="train", run="first", experiment=experiment, windows=("w1",))
    hurt.submit(job)
    assert hurt.finish(job).model_version == 1
    assert "waits for a reviewer's word on version 1" in server.tidegate(
        "schedule", "add", "small.toml", "--first", "2999-W01"
    )
    server.tidegate("schedule", "remove", "small")
    word = ("small", "1", "--by", "A. Reviewer", "--reason", "it is the first")
    server.tidegate("models", "approve", *word)
    assert "is watched, week by week, from 2999-W01 on" in server.tidegate(
        "schedule", "add", "small.toml", "--first", "2999-W01"
    )
    assert "has a schedule" in (server.tidegate("schedule", "add", "small.toml", code=2) or server.said[-1])
    server.tidegate("drift", "check", "small.toml", "w2")
    assert "is in service already" in (server.tidegate("models", "approve", *word, code=2) or server.said[-1])
    server.tidegate("schedule", "pause", "small")
    server.tidegate("server", "readmit", "north", "--rows", "90")
    runs = server.told("server", "status")
    assert [(run["job"], run["status"], run["rounds"]) for run in runs] == [
        ("train", "succeeded", 1),
        ("cycle", "succeeded", 0),
    ]
    sites = server.told("server", "sites")  # in the order of their first answers
    assert sorted((site["name"], site["admitted"], site["connected"]) for site in sites) == [
        ("north", True, True),
        ("south", True, True),
    ]
    assert [(one["version"], one["aliases"]) for one in server.told("models", "list", "small")] == [
        (1, ["champion"])
    ]
    drift = server.told("drift", "list", "small")
    assert [(one["window"], one["alarm"]) for one in drift["verdicts"]] == [("w2", False)]
    assert [(one["kind"], one["by"]) for one in drift["decisions"]] == [
        ("propose", "policy"), ("approve", "A. Reviewer"), ("promote", "review"), ("none", "policy")
    ]  # fmt: skip
    assert "age" in server.tidegate("drift", "show", "small", "w2")
    (schedule,) = server.told("schedule", "list")
    assert schedule["waits"].startswith("paused")
    assert [(check["window"], check["state"]) for check in schedule["windows"]] == [("w2", "done")]


def back_up(server: Server) -> Path:
    saved = server.place.parent / "saved"
    words = server.tidegate("server", "backup", str(saved))
    commands = [line.strip() for line in words.splitlines() if "pg_dump" in line]
    assert len(commands) == (server.state_url is not None)
    for command in commands:
        done = subprocess.run(
            shlex.split(command),
            cwd=saved,
            env={**os.environ, "PGPASSWORD": PASSWORD},
            check=False,
            timeout=300,
        )
        assert done.returncode == 0
    return saved


def restored(server: Server, saved: Path, address: str) -> Server:
    """What the operator's guide says: copy the backup, put the keys into it; load the dump."""
    place = server.place.parent / "elsewhere" / "operator"
    shutil.copytree(saved, place)
    shutil.copytree(server.place / ".tidegate" / "certificates", place / ".tidegate" / "certificates")
    shutil.rmtree(server.place)
    if not address:
        return Server(place, None)
    url = role_url(address, "restored")
    plain = url.replace("postgresql+psycopg2", "postgresql").replace(f":{PASSWORD}", "")
    subprocess.run(
        ["pg_restore", "--no-owner", f"--dbname={plain}", str(place / "state.dump")],
        env={**os.environ, "PGPASSWORD": PASSWORD},
        check=True,
        timeout=300,
    )
    return Server(place, url)


def require_it_goes_on(server: Server, hurt: HurtFederation) -> None:
    """The sites come back under their old keys, and a second version is trained and found."""
    hurt.start_server()
    for name in hurt.sites:
        hurt.lines[name] = Line(hurt._federation.port)  # admitted already, by what was restored
        hurt.start_site(name)
    hurt.wait_for_sites(2)
    experiment = parse_experiment(TEXT, where="small")
    job = Job(kind="train", run="second", experiment=experiment, windows=("w2",))
    hurt.submit(job)
    assert hurt.finish(job).model_version == 2
    assert server.told("server", "status")[0]["name"] == "first"
    listed = server.told("models", "list", "small")
    assert [(one["version"], one["aliases"]) for one in listed] == [(1, ["champion"]), (2, [])]
    for version in (1, 2):  # both are read from the new place: the old one is gone
        with open_state(server.settings.state_url) as state:
            record = next(run for run in state.runs() if run.model_version == version)
        assert hurt.weights(experiment, record)
    refused = pytest.raises(sa.exc.DBAPIError, match="append-only")
    with open_state(server.settings.state_url) as state, refused, state.database.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM decisions"))


def test_a_superlink_that_is_killed_knows_its_sites_again_and_no_run(tmp_path: Path) -> None:
    server = Server(tmp_path, None)
    sites = lay_out(tmp_path / "sites")[:1]
    keys = {name: make_node_key(tmp_path / f"keys-{name}")[1] for name in ("north", "south")}
    hurt = HurtFederation(server.settings, sites, tmp_path / "logs")
    job = Job(kind="train", run="first", experiment=parse_experiment(TEXT, where="small"), windows=("w1",))
    try:
        hurt.start_server()
        for name, key in keys.items():
            server.tidegate("server", "admit", name, str(key))
        server.tidegate("server", "revoke", "south")
        hurt.submit(job)
        for _ in range(2):
            superlink = hurt.superlink()
            assert superlink is not None
            superlink.kill()
            superlink.wait()
            hurt.start_server()
            assert hurt.flower_state().startswith("finished lost"), "not running for ever"
            assert hurt.flower_has_finished()
            assert [one["name"] for one in server.told("server", "sites")] == ["north"]
            with (
                hurt.control() as control,
                pytest.raises(InputError, match="admitted as 'south' and dismissed"),
            ):
                control.register(keys["south"], "south", again=True)
            with hurt.control() as control, pytest.raises(InputError, match="admitted as 'north'"):
                control.register(keys["north"], "south", again=True)
            with hurt.control() as control:
                control.register(keys["north"], "north", again=True)
    finally:
        hurt.close()


def test_a_superlink_whose_database_is_locked_is_one_sentence(tmp_path: Path) -> None:
    server = Server(tmp_path, None)
    sites = lay_out(tmp_path / "sites")[:1]
    _, public = make_node_key(tmp_path / "keys")
    hurt = HurtFederation(server.settings, sites, tmp_path / "logs")
    try:
        hurt.start_server()
        holder = sqlite3.connect(tmp_path / ".tidegate" / "superlink.db", isolation_level=None)
        holder.execute("BEGIN EXCLUSIVE")
        server.tidegate("server", "admit", "north", str(public), code=1)
        holder.close()
        server.tidegate("server", "admit", "north", str(public))
    finally:
        hurt.close()
    assert "the SuperLink did not answer in time. Read logs/superlink.log" in server.said[0]
    assert server.said[0].count("\n") == 1
