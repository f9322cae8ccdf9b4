"""Flower's app bundle: what is in it, and that stock Flower runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

from clients.keys import make_node_key
from contract.code import BUNDLED_PACKAGES
from contract.experiment import Experiment
from experiments.benchmarks.rounds_trial import STOCK_SUPERLINK
from server.federation import Federation
from server.line.flower import build_bundle, bundle_files
from server.line.processes import Processes, free_port
from server.settings import ServerSettings, quiet_environment
from server.state.storage import open_state

ROOT = Path(__file__).resolve().parents[2]


def test_the_bundle_holds_the_packages_without_the_command_line_and_nothing_else(tmp_path: Path) -> None:
    project = tmp_path / "tidegate"
    for package in BUNDLED_PACKAGES:
        shutil.copytree(ROOT / package, project / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", ".gitignore", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, project / name)
    for stray in (
        "sites/secret.csv",
        "mlruns/run.json",
        "notes.md",
        "clients/rows.json",
        "server/dump.yaml",
        "a.py",
    ):
        (project / stray).parent.mkdir(exist_ok=True)
        (project / stray).write_text("1")
    code = [
        path.relative_to(project).as_posix()
        for package in BUNDLED_PACKAGES
        for path in (project / package).rglob("*.py")
        if not {"cli", "gateway", "api"} & set(path.parts)
    ]
    assert len(code) > 50
    assert bundle_files(project) == sorted([*code, "pyproject.toml", ".info/CONTENT"])
    assert build_bundle(project) == build_fab_from_disk(project)


@pytest.mark.e2e
@pytest.mark.long
def test_flwr_run_and_a_stock_supernode_run_the_same_bundle(
    small: Callable[..., Experiment],
    sites: Callable[[str], list[Path]],
    settings: Callable[[str], ServerSettings],
    tmp_path: Path,
) -> None:
    """No agent and no `tidegate run`: Flower's own command line and its own node.

    The node starts a process for each message, so that the evaluation is answered by another than the round.
    """
    here, site = settings("stock"), sites("stock-sites")[0]
    programs = Path(sys.executable).parent
    with Processes(logs=tmp_path / "logs") as processes:
        federation = Federation(home=here.home, settings=here, processes=processes, superlink=STOCK_SUPERLINK)
        control = federation.start_server()
        private, public = make_node_key(site.parent / "keys")
        control.register(public, "north")
        command = [str(programs / "flower-supernode"), "--superlink", federation.address]
        command += ["--root-certificates", str(federation.files.authority)]
        command += ["--auth-supernode-private-key", str(private), "--port", str(free_port())]
        command += ["--node-config", f'site="{site}"']
        processes.start("supernode", command, federation.environment, site.parent)
        federation.wait_for_sites(control, 1)
        control.close()
        flower = here.home / "flower"
        flower.mkdir(exist_ok=True)
        (flower / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "{federation.address}"\n'
            f'root-certificates = "{federation.files.authority}"\n'
        )
        plan = tmp_path / "plan.toml"
        experiment = small(rounds=1, quorum=1)
        plan.write_text(f"run = 'stock-1'\nexperiment = {json.dumps(experiment.model_dump_json())}\n")
        submitted = subprocess.run(
            [str(programs / "flwr"), "run", str(ROOT), "here", "--run-config", str(plan)],
            env={**os.environ, **quiet_environment(), "FLWR_HOME": str(flower)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert submitted.returncode == 0, submitted.stdout + submitted.stderr
        with open_state(here.state_url) as state:
            end = time.monotonic() + 600
            while (record := state.run("stock-1")) is None or record.status == "running":
                processes.require_running()
                assert time.monotonic() < end, (tmp_path / "logs" / "superlink.log").read_text()[-3000:]
                time.sleep(0.5)
            assert record.status == "succeeded", record.error
            assert [item.counted for item in state.rounds("stock-1")] == [("north",)]
