"""Server and agent as a service manager runs them: started, asked for their health, ended by SIGTERM."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest

from server.line.processes import free_port
from server.settings import read_settings
from server.state.storage import open_state
from tests.cli.test_bad_input import ROWS, SITE, write_rows
from tests.commands import plain_environment
from tests.server.federation import plan

pytestmark = pytest.mark.e2e

UNITS = sorted((Path(__file__).resolve().parents[2] / "deploy" / "systemd").glob("*.service"))
TIDEGATE = Path(sys.executable).parent / "tidegate"


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(TIDEGATE), *arguments],
        cwd=folder,
        env={**plain_environment(), "TIDEGATE_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def health(port: int) -> dict[str, Any]:
    """What the endpoint says, once it says that all is well."""
    end = time.monotonic() + 600
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
                said: dict[str, Any] = json.loads(answer.read())
                return said
        except (urllib.error.URLError, ConnectionError):
            assert time.monotonic() < end
            time.sleep(0.1)


def connected(folder: Path) -> dict[str, bool]:
    asked = start(folder, "server", "sites", "--json")
    said, _ = asked.communicate(timeout=600)
    assert asked.returncode == 0, said
    return {site["name"]: site["connected"] for site in json.loads(said)}


def ended(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    return said


def test_server_and_agent_are_started_watched_and_ended_in_any_order(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(SITE)
    write_rows(tmp_path, ROWS)
    port, watched, agent_watched = free_port(), free_port(), free_port()
    up = ("server", "up", "--port", str(port), "--ui-port", "0", "--health-port", str(watched))
    with open_state(f"sqlite:///{tmp_path}/home/state.db") as state:
        state.start_run("killed", experiment=plan(), job="train", trigger="test", code_hash="c0de")
        server = start(tmp_path, *up)
        assert health(watched)["state"] == "running"
        while state.unfinished_runs():  # its process is none that lives
            time.sleep(0.1)
        assert [(run.name, run.status) for run in state.runs()] == [("killed", "failed")]
    made = start(tmp_path, "site", "init", "made", "--name", "north")
    assert made.wait(timeout=300) == 0
    assert start(tmp_path, "server", "admit", "north", "made/keys/node.pub").wait(timeout=300) == 0
    agent = start(
        tmp_path, "site", "up", "site.toml", "--superlink", f"127.0.0.1:{port}",
        "--root-certificates", "home/certificates/ca.pem", "--key", "made/keys/node.key",
        "--health-port", str(agent_watched),
    )  # fmt: skip
    while health(agent_watched)["state"] != "connected":
        time.sleep(0.1)
    assert connected(tmp_path) == {"north": True}
    assert "has stopped" in ended(agent)
    assert connected(tmp_path) == {"north": False}
    assert "run 'killed' failed: its process is gone" in ended(server)
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://127.0.0.1:{watched}/health")


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_starts_a_command_that_exists_with_options_that_it_has(path: Path) -> None:
    program, *arguments = shlex.split(unit(path)["Service"]["ExecStart"])
    assert program.endswith("/tidegate")
    command = [word for word in arguments[:2] if not word.startswith("-")]
    told = subprocess.run(
        [str(TIDEGATE), *command, "--help"], capture_output=True, text=True, check=True, timeout=600
    )
    for option in [word for word in arguments if word.startswith("--")]:
        assert option in told.stdout


def test_state_and_models_lie_where_the_server_s_unit_may_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are below the folder that the server is started in, which is not `/`."""
    (path,) = (path for path in UNITS if path.name == "tidegate-server.service")
    service = unit(path)["Service"]
    assert Path(service["WorkingDirectory"]).is_relative_to(service["ReadWritePaths"])
    assert "Environment" not in service
    monkeypatch.chdir(tmp_path)
    settings = read_settings({})
    assert settings.home.is_relative_to(tmp_path)
    assert settings.artifact_root.is_relative_to(tmp_path)
    assert settings.tracking_uri.startswith(f"sqlite:///{tmp_path}/")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    for path in UNITS:
        text = re.sub(r"/opt/tidegate\S*/tidegate", str(TIDEGATE), path.read_text())
        (tmp_path / path.name).write_text(text)
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / path.name) for path in UNITS)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    complaints = [line for line in checked.stderr.splitlines() if str(tmp_path) in line]
    assert complaints == []


def unit(path: Path) -> ConfigParser:
    parser = ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(path.read_text())
    return parser
